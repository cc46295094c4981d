"""Metrics of sentiment analysis, in NumPy, by their exact definitions.

Value and label are in the unit of the label. The field has three conventions, whose numbers
must not be compared with one another:

  has0  negative against the rest, all rows: a label of 0 is positive
  non0  negative against positive, rows of label 0 left out
  sims  positive against the rest (CH-SIMS), values clipped to [-1, 1]

F1 weights the two classes by how often they are TRUE; `*_mplmm` by how often they are PREDICTED,
as the released code of MPLMM does (and MulT before it), so that published numbers can be
placed. They flatter a collapsed predictor: a constant of accuracy p scores 2p / (1 + p), which
is more than p. Nothing is ever selected by them.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from promise_jax.evaluation import metrics
from promise_jax.evaluation.metrics import Scores
from promise_jax.types import Task

Value = Float[np.ndarray, "... N"]
Label = Float[np.ndarray, " N"]


def mean_or_nan(hits: Bool[np.ndarray, "... N"]) -> Scores:
  """Mean over rows; NaN without any."""
  return hits.mean(-1) if hits.shape[-1] else np.full(hits.shape[:-1], np.nan)


def binary_f1(predicted: Bool[np.ndarray, "... N"], actual: Bool[np.ndarray, "... N"]) -> Scores:
  """Mean F1 of both sides, weighted by how often each is in `actual`."""
  sides = [np.stack([~x, x], axis=-1) for x in (predicted, actual)]
  return metrics.support_weighted_f1(*sides)


def acc2_has0(value: Value, label: Label) -> Scores:
  """Accuracy of `value >= 0` over all rows."""
  return mean_or_nan((value >= 0) == (label >= 0))


def f1_has0(value: Value, label: Label) -> Scores:
  """Weighted F1 of the split of `acc2_has0`."""
  return binary_f1(value >= 0, label >= 0)


def f1_has0_mplmm(value: Value, label: Label) -> Scores:
  """`f1_has0` weighted by the predictions."""
  return binary_f1(label >= 0, value >= 0)


def acc2_non0(value: Value, label: Label) -> Scores:
  """Accuracy of `value > 0` over the rows whose label is not 0."""
  return mean_or_nan(((value > 0) == (label > 0))[..., label != 0])


def f1_non0(value: Value, label: Label) -> Scores:
  """Weighted F1 of the split of `acc2_non0`."""
  rows = label != 0
  return binary_f1(value[..., rows] > 0, label[rows] > 0)


def f1_mplmm(value: Value, label: Label) -> Scores:
  """`f1_non0` weighted by the predictions."""
  rows = label != 0
  return binary_f1(label[rows] > 0, value[..., rows] > 0)


def rounded_accuracy(value: Value, label: Label, bound: float) -> Scores:
  """Accuracy of `round(clip(value, -bound, bound))`, halves to even."""
  value, label = (np.round(np.clip(x, -bound, bound)) for x in (value, label))
  return mean_or_nan(value == label)


def acc7(value: Value, label: Label) -> Scores:
  """Accuracy of seven levels, -3 to 3."""
  return rounded_accuracy(value, label, 3)


def acc5(value: Value, label: Label) -> Scores:
  """Accuracy of five levels, -2 to 2."""
  return rounded_accuracy(value, label, 2)


def binned_accuracy(value: Value, label: Label, edges: Sequence[float]) -> Scores:
  """Accuracy of the bins (-inf, e0], (e0, e1], ...: an edge is in the lower bin."""
  # In float32, as the labels: 0.1 of another precision would lie beside the edge.
  clipped = (np.clip(x, -1, 1).astype(np.float32) for x in (value, label))
  value, label = (np.searchsorted(np.float32(edges), x) for x in clipped)
  return mean_or_nan(value == label)


def sims_acc2(value: Value, label: Label) -> Scores:
  """Accuracy of `value > 0`: a label of 0 is negative, unlike in `acc2_has0`."""
  return binned_accuracy(value, label, (0.0,))


def sims_acc3(value: Value, label: Label) -> Scores:
  """Accuracy of the bins with edges -.1, .1."""
  return binned_accuracy(value, label, (-0.1, 0.1))


def sims_acc5(value: Value, label: Label) -> Scores:
  """Accuracy of the bins with edges -.7, -.1, .1, .7."""
  return binned_accuracy(value, label, (-0.7, -0.1, 0.1, 0.7))


def sims_f1(value: Value, label: Label) -> Scores:
  """Weighted F1 of the split of `sims_acc2`."""
  return binary_f1(value > 0, label > 0)


def sims_f1_mplmm(value: Value, label: Label) -> Scores:
  """`sims_f1` weighted by the predictions."""
  return binary_f1(label > 0, value > 0)


def sims_mae(value: Value, label: Label) -> Scores:
  """Mean absolute error of clipped values."""
  return metrics.mae(np.clip(value, -1, 1), np.clip(label, -1, 1))


def sims_corr(value: Value, label: Label) -> Scores:
  """Pearson correlation of clipped values."""
  return metrics.corr(np.clip(value, -1, 1), np.clip(label, -1, 1))


SENTIMENT = (acc2_has0, f1_has0, f1_has0_mplmm, acc2_non0, f1_non0, f1_mplmm, acc7, acc5)
SIMS = (sims_acc2, sims_acc3, sims_acc5, sims_f1, sims_f1_mplmm, sims_mae, sims_corr)
SIMS_LABEL = ("CH-SIMS",)  # `names` of a task whose label keeps that convention


def sentiment_set(task: Task) -> tuple[Callable, ...]:
  """The sentiment metrics that fit the label of a task; () if it is of another kind.

  The unit of MOSI and MOSEI is 3. Plain regressions have that of CH-SIMS, 1, too: `names` tells.
  """
  if task.kind != "regression":
    return ()
  is_sims = task.scale == 1.0 and tuple(task.names) == SIMS_LABEL
  return SENTIMENT if task.scale == 3.0 else SIMS if is_sims else ()


def constants(label: Label, scale: float) -> Float[np.ndarray, " K"]:
  """Logits of the median and of one value in each side, level and bin, as constants."""
  steps = np.linspace(-1, 1, 13)  # -3, -2.5, ... in a unit of 3
  return np.append(np.median(label) / scale, steps).astype(np.float32)
