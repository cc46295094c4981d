"""The field's metrics by their exact definitions.

Every metric is a pure function `(logits, label, weight) -> f32[]` that jits and vmaps.
`weight` f[N] >= 0 says how much a row counts: 0 for padding or a row with nothing left,
integers for bootstrap counts. Shapes by kind of task:

  classes     logits f[N, C], label i[N]
  multilabel  logits f[N, C], label [N, C] of 0/1; a label is predicted at probability
              over .5, that is at logit > 0
  regression  logits f[N, 1], label f[N]; the prediction is `logits * scale`, in the
              unit of the label (heads predict `label / scale`)

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

Array = jax.Array
Metric = Callable[[Array, Array, Array], Array]


def _guard(logits: Array, weight: Array) -> tuple[Array, Array]:
  """Makes NaN logits harmless in rows of weight 0; in another they poison all weights.

  The logits that come back do not depend on the weight: under a bootstrap, which maps
  over weights, sorting them is done once.
  """
  weight = jnp.asarray(weight, jnp.float32)
  broken = jnp.isnan(logits).any(-1)
  logits = jnp.where(broken[:, None], 0, logits)
  return logits, jnp.where((broken & (weight != 0)).any(), jnp.nan, weight)


def _mean(value: Array, weight: Array) -> Array:
  return jnp.where(weight == 0, 0, value * weight).sum() / weight.sum()


def _columns(chosen: Array, weight: Array) -> Array:
  """Weight in each column of `chosen` bool[N, C]."""
  return jnp.where(chosen, weight[:, None], 0).sum(0)


def _sides(logits: Array, label: Array) -> tuple[Array, Array]:
  """(predicted, actual), bool[N, C] each: one true a row for classes."""
  if label.ndim == 2:
    return logits > 0, label > 0.5
  names = jnp.arange(logits.shape[-1])[None]
  return logits.argmax(-1)[:, None] == names, label[:, None] == names


def _f1(predicted: Array, actual: Array, weight: Array) -> tuple[Array, Array, Array]:
  """(F1, weight predicted or actual, weight actual), f[C] each; F1 of 0 / 0 is 0."""
  both = _columns(predicted & actual, weight)
  support = _columns(actual, weight)
  total = _columns(predicted, weight) + support
  return jnp.where(total == 0, 0, 2 * both / total), total, support


def accuracy(logits: Array, label: Array, weight: Array) -> Array:
  """Share of rows whose largest logit (the first, if tied) is the label's. classes."""
  logits, weight = _guard(logits, weight)
  return _mean(logits.argmax(-1) == label, weight)


def samples_accuracy(logits: Array, label: Array, weight: Array) -> Array:
  """Share of rows with every label right (subset accuracy). multilabel."""
  logits, weight = _guard(logits, weight)
  predicted, actual = _sides(logits, label)
  return _mean((predicted == actual).all(-1), weight)


def macro_f1(logits: Array, label: Array, weight: Array) -> Array:
  """Mean F1. classes: over classes that are predicted or occur. multilabel: over all
  labels, where one that neither occurs nor is predicted has 0 (`zero_division=0`).
  """
  logits, weight = _guard(logits, weight)
  score, total, _ = _f1(*_sides(logits, label), weight)
  if label.ndim == 2:
    return jnp.where(weight.sum() == 0, jnp.nan, score.mean())
  return _mean(score, (total != 0).astype(jnp.float32))


def weighted_f1(logits: Array, label: Array, weight: Array) -> Array:
  """Mean F1 weighted by how often a class occurs in the TRUTH. classes, multilabel.

  With the arguments swapped, a constant predictor of accuracy p would score 2p/(1+p)
  and not p times that.
  """
  logits, weight = _guard(logits, weight)
  score, _, support = _f1(*_sides(logits, label), weight)
  return _mean(score, support)


def micro_f1(logits: Array, label: Array, weight: Array) -> Array:
  """F1 of all decisions pooled; NaN if nothing is positive or predicted. multilabel."""
  logits, weight = _guard(logits, weight)
  predicted, actual = _sides(logits, label)
  _, total, _ = _f1(predicted, actual, weight)
  return 2 * _columns(predicted & actual, weight).sum() / total.sum()


def samples_f1(logits: Array, label: Array, weight: Array) -> Array:
  """Mean F1 of a row; one with no label true or predicted has 0. multilabel."""
  logits, weight = _guard(logits, weight)
  predicted, actual = _sides(logits, label)
  score, _, _ = _f1(predicted.T, actual.T, jnp.ones(label.shape[1]))
  return _mean(score, weight)


