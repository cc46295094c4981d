"""The arrays of an npz file: their headers and their values; `npz_kinds` says what they are."""

import contextlib
import math
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from promise_jax.data import source
from promise_jax.data.readers import cells, text
from promise_jax.types import Modality

FORMS = {  # array: kinds of dtype, numbers of dimensions, the same in words
  "x": ("biufU", (1, 2, 3, 4), "numbers [N, ...], up to 4-D, or unicode strings [N]"),
  "y": ("biufU", (1, 2), "integers, names or floats [N], or 0/1 [N, C]"),
  "labelled": ("biu", (1,), "bool [N]"),
  "present": ("biu", (1,), "bool [N]"),
  "length": ("iu", (1,), "integers [N]"),
  "split": ("U", (1,), "strings [N]"),
  "id": ("iuU", (1,), "integers or strings [N]"),
  "group": ("iuU", (1,), "integers or strings [N]"),
  "scale": ("iuf", (0,), "one number without dimensions"),
  "classes": ("U", (1,), "strings [C]"),
}
BY_MODALITY = ("x", "present", "length")  # arrays with the name of a modality behind _
SAMPLE_BYTES = 2**24  # of an array of integers, to guess its kind


class Header(NamedTuple):
  """What an array is, without reading it."""

  shape: tuple[int, ...]
  by_column: bool  # Fortran order
  dtype: np.dtype

  @property
  def row_bytes(self) -> int:
    """The size of one row."""
    return math.prod(self.shape[1:]) * self.dtype.itemsize


@contextlib.contextmanager
def open_npz(path: pathlib.Path) -> Iterator[np.lib.npyio.NpzFile]:
  """Opens an npz file to read its arrays one by one; pickles in it are never loaded.

  Every ValueError, also of the code in the context, names the file.
  """
  with source.name_file_in_errors(path, "an npz file"), path.open("rb") as content:
    try:
      file = np.load(content, allow_pickle=False)
    except (EOFError, ValueError, zipfile.BadZipFile, NotImplementedError):
      file = None
    if not isinstance(file, np.lib.npyio.NpzFile):
      raise ValueError("this is no npz file (numpy.savez writes it), or one that is cut short.")
    with file:
      yield file


@contextlib.contextmanager
def name_array_in_errors(array: str) -> Iterator[None]:
  """Turns whatever reading an array raises into a ValueError that names it."""
  try:
    yield
  except Exception as error:  # a member that is damaged or encrypted can fail in any way
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    raise ValueError(f"{array} cannot be read: {reason}.") from None


def read_headers(file: np.lib.npyio.NpzFile) -> dict[str, Header]:
  """{array: header} in the order of the file."""
  headers = {}
  members = file.zip.namelist()
  for member in members:
    name = member.removesuffix(".npy")
    if name == member or members.count(member) > 1:
      raise ValueError(f"{member} is no array, or there twice, expected are members *.npy.")
    with name_array_in_errors(name), file.zip.open(member) as content:
      headers[name] = header = read_header(content)
      size = file.zip.getinfo(member).file_size - content.tell()
      expected = math.prod(header.shape) * header.dtype.itemsize
      if not header.dtype.hasobject and size != expected:
        raise ValueError(f"it holds {size} bytes, its header says {expected}")
  return headers


def read_header(content: IO[bytes]) -> Header:
  """The header of an npy file that is read from its start."""
  formats = np.lib.format
  version = formats.read_magic(content)
  if version > (2, 0):
    raise ValueError("it has fields with names, expected is a plain array")
  old = version == (1, 0)
  return Header(*(formats.read_array_header_1_0 if old else formats.read_array_header_2_0)(content))


def check_headers(headers: dict[str, Header], has_others: bool) -> None:
  """Checks what the arrays are and how many rows they have; `has_others`: x_* may lack. ValueError
  where an array is unknown, cannot be what its name says, or has another number of rows than y."""
  names = tuple(a[2:] for a in headers if re.fullmatch(r"x_\w+", a))
  if not (names or has_others) or "y" not in headers:
    lacking = "y" if names or has_others else "x_<modality>"
    raise ValueError(f"there is no array {lacking}, found are {', '.join(headers)}.")
  for array, header in headers.items():
    form, _, modality = array.partition("_")
    if form not in FORMS or (modality in names) != (form in BY_MODALITY):
      alone = [f for f in FORMS if f not in BY_MODALITY]
      raise ValueError(
        f"the array {array!r} is unknown, known are x_<modality> (letters, digits and _), "
        f"present_ and length_ of {', '.join(names)}, and {', '.join(alone)}."
      )
    kinds, ranks, words = FORMS[form]
    shape, dtype = header.shape, header.dtype
    if dtype.kind == "O":
      raise ValueError(
        f"{array} is an array of objects, a pickle, and none is loaded; expected: {words}."
      )
    if dtype.kind not in kinds or len(shape) not in ranks or 0 in shape[1:]:
      raise ValueError(f"{array} is {dtype} of shape {shape}, expected: {words}.")
  count = headers["y"].shape[0]
  for array, header in headers.items():
    if array not in ("scale", "classes") and header.shape[0] != count:
      raise ValueError(f"{array} has {header.shape[0]} rows, y has {count}.")
  if not count:
    raise ValueError("y has no rows, expected is at least one in every split.")


