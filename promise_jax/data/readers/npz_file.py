"""The arrays of an npz file: what they are without reading them, one at a time, and
several side by side in pieces.

Pickles are never loaded. Errors are ValueErrors that name the array, not yet the file:
`naming` adds that.
"""

import contextlib
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

import numpy as np

# All that zipfile, zlib and numpy raise for a member that is damaged or encrypted.
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


class Header(NamedTuple):
  """What an array is, as its first bytes say."""

  shape: tuple[int, ...]
  dtype: np.dtype


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
  """Puts the file in front of the sentence of a ValueError."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error


def read_headers(path: pathlib.Path) -> dict[str, Header]:
  """{array: header} in the order of the file."""
  found = {}
  with _opened(path) as archive:
    members = archive.namelist()
    for member in members:
      name = member.removesuffix(".npy")
      if name == member:
        raise ValueError(f"{member} is no array, expected are members *.npy alone.")
      if members.count(member) > 1:
        raise ValueError(f"{name} is there twice, arrays have names of their own.")
      with _member(archive, name) as file:
        found[name] = header = _header(file)
        size = archive.getinfo(member).file_size - file.tell()
        if not header.dtype.hasobject and size != _size(header):
          raise ValueError(f"it holds {size} bytes, its header says {_size(header)}")
  return found


def read_array(path: pathlib.Path, name: str) -> np.ndarray:
  """The array `name`, which is there."""
  with _opened(path) as archive, _member(archive, name) as file:
    return np.lib.format.read_array(file, allow_pickle=False)


def read_pieces(
  path: pathlib.Path, names: Sequence[str], rows: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
  """(number of the first row, {array: so many rows}) of arrays of as many rows, from
  the first row on, each read once and never as a whole."""
  with contextlib.ExitStack() as stack:
    archive, opened, headers = stack.enter_context(_opened(path)), {}, {}
    for name in names:
      with _reading(name):
        opened[name] = stack.enter_context(archive.open(f"{name}.npy"))
        headers[name] = _row_header(opened[name])
    (count,) = {header.shape[0] for header in headers.values()}
    for start in range(0, count, rows):
      part = {}
      for name in names:
        with _reading(name):
          part[name] = _read(opened[name], headers[name], min(rows, count - start))
      yield start, part


def _row_header(file: IO[bytes]) -> Header:
  header, by_column = _parse(file)
  if by_column and len(header.shape) > 1:
    raise ValueError(
      "it is stored column by column, to be streamed it must be stored row by row "
      "(numpy.ascontiguousarray)"
    )
  return header


def _read(file: IO[bytes], header: Header, rows: int) -> np.ndarray:
  part = Header((rows, *header.shape[1:]), header.dtype)
  content = bytearray()
  while len(content) < _size(part):  # a read may give less than it is asked for
    read = file.read(_size(part) - len(content))
    if not read:
      raise EOFError("it ends before its last row")
    content += read
  return np.frombuffer(content, part.dtype).reshape(part.shape)


def _header(file: IO[bytes]) -> Header:
  return _parse(file)[0]


def _parse(file: IO[bytes]) -> tuple[Header, bool]:
  version = np.lib.format.read_magic(file)
  if version > (2, 0):
    raise ValueError("it has fields with names, expected is a plain array")
  old = version == (1, 0)
  formats = np.lib.format
  read = formats.read_array_header_1_0 if old else formats.read_array_header_2_0
  shape, by_column, dtype = read(file)
  return Header(shape, dtype), by_column


def _size(header: Header) -> int:
  return math.prod(header.shape) * header.dtype.itemsize


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
  with _reading(name), archive.open(f"{name}.npy") as file:
    yield file


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
  try:
    yield
  except DAMAGED as error:
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    raise ValueError(f"{name} cannot be read: {reason}.") from None


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[zipfile.ZipFile]:
  with contextlib.ExitStack() as stack:
    try:
      file = stack.enter_context(path.open("rb"))
      archive = stack.enter_context(zipfile.ZipFile(file))
    except FileNotFoundError:
      raise ValueError("there is no such file.") from None
    except IsADirectoryError:
      raise ValueError("this is a folder, expected is an npz file.") from None
    except PermissionError:
      raise ValueError("there is no permission to read this file.") from None
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
      raise ValueError(_say_what_else(path)) from None
    yield archive


def _say_what_else(path: pathlib.Path) -> str:
  """Why this is no zip file."""
  with path.open("rb") as file:
    start = file.read(6)
  if not start:
    return "the file is empty, expected is an npz file."
  if start == b"\x93NUMPY":
    return "this is one npy array, expected is an npz file (numpy.savez writes it)."
  if start.startswith(b"PK"):
    return "the npz file is cut short or damaged: it has no sound directory at its end."
  return "this is not an npz file (a zip of arrays, as numpy.savez writes it)."
