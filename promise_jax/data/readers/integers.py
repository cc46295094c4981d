"""Integers [N, D] without a word on what they are: token ids, or numbers."""

import numpy as np
from jaxtyping import Bool, Int

MIN_STEPS = 3  # shorter rows are no texts
MAX_ID = 2**18  # no vocabulary is larger
MAX_CODES = 100  # answers, grades, ... have at most so many different values
MIN_PADDING = 2  # zeros on average in rows that have some
OWN_RANGE = 0.5  # of the variance lies between columns, not inside them


def guess_kind(values: Int[np.ndarray, "N D"]) -> tuple[str, str]:
  """The kind, "vector", "tokens" or "" where the values do not tell, and why, in words.

  Ids of tokens are not negative, are 0 (padding) at the ends of rows alone, and come from one
  vocabulary in all columns. Ours.
  """
  if values.shape[1] < MIN_STEPS:
    return "vector", f"rows of less than {MIN_STEPS} integers"
  if values.min(initial=0) < 0:
    return "vector", "negative integers"
  if (most := values.max(initial=0)) <= 1:
    return "vector", "integers 0 and 1"
  if most >= MAX_ID:
    return "vector", f"integers as large as {most}"
  filled = values != 0
  after = np.maximum.accumulate(filled, axis=1)
  before = np.maximum.accumulate(filled[:, ::-1], axis=1)[:, ::-1]
  if (after & before & ~filled).any():
    return "vector", "zeros between other integers of a row"
  if share_between_columns(np.log1p(values), filled) > OWN_RANGE:
    return "vector", "integers of another range in each column"
  num_zeros = (~filled).sum(axis=1)[filled.any(axis=1)]
  if num_zeros.sum() >= MIN_PADDING * np.count_nonzero(num_zeros) > 0:
    return "tokens", "zeros at the ends of rows alone"
  if (count := len(np.unique(values))) <= MAX_CODES:
    return "vector", f"no more than {count} different integers"
  return "", "many different integers without padding"


def guess_kind_of(name: str, values: Int[np.ndarray, "N D"]) -> tuple[str, str]:
  """The kind of a modality, and words on the guess. ValueError where the values do not tell."""
  kind, reason = guess_kind(values)
  if not kind:
    raise ValueError(
      f"{name} has {reason}, which could be tokens or vector: say so by kinds.{name}."
    )
  other = "tokens" if kind == "vector" else "vector"
  return kind, f"guessed, {reason}; kinds.{name}={other} says otherwise"


def share_between_columns(values: np.ndarray, mask: Bool[np.ndarray, "N D"]) -> float:
  """The part of the variance of the values in `mask` that the means of columns explain.

  Constant columns are left out: many tokenizers start each row with the same id.
  """
  low = np.where(mask, values, np.inf).min(axis=0, initial=np.inf)
  high = np.where(mask, values, -np.inf).max(axis=0, initial=-np.inf)
  values, mask = values[:, high > low], mask[:, high > low]
  count = mask.sum(axis=0)
  total = np.where(mask, values, 0).sum(axis=0)
  mean = total.sum() / max(count.sum(), 1)
  inside = np.where(mask, values - mean, 0)
  between = (inside.sum(axis=0) ** 2 / np.maximum(count, 1)).sum()
  return between / max((inside**2).sum(), np.finfo(float).tiny)
