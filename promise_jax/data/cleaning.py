"""Turns the rows of a source into arrays without holes: pads, drops NaN, inf and empty rows."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Shaped

from promise_jax.checks import check_choice
from promise_jax.data import channels
from promise_jax.types import Modality

FLOAT_KINDS = ("vector", "sequence")


@dataclasses.dataclass(frozen=True)
class Rules:
  """What counts as nothing."""

  # What NaN and inf drop: "frame" the frame that they are in (a step of a sequence, a whole
  # vector, a pixel), "value" only themselves, "auto" the value in a vector and the frame elsewhere;
  # "error" refuses them.
  nonfinite: str = "auto"
  # Rows of zeros alone: "absent", "kept" as values, "auto": absent in a sequence, where a failed
  # extraction leaves them, and kept in a vector or image.
  zeros: str = "auto"

  def __post_init__(self):
    check_choice("nonfinite", self.nonfinite, ("auto", "frame", "value", "error"))
    check_choice("zeros", self.zeros, ("auto", "absent", "kept"))


DEFAULTS = Rules()


class CleaningReport(NamedTuple):
  """How much was wrong in one modality of one split."""

  num_nonfinite: int = 0  # NaN or inf values
  num_lost_frames: int = 0  # frames in which no value is left because of them
  num_empty_rows: int = 0  # rows in which no frame or token is left; they become absent
  num_truncated_rows: int = 0  # rows cut to the length of the longest train row
  num_blank_rows: int = 0  # rows of zeros alone, which become absent
  num_zero_rows: int = 0  # rows of zeros alone, which stay
  num_turned_rows: int = 0  # rows padded in front
  num_short_lengths: int = 0  # rows that have values outside their length
  num_padded_rows: int = 0  # rows that begin or end in zeros though nothing says their length
  num_clipped: int = 0  # values far outside those of train, see `scaling`

  def describe(self) -> str:
    """The counts that are not zero, in words."""
    words = (
      "NaN, inf or huge values dropped",
      "frames lost to them",
      *("rows absent", "rows cut to the longest train row"),
      "rows of zeros alone absent (zeros=kept: values)",
      "rows of zeros alone read as values (zeros=absent: absent)",
      "rows padded in front, read from their end",
      "rows with values outside their length, which are not read",
      "rows begin or end in steps of zeros, read as values (a length says how many are real)",
      "values far outside those of train, clipped",
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
  shape = (len(rows), *modality.shape)
  if isinstance(rows, np.ndarray) and rows.shape == shape:
    return rows.astype(dtype, copy=False)
  values = np.zeros(shape, dtype)
  ragged = modality.kind in ("sequence", "tokens")
  for i, row in enumerate(rows):
    row = np.asarray(row)
    if modality.kind == "image":
      row = channels.turn_image(row, modality)
    good = row.ndim == values.ndim - 1 and row.shape[ragged:] == modality.shape[ragged:]
    if not good or row.dtype.kind not in "biuf":
      found = f"shape {row.shape}" + (f" of {row.dtype}" if good else "")
      raise ValueError(
        f"modality {modality.name!r}: row {i} has {found}, expected {modality.shape}."
      )
    values[i, : len(row)] = row[: len(values[i])]
  return values


def clean_modality(
  modality: Modality,
  rows: Sequence[np.ndarray],
  length: Int[np.ndarray, " N"] | None,
  recorded: Bool[np.ndarray, " N"],
  rules: Rules,
) -> CleanModality:
  """Stacks the rows of one modality and decides which of their values are kept.

  Dropped values become zero, which is the train mean after standardisation. A row without any
  kept value (no step of a sequence, no token but padding) becomes absent. Ours.

  The modality has no open dimension any more. `length` are the valid steps of each row; None: all
  that the row has. Where the source lacks the modality, `recorded` is False, and the row may hold
  anything.
  """
  num_turned = num_short = 0
  if length is not None and modality.kind in ("sequence", "tokens"):
    rows, num_turned, num_short = turn_rows(rows, length, recorded)
  values = stack_rows(modality, rows)
  if modality.kind == "image":
    return _clean_image(modality, values, recorded, rules)
  steps = np.array([len(row) for row in rows], np.int64)
  steps = steps if length is None else np.minimum(steps, length)
  inside = _inside(modality, steps, recorded)
  if modality.kind == "tokens":
    _check_tokens(modality, values, inside)
    values, kept, report = values.astype(np.int32), inside & (values != 0), CleaningReport()
  else:
    kept, report = _drop_nonfinite(modality, values, inside, rules.nonfinite)
  has_values = kept.any(axis=tuple(range(1, kept.ndim)))
  report = report._replace(
    num_empty_rows=int(np.sum(recorded & ~has_values)),
    num_turned_rows=num_turned,
    num_short_lengths=num_short,
  )
  is_blank = has_values & ~np.any(values, axis=tuple(range(1, values.ndim)), where=inside)
  kept, has_values, report = _drop_blank(modality, is_blank, kept, has_values, rules, report)
  if length is None and modality.kind == "sequence" and np.all(steps == values.shape[1]):
    ends = values[:, [0, -1]].any(axis=2).all(axis=1)
    report = report._replace(num_padded_rows=int(np.sum(has_values & ~ends)))
  clean_length = np.where(has_values, np.clip(steps, 0, values.shape[1]), 0).astype(np.int32)
  cut = modality.kind != "vector" and np.sum(recorded & (steps > values.shape[1]))
  report = report._replace(num_truncated_rows=int(cut))
  return CleanModality(values, kept, clean_length, has_values, report)


def turn_rows(
  rows: Sequence[np.ndarray], length: Int[np.ndarray, " N"], recorded: Bool[np.ndarray, " N"]
) -> tuple[list[np.ndarray], int, int]:
  """(rows that start with their valid steps, how many were padded in front, how many have values
  outside their length)."""
  rows, num_turned, num_short = list(rows), 0, 0
  for i in np.flatnonzero(recorded):
    start = find_start(rows[i], length[i])
    if start is None:
      num_short += 1
    elif start:
      rows[i] = rows[i][start:]
      num_turned += 1
  return rows, num_turned, num_short


def find_start(row: Shaped[np.ndarray, "T ..."], length: int) -> int | None:
  """The first valid step of a row that has `length` of them.

  Where the first `length` steps leave out something, and the last leave out nothing but zeros, NaN
  and inf, the row is padded in front, and the last are valid; None where both leave out something.
  """
  row = np.atleast_1d(row)
  length = min(max(int(length), 0), len(row))
  if not row[length:].any():
    return 0
  has_content = (np.isfinite(row) & (row != 0)).reshape(len(row), -1).any(axis=1)
  if not has_content[length:].any():
    return 0
  start = len(row) - length
  return None if has_content[:start].any() else start


def _clean_image(modality: Modality, values, recorded, rules: Rules) -> CleanModality:
  """Floats, which lie in 0 to 1, become uint8."""
  kept, has_values, report = recorded[:, None, None, None], recorded, CleaningReport()
  if values.dtype != np.uint8:
    kept, report = _drop_nonfinite(modality, values, kept, rules.nonfinite)
    has_values = kept.any(axis=(1, 2, 3))
    report = report._replace(num_empty_rows=int(np.sum(recorded & ~has_values)))
    values = np.where(kept, values, 0)
    bad = values[(values < 0) | (values > 1)]
    if bad.size:
      words = "floats of an image lie in 0 to 1; give 0 to 255 as uint8"
      raise ValueError(f"modality {modality.name!r}: a pixel is {bad[0]}, {words}.")
    values = np.round(255 * values).astype(np.uint8)
  is_blank = has_values & ~values.any(axis=(1, 2, 3))
  kept, has_values, report = _drop_blank(modality, is_blank, kept, has_values, rules, report)
  return CleanModality(values, kept, np.ones(len(values), np.int32), has_values, report)


def _drop_blank(modality, is_blank, kept, has_values, rules: Rules, report: CleaningReport):
  """(kept, has_values, report), rows of zeros alone absent if the rules say so."""
  count = int(is_blank.sum())
  if rules.zeros == "absent" or (rules.zeros == "auto" and modality.kind == "sequence"):
    kept = kept & ~is_blank.reshape(-1, *(1,) * (kept.ndim - 1))
    return kept, has_values & ~is_blank, report._replace(num_blank_rows=count)
  # That a single number is zero says nothing.
  return kept, has_values, report._replace(num_zero_rows=count * (modality.shape != (1,)))


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
      f"modality {modality.name!r}, row {row}: token id {ids[row, step]} is outside 0 to "
      f"{modality.vocabulary - 1}: set vocabulary={max(ids[kept].max() + 1, 0)}, or "
      f"kinds.{modality.name}=vector if these are numbers."
    )


def _drop_nonfinite(modality, values, kept, nonfinite) -> tuple[np.ndarray, CleaningReport]:
  finite = np.isfinite(values)
  bad = int(np.sum(kept & ~finite))
  if bad and nonfinite == "error":
    raise ValueError(
      f"modality {modality.name!r}: {bad} values are NaN or inf; nonfinite=value drops them."
    )
  by_value = nonfinite == "value" or (nonfinite == "auto" and modality.kind == "vector")
  remaining = kept & (finite if by_value else finite.all(-1, keepdims=True))
  num_lost = int(np.sum(kept.any(-1) & ~remaining.any(-1)))
  return remaining, CleaningReport(num_nonfinite=bad, num_lost_frames=num_lost)
