"""Counter-based random numbers: each depends on (seed, stream, id, column) alone.

Masks and label subsets are drawn with them. They are the same at any batch size, on any
number of hosts, with any version of any library, and after any resume.
"""

import hashlib
import json
import operator

import numpy as np
from jaxtyping import Float, Int


def splitmix64(seed: np.ndarray, index: np.ndarray) -> np.ndarray:
  """The output number `index`, from 0, of a splitmix64 generator that starts at `seed`.

  Both are u64 arrays that broadcast.

  Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
  2014, with the finaliser "Mix13" of Stafford.
  """
  z = seed + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
  z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return z ^ (z >> np.uint64(31))


def uniform(
  seed: int, stream: str | tuple, ids: Int[np.ndarray, " N"], columns: int
) -> Float[np.ndarray, "N columns"]:
  """Uniform numbers f64 in [0, 1), multiples of 2^-53, for the rows `ids`.

  A digest of (seed, stream) starts a generator; its output number ids[n] starts that of
  row n, whose output c is number (n, c).
  `stream` says what the numbers are for, by a string or a tuple of strings and integers.
  """
  parts = (stream,) if isinstance(stream, str) else stream
  words = [p if isinstance(p, str) else operator.index(p) for p in (seed, *parts)]
  digest = hashlib.sha256(json.dumps(words).encode()).digest()
  start = np.frombuffer(digest[:8], "<u8")
  rows = splitmix64(start, as_int64_ids(ids).astype(np.uint64))
  bits = splitmix64(rows[:, None], np.arange(columns, dtype=np.uint64)[None])
  return (bits >> np.uint64(11)) * 2.0**-53


def as_int64_ids(ids: np.ndarray) -> np.ndarray:
  """`ids` as i64[N]; ValueError unless it is one axis of integers."""
  ids = np.asarray(ids)
  if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
    raise ValueError(f"ids must be integers of shape (N,), found {ids.dtype} of shape {ids.shape}")
  return ids.astype(np.int64)
