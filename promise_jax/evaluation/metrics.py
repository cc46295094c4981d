"""The field's metrics by their exact definitions.

Every metric is a pure function `(logits, label, weight) -> f32[]` that jits and vmaps.
`weight` f[N] >= 0 says how much a row counts: 0 for padding or a row with nothing left,
integers for bootstrap counts. Shapes by kind of task:

  classes     logits f[N, C], label i[N]
  multilabel  logits f[N, C], label [N, C] of 0/1; a label is predicted at probability
              over .5, that is at logit > 0
  regression  logits f[N, 1], label f[N]; the prediction is `logits * scale`, in the
              unit of the label (heads predict `label / scale`); these are in
              `sentiment_metrics`

What is undefined is NaN: no row that counts, no positive row, a constant under `corr`.
So is anything computed from a NaN logit in a row that counts. Where scikit-learn's
`zero_division=0` decides about one class of an average, the docstring says so.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import types
from promise_jax.evaluation import sentiment_metrics as sentiment
from promise_jax.evaluation import weighted
from promise_jax.evaluation.sentiment_metrics import corr, mae

Array = jax.Array
Metric = Callable[[Array, Array, Array], Array]


def _sides(logits: Array, label: Array) -> tuple[Array, Array]:
  """(predicted, actual), bool[N, C] each: one true a row for classes."""
  if label.ndim == 2:
    return logits > 0, label > 0.5
  names = jnp.arange(logits.shape[-1])[None]
  return logits.argmax(-1)[:, None] == names, label[:, None] == names


def accuracy(logits: Array, label: Array, weight: Array) -> Array:
  """Share of rows whose largest logit (the first, if tied) is the label's. classes."""
  logits, weight = weighted.guard(logits, weight)
  return weighted.mean(logits.argmax(-1) == label, weight)


def samples_accuracy(logits: Array, label: Array, weight: Array) -> Array:
  """Share of rows with every label right (subset accuracy). multilabel."""
  logits, weight = weighted.guard(logits, weight)
  predicted, actual = _sides(logits, label)
  return weighted.mean((predicted == actual).all(-1), weight)


def macro_f1(logits: Array, label: Array, weight: Array) -> Array:
  """Mean F1. classes: over classes that are predicted or occur. multilabel: over all
  labels, where one that neither occurs nor is predicted has 0 (`zero_division=0`).
  """
  logits, weight = weighted.guard(logits, weight)
  score, total, _ = weighted.f1(*_sides(logits, label), weight)
  if label.ndim == 2:
    return jnp.where(weight.sum() == 0, jnp.nan, score.mean())
  return weighted.mean(score, (total != 0).astype(jnp.float32))


def weighted_f1(logits: Array, label: Array, weight: Array) -> Array:
  """Mean F1 weighted by how often a class occurs in the TRUTH. classes, multilabel.

  With the arguments swapped, a constant predictor of accuracy p would score 2p/(1+p)
  and not p times that.
  """
  logits, weight = weighted.guard(logits, weight)
  score, _, support = weighted.f1(*_sides(logits, label), weight)
  return weighted.mean(score, support)


def micro_f1(logits: Array, label: Array, weight: Array) -> Array:
  """F1 of all decisions pooled; NaN if nothing is positive or predicted. multilabel."""
  logits, weight = weighted.guard(logits, weight)
  predicted, actual = _sides(logits, label)
  _, total, _ = weighted.f1(predicted, actual, weight)
  return 2 * weighted.columns(predicted & actual, weight).sum() / total.sum()


def samples_f1(logits: Array, label: Array, weight: Array) -> Array:
  """Mean F1 of a row; one with no label true or predicted has 0. multilabel."""
  logits, weight = weighted.guard(logits, weight)
  predicted, actual = _sides(logits, label)
  score, _, _ = weighted.f1(predicted.T, actual.T, jnp.ones(label.shape[1]))
  return weighted.mean(score, weight)


def uar(logits: Array, label: Array, weight: Array) -> Array:
  """Unweighted average recall: mean over the classes that occur. classes."""
  logits, weight = weighted.guard(logits, weight)
  predicted, actual = _sides(logits, label)
  support = weighted.columns(actual, weight)
  recall = weighted.columns(predicted & actual, weight) / support
  return weighted.mean(recall, (support != 0).astype(jnp.float32))


