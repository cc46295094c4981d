"""The labels of a sentiment pickle: arrays of several forms, and the task that they are of."""

import numpy as np
from jaxtyping import Float, Shaped

from promise_jax.checks import check_choice
from promise_jax.data.readers import npz_labels
from promise_jax.data.source import check_values, list_first
from promise_jax.types import TASKS, Task

MOSI_SCALE, SIMS_SCALE = 3.0, 1.0  # units of the labels: -3 to 3, -1 to 1
SIMS_NAMES = ("CH-SIMS",)  # tells the metrics (evaluation.sentiment_metrics) of the convention
POLARITIES = ("negative", "neutral", "positive")  # of the classification_labels of MMSA
MAX_CLASSES = 1000


def shape_label(
  place: str, array: Shaped[np.ndarray, "N ..."]
) -> tuple[Float[np.ndarray, "N ..."], bool]:
  """Labels as f32[N] or f32[N, C], and whether they were pairs [N, C, 2], one-hot (no, yes).
  ValueError for another shape, a pair that is none, NaN."""
  is_pairs = array.ndim == 3 and array.shape[1] > 1 and array.shape[2] == 2
  if is_pairs:
    good = np.isin(array, (0, 1)).all(axis=2) & (array.sum(axis=2) == 1)
    check_values(place, array, good, "pairs of a 0 and a 1")
    array = array[:, :, 1]
  if not len(array) or (array.ndim == 3 and array.shape[1] > 1):
    words = "one number a row, [N] or [N, 1, 1], 0/1 [N, C], or pairs [N, C, 2]"
    raise ValueError(f"{place} has the shape {array.shape}, expected: {words}, N above 0.")
  with np.errstate(over="ignore"):
    label = array.reshape(len(array), -1).astype(np.float32)
  label = label[:, 0] if label.shape[1] == 1 else label
  check_values(place, label, np.isfinite(label), "finite numbers")
  return label, is_pairs


def guess_task(
  label: Float[np.ndarray, "N ..."], is_pairs: bool, scale: float | None
) -> tuple[str, str]:
  """The kind of task that labels look like, and what was guessed. ValueError where it could be
  either."""
  if is_pairs:
    return "multilabel", "read from pairs (no, yes)"
  if label.ndim == 2:
    return npz_labels.guess_task(label)
  if scale is None and np.all(label == np.round(label)):
    raise ValueError(
      f"the labels are whole numbers, {list_first(np.unique(label))}: say task=classes or "
      "task=regression."
    )
  return "regression", ""


def check_label(place: str, label: Float[np.ndarray, "N ..."], kind: str) -> None:
  """Raises ValueError for a kind that is none, or labels of a split that it cannot be."""
  check_choice("task", kind, TASKS)
  if (label.ndim == 1 and kind == "multilabel") or (label.ndim == 2 and kind == "regression"):
    raise ValueError(f"{place} has the shape {label.shape}, which cannot be task={kind}.")
  if label.ndim == 2:
    check_values(place, label, np.isin(label, (0, 1)), "0 and 1 alone, as there are columns")
    good = npz_labels.find_one_hot(label) | (kind == "multilabel")
    check_values(place, label, good, "one 1 a row; task=multilabel takes several")
  elif kind == "classes":
    good = (label == np.round(label)) & (label >= 0) & (label < MAX_CLASSES)
    words = f"whole numbers from 0 to {MAX_CLASSES - 1}; task=regression takes others"
    check_values(place, label, good, words)


def make_task(
  label: Float[np.ndarray, "N ..."], kind: str, scale: float | None, is_polarity: bool
) -> tuple[Task, str]:
  """The task of checked labels, and what was concluded from their range, in words."""
  if label.ndim == 2:
    count = label.shape[1]
    return Task(kind, count, tuple(map(str, range(count)))), ""
  low, high = float(label.min()), float(label.max())
  if kind == "classes":
    names = POLARITIES if is_polarity and high == 2 else tuple(map(str, range(int(high) + 1)))
    return Task("classes", len(names), names), ""
  largest, note = max(-low, high), f"labels lie in {low:g} to {high:g}"
  if scale is None and largest > MOSI_SCALE:
    raise ValueError(
      f"{note}, expected are -3 to 3 (MOSI, MOSEI) or -1 to 1 (CH-SIMS); for others "
      "give the option scale."
    )
  if scale is None:
    scale = MOSI_SCALE if largest > SIMS_SCALE else SIMS_SCALE
    note += f", taken for {'MOSI or MOSEI' if scale == MOSI_SCALE else 'CH-SIMS'}"
  if not 0 < scale < np.inf:
    raise ValueError(f"scale is {scale}, expected is a positive number.")
  # The unit 1 alone does not tell CH-SIMS from any other regression.
  is_sims = scale == SIMS_SCALE and largest <= SIMS_SCALE
  task = Task("regression", 1, SIMS_NAMES if is_sims else (), float(scale))
  return task, f"{note}, unit {scale:g}"
