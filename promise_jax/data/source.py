"""Rows of a data set before cleaning: what a reader returns, and the checks on it."""

import contextlib
import dataclasses
import os
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from promise_jax.checks import shorten
from promise_jax.types import Modality, Task

SPLITS = ("train", "valid", "test")
TASK, DRAWN = "the task", "the splits"  # keys of guesses beside the names of modalities
SAY_SPLIT = "drawn, 60/20/20 % of labelled rows; split in the data says otherwise"
MAX_VALUES = 10  # values in a message
ROW_FIELDS = ("recorded", "label", "id", "group", "labelled", "key")  # arrays of `Rows`, or None


@dataclasses.dataclass(frozen=True)
class ReadOptions:
  """What data without a header may leave open."""

  vocabulary: int = 8192  # token ids are smaller than this; texts are hashed into it
  scale: float | None = None  # unit of a regression label; None: what the data say
  # {modality: kind}, where a guess is wrong
  kinds: Mapping[str, str] = dataclasses.field(default_factory=dict)
  task: str = ""  # classes, multilabel or regression, where a guess is wrong


class Rows(NamedTuple):
  """Some rows of one split as they are stored: not padded, not checked, not scaled."""

  inputs: dict[str, Sequence[np.ndarray]]  # {modality: N arrays, or one array [N, ...]}
  length: dict[str, np.ndarray]  # {modality: i[N]}, valid steps, where the source has them
  recorded: Bool[np.ndarray, "N M"]
  label: Shaped[np.ndarray, "N ..."]  # as in types.Split
  id: Int[np.ndarray, " N"]
  group: Int[np.ndarray, " N"] | None = None  # the same for rows of one recording, speaker, ...
  labelled: Bool[np.ndarray, " N"] | None = None  # False: `label` means nothing; None: all are
  key: Sequence[Any] | None = None  # ids as they are written, where they are no numbers
  # {modality: N texts}, where its inputs are the token ids of texts; pretrained encoders read them
  texts: Mapping[str, Sequence[str]] = types.MappingProxyType({})

  def take(self, index: np.ndarray) -> "Rows":
    """Some of the rows, without inputs and texts."""
    take = lambda x: None if x is None else x[index]
    length = {m: n[index] for m, n in self.length.items()}
    return Rows({}, length, **{name: take(getattr(self, name)) for name in ROW_FIELDS})


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
  # What was guessed: {modality, TASK or DRAWN: words, with the option that says otherwise}.
  guesses: Mapping[str, str] = types.MappingProxyType({})
  # For streaming: yields the rows of a split in order, a few at a time, and a text that changes
  # whenever the rows do.
  blocks: Callable[[str], Iterator[Rows]] | None = None
  identity: str = ""
  train_bytes: int = 0  # memory that reading the train rows takes at least; 0: unknown
  # For new rows: modalities that are read through a frozen encoder, {name: EncodedModality}, and
  # the `TableColumns` of a table.
  encoded: Mapping[str, Any] = types.MappingProxyType({})
  columns: Any = None
  folders: Mapping[str, str] = types.MappingProxyType({})  # see `feature_folders`


def keep_modalities(source: Source, names: str | Sequence[str]) -> Source:
  """Drops the modalities that are not in `names`; rows with nothing left stay.

  `names` is "image+text" or a sequence of names in any order; empty keeps all. Raises
  ValueError for a name that is unknown or repeated.
  """
  if not isinstance(names, str | Sequence) or isinstance(names, bytes):
    raise ValueError(f"modalities is {names!r}, expected are names, as 'image+text'.")
  names = [n.strip() for n in names.split("+")] if isinstance(names, str) else list(names)
  if names in ([], [""]):
    return source
  known = [m.name for m in source.modalities]
  if len(set(names)) < len(names) or not set(names) <= set(known):
    raise ValueError(
      f"modalities is {'+'.join(names)!r}, expected are names of data set {source.name!r}, each "
      f"once and joined by +: {', '.join(known)}."
    )
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
    columns=source.columns and source.columns.keep(names),
    folders={m: folder for m, folder in source.folders.items() if m in names},
  )


def describe_place(source: Source, split: str) -> str:
  """The start of an error message: the source and the split."""
  return f"{source.place or f'data set {source.name!r}'}, split {split!r}"


