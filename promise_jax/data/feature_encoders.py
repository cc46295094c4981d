"""Frozen encoders of one modality: a function, or a folder of features.

An encoder is one of

  "package.module:function"           a function that can be imported
  FeatureEncoder(function, version)   any function of this process
  a folder                            features computed elsewhere, <id>.npy for each row
                                      that has the modality: f[D] in all, or f[T, D] with
                                      any T

A function is `encode(x[B, ...]) -> f[B, D] or f[B, T, D]`: NumPy in, any array of finite
numbers out, D and T the same in every call. It sees at most 128 rows at a time, only those
that have the modality, cleaned but not standardised: images as uint8 [B, height, width,
channels], tokens as ids i32[B, T] (of texts the hashed pieces, never the words; 0 is
padding), sequences as f32[B, T, D], vectors as f32[B, D]. A parameter named `length` gets
the valid steps i32[B] of sequences and tokens. Features f[B, T, D] have the valid steps of
the input if T is the same, else T; return (features, length i[B]) to say otherwise.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np

BLOCK_ROWS = 128
IMPORTED = re.compile(r"(\w+(?:\.\w+)*):(\w+)")


class FeatureEncoder(NamedTuple):
  """A function as an encoder."""

  encode: Callable
  version: str  # stands for code, weights and settings: change it when they change


EncoderSpec = str | os.PathLike | FeatureEncoder


class EncoderInputs(NamedTuple):
  """The rows of all splits that have a modality."""

  x: np.ndarray  # [n, ...]
  length: np.ndarray | None  # i32[n], of sequences and tokens
  id: np.ndarray  # i[n]


Features = tuple[np.ndarray, np.ndarray | None]  # f32[n, D], None or f32[n, T, D], i[n]


def fingerprint(*parts: Any) -> str:
  """SHA-256 of arrays (type, shape, content) and of what has a plain `repr`."""
  digest = hashlib.sha256()
  for part in parts:
    if isinstance(part, np.ndarray):
      digest.update(f"{part.dtype.str} {part.shape}\n".encode())
      digest.update(np.ascontiguousarray(part))
    else:
      digest.update(f"{part!r}\n".encode())
  return digest.hexdigest()


def refuse(name: str, encoder: Any, why: str) -> NoReturn:
  """Raises ValueError for the encoder of modality `name`."""
  raise ValueError(f"frozen.{name} is {str(encoder)!r}: {why}.")


def identify_encoder(name: str, encoder: EncoderSpec, ids: np.ndarray) -> tuple[str, str]:
  """An encoder in words, and what stands for it in the hash. Nothing is imported or called."""
  if isinstance(encoder, FeatureEncoder):
    if not callable(encoder.encode) or not isinstance(encoder.version, str) or not encoder.version:
      refuse(name, encoder, "expected is FeatureEncoder(function, version='...')")
    words = f"{function_name(encoder.encode)}, version {encoder.version}"
    return words, words
  if not isinstance(encoder, str | os.PathLike):
    why = (
      "a function has weights and settings that cannot be hashed, so its version must be "
      "given: FeatureEncoder(function, version='...')"
      if callable(encoder)
      else "an encoder is text, a folder or FeatureEncoder(function, version)"
    )
    refuse(name, encoder, why)
  if match := IMPORTED.fullmatch(os.fspath(encoder)):
    return str(encoder), fingerprint(match[2], find_module(name, encoder, match[1]).read_bytes())
  folder = pathlib.Path(encoder).expanduser()
  if not os.fspath(encoder) or not folder.is_dir():
    refuse(name, encoder, "this is neither a folder nor of the form package.module:name")
  digest = hashlib.sha256()
  for path in row_files(name, folder, ids):
    content = path.read_bytes()
    digest.update(f"{path.name} {len(content)}\n".encode() + content)
  return f"the folder {folder}", digest.hexdigest()


def function_name(function: Callable) -> str:
  """The name of a function, or of the class of an object that can be called."""
  return getattr(function, "__name__", type(function).__name__)


def row_files(name: str, folder: pathlib.Path, ids: np.ndarray) -> Iterator[pathlib.Path]:
  """The file of each row; refuses a folder that lacks one."""
  for row in ids.tolist():
    path = folder / f"{row}.npy"
    if not path.is_file():
      refuse(name, folder, f"there is no {path.name}, and the row of id {row} has {name}")
    yield path


def find_module(name: str, encoder: str, module: str) -> pathlib.Path:
  """The source file of a module, which is not imported (its packages are)."""
  importlib.invalidate_caches()
  try:
    spec = importlib.util.find_spec(module)
  except Exception as error:  # of its packages
    refuse(name, encoder, f"the module {module} cannot be imported, {error}")
  if spec is None or not spec.has_location:
    refuse(name, encoder, f"there is no source file of the module {module} on Python's path")
  return pathlib.Path(spec.origin)


def import_function(name: str, encoder: str) -> Callable:
  """The function "package.module:function" as its file has it now."""
  module, _, function = encoder.partition(":")
  try:
    # Reloaded, or an older state of the file would be cached under the hash of the new one.
    loaded = sys.modules.get(module)
    loaded = importlib.reload(loaded) if loaded else importlib.import_module(module)
  except Exception as error:
    refuse(name, encoder, f"the module {module} cannot be imported, {error}")
  if not callable(found := getattr(loaded, function, None)):
    refuse(name, encoder, f"the module {module} has no function {function}")
  return found


def compute_features(name: str, encoder: EncoderSpec, inputs: EncoderInputs) -> Features:
  """The features of all rows, padded with zeros to the longest."""
  if isinstance(encoder, FeatureEncoder):
    blocks = list(call_function(name, encoder.encode, inputs))
  elif IMPORTED.fullmatch(os.fspath(encoder)):
    function = import_function(name, os.fspath(encoder))
    blocks = list(call_function(name, function, inputs))
  else:
    blocks = list(read_folder(name, pathlib.Path(encoder).expanduser(), inputs.id))
  if blocks[0][1] is None:
    return np.concatenate([x for x, _ in blocks]), None
  steps = max(x.shape[1] for x, _ in blocks)
  padded = [np.pad(x, ((0, 0), (0, steps - x.shape[1]), (0, 0))) for x, _ in blocks]
  return np.concatenate(padded), np.concatenate([length for _, length in blocks])


def read_folder(name: str, folder: pathlib.Path, ids: np.ndarray) -> Iterator[Features]:
  """The features in a folder, one row at a time."""
  first = None
  for path in row_files(name, folder, ids):
    try:
      with path.open("rb") as file:
        row = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
      refuse(name, folder, f"{path.name} cannot be read, {error}")
    row = check_features(name, folder, row, f"{path.name} holds", "f[D] or f[T, D]", 0)
    first = first or (path.name, row.shape)
    if len(row.shape) != len(first[1]) or row.shape[-1] != first[1][-1]:
      found = f"{path.name} has shape {row.shape}, {first[0]} has {first[1]}"
      refuse(name, folder, f"{found}; all have the same D, and all T or none")
    yield row[None], None if row.ndim == 1 else np.array([len(row)])


def call_function(name: str, function: Callable, inputs: EncoderInputs) -> Iterator[Features]:
  """What a function returns for the rows, `BLOCK_ROWS` at a time."""
  who, shape = function_name(function), None
  try:
    takes_length = "length" in inspect.signature(function).parameters
  except (TypeError, ValueError):  # a function written in C need not have a signature
    takes_length = False
  for start in range(0, len(inputs.id), BLOCK_ROWS):
    x = inputs.x[start : start + BLOCK_ROWS]
    valid = None if inputs.length is None else inputs.length[start : start + BLOCK_ROWS]
    y = function(x, length=valid) if takes_length and valid is not None else function(x)
    y, length = y if isinstance(y, tuple) and len(y) == 2 else (y, None)
    form = f"f[{len(x)}, D] or f[{len(x)}, T, D]"
    y = check_features(name, who, y, "it gave", form, 1)
    if len(y) != len(x) or (length is not None and y.ndim == 2):
      refuse(name, who, f"it gave features of shape {y.shape}, expected: {form}")
    shape = shape or y.shape[1:]
    if y.shape[1:] != shape:
      refuse(name, who, f"it gave rows of shape {shape}, then of {y.shape[1:]}")
    if y.ndim == 3 and length is None:
      same_steps = valid is not None and x.shape[1] == y.shape[1]
      length = valid if same_steps else np.full(len(y), y.shape[1])
    yield y, None if length is None else check_length(name, who, np.asarray(length), y)


def check_length(name: str, who: str, length: np.ndarray, y: np.ndarray) -> np.ndarray:
  """The valid steps of features [n, T, D], 1 to T in each row."""
  if length.shape != (len(y),) or length.dtype.kind not in "iu":
    found = f"{length.dtype} of shape {length.shape}"
    refuse(name, who, f"the lengths it gave are {found}, expected: i[{len(y)}]")
  if length.min() < 1 or length.max() > y.shape[1]:
    span = f"{length.min()} to {length.max()}"
    refuse(name, who, f"the lengths it gave are {span}, allowed are 1 to {y.shape[1]}")
  return length


def check_features(
  name: str, encoder: Any, values: Any, what: str, form: str, row_axes: int
) -> np.ndarray:
  """Features as f32 [D] or [T, D], after the axes of rows."""
  values = np.asarray(values)
  is_number = values.dtype.kind in "biuf" or values.dtype.name == "bfloat16"
  if not is_number or values.ndim - row_axes not in (1, 2) or 0 in values.shape:
    refuse(name, encoder, f"{what} {values.dtype} of shape {values.shape}, expected: {form}")
  with np.errstate(over="ignore"):
    values = values.astype(np.float32)
  if not np.isfinite(values).all():
    refuse(name, encoder, f"{what} NaN or inf, features are finite in f32")
  return values
