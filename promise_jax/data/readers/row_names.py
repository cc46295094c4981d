"""What ids, groups and classes tell that are texts: which may be the same, which may belong
together. Ours."""

import itertools
import logging
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from promise_jax.data.readers import cells
from promise_jax.data.source import SPLITS

logger = logging.getLogger(__name__)

MIN_ROWS = 10  # of fewer rows, ids tell nothing
PARTS = re.compile(r"\d+|[^\W\d_]+")  # the numbers and words of an id


def describe_alike(what: str, names: Sequence[str]) -> list[str]:
  """A sentence on different names that are the same but for case, spaces and form of letters."""
  first, pairs = {}, []
  for name in dict.fromkeys(map(str, names)):
    plain = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    if first.setdefault(plain, name) != name:
      pairs.append((first[plain], name))
  if not pairs:
    return []
  one, other = map(cells.quote, pairs[0])
  words = f"{what} that differ in case or spaces alone count as different: {one} and {other}"
  return [f"{words}, {len(pairs)} in all." if len(pairs) > 1 else f"{words}."]


def describe_names(
  what: str, parts: Mapping[str, Sequence[str]], num_classes: int = 0
) -> list[str]:
  """Sentences on the names of rows {split: names}, see `describe_alike` and `describe_ids`."""
  names = [name for part in parts.values() for name in part]
  split = np.repeat([*parts], [len(part) for part in parts.values()])
  return describe_alike(what, names) + describe_ids(names, split, num_classes)


def describe_ids(
  ids: Sequence[Any], split: Shaped[np.ndarray, " N"], num_classes: int = 0
) -> list[str]:
  """A sentence on ids such as speaker3_07, where rows that begin alike are in several splits.

  Of the `ids` of all rows, None and numbers tell nothing; `split` is the name of the split of every
  row, "" for none; as many beginnings as `num_classes`, or fewer, may be the classes.
  """
  texts = [text for text in ids if isinstance(text, str)]
  if len(texts) < max(len(ids), MIN_ROWS):
    return []
  for begin in list_beginnings(texts):
    group, names = pd.factorize(np.array(begin, object))
    if not max(num_classes, 1) < len(names) <= len(texts) / 2:
      continue
    is_in = np.stack([np.bincount(group[split == s], minlength=len(names)) > 0 for s in SPLITS])
    if not (cut := np.flatnonzero(is_in.sum(axis=0) > 1)).size:
      continue
    where = " and ".join(itertools.compress(SPLITS, is_in[:, cut[0]]))
    return [
      f"the ids may say that rows belong together: {cells.quote(names[cut[0]])} begins ids in "
      f"{where}, and {len(cut)} of {len(names)} such beginnings are in several splits; group keeps "
      "what belongs together in one."
    ]
  return []


def list_beginnings(ids: Sequence[str]) -> Iterator[list[str]]:
  """The beginnings of ids, from the shortest on, that end with a number or a word in all."""
  parts = [list(PARTS.finditer(text)) for text in ids]
  ends = [[part.end() for part in every] for every in parts]
  if len({tuple(part[0].isdecimal() for part in every) for every in parts}) > 1:
    # Where ids have different forms, as hashes have, only what stands between words cuts them.
    pairs = zip(ids, ends, strict=True)
    ends = [[end for end in every if not text[end : end + 1].isalnum()] for text, every in pairs]
  for k in range(min(map(len, ends)) - 1):
    yield [text[: every[k]] for text, every in zip(ids, ends, strict=True)]


def number_groups(values: Sequence[str | None]) -> Int[np.ndarray, " N"]:
  """Groups in alphabetical order as numbers; a row without one is a group of its own."""
  for line in describe_alike("groups", [v for v in values if not cells.is_missing(v)]):
    logger.warning("group: %s", line)
  texts = [f"\0{i}" if cells.is_missing(v) else v for i, v in enumerate(values)]
  return np.unique(texts, return_inverse=True)[1].astype(np.int64)
