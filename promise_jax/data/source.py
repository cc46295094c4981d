"""Rows of a data set before cleaning: what a reader returns, and the checks on it."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from promise_jax.types import Modality, Task

SPLITS = ("train", "valid", "test")
MAX_NAMES = 10  # class names in a message


class Rows(NamedTuple):
  """Some rows of one split as they are stored: not padded, not checked, not scaled."""

  inputs: dict[str, Sequence[np.ndarray]]  # {modality: N arrays, or one array [N, ...]}
  length: dict[str, np.ndarray]  # {modality: i[N]}, valid steps, where the source has them
  recorded: Bool[np.ndarray, "N M"]
  label: Shaped[np.ndarray, "N ..."]  # as in types.Split
  id: Int[np.ndarray, " N"]
  group: Int[np.ndarray, " N"] | None = None  # the same for rows of one recording, speaker, ...


class Source(NamedTuple):
  """A data set for `dataset.assemble` to clean: a description, and functions that read rows."""

  name: str
  card: str  # a text for users on what the data are
  modalities: tuple[Modality, ...]  # a first dimension of None: as long as the longest train row
  task: Task
  splits: tuple[str, ...]
  rows: Callable[[str], Rows]  # reads one split
  place: str = ""  # how errors name the source, if not "data set <name>"
  notes: tuple[str, ...] = ()  # sentences to show to users of the data
  # For streaming: yields the rows of a split in order, a few at a time, and a text that changes
  # whenever the rows do.
  blocks: Callable[[str], Iterator[Rows]] | None = None
  identity: str = ""
  train_bytes: int = 0  # memory that reading the train rows takes at least; 0: unknown


def keep_modalities(source: Source, names: str | Sequence[str]) -> Source:
  """Drops the modalities that are not in `names`, whose order does not matter.

  Rows in which nothing is recorded afterwards stay. A dropped modality is not cleaned.

  Args:
    source: the data set.
    names: "image+text" or a sequence of names; empty keeps all.

  Raises:
    ValueError: a name that is unknown or repeated.
  """
  if not isinstance(names, str | Sequence) or isinstance(names, bytes):
    raise ValueError(f"modalities is {names!r}, expected are names, as 'image+text'.")
  names = [n.strip() for n in names.split("+")] if isinstance(names, str) else list(names)
  if names in ([], [""]):
    return source
  known = [m.name for m in source.modalities]
  for i, name in enumerate(names):
    if name not in known:
      hint = " (join names by +, not by a comma)" if "," in name else ""
      raise ValueError(
        f"modalities names {name!r}{hint}, those of data set {source.name!r} are "
        f"{', '.join(known)}."
      )
    if name in names[:i]:
      raise ValueError(f"modalities names {name!r} twice, once is enough.")
  columns = [i for i, name in enumerate(known) if name in names]

  def drop(rows: Rows) -> Rows:
    return rows._replace(
      inputs={known[i]: rows.inputs[known[i]] for i in columns},
      length={m: n for m, n in rows.length.items() if m in names},
      recorded=rows.recorded[:, columns],
    )

  blocks = source.blocks and (lambda split: map(drop, source.blocks(split)))
  return source._replace(
    modalities=tuple(source.modalities[i] for i in columns),
    rows=lambda split: drop(source.rows(split)),
    blocks=blocks,
    train_bytes=0,
  )


def describe_place(source: Source, split: str) -> str:
  """The start of an error message: the source and the split."""
  return f"{source.place or f'data set {source.name!r}'}, split {split!r}"


@contextlib.contextmanager
def name_file_in_errors(path: str | os.PathLike, expected: str) -> Iterator[None]:
  """Makes each error of opening or checking a file one sentence that starts with its path.

  Args:
    path: the file.
    expected: what it should be, as "an npz file".
  """
  try:
    yield
  except FileNotFoundError as error:
    raise ValueError(f"{path}: there is no such file.") from error
  except IsADirectoryError as error:
    raise ValueError(f"{path}: this is a folder, expected is {expected}.") from error
  except PermissionError as error:
    raise ValueError(f"{path}: there is no permission to read this file.") from error
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def check_rows(source: Source, split: str, rows: Rows) -> None:
  """Raises ValueError for an id that repeats or is not an i32, and for an impossible label."""
  place = describe_place(source, split)
  ids, count = np.unique(rows.id, return_counts=True)
  if np.any(count > 1):
    raise ValueError(f"{place}: id {ids[count > 1][0]} is there twice, ids are unique.")
  if len(ids) and not 0 <= ids[0] <= ids[-1] < 2**31:
    raise ValueError(f"{place}: ids are {ids[0]} to {ids[-1]}, allowed are 0 to 2^31-1.")
  task = source.task
  allowed, is_allowed = {
    "classes": (f"0 to {task.outputs - 1}", np.isin(rows.label, range(task.outputs))),
    "multilabel": ("0 and 1", np.isin(rows.label, (0, 1))),
    "regression": ("finite numbers", np.isfinite(rows.label)),
  }[task.kind]
  if not np.all(is_allowed):
    row = np.flatnonzero(~is_allowed.reshape(len(is_allowed), -1).all(1))[0]
    raise ValueError(
      f"{place}: the label of id {rows.id[row]} is {rows.label[row]}, "
      f"labels of this task are {allowed}."
    )


def check_train(source: Source, recorded: dict[str, Bool[np.ndarray, " N"]]) -> None:
  """Raises ValueError for a modality that no train row has: nothing can be learnt of it."""
  for name, rows in recorded.items():
    if not rows.any():
      raise ValueError(
        f"{describe_place(source, 'train')}: modality {name!r} is in none of the "
        f"{len(rows)} rows, it takes at least one with content."
      )


def describe_missing_labels(task: Task, label: Shaped[np.ndarray, "N ..."]) -> str:
  """A sentence on the classes, or positive labels, that no train row has; "" if none."""
  if task.kind == "regression":
    return ""
  classes = task.kind == "classes"
  count = np.bincount(label, minlength=task.outputs) if classes else label.sum(axis=0)
  missing = np.flatnonzero(count == 0)
  if not missing.size:
    return ""
  names = ", ".join(task.names[c] if task.names else str(c) for c in missing[:MAX_NAMES])
  more = ", ..." if missing.size > MAX_NAMES else ""
  return (
    f"{missing.size} of {task.outputs} {'classes have' if classes else 'labels have'} "
    f"no {'row' if classes else 'positive row'} in train: {names}{more}."
  )
