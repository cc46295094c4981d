"""Reads pickles of arrays and plain containers without running any code of theirs.

A pickle is a program that may import and call any function. As in the recipe of Python's
documentation, `find_class` hands out nothing but what `ADMITTED` has; beyond it, no function
of NumPy is within reach of the file. NumPy's own `dtype.__setstate__` believes flags that
the file sets, which turns bytes into pointers, so arrays and dtypes are built here from
parts that were checked.

Read are dict, list, tuple, set, text, bytes, numbers, None; arrays and scalars of
booleans, integers, floats, text and bytes; arrays of objects that are one of these. All
that Python 2 and 3, protocols 0 to 5, NumPy 1 and 2 write of them.
"""

import pathlib
import pickle
import pickletools
import re
import types
from typing import Any

import numpy as np

PLAIN = (str, bytes, bool, int, float, np.generic, types.NoneType)


class RefusedPickleError(ValueError):
  """Why a pickle is not read."""


def load(path: pathlib.Path) -> Any:
  """What the pickle in `path` holds; text of Python 2 is bytes.

  Raises:
    OSError: the file cannot be opened.
    ValueError: it is no pickle, is damaged, or asks for anything but the above; one
      sentence, without the path.
  """
  with path.open("rb") as file:
    start = file.read(8)
    try:
      file.seek(0)
      check_operations(file)
      file.seek(0)
      return Unpickler(file, encoding="bytes").load()
    except RefusedPickleError as error:
      reason = str(error)
    except Exception as error:  # a damaged program can fail in any way
      what = (str(error) or "no more is known").splitlines()[0].rstrip(".")
      reason = f"begins with {start!r} and is no pickle, or a damaged one: {what}"
  raise ValueError(f"the file {reason}.")


def check_operations(file: Any) -> None:
  """Refuses what gets past `find_class`: extensions, which may be cached, and large memos.

  The memo takes memory up to the largest index that a file names. A length beyond the end
  of the file fails here too, before the unpickler takes memory for it.
  """
  for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
    is_far = operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > number + 1
    if operation.name in ("EXT1", "EXT2", "EXT4") or is_far:
      raise RefusedPickleError(f"has an operation ({operation.name}) that no array needs")


class Unpickler(pickle.Unpickler):
  """Finds what `ADMITTED` has."""

  def find_class(self, module: str, name: str) -> Any:
    if name not in ADMITTED or module not in ADMITTED[name][0]:
      requested = repr(f"{module}.{name}"[:80])
      raise RefusedPickleError(f"asks for {requested}, which no array needs; it was not called")
    return Admitted(ADMITTED[name][1])


class Admitted:
  """A function that a pickle may call, and do nothing else with."""

  def __init__(self, function):
    self.function = function

  def __call__(self, *args):
    return self.function(*args)

  def __setstate__(self, state):  # else the file may set attributes
    raise RefusedPickleError("sets attributes of something that is no array")


class PickledDtype:
  """A dtype of numbers, text, bytes or objects, without fields."""

  def __init__(self, code, align=False, copy=False):
    code = code.decode("latin1") if isinstance(code, bytes) else str(code)
    if not re.fullmatch(r"[biufSUO]\d{1,9}", code):
      raise RefusedPickleError(
        f"has an array of dtype {code[:20]!r}, admitted are numbers, text and bytes"
      )
    self.dtype = np.dtype(code)

  def __setstate__(self, state):
    order = state[1].decode() if isinstance(state[1], bytes) else state[1]
    if tuple(state[2:5]) != (None, None, None):
      raise RefusedPickleError("has an array with named fields or of an unknown make")
    self.dtype = self.dtype.newbyteorder(order)


class PickledArray(np.ndarray):
  """An array whose state is checked before NumPy sees it."""

  def __setstate__(self, state):
    _, shape, dtype, by_column, content = state
    if self.size:  # its memory may be in use elsewhere
      raise RefusedPickleError("has an array that is set twice")
    if dtype.dtype.hasobject and not (
      isinstance(content, list)
      and len(content) == np.empty(shape, bool).size
      and all(isinstance(value, PLAIN) for value in content)
    ):
      raise RefusedPickleError(
        "has an array of objects that are neither text nor numbers, as rows of different "
        "shapes make it"
      )
    super().__setstate__((1, shape, dtype.dtype, bool(by_column), content))


def _new_array(kind: Any, shape: Any, code: Any) -> PickledArray:
  return np.ndarray.__new__(PickledArray, (0,), "i1")  # until __setstate__


def _array_from_buffer(content: Any, dtype: PickledDtype, shape: Any, order: Any) -> np.ndarray:
  return np.frombuffer(_to_bytes(content), dtype.dtype).reshape(shape, order=order)


def _new_scalar(dtype: PickledDtype, content: bytes = b"") -> np.generic:
  if not dtype.dtype.itemsize:
    return np.zeros((), dtype.dtype)[()]  # empty text
  return np.frombuffer(_to_bytes(content), dtype.dtype).reshape(())[()]


def _to_bytes(value: str | bytes = b"", encoding: str = "latin1") -> bytes:
  if isinstance(value, str) and encoding in ("latin1", "latin-1"):
    return value.encode("latin1")
  if not isinstance(value, bytes | bytearray):  # a number would make so many zeros
    raise RefusedPickleError("asks for bytes of something else than text or bytes")
  return bytes(value)


_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
ADMITTED = {  # name: modules that have it, what is called instead
  "ndarray": (("numpy",), None),  # an argument of _reconstruct, never called
  "dtype": (("numpy",), PickledDtype),
  "_reconstruct": (_MULTIARRAY, _new_array),
  "scalar": (_MULTIARRAY, _new_scalar),
  "_frombuffer": (("numpy.core.numeric", "numpy._core.numeric"), _array_from_buffer),
  "encode": (("_codecs",), _to_bytes),
  "bytes": (("builtins", "__builtin__"), _to_bytes),
  "set": (("builtins", "__builtin__"), set),
}