def read_first_rows(
  file: np.lib.npyio.NpzFile, array: str, header: Header
) -> Shaped[np.ndarray, "N ..."]:
  """The rows at the start of an array, at most `SAMPLE_BYTES` of them."""
  count = min(max(SAMPLE_BYTES // header.row_bytes, 1), header.shape[0])
  with name_array_in_errors(array):
    if header.by_column:
      return file[array][:count]
    with file.zip.open(f"{array}.npy") as member:
      read_header(member)
      return read_next_rows(member, header, count)


def read_blocks(
  file: np.lib.npyio.NpzFile, headers: Mapping[str, Header], block_rows: int
) -> Iterator[dict[str, Shaped[np.ndarray, "n ..."]]]:
  """Yields rows of the arrays in `headers`, which have equally many, `block_rows` at a time and at
  least once; no array is ever read as a whole."""
  with contextlib.ExitStack() as stack:
    members = {name: stack.enter_context(file.zip.open(f"{name}.npy")) for name in headers}
    for name, member in members.items():
      with name_array_in_errors(name):
        header = read_header(member)
        if header.by_column and len(header.shape) > 1:
          raise ValueError(
            "it is stored column by column, to be streamed it must be stored row by row "
            "(numpy.ascontiguousarray)"
          )
    num_rows = next(iter(headers.values())).shape[0]
    for start in range(0, max(num_rows, 1), block_rows):
      block = {}
      for name, member in members.items():
        with name_array_in_errors(name):
          block[name] = read_next_rows(member, headers[name], min(block_rows, num_rows - start))
      yield block


def read_next_rows(member: IO[bytes], header: Header, count: int) -> Shaped[np.ndarray, "n ..."]:
  """The next `count` rows of an array, of which everything before them has been read."""
  content = member.read(count * header.row_bytes)
  return np.frombuffer(content, header.dtype).reshape(count, *header.shape[1:])


def convert_values(
  modality: Modality, values: Shaped[np.ndarray, "N ..."], index: Int[np.ndarray, " N"]
) -> tuple[Shaped[np.ndarray, "N ..."], np.ndarray | bool]:
  """Rows in a type that `cleaning` takes, and which of them are not NaN alone, bool[N].

  `index` are the row numbers in the file, for messages.
  """
  if values.dtype.kind == "U":
    # "NA", as for new rows, is no text: it has no tokens.
    texts = ["" if cells.is_missing(one) else one for one in values.tolist()]
    return text.hash_ngrams(texts, modality.vocabulary), True
  values = convert_numbers(modality, values, index)
  return values, has_value(values)


def convert_numbers(
  modality: Modality, values: Shaped[np.ndarray, "N ..."], index: Int[np.ndarray, " N"]
) -> Shaped[np.ndarray, "N ..."]:
  """Numbers in a type that `cleaning` takes, with all axes of the modality."""
  if values.ndim == len(modality.shape):  # a gray image, a vector of one feature, ...
    values = values[..., None]
  if values.dtype.kind == "f" and modality.kind == "tokens":
    raise ValueError(f"x_{modality.name} is {values.dtype}, ids of tokens are whole numbers.")
  if values.dtype.kind == "f":
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is reported
      return values.astype(np.float32)
  if modality.kind == "image" and values.dtype != np.uint8:
    bad = (values < 0) | (values > 255)
    if bad.any():
      row = index[np.argwhere(bad)[0, 0]]
      raise ValueError(
        f"x_{modality.name}, row {row}: a pixel is {values[bad][0]}, allowed are 0 to 255."
      )
    return values.astype(np.uint8) * (255 if values.dtype == bool else 1)
  return values


def has_value(values: Shaped[np.ndarray, "N ..."]) -> Bool[np.ndarray, " N"]:
  """Which rows have a value that is not NaN. (Rows of inf are lost, and counted, by `cleaning`.)"""
  if values.dtype.kind != "f":
    return np.ones(len(values), bool)
  return ~np.isnan(values).reshape(len(values), -1).all(axis=1)
