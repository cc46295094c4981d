"""Evaluate before generating: which absent modality is worth an imputation.

Inspired by the abstract of ProMMA (arXiv 2604.05558), the one part of the paper that
was available: importance of what is missing, judged by a pretrained model and pseudo
labels. All formulas are ours.

A gate setting says for each absent modality of a row whether it is generated (ON) or
left out (OFF). At most M - 1 are absent, so a model run under each of the
G = 2^(M - 1) settings of `table` has seen every row under all of its own settings.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from promise_jax import missing
from promise_jax.checks import check_at_least
from promise_jax.losses import supervised
from promise_jax.types import Array, Task

SHARPNESS = 0.1  # of the unit: the benefit at which necessity is sigmoid(1)

probabilities = supervised.predict_probability


def gate_settings(modalities: int) -> np.ndarray:
  """All settings bool[G, M - 1] of M modalities, all OFF first, all ON last.

  One modality has one setting, the empty one. Raises ValueError for less than one.
  """
  check_at_least("modalities", modalities, 1)
  settings = list(itertools.product((False, True), repeat=modalities - 1))
  return np.array(settings, bool).reshape(len(settings), modalities - 1)


def gates(setting: Array, present: Array) -> Array:
  """What f32[B, M] of each modality gets through, 1 for those `present` bool[B, M].

  The k-th absent modality of a row, in the order of modalities, gets `setting`[k] of
  bool[M - 1], which may be traced; of a row that has nothing the last one gets 0.
  """
  setting, present = jnp.asarray(setting), jnp.asarray(present)
  chex.assert_shape(setting, (present.shape[1] - 1,))
  padded = jnp.append(setting.astype(jnp.float32), np.float32(0))
  return jnp.where(present, 1, padded[_slot(present)])


def as_target(label: Array, task: Task) -> Array:
  """Label as f[B, C] in the units of `probabilities`: one-hot (classes), as it is
  (multilabel), label / scale (regression). Labels of unlabelled rows come out as
  whatever stands there: `tasks.known_label` first."""
  if task.kind == "classes":
    return jax.nn.one_hot(label, task.outputs)
  if task.kind == "multilabel":
    return jnp.asarray(label, jnp.float32)
  return (label / task.scale)[:, None]


def prediction_error(logits: Array, target: Array, task: Task) -> Array:
  """mean_C |p - target| f[B] of p = `probabilities` of `logits` f[B, C], and `target`
  f[B, C] in the same units: labels, pseudo labels or a mixture of both."""
  chex.assert_equal_shape((logits, target))
  return jnp.mean(jnp.abs(probabilities(logits, task) - target), axis=1)


def benefit(errors: Array, present: Array) -> Array:
  """b f[B, M]: by how much generating a modality lowers the error, as mean over the
  settings of the other gates of error(OFF) - error(ON).

  `errors` f[G, B] are those under each setting of `table`, `present` is bool[B, M]. 0
  for present modalities and for rows that have nothing.
  """
  present = jnp.asarray(present)
  settings = gate_settings(present.shape[1])
  chex.assert_shape(errors, (len(settings), present.shape[0]))
  if present.shape[1] == 1:
    return jnp.zeros(present.shape, errors.dtype)
  # Slots that a row does not use change nothing, so the mean may run over them too.
  sign = np.where(settings, -1, 1) / (len(settings) / 2)
  slots = jnp.einsum(
    "gk,gb->bk", sign.astype(errors.dtype), errors, precision=jax.lax.Precision.HIGHEST
  )
  slots = jnp.pad(slots, ((0, 0), (0, 1)))
  judged = ~present & jnp.any(present, axis=1, keepdims=True)
  return jnp.where(judged, jnp.take_along_axis(slots, _slot(present), axis=1), 0)


def necessity(benefit: Array, unit: Array, margin: float = 0.0) -> Array:
  """q = sigmoid(benefit / (0.1 unit) - margin) in (0, 1), the soft label of a gate.

  `unit` f[] or f[C] (then its mean) is the standard deviation of the training targets,
  in the units of `error`; where it is 0 every benefit is large. At a `margin` of 0 what
  changes nothing is generated as often as not.
  """
  size = benefit / (SHARPNESS * jnp.maximum(jnp.mean(unit), 1e-6))
  return jax.nn.sigmoid(size - margin)


def distances(whole: Array, without: Array, task: Task) -> Array:
  """mean_C |p(whole) - p(without m)| f[B, M]: how far the prediction moves when m is
  OFF, of logits `whole` f[B, C] and `without` f[M, B, C]."""
  chex.assert_equal_shape((without[0], whole))
  moved = probabilities(whole, task)[None] - probabilities(without, task)
  return jnp.mean(jnp.abs(moved), axis=2).T


def importance(whole: Array, without: Array, tau: Array, task: Task) -> Array:
  """q f[B, M], 1 where `distances` are above `tau` f[M], as their median over the
  training rows: a label of a gate that needs no generator."""
  moved = distances(whole, without, task)
  return (moved > jnp.asarray(tau)[None]).astype(moved.dtype)


def gate_cross_entropy(q: Array, gate_logits: Array) -> Array:
  """Binary cross entropy f[B, M] of `gate_logits` against the detached soft label `q`,
  both f[B, M]; the caller leaves out what is present."""
  chex.assert_equal_shape((q, gate_logits))
  return optax.sigmoid_binary_cross_entropy(gate_logits, jax.lax.stop_gradient(q))


def gathered(moments: tuple, target: Array, where: Array) -> tuple:
  """Count, sum and sum of squares of the targets f[B, C] of the rows so far."""
  target = missing.zero_absent(target, where)
  new = jnp.sum(where), jnp.sum(target, axis=0), jnp.sum(jnp.square(target), axis=0)
  return tuple(old + x for old, x in zip(moments, new, strict=True))


def deviation(moments: tuple) -> Array:
  """Standard deviation f[C] of the targets so far."""
  count, total, square = moments
  count = jnp.maximum(count, 1)
  return jnp.sqrt(jnp.maximum(square / count - jnp.square(total / count), 0))


def column_medians(x: Array, where: Array) -> Array:
  """The lower median f[M] of each column of x f[B, M] over the rows `where` bool[B, M],
  0 where there is none."""
  ranked = jnp.sort(jnp.where(where, x, jnp.inf), axis=0)
  count = jnp.sum(where, axis=0)
  middle = jnp.take_along_axis(ranked, jnp.maximum(count - 1, 0)[None] // 2, axis=0)[0]
  return jnp.where(count > 0, middle, 0)


def _slot(present: Array) -> Array:
  """Rank i32[B, M] of an absent modality among those of its row; M - 1: no slot."""
  before = np.triu(np.ones((present.shape[1],) * 2, np.int32), 1)
  rank = jnp.sum(jnp.where(~present[..., None], before[None], 0), axis=1)
  return jnp.where(present, present.shape[1] - 1, rank)
