"""What a pickle tells of arrays -> the arrays, checked before NumPy sees any of it."""

import math
import re
import types
from typing import Any, NoReturn

import numpy as np

PLAIN = (str, bytes, bytearray, bool, int, float, np.generic, types.NoneType)
DEEPEST = 64  # dimensions of an array, as in NumPy 2


class Noted:
  """An array, scalar or dtype as the pickle tells of it. `state` is None until told;
  array: (shape, dtype, is Fortran order, content), dtype: (code, byte order)."""

  def __init__(self, what: str, state: tuple | None = None):
    self.what, self.state = what, state


class Refused(ValueError):
  """Says why a pickle is not read on."""


def refuse(sentence: str) -> NoReturn:
  """Ends the reading of a pickle; `safe_pickle.load` tells why."""
  raise Refused(sentence)


def settle(value: Any, place: str, done: dict[int, Any]) -> Any:
  """`value` with its notes made arrays; `done` has the containers that occur twice."""
  if isinstance(value, PLAIN):
    return value
  if id(value) not in done:
    done[id(value)] = _settle_new(value, place, done)
  return done[id(value)]


def _shown(key: Any) -> str:
  return " ".join(str(key).split())[:40]


def _settle_new(value: Any, place: str, done: dict[int, Any]) -> Any:
  if isinstance(value, dict):
    keys = [k.decode("latin1") if isinstance(k, bytes) else k for k in value]
    if not all(isinstance(k, PLAIN) for k in keys):
      refuse(f"{place or 'the pickle'}: a key of a dict is neither text nor a number")
    return {
      k: settle(v, f"{place} / {_shown(k)}" if place else _shown(k), done)
      for k, v in zip(keys, value.values(), strict=True)
    }
  if isinstance(value, list | tuple | set | frozenset):
    kind = set if isinstance(value, frozenset) else type(value)
    return kind(settle(v, place, done) for v in value)
  if isinstance(value, Noted) and value.what == "array":
    try:
      array = _make_array(value)
    except (ValueError, TypeError, OverflowError) as error:
      told = str(error).splitlines()[0].rstrip(".")
      refuse(f"{place or 'the pickle'}: this array cannot be read, {told}")
    return array if array.ndim else array[()]
  refuse(f"{place or 'the pickle'}: it has a function or a dtype as a value")


def _make_array(noted: Noted) -> np.ndarray:
  if noted.state is None:
    refuse("it is announced and never told")
  shape, dtype, fortran, content = noted.state
  if not isinstance(shape, tuple) or len(shape) > DEEPEST:
    refuse("its shape is no tuple of numbers")
  if not all(type(n) is int and n >= 0 for n in shape):
    refuse("its shape is no tuple of numbers")
  dtype = _make_dtype(dtype)
  if dtype.hasobject:
    return _make_objects(shape, content)
  content = content.encode("latin1") if type(content) is str else check_bytes(content)
  size = math.prod(shape) * dtype.itemsize
  if len(content) != size:
    refuse(f"it has {len(content)} bytes and takes {size}")
  if not size:
    return np.zeros(shape, dtype)
  return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def check_bytes(value: Any) -> bytes:
  """`value`, if it is bytes."""
  if not isinstance(value, bytes | bytearray):
    refuse(f"bytes are expected where it has a {type(value).__name__}")
  return value


def _make_dtype(noted: Any) -> np.dtype:
  if not isinstance(noted, Noted) or noted.what != "dtype":
    refuse("its dtype is none")
  code, order = (p.decode("latin1") if isinstance(p, bytes) else p for p in noted.state)
  if not isinstance(code, str) or not re.fullmatch(r"[biufSUO]\d{1,9}", code):
    refuse(f"its dtype is {str(code)[:20]!r}, admitted are numbers, text and bytes")
  if order not in ("<", ">", "|", "="):
    refuse(f"its byte order is {str(order)[:20]!r}")
  return np.dtype("O" if code[0] == "O" else order + code)


def _make_objects(shape: tuple[int, ...], content: Any) -> np.ndarray:
  if not isinstance(content, list) or len(content) != math.prod(shape):
    refuse("it is an array of objects without its objects")
  made = np.empty(len(content), object)
  for i, value in enumerate(content):
    value = settle(value, "", {}) if isinstance(value, Noted) else value
    if isinstance(value, np.ndarray | list | tuple):
      refuse("it is an array of arrays, as rows of different shapes make it")
    if not isinstance(value, PLAIN):
      refuse("it is an array of objects that are neither text nor numbers")
    made[i] = value
  return made.reshape(shape)
