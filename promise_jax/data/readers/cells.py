"""Cells of a table as texts, numbers and files; any of them may be missing."""

import os
import pathlib
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

MAX_QUOTE = 60  # characters of a cell in a message
MISSING = ("", "NA", "N/A", "<NA>", "NaN", "nan", "None", "null", "NULL")  # as they are written

LINE = "line"  # name of the index of rows of a file of text: their lines, from 1

FileContent = pathlib.Path | bytes | np.ndarray | list | None  # a file, or what stands in the cell


def is_missing(cell) -> bool:
  """Whether a cell is empty, NA, NaN, None or null."""
  if isinstance(cell, str):
    return cell.strip() in MISSING
  if isinstance(cell, dict):  # bytes and path of a file
    return not any(cell.values())
  if cell is None or cell is np.ma.masked:
    return True
  return pd.api.types.is_scalar(cell) and bool(pd.isna(cell))


def describe_missing(columns: Sequence[pd.Series]) -> str:
  """ ", 3 of 40 cells missing, as 'None'" of some columns; "" where none is."""
  lost = [values[find_missing(values)] for values in columns]
  if not (count := sum(map(len, lost))):
    return ""
  words = (cell for values in lost for cell in values.tolist())
  word = next((cell for cell in words if isinstance(cell, str) and cell.strip()), "")
  found = f", {count} of {sum(map(len, columns))} cells missing"
  return found + (f", as {quote(word)}" if word else "")


def find_missing(values: pd.Series) -> Bool[np.ndarray, " N"]:
  """Which cells are missing."""
  if values.dtype.kind in "biufM":
    return values.isna().to_numpy(bool)
  return np.array([is_missing(cell) for cell in values.tolist()], bool)


def read_texts(values: pd.Series) -> list[str | None]:
  """Cells as texts without white space around them; 3.0 is "3", as in a file of text."""
  return [None if is_missing(cell) else to_text(cell) for cell in values.tolist()]


def to_text(cell) -> str:
  """One cell as text."""
  if isinstance(cell, bytes):
    return cell.decode("utf-8", "replace").strip()
  if isinstance(cell, list | np.ndarray):  # several texts
    return " ".join(map(str, cell)).strip()
  return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def name_row(values, place: int) -> str:
  """Row number `place` of a Series, DataFrame or array in a message: its line in a file of text."""
  index = getattr(values, "index", None)
  if not isinstance(index, pd.Index):
    return f"row {place}"
  return f"{LINE if index.name == LINE else 'row'} {index[place]}"


def quote(cell) -> str:
  """A cell in a message, cut where it is long."""
  words = repr(cell.item() if isinstance(cell, np.generic) else cell)
  return words if len(words) <= MAX_QUOTE else f"{words[:MAX_QUOTE]}..."


def parse_numbers(values: pd.Series) -> Float[np.ndarray, " N"]:
  """Cells as numbers; NaN where one is missing, infinite or no number."""
  if values.dtype.kind not in "biuf":
    values = pd.Series([None if is_missing(v) else to_text(v) for v in values.tolist()], dtype=str)
  numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
  return np.where(np.isfinite(numbers), numbers, np.nan)


def read_numbers(values: pd.Series, advice: str = "") -> Float[np.ndarray, " N"]:
  """Cells as numbers, NaN where one is missing. ValueError names the column and the first row whose
  cell is no finite number."""
  numbers = parse_numbers(values)
  bad = np.flatnonzero(np.isnan(numbers) & ~find_missing(values))
  if bad.size:
    row, cell = name_row(values, bad[0]), values.iloc[bad[0]]
    raise ValueError(f"column {values.name!r}, {row}: {quote(cell)} is no number{advice}.")
  return numbers


def read_files(values: pd.Series, root: pathlib.Path) -> list[FileContent]:
  """What each cell refers to: a path under `root`, or bytes or numbers in the cell itself.
  ValueError for a path that leads out of `root`."""
  return [
    None if is_missing(cell) else find_file(cell, root, values.name) for cell in values.tolist()
  ]


def find_file(cell, root: pathlib.Path, column: str) -> FileContent:
  """What one cell refers to."""
  if isinstance(cell, dict):
    cell = cell.get("bytes") or cell.get("path")
  if not isinstance(cell, str):
    return cell
  root = os.path.abspath(root)
  path = find_path(root, cell)
  if not path.is_relative_to(root):
    raise ValueError(
      f"column {column!r}: {quote(cell)} lies outside {root}, where the files of the table are "
      "looked for; the option root names another folder, / allows every path."
    )
  return path


def find_path(root: str | os.PathLike, text: str) -> pathlib.Path:
  """The path `text` from `root` on; where there is none, one that another system writes so: ü as
  two letters, \\ between folders."""
  join = lambda form: pathlib.Path(os.path.normpath(os.path.join(root, form)))
  if os.path.exists(path := join(text := text.strip())):
    return path
  forms = (*(unicodedata.normalize(form, text) for form in ("NFC", "NFD")), text.replace("\\", "/"))
  return next((other for other in map(join, forms) if os.path.exists(other)), path)


def name_files(
  values: pd.Series, found: Sequence[FileContent], bad: Bool[np.ndarray, " N"]
) -> Iterator[str]:
  """The files that are `bad`, as the cells have them; bytes by their row."""
  for place in np.flatnonzero(bad):
    is_path = isinstance(found[place], pathlib.Path)
    yield str(values.iloc[place]) if is_path else name_row(values, place)
