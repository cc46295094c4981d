"""Frozen encoders of one modality: a function, or a folder of features.

  "package.module:function"   a function that can be imported
  Encoder(function, version)  a function of this process
  a folder                    features that were computed elsewhere

A function is `encode(x[B, ...]) -> f[B, D] or f[B, T, D]`, NumPy in, any array of
finite numbers out, T and D the same in every call. It is shown at most `BLOCK` rows at
a time, of one split, and only rows that have the modality: recorded values, after
`cleaning.clean`, not standardised. So an image is uint8 [B, height, width, channels],
tokens are i32[B, T] (ids of the data set, or the hashed pieces of its texts, never the
texts; 0 is padding), sequences f32[B, T, D] (padding and what was lost are zeros),
vectors f32[B, D]. A function with a parameter `length` gets i32[B] there for sequences
and tokens, the real steps. f[B, T, D] becomes a sequence: with the T of the sequence or
the tokens shown it has their real steps, with another T all steps are real. To say
otherwise, give `(f[B, T, D], i[B])`: real steps, 1 to T.

A folder holds `<id>.npy` for each row that has the modality, `id` in decimal digits:
f[D] for all rows (a vector) or f[T, D] (a sequence; T may differ, all T are real).
Other files are not looked at.

What stands for an encoder in the hash: of an imported function its name and the whole
source file of its module (not what that imports, nor weights: say those in the source),
of a function of this process its name and `version`, of a folder the names, sizes and
contents of the files that are read.
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

import jax.numpy as jnp
import numpy as np

BLOCK = 128
IMPORTED = re.compile(r"(\w+(?:\.\w+)*):(\w+)")


class FeatureEncoder(NamedTuple):
  """A function as an encoder, see above. `version` stands for all that it does (code,
  weights, settings), which cannot be hashed: change it when they change."""

  encode: Callable
  version: str


EncoderSpec = str | os.PathLike | FeatureEncoder


class EncoderInputs(NamedTuple):
  """What an encoder is shown of one split: `x` [n, ...] and `length` i32[n] (None but
  for sequences and tokens) of the n rows that have the modality, the ids i[n] of these,
  and `recorded` bool[N]."""

  x: np.ndarray
  length: np.ndarray | None
  id: np.ndarray
  recorded: np.ndarray


Block = tuple[np.ndarray, np.ndarray | None]  # f32[n, D], None or f32[n, T, D], i[n]


def fingerprint(*parts: Any) -> str:
  """SHA-256 of arrays (type, shape, content) and of what has a plain `repr`."""
  digest = hashlib.sha256()
  for part in parts:
    if isinstance(part, tuple):
      digest.update(f"{len(part)} parts: {fingerprint(*part)}\n".encode())
    elif isinstance(part, np.ndarray):
      digest.update(f"{part.dtype.str} {part.shape}\n".encode() + part.tobytes())
    else:
      digest.update(f"{part!r}\n".encode())
  return digest.hexdigest()


def refuse(name: str, given: Any, why: str) -> NoReturn:
  """ValueError for the encoder of modality `name`."""
  raise ValueError(f"frozen.{name} is {str(given)!r}: {why}.")


def identify(name: str, given: EncoderSpec, shown: list[EncoderInputs]) -> tuple[str, str]:
  """An encoder in words, and what stands for it in the hash. Nothing is imported or
  called; ValueError for what is none."""
  if isinstance(given, FeatureEncoder):
    known = callable(given.encode) and isinstance(given.version, str)
    if not known or not given.version.strip():
      refuse(name, given, "expected is Encoder(function, version='...')")
    what = f"{name_of(given.encode)}, version {given.version}"
    return what, fingerprint("function", what)
  if callable(given):
    refuse(
      name,
      given,
      "a function has weights and settings that cannot be hashed, so its version must "
      "be said: Encoder(function, version='...')",
    )
  if not isinstance(given, str | os.PathLike):
    refuse(name, given, "an encoder is text, a folder or Encoder(function, version)")
  if match := IMPORTED.fullmatch(os.fspath(given)):
    return str(given), fingerprint(match[2], read_source(name, given, match[1]))
  folder = pathlib.Path(given).expanduser()
  if not os.fspath(given) or not folder.is_dir():
    refuse(name, given, "this is neither a folder nor of the form package.module:name")
  digest = hashlib.sha256()
  for path in row_files(name, folder, shown):
    content = path.read_bytes()
    digest.update(f"{path.name} {len(content)}\n".encode() + content)
  return f"the folder {folder}", digest.hexdigest()


def name_of(function: Callable) -> str:
  """The name of a function, or of the class of what can be called."""
  return getattr(function, "__name__", type(function).__name__)


def row_files(
  name: str, folder: pathlib.Path, shown: list[EncoderInputs]
) -> Iterator[pathlib.Path]:
  """The file of each row that is shown; ValueError for one that is not there."""
  for row in (row for part in shown for row in part.id.tolist()):
    path = folder / f"{row}.npy"
    if not path.is_file():
      refuse(name, folder, f"there is no {path.name}, and the row of id {row} has {name}")
    yield path


def read_source(name: str, given: str, module: str) -> bytes:
  """The source file of `module`, whose packages are imported, itself not."""
  importlib.invalidate_caches()
  try:
    spec = importlib.util.find_spec(module)
  except Exception as error:  # of its packages, as they are imported
    refuse(name, given, f"the module {module} cannot be imported, {error}")
  if spec is None:
    refuse(name, given, f"there is no module {module} on Python's path")
  if not spec.has_location or not pathlib.Path(spec.origin).is_file():
    refuse(name, given, f"the module {module} has no file that can be hashed")
  return pathlib.Path(spec.origin).read_bytes()


def load_function(name: str, given: str) -> Callable:
  """The function that "package.module:function" means, as the file says it now."""
  module, _, function = given.partition(":")
  try:
    # An older state of the file would be kept under the hash of the new one.
    if loaded := sys.modules.get(module):
      loaded = importlib.reload(loaded)
    else:
      loaded = importlib.import_module(module)
  except Exception as error:
    refuse(name, given, f"the module {module} cannot be imported, {error}")
  if not callable(found := getattr(loaded, function, None)):
    refuse(name, given, f"the module {module} has no function {function}")
  return found


def encode(name: str, given: EncoderSpec, shown: list[EncoderInputs]) -> Iterator[Block]:
  """The features of all rows that are shown, in their order, block by block."""
  if isinstance(given, FeatureEncoder):
    return call(name, given.encode, shown)
  if IMPORTED.fullmatch(os.fspath(given)):
    return call(name, load_function(name, os.fspath(given)), shown)
  return read_folder(name, pathlib.Path(given).expanduser(), shown)


def read_folder(name: str, folder: pathlib.Path, shown: list[EncoderInputs]) -> Iterator[Block]:
  """The rows of a folder, one a block."""
  first = None
  for path in row_files(name, folder, shown):
    try:
      with path.open("rb") as file:
        row = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
      refuse(name, folder, f"{path.name} cannot be read, {error}")
    row = check_features(name, folder, row, f"{path.name} holds", "f[D] or f[T, D]", 0)
    if first is None:
      first = path.name, row
    if row.ndim != first[1].ndim or row.shape[-1] != first[1].shape[-1]:
      told = f"{path.name} has shape {row.shape}, {first[0]} has {first[1].shape}"
      refuse(name, folder, f"{told}; all have the same D, and all T or none")
    yield row[None], None if row.ndim == 1 else np.array([len(row)])


def call(name: str, function: Callable, shown: list[EncoderInputs]) -> Iterator[Block]:
  """What `function` makes of the rows, at most `BLOCK` at a time."""
  shape, told = None, name_of(function)
  try:
    takes = "length" in inspect.signature(function).parameters
  except (TypeError, ValueError):  # a function written in C need not have one
    takes = False
  for part in shown:
    for start in range(0, len(part.id), BLOCK):
      x = part.x[start : start + BLOCK]
      real = None if part.length is None else part.length[start : start + BLOCK]
      made = function(x, **({} if real is None or not takes else {"length": real}))
      said = None
      if isinstance(made, tuple) and len(made) == 2:
        made, said = made
      form = f"f[{len(x)}, D] or f[{len(x)}, T, D]"
      made = check_features(name, told, made, "it gave", form, 1)
      if len(made) != len(x) or (said is not None and made.ndim == 2):
        refuse(name, told, f"it gave features of shape {made.shape}, expected: {form}")
      shape = shape or made.shape[1:]
      if made.shape[1:] != shape:
        refuse(name, told, f"it gave rows of shape {shape}, then of {made.shape[1:]}")
      yield made, real_steps(name, told, made, said, x, real)


def real_steps(
  name: str,
  told: str,
  made: np.ndarray,
  said: Any,
  x: np.ndarray,
  real: np.ndarray | None,
) -> np.ndarray | None:
  """The real steps i[n] of the features f[n, T, D] of `x`; None for f[n, D]."""
  if made.ndim == 2:
    return None
  steps = made.shape[1]
  if said is None:
    as_shown = real is not None and x.shape[1] == steps
    return real if as_shown else np.full(len(made), steps)
  said = np.asarray(said)
  if said.shape != (len(made),) or said.dtype.kind not in "iu":
    told_shape = f"{said.dtype} of shape {said.shape}"
    refuse(name, told, f"the lengths it gave are {told_shape}, expected: i[{len(made)}]")
  if said.min() < 1 or said.max() > steps:
    span = f"{said.min()} to {said.max()}"
    refuse(name, told, f"the lengths it gave are {span}, allowed are 1 to {steps}")
  return said


def check_features(
  name: str, given: Any, values: Any, what: str, form: str, rows: int
) -> np.ndarray:
  """`values` as f32 [D] or [T, D] after as many dimensions of `rows`."""
  values = np.asarray(values)
  number = any(jnp.issubdtype(values.dtype, k) for k in (np.floating, np.integer, np.bool_))
  if not number or values.ndim - rows not in (1, 2) or 0 in values.shape:
    refuse(name, given, f"{what} {values.dtype} of shape {values.shape}, expected: {form}")
  with np.errstate(over="ignore"):
    values = values.astype(np.float32)
  if not np.isfinite(values).all():
    refuse(name, given, f"{what} NaN or inf, features are finite in f32")
  return values


def join(blocks: list[Block]) -> Block:
  """All blocks as one, padded with zeros to the longest."""
  if blocks[0][1] is None:
    return np.concatenate([x for x, _ in blocks]), None
  steps = max(x.shape[1] for x, _ in blocks)
  padded = [np.pad(x, ((0, 0), (0, steps - x.shape[1]), (0, 0))) for x, _ in blocks]
  return np.concatenate(padded), np.concatenate([length for _, length in blocks])
