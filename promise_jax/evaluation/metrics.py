"""The metrics of classification and regression, in NumPy, by their exact definitions.

Every metric takes the rows that count and reduces them; axes before them, such as seeds, are
kept. `measure` leaves out rows with nothing to see and turns NaN logits into NaN.

  classes     logits f[..., N, C], label i[N]
  multilabel  logits f[..., N, C], label [N, C] of 0/1; predicted where logit > 0
  regression  value f[..., N], label f[N], both in the unit of the label

What is undefined is NaN. The first metric of a task selects; `selection` has it in JAX.
"""

import functools

import numpy as np
from jaxtyping import Bool, Float, Num

from promise_jax.types import Task

Logits = Float[np.ndarray, "... N C"]
Scores = Float[np.ndarray, "..."]
Decisions = Bool[np.ndarray, "... N C"]


def primary_metric(task: Task) -> tuple[str, int]:
  """(name, sign) of the metric that selects and that tables show first. ValueError for an unknown
  kind of task, or a `task.metric` that is not auroc of two classes."""
  names = {"classes": "accuracy", "multilabel": "macro_f1", "regression": "mae"}
  if task.kind not in names:
    raise ValueError(f"Task kind {task.kind!r} is not one of {tuple(names)}.")
  if task.metric and (task.metric, task.kind, task.outputs) != ("auroc", "classes", 2):
    raise ValueError(f"The first metric is {task.metric!r}, it may be auroc, of two classes.")
  name = task.metric or names[task.kind]
  return name, metric_sign(name)


def metric_sign(name: str) -> int:
  """-1 for an error, where less is better; +1 for every other metric."""
  return -1 if name in ("mae", "sims_mae") else 1


def divide(a: Num[np.ndarray, "..."], b: Num[np.ndarray, "..."]) -> Scores:
  """a / b, and NaN where b is 0."""
  return np.where(b == 0, np.nan, a / np.where(b == 0, 1, b))


def one_hot_decisions(logits: Logits, label: np.ndarray):
  """(predicted, actual) bool[..., N, C]. Of tied classes the first is predicted."""
  if label.ndim == 2:
    return logits > 0, label > 0.5
  classes = np.arange(logits.shape[-1])
  return logits.argmax(-1)[..., None] == classes, label[:, None] == classes


def f1_by_class(predicted: Decisions, actual: Decisions):
  """(F1, rows predicted or actual, rows actual), each [..., C]. An F1 of 0 / 0 is 0."""
  support = actual.sum(-2)
  total = predicted.sum(-2) + support
  return 2 * (predicted & actual).sum(-2) / np.maximum(total, 1), total, support


def support_weighted_f1(predicted: Decisions, actual: Decisions) -> Scores:
  """Mean F1 of the classes, weighted by how often each is in `actual`."""
  score, _, support = f1_by_class(predicted, actual)
  return divide((score * support).sum(-1), support.sum(-1))


def accuracy(logits: Logits, label: np.ndarray) -> Scores:
  """Fraction of rows whose largest logit is the label's."""
  return (logits.argmax(-1) == label).mean(-1)


def samples_accuracy(logits: Logits, label: np.ndarray) -> Scores:
  """Fraction of rows with every label right (subset accuracy). multilabel."""
  predicted, actual = one_hot_decisions(logits, label)
  return (predicted == actual).all(-1).mean(-1)


def macro_f1(logits: Logits, label: np.ndarray) -> Scores:
  """Mean F1: of the classes that occur or are predicted; of all labels in multilabel."""
  score, total, _ = f1_by_class(*one_hot_decisions(logits, label))
  return score.mean(-1) if label.ndim == 2 else score.sum(-1) / (total != 0).sum(-1)


def weighted_f1(logits: Logits, label: np.ndarray) -> Scores:
  """Mean F1 weighted by how often a class is TRUE."""
  return support_weighted_f1(*one_hot_decisions(logits, label))


def micro_f1(logits: Logits, label: np.ndarray) -> Scores:
  """F1 of all decisions pooled; NaN if nothing is positive or predicted. multilabel."""
  predicted, actual = one_hot_decisions(logits, label)
  both, total = (predicted & actual).sum((-2, -1)), predicted.sum((-2, -1)) + actual.sum()
  return divide(2 * both, total)


def samples_f1(logits: Logits, label: np.ndarray) -> Scores:
  """Mean F1 of single rows; a row with no label true or predicted has 0. multilabel."""
  predicted, actual = one_hot_decisions(logits, label)
  score, _, _ = f1_by_class(np.swapaxes(predicted, -1, -2), actual.T)
  return score.mean(-1)


def uar(logits: Logits, label: np.ndarray) -> Scores:
  """Unweighted average recall: the mean over classes that occur. classes."""
  predicted, actual = one_hot_decisions(logits, label)
  support = actual.sum(0)
  recall = (predicted & actual).sum(-2) / np.maximum(support, 1)
  return recall.sum(-1) / (support != 0).sum()


@functools.partial(np.vectorize, signature="(n),(n)->()")
def area_under_roc(score: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
  """P(a positive row scores above a negative one), ties count half; NaN if one lacks."""
  above, below = score[positive], np.sort(score[~positive])
  if not len(above) or not len(below):
    return np.nan
  wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
  return wins.mean() / (2 * len(below))


def auroc(logits: Logits, label: np.ndarray) -> Scores:
  """Mean area under the ROC curve of the classes that have positive and negative rows.

  Two classes: of class 1. More: each against the rest. multilabel: of each label.
  """
  _, actual = one_hot_decisions(logits, label)
  if label.ndim == 1 and logits.shape[-1] == 2:
    return area_under_roc(logits[..., 1] - logits[..., 0], label == 1)
  if label.ndim == 1:
    # The logarithm of the softmax, because softmax itself underflows and makes ties.
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    logits = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
  areas = area_under_roc(np.swapaxes(logits, -1, -2), actual.T)
  return divide(np.nansum(areas, -1), (~np.isnan(areas)).sum(-1))


def mae(value: Float[np.ndarray, "... N"], label: Float[np.ndarray, " N"]) -> Scores:
  """Mean absolute error, nothing clipped."""
  return abs(value - label).mean(-1, dtype=np.float64)


@functools.partial(np.vectorize, signature="(n),(n)->()")
def corr(value: Float[np.ndarray, " N"], label: Float[np.ndarray, " N"]) -> float:
  """Pearson correlation; NaN if predictions or labels are constant."""
  # Rounding in the mean would give a constant a tiny variance and a random result.
  if np.ptp(value) == 0 or np.ptp(label) == 0:
    return np.nan
  return np.corrcoef(value, label)[0, 1]