def uar(logits: Array, label: Array, weight: Array) -> Array:
  """Unweighted average recall: mean over the classes that occur. classes."""
  logits, weight = _guard(logits, weight)
  predicted, actual = _sides(logits, label)
  support = _columns(actual, weight)
  recall = _columns(predicted & actual, weight) / support
  return _mean(recall, (support != 0).astype(jnp.float32))


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
  logits, weight = _guard(logits, weight)
  _, actual = _sides(logits, label)
  if label.ndim == 1 and logits.shape[1] == 2:
    return _area_under_roc(logits[:, 1] - logits[:, 0], actual[:, 1], weight)
  score = logits if label.ndim == 2 else jax.nn.log_softmax(logits)
  areas = jax.vmap(_area_under_roc, in_axes=(1, 1, None))(score, actual, weight)
  support = _columns(actual, weight)
  defined = (support != 0) & (_columns(~actual, weight) != 0)
  return _mean(areas, defined.astype(jnp.float32))


def _prediction(logits: Array, weight: Array, scale: float) -> tuple[Array, Array]:
  if logits.shape[-1] != 1:
    raise ValueError(f"Regression metrics want logits [N, 1], not {logits.shape}.")
  logits, weight = _guard(logits, weight)
  return logits[:, 0] * scale, weight


