"""Standardises features: mean and deviation of the train values, and what is too far out to be one.

One cell of 1e9 would swallow a standard deviation. So the fit leaves out what lies `FAR` times
further from the median than most train values do, and every value, of any split, is clipped to the
range of the rest, widened `ROOM` times on both sides: ordinary values, also of heavy tails, stay
what they are. A feature that is constant in train becomes 0 everywhere. Ours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

BLOCK_VALUES = 2**22  # values that are held in double precision at a time
FAR = 40.0  # times the distance from the median within which 3/4 of the other values lie
ROOM = 2.0  # times the width of the train range
FEW = 5  # values beside the median; of fewer nothing is said
LARGEST = 2.0**126  # float32 holds the difference of two such values


class Scale(NamedTuple):
  """How the features [..., D] of a modality are standardised."""

  mean: Float[np.ndarray, " D"]
  std: Float[np.ndarray, " D"]
  low: Float[np.ndarray, " D"]  # values are clipped to low and high
  high: Float[np.ndarray, " D"]


def row_slices(num_rows: int, row_values: int) -> list[slice]:
  """Slices of rows that hold about `BLOCK_VALUES` values each; at least one."""
  rows = max(BLOCK_VALUES // max(row_values, 1), 1)
  return [slice(i, i + rows) for i in range(0, max(num_rows, 1), rows)]


def fit_scale(
  read: Callable[[Any], Float[np.ndarray, "n ... D"]], recorded: Bool[np.ndarray, " N"]
) -> Scale:
  """Fits a scale to rows of which `read(index)` returns some, NaN where a value does not count.

  The sums are in double precision, a block of rows at a time. The std of a constant feature is 1.
  """
  row_values = read(slice(0, 1)).size
  slices = row_slices(len(recorded), row_values)
  index = np.flatnonzero(recorded)
  sample = read(index[:: -(-len(index) * row_values // BLOCK_VALUES) or 1])
  near = plausible_range(sample)

  def read_near(part: slice) -> tuple[np.ndarray, np.ndarray]:
    values = read(part)
    return values, (values >= near[0]) & (values <= near[1])

  count, total, low, high = 0, 0, np.inf, -np.inf
  for part in slices:
    values, kept = read_near(part)
    axes = tuple(range(values.ndim - 1))
    count = count + kept.sum(axes)
    total = total + np.where(kept, values, 0).astype(np.float64).sum(axes)
    low = np.minimum(low, np.where(kept, values, np.inf).min(axes, initial=np.inf))
    high = np.maximum(high, np.where(kept, values, -np.inf).max(axes, initial=-np.inf))
  low, high = np.where(count > 0, (low, high), 0)
  count = np.maximum(count, 1)
  mean, squares = total / count, 0
  for part in slices:
    values, kept = read_near(part)
    centred = np.where(kept, values, 0).astype(np.float64) - mean
    squares = squares + np.where(kept, centred**2, 0).sum(tuple(range(values.ndim - 1)))
  std = np.sqrt(squares / count).astype(np.float32)
  std = np.where((high > low) & (std > 0), std, np.float32(1))
  room = ROOM * (high - low)
  bounds = np.clip((low - room, high + room), -LARGEST, LARGEST)
  return Scale(mean.astype(np.float32), std, *bounds.astype(np.float32))


def plausible_range(values: Float[np.ndarray, "... D"]) -> Float[np.ndarray, "2 D"]:
  """The lowest and the highest value that a feature may be thought to have.

  median ± FAR q, where q is the distance from the median within which three quarters of the
  values lie that are not the median: a quarter of these may be absurd. NaN is left out.
  """
  values = values.reshape(-1, values.shape[-1]).astype(np.float64)
  centre = np.nan_to_num(_quantile(values, 0.5))
  distance = np.abs(values - centre)
  distance[distance == 0] = np.nan
  is_known = np.sum(~np.isnan(distance), axis=0) >= FEW
  width = np.where(is_known, FAR * _quantile(distance, 0.75), np.inf)
  return np.clip((centre - width, centre + width), -LARGEST, LARGEST)


def _quantile(values: np.ndarray, part: float) -> np.ndarray:
  """The value of each column [n, D] that `part` of its numbers do not exceed."""
  if not len(values):
    return np.full(values.shape[1], np.nan)
  place = np.sum(~np.isnan(values), axis=0) - 1
  ordered = np.sort(values, axis=0)  # NaN last
  return np.take_along_axis(ordered, np.maximum(part * place, 0).astype(int)[None], axis=0)[0]


def standardise(
  values: Float[np.ndarray, "N ... D"], kept: Bool[np.ndarray, "N ..."], scale: Scale | None
) -> Float[np.ndarray, "N ... D"]:
  """(clipped values - mean) / std where they count, 0 elsewhere; no scale keeps the values."""
  if scale is None:  # images are large: they are copied only where something is dropped
    return values if kept.all() else np.where(kept, values, 0).astype(values.dtype, copy=False)
  made = make_aligned_zeros(values.shape, values.dtype)
  np.copyto(made, values, where=kept)
  np.clip(made, scale.low, scale.high, out=made)
  made -= scale.mean
  made /= scale.std
  np.copyto(made, 0, where=~kept)
  return made


def make_aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Zeros that start at a multiple of 64 bytes: a CPU device then shares them without a copy."""
  size, step = int(np.prod(shape)), np.dtype(dtype).itemsize
  memory = np.zeros(size + 64 // step, dtype)
  start = -memory.ctypes.data % 64 // step
  return memory[start : start + size].reshape(shape)


def count_clipped(
  values: Float[np.ndarray, "N ... D"], kept: Bool[np.ndarray, "N ..."], scale: Scale
) -> int:
  """How many of the values that count `standardise` clips, those of constant features aside."""
  is_out = (values < scale.low) | (values > scale.high)
  return int(np.count_nonzero(kept & is_out & (scale.low < scale.high)))
