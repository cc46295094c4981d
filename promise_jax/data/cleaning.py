"""Turns the rows of a source into arrays without holes: pads, drops NaN and inf, scales."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from promise_jax.types import Modality

FLOAT_KINDS = ("vector", "sequence")
NONFINITE = ("auto", "frame", "value", "error")
BLOCK_VALUES = 2**22  # values that are held in double precision at a time

Scale = tuple[Float[np.ndarray, " D"], Float[np.ndarray, " D"]]  # mean, std


class CleaningReport(NamedTuple):
  """How much was wrong in one modality of one split."""

  num_nonfinite: int = 0  # NaN or inf values
  num_lost_frames: int = 0  # frames in which no value is left because of them
  num_empty_rows: int = 0  # rows in which no frame or token is left; they become absent
  num_truncated_rows: int = 0  # rows cut to the length of the longest train row

  def describe(self) -> str:
    """The counts that are not zero, in words."""
    words = (
      *("non-finite values dropped", "frames lost to them"),
      *("rows absent", "rows cut to the longest train row"),
    )
    return ", ".join(f"{n} {w}" for n, w in zip(self, words, strict=True) if n)


class CleanModality(NamedTuple):
  """One modality of one split, cleaned, not yet standardised."""

  values: Shaped[np.ndarray, "N ..."]
  kept_mask: Bool[np.ndarray, "N ..."]  # broadcasts to values; False becomes zero
  length: Int[np.ndarray, " N"]  # valid steps, 0 where the row is absent
  recorded: Bool[np.ndarray, " N"]
  report: CleaningReport


def resolve_length(modality: Modality, train: Sequence[np.ndarray]) -> Modality:
  """Replaces an open first dimension by the length of the longest of the `train` rows."""
  if modality.shape[0] is not None:
    return modality
  steps = max((len(row) for row in train), default=0)
  return modality._replace(shape=(max(steps, 1), *modality.shape[1:]))


def stack_rows(modality: Modality, rows: Sequence[np.ndarray]) -> Shaped[np.ndarray, "N ..."]:
  """Stacks rows into one array, padded with zeros and cut to T; refuses other shapes."""
  dtype = {"image": np.uint8, "tokens": np.int64}.get(modality.kind, np.float32)
  if modality.kind == "image" and len(rows) and np.asarray(rows[0]).dtype.kind == "f":
    dtype = np.float32
  values = np.zeros((len(rows), *modality.shape), dtype)
  ragged = modality.kind in ("sequence", "tokens")
  for i, row in enumerate(rows):
    row = np.asarray(row)
    if row.ndim != values.ndim - 1 or row.shape[ragged:] != modality.shape[ragged:]:
      raise ValueError(
        f"modality {modality.name!r}: row {i} has shape {row.shape}, expected {modality.shape}."
      )
    values[i, : len(row)] = row[: len(values[i])]
  return values


def clean_modality(
  modality: Modality,
  rows: Sequence[np.ndarray],
  length: Int[np.ndarray, " N"] | None,
  recorded: Bool[np.ndarray, " N"],
  nonfinite: str = "auto",
) -> CleanModality:
  """Stacks the rows of one modality and decides which of their values are kept.

  Dropped values become zero, which is the train mean after standardisation. A row without any
  kept value (no step of a sequence, no token but padding) becomes absent. Ours.

  Args:
    modality: its shape has no open dimension any more.
    rows: N arrays.
    length: valid steps of each row; None: all that the row has.
    recorded: False where the source lacks the modality; such a row may hold anything.
    nonfinite: what NaN and inf drop: "frame" the frame that they are in (a step of a
      sequence, a whole vector, a pixel), "value" only themselves, "auto" the value in a vector
      and the frame elsewhere; "error" refuses them.
  """
  values = stack_rows(modality, rows)
  if modality.kind == "image":
    return _clean_image(modality, values, recorded, nonfinite)
  steps = np.array([len(row) for row in rows], np.int64)
  steps = steps if length is None else np.minimum(steps, length)
  kept = _inside(modality, steps, recorded)
  if modality.kind == "tokens":
    _check_tokens(modality, values, kept)
    values, kept, report = values.astype(np.int32), kept & (values != 0), CleaningReport()
  else:
    kept, report = _drop_nonfinite(modality, values, kept, nonfinite)
  has_values = kept.any(axis=tuple(range(1, kept.ndim)))
  clean_length = np.where(has_values, np.clip(steps, 0, values.shape[1]), 0).astype(np.int32)
  cut = modality.kind != "vector" and np.sum(recorded & (steps > values.shape[1]))
  report = report._replace(
    num_empty_rows=int(np.sum(recorded & ~has_values)), num_truncated_rows=int(cut)
  )
  return CleanModality(values, kept, clean_length, has_values, report)


def _clean_image(modality: Modality, values, recorded, nonfinite: str) -> CleanModality:
  """Floats, which lie in 0 to 1, become uint8."""
  kept, has_values, report = recorded[:, None, None, None], recorded, CleaningReport()
  if values.dtype != np.uint8:
    kept, report = _drop_nonfinite(modality, values, kept, nonfinite)
    has_values = kept.any(axis=(1, 2, 3))
    report = report._replace(num_empty_rows=int(np.sum(recorded & ~has_values)))
    values = np.where(kept, values, 0)
    bad = values[(values < 0) | (values > 1)]
    if bad.size:
      words = "floats of an image lie in 0 to 1; give 0 to 255 as uint8"
      raise ValueError(f"modality {modality.name!r}: a pixel is {bad[0]}, {words}.")
    values = np.round(255 * values).astype(np.uint8)
  return CleanModality(values, kept, np.ones(len(values), np.int32), has_values, report)


def _inside(modality: Modality, length, recorded) -> np.ndarray:
  """bool[N, T, 1], [N, T] or [N, 1]: the recorded rows, within their length."""
  if modality.kind == "vector":
    return recorded[:, None]
  inside = recorded[:, None] & (np.arange(modality.shape[0]) < length[:, None])
  return inside if modality.kind == "tokens" else inside[:, :, None]


def _check_tokens(modality: Modality, ids, kept) -> None:
  bad = np.argwhere(kept & ((ids < 0) | (ids >= modality.vocabulary)))
  if bad.size:
    row, step = bad[0]
    raise ValueError(
      f"modality {modality.name!r}, row {row}: token id {ids[row, step]} is outside "
      f"0 to {modality.vocabulary - 1}; set the option vocabulary."
    )


def _drop_nonfinite(modality, values, kept, nonfinite) -> tuple[np.ndarray, CleaningReport]:
  finite = np.isfinite(values)
  bad = int(np.sum(kept & ~finite))
  if bad and nonfinite == "error":
    raise ValueError(f"modality {modality.name!r}: {bad} values are NaN or inf.")
  by_value = nonfinite == "value" or (nonfinite == "auto" and modality.kind == "vector")
  remaining = kept & (finite if by_value else finite.all(-1, keepdims=True))
  num_lost = int(np.sum(kept.any(-1) & ~remaining.any(-1)))
  return remaining, CleaningReport(num_nonfinite=bad, num_lost_frames=num_lost)


def row_slices(num_rows: int, row_values: int) -> list[slice]:
  """Slices of rows that hold about `BLOCK_VALUES` values each; at least one."""
  rows = max(BLOCK_VALUES // max(row_values, 1), 1)
  return [slice(i, i + rows) for i in range(0, max(num_rows, 1), rows)]


def fit_scale(part: CleanModality) -> Scale:
  """Mean and standard deviation of each feature, over the values that count."""
  values, kept = part.values, np.broadcast_to(part.kept_mask, part.values.shape)
  slices = row_slices(len(values), values[:1].size)
  return fit_scale_in_blocks(lambda: ((values[s], kept[s]) for s in slices))


def fit_scale_in_blocks(blocks: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]) -> Scale:
  """Mean and standard deviation of each feature; the std of a constant one is 1.

  `blocks()` yields (values [n, ..., D], kept_mask of the same shape), twice: the sums want
  double precision, which does not fit in memory for all rows at once.
  """
  count, total, low, high = 0, 0, np.inf, -np.inf
  for values, kept in blocks():
    axes = tuple(range(values.ndim - 1))
    count = count + kept.sum(axes)
    total = total + np.where(kept, values, 0).astype(np.float64).sum(axes)
    least = np.where(kept, values, np.float32(np.inf)).min(axes, initial=np.inf)
    most = np.where(kept, values, np.float32(-np.inf)).max(axes, initial=-np.inf)
    low, high = np.minimum(low, least), np.maximum(high, most)
  count = np.maximum(count, 1)
  mean, squares = total / count, 0
  for values, kept in blocks():
    axes = tuple(range(values.ndim - 1))
    centred = np.where(kept, values, 0).astype(np.float64) - mean
    squares = squares + np.where(kept, centred**2, 0).sum(axes)
  std = np.where(high > low, np.sqrt(squares / count), 1)
  return mean.astype(np.float32), std.astype(np.float32)


def standardise(part: CleanModality, scale: Scale | None) -> Shaped[np.ndarray, "N ..."]:
  """(values - mean) / std where the values count, 0 elsewhere; no scale keeps the values."""
  values = part.values
  if scale is not None:
    mean, std = (a.reshape((1,) * (values.ndim - 1) + a.shape) for a in scale)
    values = (np.where(part.kept_mask, values, 0) - mean) / std
  return np.where(part.kept_mask, values, 0).astype(part.values.dtype)
