"""A data set ready for training: cleaned, standardised, its splits read on demand."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import psutil

from promise_jax.checks import check_choice
from promise_jax.data import cleaning, preprocessing, scaling, split_checks
from promise_jax.data import source as data_source
from promise_jax.data.cleaning import FLOAT_KINDS, CleaningReport, CleanModality, Rules
from promise_jax.data.preprocessing import Preprocessing
from promise_jax.types import Modality, Spec, Split

logger = logging.getLogger(__name__)


class FittedTrain(NamedTuple):
  """The train rows, and what is learnt from them to treat the other splits alike."""

  modalities: tuple[Modality, ...]  # no open dimension any more
  scale: dict[str, scaling.Scale]
  split: Split
  group: np.ndarray | None
  labelled: np.ndarray | None
  report: dict[str, CleaningReport]
  notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A data set. Its splits are read when `split` asks for them.

  What is wrong in a split (NaN, rows without content, classes without a train row) is
  logged as a warning when it is read.
  """

  name: str
  spec: Spec
  card: str  # what the data are, where they are from, under which licence
  preprocessing: Preprocessing  # fitted on the train rows
  splits: tuple[str, ...]
  # {split: {modality: report}} of the splits read so far.
  report: dict[str, dict[str, CleaningReport]]
  read: Callable[[str], Split] = dataclasses.field(repr=False)
  notes: tuple[str, ...] = ()  # sentences on how the data were read
  groups: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
  # {split: ids as they are written} where they are texts; not of train.
  keys: dict[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
  # Which train rows have a label at all; None: all of them. Other splits have no other rows.
  labelled: np.ndarray | None = dataclasses.field(default=None, repr=False)
  guesses: Mapping[str, str] = dataclasses.field(default_factory=dict)  # as in `Source`

  def split(self, name: str) -> Split:
    """The rows of a split: standardised, zero where nothing is recorded, read once.

    The inputs of streamed train rows are read from disk as they are indexed.
    """
    check_choice(f"a split of data set {self.name!r}", name, self.splits)
    return self.read(name)

  def group(self, name: str) -> np.ndarray | None:
    """The recording, speaker, ... of each row of a split, i32[N]; None: rows are independent.

    No group has rows in two splits.
    """
    self.split(name)
    return self.groups.get(name)


def fit_in_memory(source: data_source.Source, rules: Rules) -> FittedTrain:
  """Reads and cleans all train rows at once; refuses rows that memory has no room for."""
  free = psutil.virtual_memory().available
  if source.train_bytes > free:
    raise ValueError(
      f"{data_source.describe_place(source, 'train')}: reading the rows takes "
      f"{source.train_bytes / 1e9:.1f} GB, where {free / 1e9:.1f} GB of memory are free; set "
      "data.stream, then they are read from disk while training."
    )
  rows = source.rows("train")
  modalities = tuple(cleaning.resolve_length(m, rows.inputs[m.name]) for m in source.modalities)
  cleaned = clean_rows(source, "train", modalities, rows, rules)
  report = {name: part.report for name, part in cleaned.items()}
  data_source.check_train(source, {m: part.recorded for m, part in cleaned.items()}, report)
  scale = {m.name: fit_scale(cleaned[m.name]) for m in modalities if m.kind in FLOAT_KINDS}
  split, report = preprocessing.make_split(modalities, rows, cleaned, scale)
  return FittedTrain(modalities, scale, split, rows.group, rows.labelled, report)


def fit_scale(part: CleanModality) -> scaling.Scale:
  """The scale of a modality in memory."""
  read = lambda index: np.where(part.kept_mask[index], part.values[index], np.float32(np.nan))
  return scaling.fit_scale(read, part.recorded)


def assemble(
  source: data_source.Source,
  rules: Rules = cleaning.DEFAULTS,
  fit: Callable[[data_source.Source, Rules], FittedTrain] = fit_in_memory,
) -> Dataset:
  """Makes a data set of a source: fits lengths and scale on train, reads the rest lazily.

  `rules` say what counts as nothing; `fit` keeps the train rows in memory or on disk (`streaming`).
  Raises ValueError for no train split, a bad row, or a modality that no train row has.
  """
  check_choice(f"a split of data set {source.name!r}", "train", source.splits)
  reports: dict[str, dict[str, CleaningReport]] = {}
  groups: dict[str, np.ndarray] = {}
  keys: dict[str, np.ndarray] = {}

  def keep_report(split: str, report: dict, group: np.ndarray | None) -> None:
    if group is not None:
      groups[split] = group.astype(np.int32)
    reports[split] = report
    log_report(source.name, split, report)

  def warn(split: str, *sentences: str) -> None:
    for sentence in filter(None, sentences):
      logger.warning("%s, %s, %s.", source.name, split, sentence)

  train = fit(source, rules)
  modalities, scale = train.modalities, train.scale
  keep_report("train", train.report, train.group)
  label = train.split.label
  known = label if train.labelled is None else label[train.labelled]
  data_source.check_labels(source, known)
  if sentence := data_source.describe_missing_labels(source.task, known):
    logger.warning("%s: %s", source.name, sentence)
  names = tuple(m.name for m in modalities)
  warn("train", *split_checks.describe_labels(source.task, known))
  # The level "other" of a category is 0 in most tables: not worth a line.
  of_table = source.columns.columns if source.columns else {}
  arrays = [n for n in scale if n not in of_table or of_table[n][0].role == "array"]
  lines = split_checks.describe_train(names, train.split.recorded, {n: scale[n] for n in arrays})
  lines += split_checks.describe_resolution(scale)
  notes = (*source.notes, *(f"{source.name}, {line}." for line in lines), *train.notes)

  @functools.cache
  def read(split: str) -> Split:
    if split == "train":
      return train.split
    rows = source.rows(split)
    cleaned = clean_rows(source, split, modalities, rows, rules)
    made, report = preprocessing.make_split(modalities, rows, cleaned, scale)
    keep_report(split, report, rows.group)
    if rows.key is not None:
      keys[split] = np.array(["" if key is None else key for key in rows.key], str)
    warn(split, *split_checks.describe_lacking(names, made.recorded))
    warn(split, *split_checks.describe_units(modalities, made))
    warn(split, *split_checks.describe_labels(source.task, rows.label, known))
    return made

  spec = Spec(modalities, source.task, {name: tuple(s[:2]) for name, s in scale.items()})
  # A token modality of open length is made of texts.
  texts = tuple(m.name for m in source.modalities if m.kind == "tokens" and m.shape[0] is None)
  texts += tuple(name for name, entry in source.encoded.items() if entry.is_text)
  of_rows = source.encoded, source.columns, source.folders
  fitted = Preprocessing(modalities, scale, rules, texts, *of_rows)
  about = source.name, spec, source.card, fitted, source.splits
  return Dataset(*about, reports, read, notes, groups, keys, train.labelled, source.guesses)


def clean_rows(
  source: data_source.Source,
  split: str,
  modalities: tuple[Modality, ...],
  rows: data_source.Rows,
  rules: Rules,
) -> dict[str, CleanModality]:
  """Checks and cleans some or all rows of a split; a ValueError names the split."""
  data_source.check_rows(source, split, rows)
  try:
    return preprocessing.clean_rows(modalities, rows, rules)
  except ValueError as error:
    raise ValueError(f"{data_source.describe_place(source, split)}: {error}") from error


def log_report(name: str, split: str, report: dict[str, CleaningReport]) -> None:
  """Warns of every modality in which something was wrong."""
  for modality, faults in report.items():
    if any(faults):
      logger.warning("%s, %s, %s: %s.", name, split, modality, faults.describe())