def _area_under_roc(score: Array, positive: Array, weight: Array) -> Array:
  """P(a positive row scores above a negative one), ties half; 0 / 0 if one lacks."""
  order = score.argsort()
  negative = jnp.where(positive, 0, weight)
  below = jnp.concatenate([jnp.zeros(1), negative[order].cumsum()])
  first = jnp.searchsorted(score[order], score, side="left")
  last = jnp.searchsorted(score[order], score, side="right")
  gained = jnp.where(positive, weight, 0)
  wins = (gained * (below[first] + below[last])).sum() / 2
  return wins / (gained.sum() * negative.sum())


def auroc(logits: Array, label: Array, weight: Array) -> Array:
  """Area under the ROC curve. classes, multilabel.

  C = 2: of class 1. C > 2: one class against the rest on softmax scores (their
  logarithm, so that underflow makes no ties). multilabel: per label. The mean is over
  the classes that have positive and negative rows, and NaN if there is none.
  """
  logits, weight = weighted.guard(logits, weight)
  _, actual = _sides(logits, label)
  if label.ndim == 1 and logits.shape[1] == 2:
    return _area_under_roc(logits[:, 1] - logits[:, 0], actual[:, 1], weight)
  score = logits if label.ndim == 2 else jax.nn.log_softmax(logits)
  areas = jax.vmap(_area_under_roc, in_axes=(1, 1, None))(score, actual, weight)
  support = weighted.columns(actual, weight)
  defined = (support != 0) & (weighted.columns(~actual, weight) != 0)
  return weighted.mean(areas, defined.astype(jnp.float32))


KNOWN = {
  "classes": (accuracy, macro_f1, weighted_f1, uar, auroc),
  "multilabel": (macro_f1, micro_f1, weighted_f1, samples_f1, samples_accuracy, auroc),
  "regression": (mae, corr, *sentiment.SENTIMENT, *sentiment.SIMS),
}
ROW_MEANS = (
  *(accuracy, samples_accuracy, samples_f1, mae),
  *(sentiment.acc2_has0, sentiment.acc7, sentiment.acc5),
  *(sentiment.sims_acc2, sentiment.sims_acc3, sentiment.sims_acc5, sentiment.sims_mae),
)


def is_row_mean(metric: Metric) -> bool:
  """True if the metric is the weighted mean of one value a row."""
  return getattr(metric, "func", metric) in ROW_MEANS


def metric_sign(name: str) -> int:
  """-1 for an error, where less is better, +1 for every other metric."""
  return -1 if name in ("mae", "sims_mae") else 1


def primary_metric(task: types.Task) -> tuple[str, int]:
  """(name, sign) of the metric that selects: accuracy, macro_f1 or mae."""
  names = {"classes": "accuracy", "multilabel": "macro_f1", "regression": "mae"}
  if task.kind not in names:
    raise ValueError(f"Task kind {task.kind!r} is not one of {tuple(names)}.")
  return names[task.kind], metric_sign(names[task.kind])


def metrics_for(task: types.Task, names: Sequence[str] = ()) -> dict[str, Metric]:
  """The metrics of a task by name, to be given what its head puts out.

  Without `names`: all for classes and multilabel; mae and corr for regression, with
  what `sentiment_metrics.sentiment_set` adds. Names add to that. `task.scale` is bound,
  so that regression metrics want logits as predicted and labels as the data have them.

  Raises:
    ValueError: a name that is not a metric of this kind of task.
  """
  primary_metric(task)
  chosen = KNOWN[task.kind]
  if task.kind == "regression":
    known = {m.__name__: m for m in chosen}
    chosen = (mae, corr, *sentiment.sentiment_set(task))
    chosen += tuple(known[n] for n in names if n in known and known[n] not in chosen)
  unknown = [n for n in names if n not in {m.__name__ for m in KNOWN[task.kind]}]
  if unknown:
    allowed = ", ".join(m.__name__ for m in KNOWN[task.kind])
    raise ValueError(f"{unknown[0]!r} is no metric of {task.kind}; known: {allowed}.")
  if task.kind == "regression":
    return {m.__name__: functools.partial(m, scale=task.scale) for m in chosen}
  return {m.__name__: m for m in chosen}


def area_under_curve(rates: Sequence[float], values: Sequence[float]) -> float:
  """Mean height of a metric over missing rates: trapezoid / rate range (AUILC).

  Raises:
    ValueError: fewer than two rates, or rates that do not increase.
  """
  rates, values = np.asarray(rates, float), np.asarray(values, float)
  if rates.shape != values.shape or rates.size < 2 or (np.diff(rates) <= 0).any():
    raise ValueError(f"An area wants a value at 2 or more rising rates, not {rates}.")
  return float(np.trapezoid(values, rates) / (rates[-1] - rates[0]))
