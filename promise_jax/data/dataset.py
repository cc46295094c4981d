"""A data set as every other part sees it, and how rows of any source become one."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from promise_jax import sharding
from promise_jax.data import cleaning
from promise_jax.types import Modality, Spec, Split, Task

logger = logging.getLogger(__name__)

SHOWN = 10


class Rows(NamedTuple):
  """Rows of one split as the source has them: not padded, not checked, not scaled.

  `inputs` {modality: N arrays, or one array [N, ...]}, `steps` {modality: i[N]} the
  real steps where the source says so, `recorded` bool[N, M], `label` as in
  `types.Split`, `id` i[N]. `group` i[N] where rows are not on their own, as segments of
  one recording.
  """

  inputs: dict[str, Sequence[np.ndarray]]
  steps: dict[str, np.ndarray]
  recorded: np.ndarray
  label: np.ndarray
  id: np.ndarray
  group: np.ndarray | None = None


class Source(NamedTuple):
  """What `assemble` needs: a description, and `rows(split)`, which reads on demand.

  A modality whose first dimension is None takes the longest train row as its T. `where`
  is what errors name, if not "data set <name>", `notes` are sentences to be told. A
  source that can be streamed (see `stored`) also gives the rows in `pieces(split)`, the
  same ones in the same order, a few at a time, and an `identity`: a text that changes
  with them. `size` are the bytes that its train rows take at least; 0: not known.
  """

  name: str
  card: str
  modalities: tuple[Modality, ...]
  task: Task
  splits: tuple[str, ...]
  rows: Callable[[str], Rows]
  where: str = ""
  notes: tuple[str, ...] = ()
  pieces: Callable[[str], Iterator[Rows]] | None = None
  identity: str = ""
  size: int = 0


class Fitted(NamedTuple):
  """What came of the train rows: `modalities` with their T, the `scale` {modality:
  (mean, std)}, `label` and `group` as in `Rows`, what was `found` {modality: Found},
  `split()`, which makes the split, and `notes`, sentences to be told."""

  modalities: tuple[Modality, ...]
  scale: dict[str, tuple[np.ndarray, np.ndarray]]
  label: np.ndarray
  group: np.ndarray | None
  found: dict[str, cleaning.Found]
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
  report: dict[str, dict[str, cleaning.Found]]
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
        f"data set {self.name!r} has no split {name!r}, its splits are "
        f"{', '.join(self.splits)}."
      )
    return self.read(name)

  def group(self, name: str) -> np.ndarray | None:
    """The recording (speaker, ...) that each row of split `name` is a part of, i32[N],
    no recording in two splits; None where every row is on its own."""
    self.split(name)
    return self.groups.get(name)


def keep(source: Source, names: str | Sequence[str]) -> Source:
  """`source` with the modalities `names` alone ("image+text", or a sequence of names),
  in its own order; all of them where `names` is empty.

  Rows that then have nothing recorded stay. What is dropped is not cleaned, and may be
  in no row. ValueError for an unknown name, which lists the known, and for one that is
  there twice.
  """
  if not isinstance(names, str | Sequence) or isinstance(names, bytes):
    raise ValueError(f"modalities is {names!r}, expected are names, as 'image+text'.")
  names = [n.strip() for n in names.split("+")] if isinstance(names, str) else names
  if list(names) in ([], [""]):
    return source
  known = [m.name for m in source.modalities]
  for i, name in enumerate(names):
    if name not in known:
      raise ValueError(
        f"modalities names {name!r}, those of data set {source.name!r} are "
        f"{', '.join(known)}."
      )
    if name in names[:i]:
      raise ValueError(f"modalities names {name!r} twice, once is enough.")
  columns = [i for i, name in enumerate(known) if name in names]

  def chosen(every: Rows) -> Rows:
    return every._replace(
      inputs={known[i]: every.inputs[known[i]] for i in columns},
      steps={m: n for m, n in every.steps.items() if m in names},
      recorded=every.recorded[:, columns],
    )

  kept = source._replace(
    modalities=tuple(source.modalities[i] for i in columns),
    rows=lambda split: chosen(source.rows(split)),
    size=0,
  )
  if source.pieces is None:
    return kept
  return kept._replace(pieces=lambda split: map(chosen, source.pieces(split)))


def resident(source: Source, nonfinite: str) -> Fitted:
  """The train rows in memory, all at once; ValueError where it has no room for them."""
  room = sharding.host_room()
  if room is not None and source.size > room:
    raise ValueError(
      f"{place(source, 'train')}: the rows take {source.size / 1e9:.1f} GB, where "
      f"{room / 1e9:.1f} GB of memory are free; set data.stream (data.load(..., "
      "stream=True)), then they are read from disk while training."
    )
  rows = source.rows("train")
  modalities = tuple(cleaning.settle(m, rows.inputs[m.name]) for m in source.modalities)
  cleaned = clean(source, "train", modalities, rows, nonfinite)
  check_train(source, {name: part.recorded for name, part in cleaned.items()})
  scale = {
    m.name: cleaning.fit_scale(cleaned[m.name])
    for m in modalities
    if m.kind in cleaning.FLOAT_KINDS
  }
  found = {name: part.found for name, part in cleaned.items()}
  split = lambda: make_split(modalities, rows, cleaned, scale)
  return Fitted(modalities, scale, rows.label, rows.group, found, split)


def assemble(
  source: Source,
  *,
  nonfinite: str = "frame",
  fit: Callable[[Source, str], Fitted] = resident,
) -> Dataset:
  """Reads the train split, fits T and the standardisation on it, leaves the rest lazy.

  `nonfinite` is the treatment of NaN and inf in vectors and sequences, see
  `cleaning.clean`; `fit` decides where the train rows are kept: `resident`, in memory,
  or that of `stored`, on disk. ValueError for a source without a train split, for bad
  rows and for a modality that no train row has.
  """
  if "train" not in source.splits:
    raise ValueError(
      f"data set {source.name!r} has no train split, its splits are "
      f"{', '.join(source.splits)}."
    )
  if nonfinite not in cleaning.NONFINITE:
    raise ValueError(
      f"nonfinite is {nonfinite!r}, it must be one of {', '.join(cleaning.NONFINITE)}."
    )
  report: dict[str, dict[str, cleaning.Found]] = {}
  groups: dict[str, np.ndarray] = {}

  def keep_found(split: str, found: dict, group: np.ndarray | None) -> None:
    if group is not None:
      groups[split] = group.astype(np.int32)
    report[split] = found
    log_found(source.name, split, found)

  train = fit(source, nonfinite)
  keep_found("train", train.found, train.group)
  modalities, scale, notes = train.modalities, train.scale, train.notes
  for note in (lacks := missing_labels(source.task, train.label)):
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
  return Dataset(
    source.name, spec, source.card, source.splits, report, read, told, groups
  )


def clean(
  source: Source, split: str, modalities: tuple[Modality, ...], rows: Rows, nonfinite
) -> dict[str, cleaning.Clean]:
  """`rows`, some or all of a split, checked and cleaned; ValueError names the split."""
  check_rows(source, split, rows)
  try:
    return clean_rows(modalities, rows, nonfinite)
  except ValueError as error:
    raise ValueError(f"{place(source, split)}: {error}") from error


def log_found(name: str, split: str, report: dict[str, cleaning.Found]) -> None:
  """Warns of every modality in which something was wrong."""
  for modality, found in report.items():
    if any(found):
      logger.warning("%s, split %s, %s: %s", name, split, modality, found.sentence())


def place(source: Source, split: str) -> str:
  """What an error names first."""
  return f"{source.where or f'data set {source.name!r}'}, split {split!r}"


def check_train(source: Source, recorded: dict[str, np.ndarray]) -> None:
  """ValueError for a modality that is in no train row: nothing can be learnt of it.
  `recorded` bool[N] of each."""
  for name, rows in recorded.items():
    if not rows.any():
      raise ValueError(
        f"{place(source, 'train')}: modality {name!r} is in none of the "
        f"{len(rows)} rows, it takes at least one with content."
      )


def missing_labels(task: Task, label: np.ndarray) -> tuple[str, ...]:
  """A sentence if classes, or positives of a binary label, are in no train row."""
  if task.kind == "regression":
    return ()
  classes = task.kind == "classes"
  count = np.bincount(label, minlength=task.outputs) if classes else label.sum(axis=0)
  missing = np.flatnonzero(count == 0)
  if not missing.size:
    return ()
  names = ", ".join(task.names[c] if task.names else str(c) for c in missing[:SHOWN])
  more = ", ..." if missing.size > SHOWN else ""
  return (
    f"{missing.size} of {task.outputs} {'classes have' if classes else 'labels have'} "
    f"no {'row' if classes else 'positive row'} in train: {names}{more}.",
  )


def clean_rows(
  modalities: tuple[Modality, ...], rows: Rows, nonfinite: str
) -> dict[str, cleaning.Clean]:
  """Every modality of `rows` as arrays, with what of them counts."""
  return {
    m.name: cleaning.clean(
      m, rows.inputs[m.name], rows.steps.get(m.name), rows.recorded[:, i], nonfinite
    )
    for i, m in enumerate(modalities)
  }


def make_split(
  modalities: tuple[Modality, ...],
  rows: Rows,
  cleaned: dict[str, cleaning.Clean],
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


def check_rows(source: Source, split: str, rows: Rows) -> None:
  """ValueError for an id that repeats or is no i32, for a label outside the task."""
  where = place(source, split)
  ids, count = np.unique(rows.id, return_counts=True)
  if np.any(count > 1):
    raise ValueError(f"{where}: id {ids[count > 1][0]} is there twice, ids are unique.")
  if len(ids) and not 0 <= ids[0] <= ids[-1] < 2**31:
    raise ValueError(
      f"{where}: ids are {ids[0]} to {ids[-1]}, allowed are 0 to 2^31-1."
    )
  task = source.task
  allowed, good = {
    "classes": (f"0 to {task.outputs - 1}", np.isin(rows.label, range(task.outputs))),
    "multilabel": ("0 and 1", np.isin(rows.label, (0, 1))),
    "regression": ("finite numbers", np.isfinite(rows.label)),
  }[task.kind]
  if not np.all(good):
    row = np.flatnonzero(~good.reshape(len(good), -1).all(1))[0]
    raise ValueError(
      f"{where}: the label of id {rows.id[row]} is {rows.label[row]}, "
      f"labels of this task are {allowed}."
    )
