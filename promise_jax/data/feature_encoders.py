"""Frozen encoders of one modality: a pretrained network or a function.

An encoder is one of

  "bert:PATH", "efficientnet_lite0"   a pretrained network, see `pretrained`
  "package.module:function"           a function that can be imported
  FeatureEncoder(function, version)   any function of this process

A function is `encode(x[B, ...]) -> f[B, D] or f[B, T, D]`: NumPy in, any array of finite
numbers out, D and T the same in every call. It sees at most 128 rows at a time, only those
that have the modality, cleaned but not standardised: texts as they are, a list of B; images as
uint8 [B, height, width, channels], token ids as i32[B, T] (0 is padding), sequences as
f32[B, T, D], vectors as f32[B, D]. A parameter named `length` gets the valid steps i32[B] of
sequences and token ids. Features f[B, T, D] have the valid steps of the input if T is the same,
else T; return (features, length i[B]) to say otherwise.
"""

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tqdm

from promise_jax.data import pretrained
from promise_jax.data.source import check_values

BLOCK_ROWS = 128
IMPORTED = re.compile(r"(\w+(?:\.\w+)*):(\w+)")


class FeatureEncoder(NamedTuple):
  """A function as an encoder."""

  encode: Callable
  version: str  # stands for code, weights and settings: change it when they change

  def __str__(self) -> str:
    name = getattr(self.encode, "__name__", type(self.encode).__name__)
    return f"{name}, version {self.version}"


EncoderSpec = str | FeatureEncoder


class EncoderInputs(NamedTuple):
  """Rows that have a modality."""

  x: np.ndarray | list[str]  # [n, ...]
  length: np.ndarray | None  # i32[n], of sequences and tokens


Features = tuple[np.ndarray, np.ndarray | None]  # f32[n, D], None or f32[n, T, D], i[n]


class FoundEncoder(NamedTuple):
  """An encoder, of which nothing was called yet."""

  words: str
  key: str  # stands for it in the hash of its features
  compute: Callable[[EncoderInputs], Iterable[Features]]
  sha256: str = ""  # of a pretrained network


def hash_parts(*parts: Any) -> str:
  """SHA-256 of arrays (type, shape, content) and of what has a plain `repr`."""
  digest = hashlib.sha256()
  for part in parts:
    is_array = isinstance(part, np.ndarray)
    digest.update(f"{(part.dtype.str, part.shape) if is_array else part!r}\n".encode())
    digest.update(np.ascontiguousarray(part) if is_array else b"")
  return digest.hexdigest()


@contextlib.contextmanager
def name_encoder_in_errors(modality: str, encoder: EncoderSpec) -> Iterator[None]:
  """Makes whatever an encoder raises one sentence that names it."""
  try:
    yield
  except (ValueError, ImportError, AttributeError) as error:
    raise ValueError(
      f"encoders.{modality} is {str(encoder)!r}: {str(error).rstrip('.')}."
    ) from error


def find_encoder(encoder: EncoderSpec, kind: str) -> FoundEncoder:
  """The encoder for a modality of this kind, or of "text"; no function is imported or called."""
  if isinstance(encoder, FeatureEncoder) and callable(encoder.encode) and encoder.version:
    compute = functools.partial(call_in_blocks, encoder.encode)
    return FoundEncoder(str(encoder), str(encoder), compute)
  if pretrained.is_pretrained(encoder):
    sha256, load = pretrained.find_encoder(encoder, kind)
    key = f"{encoder.partition(':')[0]} {pretrained.FORMAT} {sha256}"
    compute = lambda inputs: call_in_blocks(load(), inputs, title=encoder)
    return FoundEncoder(encoder, key, compute, sha256)
  if match := isinstance(encoder, str) and IMPORTED.fullmatch(encoder):
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(match[1])
    if spec is None or not spec.has_location:
      raise ValueError(f"there is no source file of the module {match[1]} on Python's path")
    key = hash_parts(match[2], pathlib.Path(spec.origin).read_bytes())
    load = functools.cache(functools.partial(import_function, *match.groups()))
    return FoundEncoder(encoder, key, lambda inputs: call_in_blocks(load(), inputs))
  raise ValueError(
    f"an encoder is a pretrained network ({', '.join(pretrained.FAMILIES)}), package.module:name "
    "or, as weights and settings of a function cannot be hashed, FeatureEncoder(function, "
    "version='...'); a folder of files <id>.npy is given by the option features"
  )


def import_function(module: str, name: str) -> Callable:
  """An imported function, as its file has it now."""
  # Reloaded, or an older state of the file would be cached under the hash of the new one.
  old = sys.modules.get(module)
  loaded = importlib.reload(old) if old else importlib.import_module(module)
  return getattr(loaded, name)


def call_in_blocks(
  function: Callable, inputs: EncoderInputs, title: str = ""
) -> Iterator[Features]:
  """What a function returns for the rows, `BLOCK_ROWS` at a time; with a title behind a bar."""
  takes_length = False
  with contextlib.suppress(TypeError, ValueError):  # of C, it need not have a signature
    takes_length = "length" in inspect.signature(function).parameters
  starts, hidden = range(0, len(inputs.x), BLOCK_ROWS), None if title else True
  for start in tqdm.tqdm(starts, title, unit="block", delay=2, leave=False, disable=hidden):
    x = inputs.x[start : start + BLOCK_ROWS]
    valid = None if inputs.length is None else inputs.length[start : start + BLOCK_ROWS]
    y = function(x, length=valid) if takes_length and valid is not None else function(x)
    y, length = y if isinstance(y, tuple) and len(y) == 2 else (y, None)
    y = check_features(y, len(x))
    if y.ndim == 3 and length is None:
      same_steps = valid is not None and x.shape[1] == y.shape[1]
      length = valid if same_steps else np.full(len(y), y.shape[1])
    if length is not None:
      length = np.asarray(length)
      if y.ndim != 3 or length.shape != (len(y),) or length.dtype.kind not in "iu":
        raise ValueError(f"the lengths are {length.dtype} of shape {length.shape}, expected: i[B]")
      check_values("length", length, (length >= 1) & (length <= y.shape[1]), f"1 to {y.shape[1]}")
    yield y, length


def check_features(values: Any, count: int) -> np.ndarray:
  """Features as f32[count, D] or f32[count, T, D]."""
  values = np.asarray(values)
  is_number = values.dtype.kind in "biuf" or values.dtype.name == "bfloat16"
  if not is_number or values.ndim not in (2, 3) or 0 in values.shape or len(values) != count:
    found = f"the features are {values.dtype} of shape {values.shape}"
    raise ValueError(f"{found}, expected: f[{count}, D] or f[{count}, T, D]")
  with np.errstate(over="ignore"):
    values = values.astype(np.float32)
  if not np.isfinite(values).all():
    raise ValueError(
      "the features have NaN or inf, expected are finite numbers in f32; present_<modality> is "
      "False in rows of an npz file that have none"
    )
  return values


def join_blocks(blocks: list[Features]) -> Features:
  """All rows as one array, padded with zeros to the longest."""
  shapes = sorted({(x.ndim, x.shape[-1]) for x, _ in blocks})
  if len(shapes) > 1:
    raise ValueError(f"rows have different (axes, D), {shapes}; all have one D, and all T or none")
  if blocks[0][1] is None:
    return np.concatenate([x for x, _ in blocks]), None
  steps = max(x.shape[1] for x, _ in blocks)
  padded = [np.pad(x, ((0, 0), (0, steps - x.shape[1]), (0, 0))) for x, _ in blocks]
  return np.concatenate(padded), np.concatenate([length for _, length in blocks])
