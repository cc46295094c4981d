"""Metrics of regression, with those of sentiment analysis, by their exact definitions.

As in `metrics`: `(logits f[N, 1], label f[N], weight f[N]) -> f32[]`, the prediction is
`logits * scale`, rows of weight 0 do not count, what is undefined is NaN.

Sentiment is judged in three conventions, which give different numbers and are not to be
compared: has0 (negative against the rest, all rows), non0 (negative against positive,
rows of label 0 left out) and that of CH-SIMS (positive against the rest). Their F1
weights the two classes by how often they are TRUE. `f1_mplmm`, `f1_has0_mplmm` and
`sims_f1_mplmm` weight them by how often they are PREDICTED, as the released code of
MPLMM does (and that of MulT before it), so that published numbers can be placed. They
flatter a predictor that has collapsed: a constant of accuracy p scores 2p / (1 + p),
which is more than p, and not p times that. Nothing is ever selected by them.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import types
from promise_jax.evaluation import weighted

Array = jax.Array


def _prediction(logits: Array, weight: Array, scale: float) -> tuple[Array, Array]:
  if logits.shape[-1] != 1:
    raise ValueError(f"Regression metrics want logits [N, 1], not {logits.shape}.")
  logits, weight = weighted.guard(logits, weight)
  return logits[:, 0] * scale, weight


def mae(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Mean absolute error in the unit of the label, nothing clipped."""
  value, weight = _prediction(logits, weight, scale)
  return weighted.mean(abs(value - label), weight)


def _pearson(x: Array, y: Array, weight: Array) -> Array:
  counts = weight != 0
  # Rounding in the mean would give a constant a tiny variance and a random result.
  constant = [
    jnp.where(counts, v, jnp.inf).min() == jnp.where(counts, v, -jnp.inf).max() for v in (x, y)
  ]
  x, y = x - weighted.mean(x, weight), y - weighted.mean(y, weight)
  spread = jnp.sqrt(weighted.mean(x * x, weight) * weighted.mean(y * y, weight))
  r = jnp.clip(weighted.mean(x * y, weight) / spread, -1, 1)
  return jnp.where(constant[0] | constant[1], jnp.nan, r)


def corr(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Pearson correlation; NaN if predictions or labels are constant."""
  value, weight = _prediction(logits, weight, scale)
  return _pearson(value, label, weight)


def _binary_f1(predicted: Array, actual: Array, weight: Array) -> Array:
  """Mean F1 of the two sides, weighted by how often each is in `actual`."""
  both_ways = [jnp.stack([~side, side], 1) for side in (predicted, actual)]
  score, _, support = weighted.f1(*both_ways, weight)
  return weighted.mean(score, support)


def acc2_has0(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Accuracy of `value >= 0` over all rows: a label of 0 is positive."""
  value, weight = _prediction(logits, weight, scale)
  return weighted.mean((value >= 0) == (label >= 0), weight)


def f1_has0(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Weighted F1 of the split of `acc2_has0`."""
  value, weight = _prediction(logits, weight, scale)
  return _binary_f1(value >= 0, label >= 0, weight)


def f1_has0_mplmm(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """`f1_has0` with its arguments swapped: weighted by what is PREDICTED. Flatters
  collapsed predictors; to be set beside published numbers, never to select by."""
  value, weight = _prediction(logits, weight, scale)
  return _binary_f1(label >= 0, value >= 0, weight)


def acc2_non0(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Accuracy of `value > 0` over the rows whose label is not 0."""
  value, weight = _prediction(logits, jnp.where(label == 0, 0, weight), scale)
  return weighted.mean((value > 0) == (label > 0), weight)


def f1_non0(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """Weighted F1 of the split of `acc2_non0`."""
  value, weight = _prediction(logits, jnp.where(label == 0, 0, weight), scale)
  return _binary_f1(value > 0, label > 0, weight)


def f1_mplmm(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """`f1_non0` with its arguments swapped: weighted by what is PREDICTED. Flatters
  collapsed predictors; to be set beside published numbers, never to select by."""
  value, weight = _prediction(logits, jnp.where(label == 0, 0, weight), scale)
  return _binary_f1(label > 0, value > 0, weight)


def _rounded(bound: float, logits: Array, label: Array, weight: Array, scale: float):
  value, weight = _prediction(logits, weight, scale)
  levels = [jnp.round(jnp.clip(v, -bound, bound)) for v in (value, label)]
  return weighted.mean(levels[0] == levels[1], weight)


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
  return weighted.mean(bins[0] == bins[1], weight)


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


def sims_f1_mplmm(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """`sims_f1` with its arguments swapped: weighted by what is PREDICTED. Flatters
  collapsed predictors; to be set beside published numbers, never to select by."""
  value, label, weight = _sims(logits, label, weight, scale)
  return _binary_f1(label > 0, value > 0, weight)


def sims_mae(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """CH-SIMS: mean absolute error of values clipped to [-1, 1]."""
  value, label, weight = _sims(logits, label, weight, scale)
  return weighted.mean(abs(value - label), weight)


def sims_corr(logits: Array, label: Array, weight: Array, scale: float = 1.0) -> Array:
  """CH-SIMS: Pearson correlation of values clipped to [-1, 1]."""
  return _pearson(*_sims(logits, label, weight, scale))


SENTIMENT = (
  *(acc2_has0, f1_has0, f1_has0_mplmm, acc2_non0, f1_non0, f1_mplmm),
  *(acc7, acc5),
)
SIMS = (*(sims_acc2, sims_acc3, sims_acc5, sims_f1, sims_f1_mplmm, sims_mae, sims_corr),)
SIMS_LABEL = ("CH-SIMS",)  # `names` of a task whose label keeps that convention


def sentiment_set(task: types.Task) -> tuple:
  """The sentiment metrics of a task by the unit of its label, () if it is of another
  kind.

  Unit 3 is that of MOSI and MOSEI, whatever the data. Unit 1 is that of CH-SIMS and of
  any plain regression: the data must say so, by the `names` SIMS_LABEL.
  """
  if task.kind != "regression":
    return ()
  if task.scale == 3.0:
    return SENTIMENT
  return SIMS if task.scale == 1.0 and tuple(task.names) == SIMS_LABEL else ()


def constants(label: np.ndarray, scale: float) -> np.ndarray:
  """Logits f32[14] of which one or another is the best constant in every metric: the
  median of `label` f[N], and one in each side, level and bin of the sentiment sets."""
  steps = np.linspace(-1, 1, 13)  # -3, -2.5, ... of a unit of 3
  return np.append(np.median(label) / scale, steps).astype(np.float32)
