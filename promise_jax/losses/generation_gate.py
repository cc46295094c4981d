"""Labels for the gates of ProMMA: is an absent modality worth generating?

Inspired by the abstract of ProMMA (arXiv 2604.05558), the only part of the paper that was
available to us; all formulas are ours. A gate says for each absent modality of a row whether
it is generated (ON) or left out (OFF). A row that has anything lacks at most M - 1 modalities.
So a model that runs under each of the G = 2^(M - 1) settings of `gate_settings` has seen
every row under all settings of its own gates.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from promise_jax import missing
from promise_jax.checks import check_at_least
from promise_jax.losses import supervised
from promise_jax.types import Task

# In standard deviations of the targets: the benefit at which the label is sigmoid(1).
SHARPNESS = 0.1


def gate_settings(num_modalities: int) -> np.ndarray:
  """All settings of M - 1 gates, bool[G, M - 1]: all OFF first, all ON last."""
  check_at_least("num_modalities", num_modalities, 1)
  settings = list(itertools.product((False, True), repeat=num_modalities - 1))
  return np.array(settings, bool).reshape(len(settings), num_modalities - 1)


def gate_values(setting: Bool[Array, " M-1"], present: Bool[Array, "B M"]) -> Float[Array, "B M"]:
  """Gates of every row under one setting, 0 or 1; present modalities have 1.

  The k-th absent modality of a row, in the order of modalities, gets `setting[k]`. In a row
  without any modality the last one gets 0.
  """
  setting, present = jnp.asarray(setting), jnp.asarray(present)
  chex.assert_shape(setting, (present.shape[1] - 1,))
  padded = jnp.append(setting.astype(jnp.float32), np.float32(0))
  return jnp.where(present, 1, padded[_rank_absent(present)])


def prediction_error(
  logits: Float[Array, "B C"], target: Float[Array, "B C"], task: Task
) -> Float[Array, " B"]:
  """mean_C |p - target|, with the probabilities p of `logits`."""
  chex.assert_equal_shape((logits, target))
  return jnp.mean(jnp.abs(supervised.predict_probability(logits, task) - target), axis=1)


def generation_benefit(
  errors: Float[Array, "G B"], present: Bool[Array, "B M"]
) -> Float[Array, "B M"]:
  """By how much generating a modality lowers the error.

  error(OFF) - error(ON), averaged over the settings of the other gates. 0 for present
  modalities and for rows that have nothing.

  Args:
    errors: the error of each row under each setting of `gate_settings`.
    present: which modalities a row has.
  """
  present = jnp.asarray(present)
  settings = gate_settings(present.shape[1])
  chex.assert_shape(errors, (len(settings), present.shape[0]))
  if present.shape[1] == 1:
    return jnp.zeros(present.shape, errors.dtype)
  # Gates that a row does not use change nothing, so the mean may run over them too.
  sign = np.where(settings, -1, 1) / (len(settings) / 2)
  by_rank = jnp.einsum(
    "gk,gb->bk", sign.astype(errors.dtype), errors, precision=jax.lax.Precision.HIGHEST
  )
  by_rank = jnp.pad(by_rank, ((0, 0), (0, 1)))
  gated = ~present & jnp.any(present, axis=1, keepdims=True)
  return jnp.where(gated, jnp.take_along_axis(by_rank, _rank_absent(present), axis=1), 0)


def gate_label(
  benefit: Float[Array, "B M"], deviation: Float[Array, "*C"], margin: float = 0.0
) -> Float[Array, "B M"]:
  """Soft label of a gate: sigmoid(benefit / (0.1 deviation) - margin).

  `deviation` is the standard deviation of the training targets, averaged over outputs. With
  margin 0, a generation that changes nothing has the label 1/2.
  """
  size = benefit / (SHARPNESS * jnp.maximum(jnp.mean(deviation), 1e-6))
  return jax.nn.sigmoid(size - margin)


def gate_cross_entropy(
  label: Float[Array, "B M"], gate_logits: Float[Array, "B M"]
) -> Float[Array, "B M"]:
  """Binary cross entropy of `gate_logits` against the detached soft label."""
  chex.assert_equal_shape((label, gate_logits))
  return optax.sigmoid_binary_cross_entropy(gate_logits, jax.lax.stop_gradient(label))


def init_moments(num_outputs: int) -> dict[str, Array]:
  """Count, sum and sum of squares of the targets, before the first batch."""
  zeros = jnp.zeros((num_outputs,))
  return {"count": jnp.zeros(()), "total": zeros, "square": zeros}


def update_moments(
  moments: dict[str, Array], target: Float[Array, "B C"], where: Bool[Array, " B"]
) -> dict[str, Array]:
  """`moments` with the targets of the rows `where` added."""
  target = missing.zero_absent(target, where)
  return {
    "count": moments["count"] + jnp.sum(where),
    "total": moments["total"] + jnp.sum(target, axis=0),
    "square": moments["square"] + jnp.sum(jnp.square(target), axis=0),
  }


def target_deviation(moments: dict[str, Array]) -> Float[Array, " C"]:
  """Standard deviation of the targets so far."""
  count = jnp.maximum(moments["count"], 1)
  mean = moments["total"] / count
  return jnp.sqrt(jnp.maximum(moments["square"] / count - jnp.square(mean), 0))


def _rank_absent(present: Bool[Array, "B M"]) -> Int[Array, "B M"]:
  """Rank of an absent modality among the absent ones of its row; M - 1 if present."""
  before = np.triu(np.ones((present.shape[1],) * 2, np.int32), 1)
  rank = jnp.sum(jnp.where(~present[..., None], before[None], 0), axis=1)
  return jnp.where(present, present.shape[1] - 1, rank)
