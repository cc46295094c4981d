"""Several labels a row in a table: 0/1 columns, lists in cells, or texts that | joins.

Each form becomes the set of the names of a row's labels, None where the row has no label.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from promise_jax.data.readers import cells
from promise_jax.data.source import list_first
from promise_jax.types import Task

JOIN = "|"
FLAGS = dict.fromkeys(("0", "0.0", "false", "False"), False)
FLAGS |= dict.fromkeys(("1", "1.0", "true", "True"), True)

Sets = list[frozenset[str] | None]


def has_sets(values: pd.Series | pd.DataFrame) -> bool:
  """Whether labels come in sets: several columns, lists, or a text with |."""
  if isinstance(values, pd.DataFrame):
    return True
  known = values[~cells.find_missing(values)].tolist()
  return any(is_list(cell) or (isinstance(cell, str) and JOIN in cell) for cell in known)


def is_list(cell) -> bool:
  """Whether a cell holds several values."""
  return isinstance(cell, list | tuple | np.ndarray)


def read_sets(values: pd.Series | pd.DataFrame) -> tuple[Sets, tuple[str, ...]]:
  """The labels of every row, and all names in order: of columns as they stand, of 0/1 in lists
  their numbers, else alphabetical. ValueError for a cell of another form, or a row of which some
  columns are empty."""
  if isinstance(values, pd.DataFrame):
    names = tuple(map(str, values.columns))
    missing = np.stack([cells.find_missing(values[c]) for c in values.columns], axis=1)
    rows = values.itertuples(index=False, name=None)
    vectors = [None if m.all() else row for m, row in zip(missing, rows, strict=True)]
    return read_vectors(vectors, names, values, ", ".join(names)), names
  known = [None if cells.is_missing(cell) else cell for cell in values.tolist()]
  first = next((cell for cell in known if is_list(cell) and len(cell)), None)
  if first is not None and not isinstance(first[0], str):
    names = tuple(map(str, range(len(first))))
    return read_vectors(known, names, values, values.name), names
  found: Sets = []
  for i, cell in enumerate(known):
    if cell is not None and not isinstance(cell, str) and not is_list(cell):
      cell = str(cells.to_text(cell))
    parts = cell.split(JOIN) if isinstance(cell, str) else cell
    if parts is not None and not all(isinstance(part, str) for part in parts):
      place = f"label {values.name}, {cells.name_row(values, i)}"
      raise ValueError(f"{place}: found {cells.quote(cell)}, expected: texts.")
    found.append(None if parts is None else frozenset(p.strip() for p in parts if p.strip()))
  return found, tuple(sorted({name for one in found if one for name in one}))


def read_vectors(
  vectors: Sequence, names: tuple[str, ...], values: pd.Series | pd.DataFrame, label: str
) -> Sets:
  """The sets of rows of 0 and 1, one for each name."""
  found: Sets = []
  for i, vector in enumerate(vectors):
    flags = None if vector is None else [FLAGS.get(cells.to_text(cell)) for cell in vector]
    if flags is not None and (None in flags or len(flags) != len(names)):
      raise ValueError(
        f"label {label}, {cells.name_row(values, i)}: found {cells.quote(list(vector))}, expected: "
        f"{len(names)} times 0 or 1, or nothing in a row without labels."
      )
    found.append(flags and frozenset(n for n, flag in zip(names, flags, strict=True) if flag))
  return found


def encode_sets(
  sets: Sets, task: Task, rows=None
) -> tuple[Shaped[np.ndarray, "N ..."], Bool[np.ndarray, " N"]]:
  """Labels as in `types.Split`, 0 where there are none, and which rows have some. ValueError for a
  name that the task does not know, or, of classes, not one in a row; it names one of the `rows`."""
  number = {name: i for i, name in enumerate(task.output_names)}
  if unknown := [i for i, names in enumerate(sets) if names and not names <= number.keys()]:
    place, name = cells.name_row(rows, unknown[0]), min(sets[unknown[0]] - number.keys())
    raise ValueError(
      f"{place} has the label {name!r}, which the model does not know, as {len(unknown)} of "
      f"{len(sets)} rows have; its classes are {list_first(task.output_names)}."
    )
  is_known = np.array([names is not None for names in sets], bool)
  if task.kind == "multilabel":
    label = np.zeros((len(sets), task.outputs), np.float32)
    for i, names in enumerate(sets):
      label[i, [number[name] for name in names or ()]] = 1
    return label, is_known
  if wrong := [i for i, names in enumerate(sets) if names is not None and len(names) != 1]:
    raise ValueError(f"row {wrong[0]} has {len(sets[wrong[0]])} labels, expected: one class.")
  return np.array([number[min(names)] if names else 0 for names in sets], np.int32), is_known
