"""Rows as a source has them, which of their modalities are kept, what is refused."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from promise_jax.types import Modality, Task

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
  with them. `size` are the bytes that it takes at least to read its train rows; 0: not
  known.
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


def keep_modalities(source: Source, names: str | Sequence[str]) -> Source:
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
        f"modalities names {name!r}, those of data set {source.name!r} are {', '.join(known)}."
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


def describe_place(source: Source, split: str) -> str:
  """What an error names first."""
  return f"{source.where or f'data set {source.name!r}'}, split {split!r}"


def check_rows(source: Source, split: str, rows: Rows) -> None:
  """ValueError for an id that repeats or is no i32, for a label outside the task."""
  where = describe_place(source, split)
  ids, count = np.unique(rows.id, return_counts=True)
  if np.any(count > 1):
    raise ValueError(f"{where}: id {ids[count > 1][0]} is there twice, ids are unique.")
  if len(ids) and not 0 <= ids[0] <= ids[-1] < 2**31:
    raise ValueError(f"{where}: ids are {ids[0]} to {ids[-1]}, allowed are 0 to 2^31-1.")
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


def check_train(source: Source, recorded: dict[str, np.ndarray]) -> None:
  """ValueError for a modality that is in no train row: nothing can be learnt of it.
  `recorded` bool[N] of each."""
  for name, rows in recorded.items():
    if not rows.any():
      raise ValueError(
        f"{describe_place(source, 'train')}: modality {name!r} is in none of the "
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
