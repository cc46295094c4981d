"""Files of tables: CSV, TSV, Parquet, Arrow and Feather, as a DataFrame.

Separator, encoding and decimal comma of a text file are found and said. Its cells stay texts,
which `cells` reads: pandas would fill short lines in silence.
"""

import csv
import io
import logging
import pathlib
import re
from collections.abc import Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from promise_jax.data.source import name_file_in_errors

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".parquet", ".arrow", ".feather")
SEPARATORS = ",;\t|"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # what such a file begins with
DECIMAL_COMMA = re.compile(r"[+-]?\d+(,\d+)?")


def read_frame(path: pathlib.Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
  """The rows of a file, numbered from 0, and sentences on how it was read.

  Raises:
    ValueError: one sentence that begins with the path.
  """
  with name_file_in_errors(path, "a table"):
    content, ending = path.read_bytes(), path.suffix.lower()
    if ending in (".csv", ".tsv"):
      frame, notes = read_text(content, "\t" if ending == ".tsv" else None)
    else:
      frame, notes = read_arrow(content, ending), ()
    names = [str(name) for name in frame.columns]
    if repeated := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
      raise ValueError(f"two columns are called {repeated[0]!r}, each needs its own name.")
    if not len(frame):
      raise ValueError(f"the table has no rows, its columns are {', '.join(names)}.")
  frame.columns = names
  return frame.reset_index(drop=True), tuple(f"{path.name}: {note}" for note in notes)


def read_blocks(path: pathlib.Path, block_rows: int) -> Iterator[pd.DataFrame]:
  """The rows of a file, some at a time; how it was read is logged as a warning."""
  frame, notes = read_frame(path)
  for note in notes:
    logger.warning(note)
  for start in range(0, len(frame), block_rows):
    yield frame.iloc[start : start + block_rows]


def read_arrow(content: bytes, ending: str) -> pd.DataFrame:
  """A Parquet file, or Arrow's own format as a file or as a stream."""
  try:
    if ending == ".parquet":
      table = pyarrow.parquet.read_table(pa.BufferReader(content))
    else:
      is_file = content[:6] in (b"ARROW1", b"FEA1")
      reader = pa.ipc.open_file if is_file else pa.ipc.open_stream
      table = reader(pa.BufferReader(content)).read_all()
    table.validate(full=True)  # else a text that is no UTF-8 fails later
    return table.to_pandas()
  except Exception as error:  # a damaged file can fail in any way
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    raise ValueError(f"this is no *{ending} file, or a damaged one: {reason}.") from None


def read_text(content: bytes, separator: str | None) -> tuple[pd.DataFrame, list[str]]:
  """A file of text; `separator` None: the one that is most frequent in the first line."""
  notes = []
  try:
    text = content.decode("utf-16" if content[:2] in UTF_16 else "utf-8-sig")
  except UnicodeDecodeError:
    text = content.decode("latin-1")
    notes.append("it is no UTF-8, it was read as Latin-1.")
  if not text.strip():
    raise ValueError("the file is empty, expected is a line of column names, then rows.")
  header_line = text.lstrip().partition("\n")[0]
  separator = separator or max(SEPARATORS, key=header_line.count)
  reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
  rows = []
  try:
    for row in reader:
      rows += [row] if row else []
      if row and len(row) != len(rows[0]):
        raise ValueError(
          f"line {reader.line_num} has {len(row)} cells, the first line has {len(rows[0])}; a cell "
          f"that holds {separator!r} must stand in quotes, an empty one keeps its {separator!r}."
        )
  except csv.Error as error:
    raise ValueError(f"line {reader.line_num} cannot be read: {error}.") from None
  names = [name.strip() or f"column {i}" for i, name in enumerate(rows[0], 1)]
  if separator not in ",\t":
    notes.append(f"its columns are separated by {separator!r}.")
  frame = pd.DataFrame(rows[1:], columns=names, dtype=object)
  if separator == ";" and len(set(names)) == len(names):
    changed = [name for name in names if has_decimal_comma(frame[name])]
    for name in changed:
      frame[name] = frame[name].str.replace(",", ".")
    if changed:
      notes.append(f"the comma is the decimal point in {', '.join(changed)}.")
  return frame, notes


def has_decimal_comma(values: pd.Series) -> bool:
  """Whether all cells are numbers as 3 and 3,5."""
  known = [v.strip() for v in values if v.strip()]
  return any("," in v for v in known) and all(map(DECIMAL_COMMA.fullmatch, known))