def list_first(values: Sequence) -> str:
  """The first few values, for a message."""
  return ", ".join(map(str, values[:MAX_VALUES])) + (", ..." if len(values) > MAX_VALUES else "")


@contextlib.contextmanager
def name_file_in_errors(path: str | os.PathLike, expected: str) -> Iterator[None]:
  """Makes each error of opening or checking a file one sentence that starts with its path.

  `expected` says what it should be, as "an npz file".
  """
  try:
    yield
  except OSError as error:
    raise ValueError(f"{path}: {error.strerror}, expected is {expected}.") from error
  except ValueError as error:
    raise ValueError(f"{path}: {shorten(str(error)).rstrip('.')}.") from error


def check_values(
  place: str, values: Shaped[np.ndarray, "N ..."], good: Bool[np.ndarray, "N ..."], words: str
) -> None:
  """Raises ValueError for the first row of `values` that is not `good`."""
  bad = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
  if bad.size:
    found = values[bad[0]].tolist()
    raise ValueError(f"{place}, row {bad[0]}: found {found!r}, expected: {words}.")


def check_ids(place: str, ids: Int[np.ndarray, " N"]) -> None:
  """Raises ValueError for an id that repeats or does not fit in i32."""
  check_values(place, ids, (ids >= 0) & (ids < 2**31), "0 to 2^31-1")
  is_first = np.isin(np.arange(len(ids)), np.unique(ids, return_index=True)[1])
  check_values(place, ids, is_first, "a number that no row above has")


def check_rows(source: Source, split: str, rows: Rows) -> None:
  """Raises ValueError for a bad id or an impossible label."""
  place, task = describe_place(source, split), source.task
  check_ids(f"{place}, id", rows.id)
  words, good = {
    "classes": (f"0 to {task.outputs - 1}", np.isin(rows.label, range(task.outputs))),
    "multilabel": ("0 and 1", np.isin(rows.label, (0, 1))),
    "regression": ("finite numbers", np.isfinite(rows.label)),
  }[task.kind]
  check_values(f"{place}, label", rows.label, good, words)


def check_train(
  source: Source, recorded: dict[str, Bool[np.ndarray, " N"]], report: Mapping[str, Any]
) -> None:
  """Raises ValueError for a modality that no train row has: nothing can be learnt of it.

  `report` are the `cleaning.CleaningReport` of the modalities, which say why.
  """
  for name, rows in recorded.items():
    if not rows.any():
      others = "+".join(m for m in recorded if m != name)
      is_vector = any(m.kind == "vector" for m in source.modalities if m.name == name)
      lost = report[name].num_lost_frames and not is_vector
      ways = ["nonfinite=value drops such values alone"] if lost else []
      ways += [f"modalities={others} leaves it out"] if others else []
      words = report[name].describe()
      raise ValueError(
        f"{describe_place(source, 'train')}: modality {name!r} is in none of the {len(rows)} rows"
        f"{f' (found: {words})' if words else ''}, expected: one with content"
        f"{''.join(f'; {way}' for way in ways)}."
      )


def check_labels(source: Source, label: Shaped[np.ndarray, "N ..."]) -> None:
  """Raises ValueError for labels of the train rows that are all the same: nothing can be learnt."""
  if len(label) == 1 or np.any(label != label[:1]):
    return
  found = f"the {len(label)} train rows all have the label " if len(label) else "no row has a label"
  if len(label):
    is_class = source.task.kind == "classes"
    found += str(source.task.output_names[label[0]] if is_class else label[0].tolist())
  raise ValueError(
    f"{describe_place(source, 'train')}: {found}, expected: two different ones or more; split or "
    "split_seed may choose other rows."
  )


def describe_missing_labels(task: Task, label: Shaped[np.ndarray, "N ..."]) -> str:
  """A sentence on the classes, or positive labels, that no train row has; "" if none."""
  if task.kind == "regression":
    return ""
  counts_rows = task.kind == "classes"
  count = np.bincount(label, minlength=task.outputs) if counts_rows else label.sum(axis=0)
  missing = np.flatnonzero(count == 0)
  if not missing.size:
    return ""
  what, row = ("classes", "row") if counts_rows else ("labels", "positive row")
  names = list_first([task.names[c] if task.names else c for c in missing])
  return f"{missing.size} of {task.outputs} {what} have no {row} in train: {names}."