def mae(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Mean absolute error in the unit of the label, nothing clipped."""
  value, weight = _prediction(logits, weight, scale)
  return _mean(abs(value - label), weight)


def _pearson(x: Array, y: Array, weight: Array) -> Array:
  counts = weight != 0
  # Rounding in the mean would give a constant a tiny variance and a random result.
  constant = [
    jnp.where(counts, v, jnp.inf).min() == jnp.where(counts, v, -jnp.inf).max()
    for v in (x, y)
  ]
  x, y = x - _mean(x, weight), y - _mean(y, weight)
  spread = jnp.sqrt(_mean(x * x, weight) * _mean(y * y, weight))
  r = jnp.clip(_mean(x * y, weight) / spread, -1, 1)
  return jnp.where(constant[0] | constant[1], jnp.nan, r)


def corr(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Pearson correlation; NaN if predictions or labels are constant."""
  value, weight = _prediction(logits, weight, scale)
  return _pearson(value, label, weight)


def _binary_f1(predicted: Array, actual: Array, weight: Array) -> Array:
  both_ways = [jnp.stack([~side, side], 1) for side in (predicted, actual)]
  score, _, support = _f1(*both_ways, weight)
  return _mean(score, support)


def acc2_has0(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Accuracy of `value >= 0` over all rows: a label of 0 is positive."""
  value, weight = _prediction(logits, weight, scale)
  return _mean((value >= 0) == (label >= 0), weight)


def f1_has0(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Weighted F1 of the split of `acc2_has0`."""
  value, weight = _prediction(logits, weight, scale)
  return _binary_f1(value >= 0, label >= 0, weight)


def acc2_non0(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Accuracy of `value > 0` over the rows whose label is not 0."""
  value, weight = _prediction(logits, jnp.where(label == 0, 0, weight), scale)
  return _mean((value > 0) == (label > 0), weight)


def f1_non0(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Weighted F1 of the split of `acc2_non0`."""
  value, weight = _prediction(logits, jnp.where(label == 0, 0, weight), scale)
  return _binary_f1(value > 0, label > 0, weight)


def _rounded(bound: float, logits: Array, label: Array, weight: Array, scale: float):
  value, weight = _prediction(logits, weight, scale)
  levels = [jnp.round(jnp.clip(v, -bound, bound)) for v in (value, label)]
  return _mean(levels[0] == levels[1], weight)


def acc7(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Accuracy of `round(clip(value, -3, 3))`, halves to even."""
  return _rounded(3, logits, label, weight, scale)


def acc5(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Accuracy of `round(clip(value, -2, 2))`, halves to even."""
  return _rounded(2, logits, label, weight, scale)


def _sims(logits: Array, label: Array, weight: Array, scale: float):
  value, weight = _prediction(logits, weight, scale)
  return jnp.clip(value, -1, 1), jnp.clip(label, -1, 1), weight


def _binned(edges: Sequence[float], *args) -> Array:
  """Accuracy of the bins (-inf, e0], (e0, e1], ... of CH-SIMS."""
  value, label, weight = _sims(*args)
  edges = jnp.array(edges, jnp.float32)
  bins = [jnp.searchsorted(edges, v.astype(jnp.float32)) for v in (value, label)]
  return _mean(bins[0] == bins[1], weight)


def sims_acc2(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """CH-SIMS: accuracy of `value > 0`: a label of 0 is negative, unlike `acc2_has0`."""
  return _binned((0.0,), logits, label, weight, scale)


def sims_acc3(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """CH-SIMS: accuracy of the bins with edges -.1, .1; an edge is in the lower bin."""
  return _binned((-0.1, 0.1), logits, label, weight, scale)


def sims_acc5(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """CH-SIMS: accuracy of the bins with edges -.7, -.1, .1, .7."""
  return _binned((-0.7, -0.1, 0.1, 0.7), logits, label, weight, scale)


def sims_f1(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """CH-SIMS: weighted F1 of the split of `sims_acc2`."""
  value, label, weight = _sims(logits, label, weight, scale)
  return _binary_f1(value > 0, label > 0, weight)


def sims_mae(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """CH-SIMS: mean absolute error of values clipped to [-1, 1]."""
  value, label, weight = _sims(logits, label, weight, scale)
  return _mean(abs(value - label), weight)


def sims_corr(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """CH-SIMS: Pearson correlation of values clipped to [-1, 1]."""
  return _pearson(*_sims(logits, label, weight, scale))


SENTIMENT = (acc2_has0, f1_has0, acc2_non0, f1_non0, acc7, acc5)
SIMS = (sims_acc2, sims_acc3, sims_acc5, sims_f1, sims_mae, sims_corr)
KNOWN = {
  "classes": (accuracy, macro_f1, weighted_f1, uar, auroc),
  "multilabel": (macro_f1, micro_f1, weighted_f1, samples_f1, samples_accuracy, auroc),
  "regression": (mae, corr, *SENTIMENT, *SIMS),
}
ROW_MEANS = (
  *(accuracy, samples_accuracy, samples_f1, mae, acc2_has0, acc7, acc5),
  *(sims_acc2, sims_acc3, sims_acc5, sims_mae),
)


def is_row_mean(metric: Metric) -> bool:
  """True if the metric is the weighted mean of one value a row."""
  return getattr(metric, "func", metric) in ROW_MEANS


def sign(name: str) -> int:
  """-1 for an error, where less is better, +1 for every other metric."""
  return -1 if name in ("mae", "sims_mae") else 1


def primary(task: types.Task) -> tuple[str, int]:
  """(name, sign) of the metric that selects: accuracy, macro_f1 or mae."""
  names = {"classes": "accuracy", "multilabel": "macro_f1", "regression": "mae"}
  if task.kind not in names:
    raise ValueError(f"Task kind {task.kind!r} is not one of {tuple(names)}.")
  return names[task.kind], sign(names[task.kind])


def metrics_for(task: types.Task, names: Sequence[str] = ()) -> dict[str, Metric]:
  """The metrics of a task by name, to be given what its head puts out.

  Without `names`: all for classes and multilabel; mae and corr for regression, with the
  sentiment set if `task.scale` is 3. Names add to that. `task.scale` is bound, so that
  regression metrics want logits as predicted and labels as the data have them.

  Raises:
    ValueError: a name that is not a metric of this kind of task.
  """
  primary(task)
  chosen = KNOWN[task.kind]
  if task.kind == "regression":
    known = {m.__name__: m for m in chosen}
    chosen = (mae, corr, *(SENTIMENT if task.scale == 3.0 else ()))
    chosen += tuple(known[n] for n in names if n in known and known[n] not in chosen)
  unknown = [n for n in names if n not in {m.__name__ for m in KNOWN[task.kind]}]
  if unknown:
    allowed = ", ".join(m.__name__ for m in KNOWN[task.kind])
    raise ValueError(f"{unknown[0]!r} is no metric of {task.kind}; known: {allowed}.")
  if task.kind == "regression":
    return {m.__name__: functools.partial(m, scale=task.scale) for m in chosen}
  return {m.__name__: m for m in chosen}


def area(rates: Sequence[float], values: Sequence[float]) -> float:
  """Mean height of a metric over missing rates: trapezoid / rate range (AUILC).

  Raises:
    ValueError: fewer than two rates, or rates that do not increase.
  """
  rates, values = np.asarray(rates, float), np.asarray(values, float)
  if rates.shape != values.shape or rates.size < 2 or (np.diff(rates) <= 0).any():
    raise ValueError(f"An area wants a value at 2 or more rising rates, not {rates}.")
  return float(np.trapezoid(values, rates) / (rates[-1] - rates[0]))
