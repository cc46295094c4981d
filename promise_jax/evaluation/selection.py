"""The score that selects a training step: the primary metric of a task, in JAX.

The same score enters the bootstrap. Every row has a weight >= 0: 0 for padding and for a row
with nothing left, an integer for a row that a bootstrap drew that often. `metrics` defines all
metrics that are only reported, in NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from promise_jax import patterns
from promise_jax.evaluation import metrics
from promise_jax.types import Task


def selection_patterns(num_modalities: int, select_on: str) -> Bool[np.ndarray, "P M"]:
  """The patterns whose mean score selects: "all", see `patterns.selecting_patterns`, or only the
  "full" one."""
  chosen = patterns.selecting_patterns(num_modalities)
  return np.array(chosen[-1:] if select_on == "full" else chosen)


def row_weights(
  recorded: Bool[Array, "N M"], valid: Bool[Array, " N"], patterns: Bool[Array, "P M"]
) -> Float[Array, "P N"]:
  """1 where a valid row has at least one modality left under the pattern, else 0."""
  is_used = jnp.any(recorded[None] & patterns[:, None], axis=-1) & valid[None]
  return is_used.astype(jnp.float32)


def selection_score(
  logits: Float[Array, "P N C"], label: Array, weight: Float[Array, "P N"], task: Task
) -> Float[Array, ""]:
  """Mean primary metric of the patterns that have rows; its sign makes larger better."""
  _, sign = metrics.primary_metric(task)
  scores = jax.vmap(lambda x, w: primary_score(x, label, w, task))(logits, weight)
  has_rows = jnp.sum(weight, axis=1) > 0
  total = jnp.sum(jnp.where(has_rows, scores, 0))
  return sign * total / jnp.maximum(jnp.sum(has_rows), 1)


def primary_score(
  logits: Float[Array, "N C"], label: Array, weight: Float[Array, " N"], task: Task
) -> Float[Array, ""]:
  """Accuracy of classes, macro F1 of a multilabel task, mean absolute error of a regression; AUROC
  where the task names it.

  NaN where no row counts, or where a row of weight > 0 has a NaN logit.
  """
  weight = jnp.asarray(weight, jnp.float32)
  broken = jnp.isnan(logits).any(-1)
  # The logits must not depend on the weights: a bootstrap maps over weights alone.
  logits = jnp.where(broken[:, None], 0, logits)
  weight = jnp.where((broken & (weight != 0)).any(), jnp.nan, weight)
  if task.kind == "multilabel":
    return _macro_f1(logits, label, weight)
  if task.metric == "auroc":
    return _auroc(logits[:, 1] - logits[:, 0], label, weight)
  scores = row_scores(logits, label, task)
  return jnp.where(weight == 0, 0, scores * weight).sum() / weight.sum()


def row_scores(logits: Float[Array, "N C"], label: Array, task: Task) -> Array | None:
  """One score per row, [N], whose weighted mean is the primary metric; None where it is none."""
  if task.metric == "auroc":
    return None
  if task.kind == "classes":
    return logits.argmax(-1) == label
  return abs(logits[:, 0] * task.scale - label) if task.kind == "regression" else None


def _auroc(score: Float[Array, " N"], label: Array, weight: Float[Array, " N"]) -> Array:
  """P(a row of class 1 scores above one of class 0), ties count half; NaN if one lacks."""
  order = jnp.argsort(score)
  ranked, positive = score[order], jnp.asarray(label)[order] == 1
  ones, zeros = jnp.where(positive, weight[order], 0), jnp.where(positive, 0, weight[order])
  below = jnp.concatenate([jnp.zeros(1), jnp.cumsum(zeros)])
  ends = (jnp.searchsorted(ranked, ranked, side) for side in ("left", "right"))
  wins = sum(below[end] for end in ends) / 2
  return (ones * wins).sum() / (ones.sum() * zeros.sum())


def _macro_f1(logits, label, weight) -> Array:
  predicted, actual = logits > 0, label > 0.5
  count = lambda where: jnp.where(where, weight[:, None], 0).sum(0)
  total = count(predicted) + count(actual)
  # A label that neither occurs nor is predicted has 0, as scikit-learn's zero_division=0.
  score = jnp.where(total == 0, 0, 2 * count(predicted & actual) / total)
  return jnp.where(weight.sum() == 0, jnp.nan, score.mean())
