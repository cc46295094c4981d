"""Reads rows to predict: a DataFrame, arrays or a file, in blocks.

A model of a table reads the columns of that table. A model of arrays reads, for a modality m,

  m or x_m       texts; numbers [N, ...]; or one array, (nested) list or JSON list a cell
  m_0, m_1, ...  the features of a vector, a column each
  present_m      optional: False or 0 where the row lacks the modality
  length_m       optional: the valid steps of a padded sequence
  id             optional: returned with the predictions; otherwise the row numbers

A modality, a column or a cell may lack. The label is not needed.
"""

import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from promise_jax.checks import name_place_in_errors
from promise_jax.data import feature_folders, new_values
from promise_jax.data.new_values import Columns
from promise_jax.data.preprocessing import Preprocessing
from promise_jax.data.readers import lost_files, npz_arrays, table_file
from promise_jax.data.readers.cells import read_texts
from promise_jax.data.readers.table_columns import read_table_inputs
from promise_jax.data.source import Rows, list_first

logger = logging.getLogger(__name__)

BLOCK_ROWS = 4096
ENDINGS = (*table_file.ENDINGS, ".npz")
OTHERS = ("id", "group", "split", "classes", "scale", "labelled")  # that an npz file may have


class NewRows(NamedTuple):
  """Some new rows, not yet cleaned."""

  rows: Rows  # its label is zero
  ids: np.ndarray  # [n] as given, of any type
  label: Any  # [n] or [n, C] as given, or None


def read_new_rows(
  data: Any,
  fitted: Preprocessing,
  block_rows: int = BLOCK_ROWS,
  file_options: lost_files.FileOptions = lost_files.DEFAULTS,
) -> Iterator:
  """Yields `NewRows`, at most `block_rows` at a time, in order.

  What is not used or lacks is logged as a warning, once.

  Args:
    data: a pandas DataFrame, a mapping of arrays, or the path of a file with one of `ENDINGS`.
    fitted: the preprocessing of the model.
    block_rows: rows that are in memory at a time.
    file_options: how files are found that the rows name.

  Raises:
    ValueError: nothing in `data` is of a modality of the model, a value cannot be read, or too many
      files are missing so far.
  """
  start, place, counts, root = 0, "the new rows", {}, file_options.root
  if isinstance(data, str | pathlib.Path):
    path = pathlib.Path(data).expanduser()
    root, place, blocks = root or path.parent, str(path), read_file(path, block_rows)
  else:
    blocks = slice_columns(check_columns(data), block_rows)
  for columns in blocks:
    with name_place_in_errors(place):
      columns = columns if fitted.columns is None else new_values.as_table(columns)
      if not start:
        for sentence in describe_columns(columns, fitted):
          logger.warning("%s: %s", place, sentence)
      if not (count := count_rows(columns)):
        raise ValueError("there are no rows")
      ids, label = read_ids(columns, fitted, start, count), new_values.read_label(columns, fitted)
      *known, texts, files = read_inputs(columns, fitted, pathlib.Path(root).expanduser(), ids)
    counts = lost_files.add_counts([counts, files])
    lost_files.check_counts(place, counts, file_options.allow_missing)
    # Masks of test protocols are drawn by them.
    numbers = ids if ids.dtype.kind in "iu" else np.arange(start, start + count)
    rows = Rows(*known, np.zeros(count, np.int32), numbers, texts=texts)
    yield NewRows(rows, ids, label)
    start += count
  lost_files.warn_of_lost(place, counts)


def read_file(path: pathlib.Path, block_rows: int) -> Iterator[Columns]:
  """The columns of a file, in blocks. ValueError for a file that cannot be read."""
  ending = path.suffix.lower()
  if path.is_dir():
    raise ValueError(f"{path} is a folder, expected: a file that ends in {', '.join(ENDINGS)}")
  if ending not in ENDINGS:
    raise ValueError(f"{path} ends in {path.suffix!r}, new rows are read from {', '.join(ENDINGS)}")
  read = read_npz_blocks if ending == ".npz" else table_file.read_blocks
  return read(path, block_rows)


def read_npz_blocks(path: pathlib.Path, block_rows: int) -> Iterator[Columns]:
  """The arrays of an npz file, some rows at a time; none is ever read as a whole."""
  with npz_arrays.open_npz(path) as file:
    headers = {n: h for n, h in npz_arrays.read_headers(file).items() if h.shape}
    classes = file["classes"] if headers.pop("classes", None) else None
    counts = {h.shape[0] for h in headers.values()}
    if len(counts) != 1:
      raise ValueError(f"its arrays have {sorted(counts)} rows, expected: all the same number.")
    for columns in npz_arrays.read_blocks(file, headers, block_rows):
      if classes is not None and "y" in columns:
        columns["y"] = new_values.name_labels(columns["y"], classes)
      yield columns


