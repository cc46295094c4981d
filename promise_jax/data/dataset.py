"""A data set as every other part sees it, and how rows of any source become one."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from promise_jax.data import cleaning
from promise_jax.data import source as data_source
from promise_jax.devices import mesh
from promise_jax.types import Modality, Spec, Split

logger = logging.getLogger(__name__)


class FittedTrain(NamedTuple):
  """What came of the train rows: `modalities` with their T, the `scale` {modality:
  (mean, std)}, `label` and `group` as in `sources.Rows`, what was `found` {modality:
  Found}, `split()`, which makes the split, and `notes`, sentences to be told."""

  modalities: tuple[Modality, ...]
  scale: dict[str, tuple[np.ndarray, np.ndarray]]
  label: np.ndarray
  group: np.ndarray | None
  found: dict[str, cleaning.CleaningReport]
  split: Callable[[], Split]
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set whose splits are read when asked for.

  `card` says what it is, where it is from and under which licence. `report` {split:
  {modality: cleaning.Found}} counts what was wrong in the splits read so far, `notes`
  are sentences on what the source is and on what the train rows lack, `groups` {split:
  i32[N]} see `group`.
  """

  name: str
  spec: Spec
  card: str
  splits: tuple[str, ...]
  report: dict[str, dict[str, cleaning.CleaningReport]]
  read: Callable[[str], Split] = dataclasses.field(repr=False)
  notes: tuple[str, ...] = ()
  groups: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)

  def told(self) -> list[str]:
    """What was found wrong in the splits read so far, a sentence each."""
    lines = list(self.notes)
    for split, modalities in self.report.items():
      for name, found in modalities.items():
        if any(found):
          lines.append(f"{self.name}, {split}, {name}: {found.sentence()}.")
    return lines

  def split(self, name: str) -> Split:
    """The rows of split `name`, standardised and zero where nothing is recorded; read
    once. Of streamed train rows the inputs are `rowfile.RowFile`s. ValueError where
    there is no such split."""
    if name not in self.splits:
      raise ValueError(
        f"data set {self.name!r} has no split {name!r}, its splits are {', '.join(self.splits)}."
      )
    return self.read(name)

  def group(self, name: str) -> np.ndarray | None:
    """The recording (speaker, ...) that each row of split `name` is a part of, i32[N],
    no recording in two splits; None where every row is on its own."""
    self.split(name)
    return self.groups.get(name)


def fit_in_memory(source: data_source.Source, nonfinite: str) -> FittedTrain:
  """The train rows in memory, all at once; ValueError where it has no room for them."""
  room = mesh.free_host_memory()
  if room is not None and source.size > room:
    raise ValueError(
      f"{data_source.describe_place(source, 'train')}: reading the rows takes "
      f"{source.size / 1e9:.1f} GB, where {room / 1e9:.1f} GB of memory are free; set "
      "data.stream (data.load(..., stream=True)), then they are read from disk while "
      "training."
    )
  rows = source.rows("train")
  modalities = tuple(cleaning.resolve_length(m, rows.inputs[m.name]) for m in source.modalities)
  cleaned = clean(source, "train", modalities, rows, nonfinite)
  data_source.check_train(source, {name: part.recorded for name, part in cleaned.items()})
  scale = {
    m.name: cleaning.fit_scale(cleaned[m.name])
    for m in modalities
    if m.kind in cleaning.FLOAT_KINDS
  }
  found = {name: part.found for name, part in cleaned.items()}
  split = lambda: make_split(modalities, rows, cleaned, scale)
  return FittedTrain(modalities, scale, rows.label, rows.group, found, split)


def assemble(
  source: data_source.Source,
  *,
  nonfinite: str = "frame",
  fit: Callable[[data_source.Source, str], FittedTrain] = fit_in_memory,
) -> Dataset:
  """Reads the train split, fits T and the standardisation on it, leaves the rest lazy.

  `nonfinite` is the treatment of NaN and inf in vectors and sequences, see
  `cleaning.clean`; `fit` decides where the train rows are kept: `resident`, in memory,
  or that of `stored`, on disk. ValueError for a source without a train split, for bad
  rows and for a modality that no train row has.
  """
  if "train" not in source.splits:
    raise ValueError(
      f"data set {source.name!r} has no train split, its splits are {', '.join(source.splits)}."
    )
  if nonfinite not in cleaning.NONFINITE:
    raise ValueError(
      f"nonfinite is {nonfinite!r}, it must be one of {', '.join(cleaning.NONFINITE)}."
    )
  report: dict[str, dict[str, cleaning.CleaningReport]] = {}
  groups: dict[str, np.ndarray] = {}

  def keep_found(split: str, found: dict, group: np.ndarray | None) -> None:
    if group is not None:
      groups[split] = group.astype(np.int32)
    report[split] = found
    log_report(source.name, split, found)

  train = fit(source, nonfinite)
  keep_found("train", train.found, train.group)
  modalities, scale, notes = train.modalities, train.scale, train.notes
  for note in (lacks := data_source.missing_labels(source.task, train.label)):
    logger.warning("%s: %s", source.name, note)
  at_hand = {"train": train.split}  # given up when the split is made of it

  @functools.cache
  def read(split: str) -> Split:
    if split in at_hand:
      return at_hand.pop(split)()
    rows = source.rows(split)
    cleaned = clean(source, split, modalities, rows, nonfinite)
    keep_found(split, {name: c.found for name, c in cleaned.items()}, rows.group)
    return make_split(modalities, rows, cleaned, scale)

  spec = Spec(modalities, source.task, scale)
  told = source.notes + notes + lacks
  return Dataset(source.name, spec, source.card, source.splits, report, read, told, groups)


def clean(
  source: data_source.Source,
  split: str,
  modalities: tuple[Modality, ...],
  rows: data_source.Rows,
  nonfinite,
) -> dict[str, cleaning.CleanModality]:
  """`rows`, some or all of a split, checked and cleaned; ValueError names the split."""
  data_source.check_rows(source, split, rows)
  try:
    return clean_rows(modalities, rows, nonfinite)
  except ValueError as error:
    raise ValueError(f"{data_source.describe_place(source, split)}: {error}") from error


def log_report(name: str, split: str, report: dict[str, cleaning.CleaningReport]) -> None:
  """Warns of every modality in which something was wrong."""
  for modality, found in report.items():
    if any(found):
      logger.warning("%s, split %s, %s: %s", name, split, modality, found.sentence())


def clean_rows(
  modalities: tuple[Modality, ...], rows: data_source.Rows, nonfinite: str
) -> dict[str, cleaning.CleanModality]:
  """Every modality of `rows` as arrays, with what of them counts."""
  return {
    m.name: cleaning.clean(
      m, rows.inputs[m.name], rows.steps.get(m.name), rows.recorded[:, i], nonfinite
    )
    for i, m in enumerate(modalities)
  }


def make_split(
  modalities: tuple[Modality, ...],
  rows: data_source.Rows,
  cleaned: dict[str, cleaning.CleanModality],
  scale: dict[str, tuple[np.ndarray, np.ndarray]],
) -> Split:
  """The split of `cleaned` rows, standardised by `scale`."""
  return Split(
    inputs={m: cleaning.standardise(c, scale.get(m)) for m, c in cleaned.items()},
    length={m.name: cleaned[m.name].length for m in modalities if m.kind == "sequence"},
    recorded=np.stack([c.recorded for c in cleaned.values()], axis=1),
    label=rows.label,
    id=rows.id.astype(np.int32),
  )
