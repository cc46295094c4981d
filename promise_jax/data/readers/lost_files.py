"""Files that data name and that are missing or cannot be read: counted, said, refused if many."""

import collections
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from promise_jax.checks import shorten

logger = logging.getLogger(__name__)

MAX_LOST = 0.2  # part of the files of a modality; one may always be lost


class FileOptions(NamedTuple):
  """How files are found that new rows name."""

  root: str = ""  # the folder that paths start from; that of the rows, else the working directory
  allow_missing: bool = False  # more than a fifth of the files of a modality may be missing


DEFAULTS = FileOptions()


class FileCount(NamedTuple):
  """The files of one modality."""

  total: int = 0  # that are named
  lost: int = 0  # of these, that are missing or cannot be read
  first: str = ""  # that is lost

  @classmethod
  def of(cls, total: int, lost: Sequence[str]) -> "FileCount":
    """The count of `total` files, of which those with the names `lost` are."""
    return cls(total, len(lost), shorten(lost[0]) if lost else "")

  def describe(self, name: str) -> str:
    """The counts in words; `name` is that of the modality."""
    found = f"{self.lost} of {self.total} files"
    return f"{name}: {found} are missing or cannot be read, as {self.first}"


def add_counts(counts: Iterable[Mapping[str, FileCount]]) -> dict[str, FileCount]:
  """{modality: files} of several blocks of rows together."""
  every = collections.defaultdict(FileCount)
  for name, more in (pair for one in counts for pair in one.items()):
    old = every[name]
    total, lost = old.total + more.total, old.lost + more.lost
    every[name] = FileCount(total, lost, old.first or more.first)
  return dict(every)


def check_share(line: str, num_lost: int, num_files: int, allow: bool) -> None:
  """Raises ValueError, which `line` begins, if too many files are lost and that is not allowed."""
  if num_lost > max(MAX_LOST * num_files, 1) and not allow:
    raise ValueError(
      f"{line}; more than {MAX_LOST:.0%} are taken for a mistake, allow_missing_files makes the "
      "modality absent there."
    )


def report_split(
  place: str, split: str, parts: Iterable[Mapping[str, FileCount]], allow: bool
) -> None:
  """Says what is lost in the blocks `parts` of a split. Raises ValueError, which `place` begins, if
  that is too much, except in test, which is read after training."""
  counts = add_counts(parts)
  check_counts(place, counts, allow or split == "test")
  warn_of_lost(place, counts)


def check_counts(place: str, counts: Mapping[str, FileCount], allow: bool) -> None:
  """Raises ValueError, which `place` begins, for the first modality that has lost too many."""
  for name, count in counts.items():
    if count.lost:
      check_share(f"{place}, {count.describe(name)}", count.lost, count.total, allow)


def warn_of_lost(place: str, counts: Mapping[str, FileCount]) -> None:
  """Says what is lost, a line a modality."""
  for name, count in counts.items():
    if count.lost:
      logger.warning("%s, %s; there the modality is absent.", place, count.describe(name))
