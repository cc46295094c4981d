"""Files of tables: CSV, TSV, Parquet, Arrow and Feather, as a DataFrame.

Separator, encoding and decimal comma of a text file are found and said. Its cells stay texts,
which `cells` reads: pandas would fill short lines in silence.
"""

import csv
import itertools
import logging
import pathlib
import re
from collections.abc import Iterator
from typing import IO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from promise_jax.checks import shorten
from promise_jax.data.readers import cells
from promise_jax.data.source import name_file_in_errors

logger = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".parquet", ".arrow", ".feather")
SEPARATORS = ",;\t|"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # what such a file begins with
COMMAS = {  # {whether the comma is the decimal point: numbers}
  True: re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(\.\d{3})+)(,\d+)?"),
  False: re.compile(r"[+-]?(\d+|[1-9]\d{0,2}(,\d{3})+)(\.\d+)?"),
}


def read_frame(path: pathlib.Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
  """The rows of a file, or of all that a path with * names, and sentences on how it was read.

  The index has the lines of a file of text, which messages name; else rows are numbered from 0. A
  ValueError is one sentence that begins with the path."""
  notes, frames, paths = [], [], find_files(path)
  for one in paths:
    frames += read_parts(one, None, notes)
    if {*frames[-1].columns} != {*frames[0].columns}:
      found, first = (shorten(", ".join(x.columns)) for x in (frames[-1], frames[0]))
      raise ValueError(
        f"{one.name} has the columns {found}, {paths[0].name} has {first}, expected: the same."
      )
  return pd.concat(frames, ignore_index=True) if frames[1:] else frames[0], tuple(notes)


def find_files(path: pathlib.Path) -> list[pathlib.Path]:
  """The files that a path means: with * in its name, all that fit, in alphabetical order."""
  if "*" not in path.name:
    return [path]
  if not (found := sorted(path.parent.glob(path.name))):
    raise ValueError(f"{path}: there is no such file.")
  return found


def read_blocks(path: pathlib.Path, block_rows: int) -> Iterator[pd.DataFrame]:
  """The rows of a file, or of all that a path with * names, some at a time; how it was read is
  logged as a warning."""
  notes = []
  for one in find_files(path):
    for frame in read_parts(one, block_rows, notes):
      while notes:
        logger.warning(notes.pop(0))
      yield frame


def read_parts(
  path: pathlib.Path, block_rows: int | None, notes: list[str]
) -> Iterator[pd.DataFrame]:
  """The rows of a file, some or all at a time; `notes` gets sentences on how it was read."""
  ending, start = path.suffix.lower(), 0
  with name_file_in_errors(path, "a table"):
    if ending in (".csv", ".tsv"):
      parts = read_text(path, "\t" if ending == ".tsv" else None, block_rows, notes)
    else:
      parts = read_arrow(path, ending, block_rows)
    for frame in parts:
      names = [str(name) for name in frame.columns]
      if repeated := [n for n in dict.fromkeys(names) if names.count(n) > 1]:
        raise ValueError(f"two columns are called {repeated[0]!r}, each needs its own name.")
      if not len(frame):
        raise ValueError(f"the table has no rows, its columns are {', '.join(names)}.")
      frame = frame.set_axis(names, axis=1)
      is_text = frame.index.name == cells.LINE
      yield frame if is_text else frame.set_axis(range(start, start + len(frame)), axis=0)
      start += len(frame)


def read_arrow(path: pathlib.Path, ending: str, block_rows: int | None) -> Iterator[pd.DataFrame]:
  """A Parquet or Arrow file; at least one block."""
  with path.open("rb") as content:
    try:
      for table in read_arrow_tables(content, ending, block_rows):
        table.validate(full=True)  # else a text that is no UTF-8 fails later
        yield table.to_pandas()
    except Exception as error:  # a damaged file can fail in any way
      reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
      raise ValueError(f"this is no *{ending} file, or a damaged one: {reason}.") from None


def read_arrow_tables(
  content: IO[bytes], ending: str, block_rows: int | None
) -> Iterator[pa.Table]:
  """The rows of a Parquet file, or of Arrow's own format, a file or a stream, as they are read."""
  if ending == ".parquet":
    file = pyarrow.parquet.ParquetFile(content)
    if not block_rows or not file.metadata.num_rows:
      yield file.read()
      return
    yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(block_rows))
    return
  is_file = content.read(6) == b"ARROW1"
  content.seek(0)
  reader = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(content)
  if not block_rows:
    yield reader.read_all()
    return
  batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
  found = False
  for batch in batches:
    for start in range(0, len(batch), block_rows):
      yield pa.Table.from_batches([batch.slice(start, block_rows)])
      found = True
  if not found:
    yield reader.schema.empty_table()


