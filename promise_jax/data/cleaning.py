"""Rows of a source -> arrays without holes: padding, non-finite values, scale."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from promise_jax.types import Modality

FLOAT_KINDS = ("vector", "sequence")
NONFINITE = ("frame", "value", "error")
PIECE = 2**22  # values that `fit_pieces` has in double at a time

Pieces = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


class CleaningReport(NamedTuple):
  """What was wrong in one modality of one split: the non-finite `values`, the `frames`
  that lost all their values to them, the `absent` rows that had no frame or token left
  (or never had one), the `cut` rows, longer than the longest train row."""

  values: int = 0
  frames: int = 0
  absent: int = 0
  cut: int = 0

  def sentence(self) -> str:
    """The counts that are not zero, in words."""
    words = {
      "values": "{} non-finite values",
      "frames": "{} frames lost to them",
      "absent": "{} rows absent",
      "cut": "{} rows cut to the longest train row",
    }
    told = [words[k].format(v) for k, v in self._asdict().items() if v]
    return ", ".join(told)


class CleanModality(NamedTuple):
  """One modality of one split: `values` [N, ...], `kept` bool, broadcasts to it (False:
  becomes zero), `length` i32[N] (0 where not recorded), `recorded` bool[N], `found`."""

  values: np.ndarray
  kept: np.ndarray
  length: np.ndarray
  recorded: np.ndarray
  found: CleaningReport


def resolve_length(modality: Modality, train: Sequence[np.ndarray]) -> Modality:
  """Replaces an open T by the steps of the longest of the `train` rows."""
  if modality.shape[0] is not None:
    return modality
  steps = max((len(row) for row in train), default=0)
  return modality._replace(shape=(max(steps, 1), *modality.shape[1:]))


def stack(modality: Modality, rows: Sequence[np.ndarray]) -> np.ndarray:
  """N rows as one array [N, *shape], padded with zeros and cut to T.

  Images stay uint8, or float32 where they are floats. ValueError for a row of another
  shape.
  """
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


def clean(
  modality: Modality,
  rows: Sequence[np.ndarray],
  steps: np.ndarray | None,
  recorded: np.ndarray,
  nonfinite: str = "frame",
) -> CleanModality:
  """Stacks `rows` and decides what of them counts.

  `steps` i[N] are the real steps (None: all that a row has), `recorded` bool[N] is what
  the source says. NaN and inf in floats: with `nonfinite` "frame" a frame (a step of a
  sequence, a whole vector, a pixel) with such a value is lost, with "value" the value
  alone is, with "error" they are a ValueError. What is lost becomes zero, which after
  standardisation is the train mean. A row that keeps nothing, a sequence without steps
  and tokens that are all padding become absent. Floats of an image, in 0 to 1, become
  uint8. Ours.
  """
  values = stack(modality, rows)
  if modality.kind == "image":
    return _clean_image(modality, values, recorded, nonfinite)
  real = np.array([len(row) for row in rows], np.int64)
  real = real if steps is None else np.minimum(real, steps)
  kept = _inside(modality, real, recorded)
  if modality.kind == "tokens":
    _check_tokens(modality, values, kept)
    values, kept, found = (
      values.astype(np.int32),
      kept & (values != 0),
      CleaningReport(),
    )
  else:
    kept, found = _finite(modality, values, kept, nonfinite)
  left = kept.any(axis=tuple(range(1, kept.ndim)))
  length = np.where(left, np.clip(real, 0, values.shape[1]), 0).astype(np.int32)
  cut = modality.kind != "vector" and np.sum(recorded & (real > values.shape[1]))
  found = found._replace(absent=int(np.sum(recorded & ~left)), cut=int(cut))
  return CleanModality(values, kept, length, left, found)


def _clean_image(
  modality: Modality, values: np.ndarray, recorded: np.ndarray, nonfinite: str
) -> CleanModality:
  kept, left, found = recorded[:, None, None, None], recorded, CleaningReport()
  if values.dtype != np.uint8:
    kept, found = _finite(modality, values, kept, nonfinite)
    left = kept.any(axis=(1, 2, 3))
    found = found._replace(absent=int(np.sum(recorded & ~left)))
    values = np.where(kept, values, 0)
    bad = values[(values < 0) | (values > 1)]
    if bad.size:
      raise ValueError(
        f"modality {modality.name!r}: a pixel is {bad[0]}, floats of an image lie in 0 "
        "to 1; give 0 to 255 as uint8."
      )
    values = np.round(255 * values).astype(np.uint8)
  return CleanModality(values, kept, np.ones(len(values), np.int32), left, found)


def _inside(modality: Modality, real: np.ndarray, recorded: np.ndarray) -> np.ndarray:
  """bool[N, T, 1], [N, T] or [N, 1]: the recorded rows, within their real steps."""
  if modality.kind == "vector":
    return recorded[:, None]
  inside = recorded[:, None] & (np.arange(modality.shape[0]) < real[:, None])
  return inside if modality.kind == "tokens" else inside[:, :, None]


def _check_tokens(modality: Modality, ids: np.ndarray, kept: np.ndarray) -> None:
  bad = np.argwhere(kept & ((ids < 0) | (ids >= modality.vocabulary)))
  if bad.size:
    row, step = bad[0]
    raise ValueError(
      f"modality {modality.name!r}, row {row}: token id {ids[row, step]} is outside "
      f"0 to {modality.vocabulary - 1}; set the option vocabulary."
    )


def _finite(
  modality: Modality, values: np.ndarray, kept: np.ndarray, nonfinite: str
) -> tuple[np.ndarray, CleaningReport]:
  finite = np.isfinite(values)
  bad = int(np.sum(kept & ~finite))
  if bad and nonfinite == "error":
    raise ValueError(f"modality {modality.name!r}: {bad} values are NaN or inf.")
  left = kept & (finite if nonfinite == "value" else finite.all(-1, keepdims=True))
  frames = int(np.sum(kept.any(-1) & ~left.any(-1)))
  return left, CleaningReport(values=bad, frames=frames)


def fit_scale(part: CleanModality) -> tuple[np.ndarray, np.ndarray]:
  """(mean, std) f32[D] of the values that count, see `fit_pieces`."""
  values, kept = part.values, np.broadcast_to(part.kept, part.values.shape)
  pieces = slices(len(values), values[:1].size)
  return fit_scale_in_pieces(lambda: ((values[p], kept[p]) for p in pieces))


def slices(count: int, values: int) -> list[slice]:
  """`count` rows of so many `values` each, in pieces of about `PIECE` values; one at
  least."""
  rows = max(PIECE // max(values, 1), 1)
  return [slice(i, i + rows) for i in range(0, max(count, 1), rows)]


def fit_scale_in_pieces(pieces: Pieces) -> tuple[np.ndarray, np.ndarray]:
  """(mean, std) f32[D] of the values that count, over rows and steps; the std of a
  constant feature is 1. `pieces()` gives (values [n, ..., D], kept bool, alike) for
  some rows after others, twice: sums want them in double, too many for all at once."""
  count, total, low, high = 0, 0, np.inf, -np.inf
  for values, kept in pieces():
    axes = tuple(range(values.ndim - 1))
    count = count + kept.sum(axes)
    total = total + np.where(kept, values, 0).astype(np.float64).sum(axes)
    least = np.where(kept, values, np.float32(np.inf)).min(axes, initial=np.inf)
    most = np.where(kept, values, np.float32(-np.inf)).max(axes, initial=-np.inf)
    low, high = np.minimum(low, least), np.maximum(high, most)
  count = np.maximum(count, 1)
  mean, squares = total / count, 0
  for values, kept in pieces():
    axes = tuple(range(values.ndim - 1))
    from_mean = np.where(kept, values, 0).astype(np.float64) - mean
    squares = squares + np.where(kept, from_mean**2, 0).sum(axes)
  std = np.where(high > low, np.sqrt(squares / count), 1)
  return mean.astype(np.float32), std.astype(np.float32)


def standardise(part: CleanModality, scale: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
  """`(values - mean) / std` where the values count, zero elsewhere; without a `scale`
  the values stay."""
  values = part.values
  if scale is not None:
    mean, std = (a.reshape((1,) * (values.ndim - 1) + a.shape) for a in scale)
    values = (np.where(part.kept, values, 0) - mean) / std
  return np.where(part.kept, values, 0).astype(part.values.dtype)
