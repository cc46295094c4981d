"""Pickles of arrays and plain containers, read without running anything of theirs.

A pickle is a program: it may name any function there is and have it called. Here it
calls nothing but the few functions of this file. What it says of a NumPy array or dtype
is noted down (`Noted`), and the array is made of the notes after they were checked; so
neither a method of NumPy nor an attribute of anything is within its reach.

What is admitted: dict, list, tuple, set, text, bytes, numbers, None; arrays and scalars
of booleans, integers, floats, text and bytes; arrays of objects that are one of these.
All that Python 2 and 3, protocols 0 to 5, NumPy 1 and 2 write of them is read.
"""

import os
import pathlib
import pickle
import types
from typing import Any

from promise_jax.data.readers.noted_arrays import (
  Noted,
  Refused,
  check_bytes,
  refuse,
  settle,
)

NOT_PICKLES = {
  b"\x93NUMPY": "an npy array",
  b"PK": "a zip file",
  b"\x89HDF": "an HDF5 file",
  b"\x1f\x8b": "a gzip file, unpack it first",
  b"version https://git-lfs": "a git-lfs pointer and not the file it stands for",
  b"<": "a web page and not the file that was asked for",
}


def load(path: pathlib.Path) -> Any:
  """What the pickle in `path` holds; keys that are bytes (Python 2) become text.

  ValueError, one sentence without the path, for a file that is no pickle, is cut short
  or damaged, or asks for anything but the above; the function or class that it asks for
  is named.
  """
  try:
    with path.open("rb") as file:
      _check_start(file.read(32))
      size = file.seek(0, os.SEEK_END)
      file.seek(0)

      def read(count: int) -> bytes:
        if count > size - file.tell():
          raise EOFError
        return file.read(count)

      source = types.SimpleNamespace(read=read, readline=file.readline)
      return settle(_Reader(source, encoding="bytes").load(), "", {})
  except FileNotFoundError:
    reason = "there is no such file"
  except IsADirectoryError:
    reason = "this is a folder, expected is a pickle file"
  except PermissionError:
    reason = "there is no permission to read this file"
  except EOFError:
    reason = "the pickle is cut short: it ends before its end mark"
  except Refused as error:
    reason = str(error).rstrip(".")
  except MemoryError:
    reason = "the pickle asks for more memory than there is"
  except RecursionError:
    reason = "the pickle holds containers that are nested too deep or hold themselves"
  except Exception as error:  # a damaged program can fail in any way there is
    told = (str(error) or "no more is known").splitlines()[0].rstrip(".")
    reason = f"this is no pickle, or a damaged one ({type(error).__name__}: {told})"
  raise ValueError(f"{reason}.")


def _check_start(start: bytes) -> None:
  if not start:
    refuse("the file is empty, expected is a pickle file")
  for mark, words in NOT_PICKLES.items():
    if start.startswith(mark):
      refuse(f"this is {words}, expected is a pickle file")


# ---- what a pickle may call


def _new_array(kind: Any, shape: Any, code: Any) -> Noted:
  del shape, code  # of the empty array that NumPy would make first
  if kind != "ndarray":
    refuse("it asks for an array that is no numpy.ndarray")
  return Noted("array")


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> Noted:
  return Noted("array", (shape, dtype, order == "F", content))


def _new_scalar(dtype: Any, content: Any = b"") -> Noted:
  return Noted("array", ((), dtype, False, content))


def _new_dtype(code: Any, align: Any = False, copy: Any = False) -> Noted:
  del align, copy
  return Noted("dtype", (code, "="))


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
  if type(text) is not str or encoding not in ("latin1", "latin-1"):
    refuse("it asks for another use of _codecs.encode than bytes")
  return text.encode("latin1")


def _to_bytes(value: Any = b"", encoding: Any = "latin1") -> bytes:
  return _encode(value, encoding) if type(value) is str else check_bytes(value)


def _to_set(values: Any = ()) -> set:
  return set(values)


def _to_dict(pairs: Any = ()) -> dict:
  return dict(pairs)


ADMITTED = {
  ("numpy", "ndarray"): "ndarray",
  ("numpy", "dtype"): _new_dtype,
  ("_codecs", "encode"): _encode,
  ("collections", "OrderedDict"): _to_dict,
}
for _core in ("numpy.core", "numpy._core"):
  ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _new_array
  ADMITTED[f"{_core}.multiarray", "scalar"] = _new_scalar
  ADMITTED[f"{_core}.numeric", "_frombuffer"] = _from_buffer
for _builtins in ("builtins", "__builtin__"):
  ADMITTED[_builtins, "bytes"] = ADMITTED[_builtins, "bytearray"] = _to_bytes
  ADMITTED[_builtins, "set"] = ADMITTED[_builtins, "frozenset"] = _to_set


_NAMES = """
  PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1
  BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE
  BINUNICODE BINUNICODE8 SHORT_BINUNICODE BINBYTES BINBYTES8 SHORT_BINBYTES BYTEARRAY8
  LIST EMPTY_LIST APPEND APPENDS TUPLE EMPTY_TUPLE TUPLE1 TUPLE2 TUPLE3 DICT EMPTY_DICT
  SETITEM SETITEMS EMPTY_SET FROZENSET ADDITEMS GET BINGET LONG_BINGET PUT BINPUT
  LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE
"""  # without instances, attributes, persistent ids, extension codes, outside buffers
OPERATIONS = [getattr(pickle, name)[0] for name in _NAMES.split()]


# The C unpickler cannot be kept from the others; in the one written in Python an
# operation is an entry of a table.
class _Reader(pickle._Unpickler):
  """Knows `OPERATIONS` and BUILD, which here tells the state of an array."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in ADMITTED:
      asked = repr(f"{module}.{name}"[:80])
      refuse(f"it asks for {asked}, which no array and no plain container needs; it was not called")
    return ADMITTED[module, name]

  def tell_state(self) -> None:
    """BUILD, which otherwise sets attributes or calls __setstate__."""
    state, noted = self.stack.pop(), self.stack[-1]
    if not isinstance(noted, Noted) or not isinstance(state, tuple):
      refuse("it sets attributes of something that is no array")
    if noted.what == "array" and len(state) == 5:
      noted.state = state[1:]
    elif noted.what == "dtype" and len(state) >= 5 and state[2:5] == (None,) * 3:
      noted.state = (noted.state[0], state[1])
    else:
      refuse("it holds an array with named fields or of an unknown make")

  def stop_at(self) -> None:
    refuse(
      "this is no pickle, or one with an operation that no array and no plain "
      "container needs; it was not done"
    )

  dispatch = dict.fromkeys(pickle._Unpickler.dispatch, stop_at) | {
    code: pickle._Unpickler.dispatch[code] for code in OPERATIONS
  }
  dispatch[pickle.BUILD[0]] = tell_state