def read_text(
  path: pathlib.Path, separator: str | None, block_rows: int | None, notes: list[str]
) -> Iterator[pd.DataFrame]:
  """A file of text; `separator` None: the one that is most frequent in the first line."""
  encoding = find_encoding(path)
  with path.open(encoding=encoding) as file:
    header_line = next((line for line in file if line.strip()), "")
  if not header_line:
    raise ValueError("the file is empty, expected is a line of column names, then rows.")
  separator = separator or max(SEPARATORS, key=header_line.count)
  _, header = next(read_rows(path, encoding, separator))
  names = [" ".join(name.split()) or f"column {i}" for i, name in enumerate(header, 1)]
  commas = find_commas(path, encoding, separator)
  if encoding == "latin-1":
    notes.append(f"{path.name}: it is no UTF-8, it was read as Latin-1.")
  if separator not in ",\t":
    notes.append(f"{path.name}: its columns are separated by {separator!r}.")
  for is_decimal, words in ((True, "is the decimal point"), (False, "separates thousands")):
    if found := [names[i] for i in commas if commas[i] == is_decimal]:
      notes.append(f"{path.name}: the comma {words} in {', '.join(found)}.")
  rows, is_first = itertools.islice(read_rows(path, encoding, separator), 1, None), True
  while (block := list(itertools.islice(rows, block_rows))) or is_first:
    lines, values = zip(*block, strict=True) if block else ((), None)
    index, is_first = pd.Index(lines, name=cells.LINE, dtype=np.int64), False
    frame = pd.DataFrame(values, index, names, dtype=object)
    for i, is_decimal in commas.items():
      texts = frame.iloc[:, i].str.replace("." if is_decimal else ",", "")
      frame.isetitem(i, texts.str.replace(",", "."))
    yield frame


def find_encoding(path: pathlib.Path) -> str:
  """UTF-16 or UTF-8, or Latin-1, which anything is."""
  with path.open("rb") as file:
    encoding = "utf-16" if file.read(2) in UTF_16 else "utf-8-sig"
  try:
    with path.open(encoding=encoding) as file:
      while file.read(2**20):
        pass
    return encoding
  except UnicodeError:
    return "latin-1"


def read_rows(path: pathlib.Path, encoding: str, separator: str) -> Iterator[tuple[int, list[str]]]:
  """The lines that are not empty: their numbers, from 1, and cells. ValueError for one that is
  longer than the first."""
  with path.open(encoding=encoding, newline="") as file:
    csv.field_size_limit(2**31 - 1)  # long texts; the limit is one for the whole process
    reader, width, line = csv.reader(file, delimiter=separator, strict=True), 0, 1
    try:
      for row in reader:
        this, line = line, reader.line_num + 1  # a cell in quotes may have several lines
        if not row:
          continue
        width = width or len(row)
        if len(row) != width:
          raise ValueError(
            f"line {reader.line_num} has {len(row)} cells, the first line has {width}; a cell that "
            f"holds {separator!r} must stand in quotes, an empty one keeps its {separator!r}."
          )
        yield this, row
    except csv.Error as error:
      raise ValueError(f"line {reader.line_num} cannot be read: {error}.") from None


def find_commas(path: pathlib.Path, encoding: str, separator: str) -> dict[int, bool]:
  """{number of a column of numbers with commas: True if the comma is the decimal point, False if it
  separates thousands}. What may be either, as 1,234, are thousands unless ; separates columns.

  In a file with decimal commas the point of 1.234 separates thousands too.
  """
  with path.open("rb") as file:
    if separator == "," and not any(b'"' in part for part in iter(lambda: file.read(2**20), b"")):
      return {}  # a cell with a comma stands in quotes
  _, names = next(rows := read_rows(path, encoding, separator))
  forms = {i: (True, False) for i in range(len(names))}  # what the comma of a column may be
  with_comma, with_point = set(), set()
  for _, row in rows:
    for i in list(forms):
      cell = row[i].strip()
      if cell.isdecimal() or cell in cells.MISSING:
        continue
      forms[i] = tuple(is_decimal for is_decimal in forms[i] if COMMAS[is_decimal].fullmatch(cell))
      with_comma |= {i} if "," in cell else set()
      with_point |= {i} if "." in cell else set()
      if not forms[i]:
        del forms[i]
  found = {i: separator == ";" for i in with_comma if i in forms}
  found = {i: usual if usual in forms[i] else not usual for i, usual in found.items()}
  if any(found.values()):
    found |= {i: True for i in with_point - with_comma if True in forms.get(i, ())}
  return dict(sorted(found.items()))