def check_columns(data: Any) -> Columns:
  """`data`, with arrays for lists. ValueError unless it is columns of one length."""
  if isinstance(data, pd.DataFrame):
    if not data.columns.is_unique:
      repeated = data.columns[data.columns.duplicated()][0]
      raise ValueError(f"two columns are called {repeated!r}, each needs its own name.")
    return data
  if not isinstance(data, Mapping):
    raise ValueError(
      f"new rows are a {type(data).__name__}, expected: a DataFrame, a dict of arrays or a path."
    )
  columns = {name: new_values.as_column(values) for name, values in data.items()}
  counts = {name: len(values) for name, values in columns.items()}
  if len(set(counts.values())) != 1:
    raise ValueError(f"the columns have {counts} rows, expected: at least one, all of one length.")
  return columns


def count_rows(columns: Columns) -> int:
  """The number of rows of some columns."""
  return len(columns) if isinstance(columns, pd.DataFrame) else len(next(iter(columns.values())))


def slice_columns(columns: Columns, block_rows: int) -> Iterator[Columns]:
  """The columns in blocks of rows; at least one."""
  for start in range(0, max(count_rows(columns), 1), block_rows):
    part = slice(start, start + block_rows)
    if isinstance(columns, pd.DataFrame):
      yield columns.iloc[part]
    else:
      yield {name: values[part] for name, values in columns.items()}


def read_ids(columns: Columns, fitted: Preprocessing, start: int, count: int) -> np.ndarray:
  """The ids of rows as given, or their numbers from `start` on."""
  name = fitted.columns.id if fitted.columns is not None else "id"
  if name not in columns:
    return np.arange(start, start + count)
  ids = np.asarray(columns[name])
  if ids.ndim != 1 or ids.dtype.kind not in "biufMUSO":
    raise ValueError(f"{name} is {ids.dtype} of shape {ids.shape}, expected: an id a row [N]")
  if ids.dtype.kind == "O":
    return np.array(read_texts(pd.Series(ids)), object)
  return ids.astype(np.float64 if ids.dtype == np.float16 else ids.dtype.newbyteorder("="))


def describe_columns(columns: Columns, fitted: Preprocessing) -> list[str]:
  """Sentences on columns that are not used and modalities that lack.

  ValueError where there are columns, and none is of a modality.
  """
  of_table, found, known = fitted.columns.columns if fitted.columns else {}, list(columns), {}
  for m in fitted.raw_modalities:
    if m.name not in of_table:
      parts = {f"{m.name}_{i}" for i in range(m.shape[0])} if m.kind == "vector" else set()
      known[m.name] = parts | {m.name, f"x_{m.name}", f"present_{m.name}", f"length_{m.name}"}
  if not found:
    return [f"no row has {' or '.join(m.name for m in fitted.raw_modalities)}."]
  used = set().union(*known.values())
  lacking = [m for m in known if not known[m].difference({f"present_{m}"}).intersection(found)]
  lacking = [m for m in lacking if m not in fitted.folders]
  has_others = len(lacking) < len(known)
  if not of_table and not has_others:
    raise ValueError(
      f"no column is of a modality, found are {list_first(found)}; the modalities are "
      f"{', '.join(known)}"
    )
  sentences = [f"no row has {' or '.join(lacking)}."] if lacking else []
  if fitted.columns is not None:
    rest = columns.drop(columns=[name for name in found if name in used])
    return sentences + fitted.columns.describe_differences(rest, has_others)
  unknown = [str(name) for name in found if name not in used.union(new_values.LABELS, OTHERS)]
  return sentences + (
    [f"columns that the model does not use: {list_first(unknown)}."] if unknown else []
  )


def read_inputs(
  columns: Columns, fitted: Preprocessing, root: pathlib.Path, ids: np.ndarray
) -> tuple[dict, dict, np.ndarray, dict, dict]:
  """(inputs, length, recorded, texts) of `source.Rows`, and the files {modality: FileCount}; paths
  start from `root`."""
  count = len(ids)
  recorded = np.ones((count, len(fitted.modalities)), bool)
  inputs, length, texts, files, of_table = {}, {}, {}, {}, {}
  if fitted.columns is not None:
    found = read_table_inputs(fitted.columns, columns, root)
    inputs, length, texts, files = found.inputs, found.length, found.texts, found.files
    of_table = dict(zip(found.inputs, found.recorded.T, strict=True))
  for i, m in enumerate(fitted.raw_modalities):
    if m.name in of_table:
      recorded[:, i] = of_table[m.name]
      continue
    if m.name in fitted.folders and not {m.name, f"x_{m.name}"} & {*columns}:
      folder = feature_folders.find_folder(root, fitted.folders[m.name])
      inputs[m.name], recorded[:, i], files[m.name] = feature_folders.read_folder(folder, ids, m)
      recorded[:, i] &= new_values.read_flags(columns, f"present_{m.name}", count)
      continue
    with name_place_in_errors(m.name):
      read = new_values.read_modality(columns, m, m.name in fitted.texts, count)
    inputs[m.name], recorded[:, i], texts[m.name] = read
    if m.name in fitted.texts:
      length[m.name] = np.array([np.count_nonzero(row) for row in inputs[m.name]])
    elif (array := f"length_{m.name}") in columns:
      with name_place_in_errors(array):
        length[m.name] = new_values.read_lengths(columns[array])
  return inputs, length, recorded, texts, files
