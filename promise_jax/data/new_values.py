"""The values of one modality in the columns of new rows, see `new_rows`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from promise_jax.data.preprocessing import Preprocessing
from promise_jax.data.readers import label_sets, npz_arrays, npz_labels, text
from promise_jax.data.readers.cells import is_missing
from promise_jax.data.source import check_values, list_first
from promise_jax.types import Modality, Task

LABELS = ("y", "label")

Columns = Mapping[str, Any]  # {name: array [n, ...] or Series [n]}


def as_column(values: Any) -> np.ndarray:
  """An array of a list of texts, numbers, arrays of unequal shapes, None."""
  if np.ma.is_masked(values):
    raise ValueError("an array is masked, expected: NaN or present_<modality> for what is missing.")
  if isinstance(values, np.ndarray) and values.ndim:
    return values
  values = list(values) if np.iterable(values) and not isinstance(values, str) else [values]
  column = np.empty(len(values), object)
  column[:] = values
  return column


def as_table(columns: Columns) -> Any:
  """Columns as a DataFrame whose names are texts."""
  if isinstance(columns, pd.DataFrame):
    return columns.rename(columns=str)
  cells = {n: list(x) if np.ndim(x) > 1 else x for n, x in columns.items()}
  return pd.DataFrame(cells).rename(columns=str)


def read_flags(columns: Columns, name: str, count: int) -> np.ndarray:
  """A column of bool; True where there is none, and where a cell is None."""
  if name not in columns:
    return np.ones(count, bool)
  values = np.asarray(columns[name]).tolist()
  read = [True if v is None else label_sets.FLAGS.get(str(v)) for v in values]
  if None in read:
    bad = values[read.index(None)]
    found = "an empty cell" if is_missing(bad) else repr(bad)
    raise ValueError(f"{name} has {found}, expected: true and false, or 1 and 0")
  return np.array(read, bool)


def hide_absent(values: Any, present: np.ndarray) -> np.ndarray:
  """A column, with 0 or None in the rows that lack it: what stands there may be of any kind."""
  values = np.asarray(values)
  if present.all():
    return values
  if values.dtype.kind in "biuf":
    mask = present.reshape(-1, *(1,) * (values.ndim - 1))
    return np.where(mask, values, values.dtype.type(0))
  return as_column([v if here else None for v, here in zip(values, present, strict=True)])


def read_modality(
  columns: Columns, modality: Modality, is_text: bool, count: int
) -> tuple[Sequence[np.ndarray], np.ndarray, list[str]]:
  """The values of a modality, as `cleaning` takes them, which rows have it, bool[n], and, where
  they are given as texts, these. Rows that its flags call absent are not read."""
  empty = np.zeros(modality.shape, np.uint8 if modality.kind == "image" else np.float32)
  parts = [f"{modality.name}_{i}" for i in range(modality.shape[0])]
  names = [name for name in (modality.name, f"x_{modality.name}") if name in columns]
  if len(names) > 1:
    raise ValueError(f"{' and '.join(names)} are both given, expected: one of them")
  present = read_flags(columns, f"present_{modality.name}", count)
  if names and present.any():
    values = hide_absent(columns[names[0]], present)
  elif modality.kind == "vector" and present.any() and any(part in columns for part in parts):
    unknown = np.full(count, np.nan)
    values = [hide_absent(columns.get(part, unknown), present) for part in parts]
    values = np.stack([read_numbers(column) for column in values], axis=1)
  else:
    return np.broadcast_to(empty, (count, *empty.shape)), np.zeros(count, bool), []
  if values.dtype.kind in "biuf" and values.ndim > 1:
    rows = npz_arrays.convert_numbers(modality, values, np.arange(count))
    return rows, present & npz_arrays.has_value(rows), []
  if modality.shape == (1,):
    rows = read_numbers(values)[:, None]
    return rows, present & npz_arrays.has_value(rows), []
  cells = [None if is_missing(cell) else cell for cell in values]
  here = present & [cell is not None for cell in cells]
  if is_text and all(isinstance(cell, str) for cell in cells if cell is not None):
    texts = [cell or "" for cell in cells]
    return text.hash_ngrams(texts, modality.vocabulary, modality.shape[0]), here, texts
  if is_text and any(is_scalar(cell) for cell in cells if cell is not None):
    bad = next(c for c in cells if c is not None and not isinstance(c, str))
    raise ValueError(f"a cell is {bad!r}, expected: texts")
  rows = [empty if cell is None else read_cell(modality, cell, i) for i, cell in enumerate(cells)]
  return rows, here & np.array([npz_arrays.has_value(row[None])[0] for row in rows], bool), []


def is_scalar(cell: Any) -> bool:
  """Whether a cell is one value. (`np.ndim` raises for lists of unequal lengths.)"""
  return not isinstance(cell, list | tuple | dict) and np.ndim(cell) == 0


def unnest(cell: Any) -> Any:
  """Lists for arrays of arrays, which Parquet and Feather files make of lists of lists."""
  if isinstance(cell, np.ndarray) and cell.dtype.kind == "O":
    return [unnest(part) for part in cell]
  return cell


def read_cell(modality: Modality, cell: Any, row: int) -> np.ndarray:
  """The value of one row. ValueError for what is no array of the kind of the modality."""
  try:
    value = check_real(json.loads(cell) if isinstance(cell, str) else unnest(cell))
    if value.dtype.kind not in "biuf":
      value = value.astype(np.float32)
    if modality.kind == "tokens" and value.dtype.kind not in "biu":
      raise ValueError("ids of tokens are whole numbers")
    if value.ndim not in {len(modality.shape), max(len(modality.shape) - 1, 1)}:
      raise ValueError(f"it has the shape {value.shape}")
    return npz_arrays.convert_numbers(modality, value[None], np.array([row]))[0]
  except (ValueError, TypeError, OverflowError) as error:
    expected = f"numbers of shape {modality.shape}"
    raise ValueError(f"row {row} is {str(cell)[:40]!r}, expected: {expected} ({error})") from error


def check_real(values: Any) -> np.ndarray:
  """An array. ValueError for types that NumPy makes numbers of without a word."""
  values = np.asarray(values)
  if values.dtype.kind in "cmMV":
    raise ValueError(f"{values.dtype} are no real numbers")
  return values


def read_numbers(values: Any) -> np.ndarray:
  """A column as f32[n]; what is missing is NaN. ValueError for a cell that is no number."""
  try:
    values = check_real(values)
    if values.ndim != 1:
      raise ValueError(f"it has the shape {values.shape}")
    if values.dtype.kind not in "biuf":
      cells = pd.Series(values, dtype=object)
      values = check_real(pd.to_numeric(cells, errors="coerce")).astype(np.float64)
      for row in np.flatnonzero(np.isnan(values)):  # few: pandas reads what is plain, and fast
        values[row] = np.nan if is_missing(cells[row]) else float(check_real(cells[row]))
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf
      return values.astype(np.float32)
  except (TypeError, ValueError, OverflowError, np.ma.MAError) as error:
    raise ValueError(f"a cell is no number ({error})") from error


def read_lengths(values: Any) -> np.ndarray:
  """A column of valid steps, i64[n]; where it is missing, all steps are valid."""
  numbers = read_numbers(values)
  bad = (numbers < 0) | (~np.isnan(numbers) & (numbers != np.floor(numbers)))
  if bad.any():
    raise ValueError(f"a length is {numbers[bad][0]:g}, expected: whole numbers of 0 or more")
  return np.nan_to_num(numbers, nan=np.inf).clip(0, 2**31 - 1).astype(np.int64)


def encode_labels(values: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
  """Labels in the form of `types.Split`, and which rows have one, bool[n].

  ValueError for a class that the task does not know, or a value of another kind.
  """
  if task.names and hasattr(values, "columns"):
    found = values.columns.tolist()
    if set(found) != set(task.names):
      raise ValueError(
        f"its labels are {list_first(found)}, those of the model {list_first(task.names)}."
      )
    return label_sets.encode_sets(label_sets.read_sets(values[list(task.names)])[0], task)
  rows, values = values, np.asarray(values)
  cells_of_sets = values.ndim == 1 and any(map(label_sets.is_list, values))
  if cells_of_sets or (values.ndim == 1 and task.kind == "multilabel"):
    return label_sets.encode_sets(label_sets.read_sets(pd.Series(values, name="label"))[0], task)
  if task.kind == "multilabel" or values.ndim == 2:
    if values.ndim != 2 or values.shape[1] != task.outputs:
      raise ValueError(f"labels have the shape {values.shape}, expected: 0/1 [N, {task.outputs}].")
    if task.kind == "classes":
      check_values("label", values, npz_labels.find_one_hot(values), "one 1 a row")
      values = values.argmax(axis=1)
      return values.astype(np.int32), np.ones(len(values), bool)
    return values.astype(np.float32), np.ones(len(values), bool)
  is_known = np.array([not is_missing(value) for value in values], bool)
  if task.kind == "regression":
    label = read_numbers(values)
    return label, is_known & np.isfinite(label)
  # pandas makes floats of whole numbers where a cell is empty.
  is_whole = lambda x: isinstance(x, float | np.floating) and float(x).is_integer()
  names = [str(int(value)) if is_whole(value) else str(value) for value in values]
  sets = [frozenset([n]) if known else None for n, known in zip(names, is_known, strict=True)]
  return label_sets.encode_sets(sets, task, rows)


def label_names(fitted: Preprocessing) -> tuple[str, ...]:
  """How the columns of labels may be called."""
  return LABELS if fitted.columns is None else fitted.columns.labels


def read_label(columns: Columns, fitted: Preprocessing) -> Any:
  """The labels as given, without those that `labelled` of an npz file says are none; None where
  there are no labels."""
  names = label_names(fitted)
  if fitted.columns is not None and len(names) > 1:
    return columns[list(names)] if {*names} <= {*columns} else None
  label = next((columns[name] for name in names if name in columns), None)
  if label is None or fitted.columns is not None or "labelled" not in columns:
    return label
  known = read_flags(columns, "labelled", len(label))
  return as_column([x if here else None for x, here in zip(label, known, strict=True)])


def name_labels(label: np.ndarray, classes: np.ndarray) -> Any:
  """Numbers of classes as their names; of several labels, a DataFrame with the names as columns."""
  if label.dtype.kind == "U":
    return label
  if label.ndim > 1:
    return pd.DataFrame(label, columns=classes.tolist())
  words = f"0 to {len(classes) - 1}, as classes has names"
  check_values("y", label, np.isin(label, range(len(classes))), words)
  return classes[label.astype(np.int64)]
