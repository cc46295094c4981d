"""How much a cross-attention output says about its target: mutual information of soft codes.

Inspired by the abstract of ProMMA (arXiv 2604.05558), the only part of the paper that was
available to us: prompts are weighted by the mutual information of cross-attention outputs.
The estimator and all formulas are ours. Information is in nats. It is that of one row over
its T steps and needs no other rows. It is biased upwards when steps are few. A source that
says the same at every step has exactly 0.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def soft_codes(
  x: Float[Array, "B T H"], kernel: Float[Array, "H C"], temperature: float
) -> Float[Array, "B T C"]:
  """Distribution of each step over C codes: softmax(LN(x) kernel / temperature).

  A step of zeros has all codes alike. Steps that are padding must hold finite numbers.
  """
  logits = layer_norm(x) @ kernel / temperature
  return jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def layer_norm(x: Float[Array, "... H"]) -> Float[Array, "... H"]:
  """(x - mean) / sqrt(variance + 1e-5) over the last axis; no parameters."""
  variance = jnp.var(x, axis=-1, keepdims=True)
  return jax.nn.standardize(x, variance=variance, epsilon=1e-5)


def mutual_information(
  alpha: Float[Array, "B T C"], beta: Float[Array, "B T C"], real: Bool[Array, "B T"]
) -> Float[Array, " B"]:
  """sum_ij J_ij log(J_ij / (J_i. J_.j)) with J = mean_t alpha_t beta_t^T.

  Between 0 and log C; 0 where no step counts. Gradients are finite at probabilities of 0.

  Args:
    alpha: a distribution over C codes at each step.
    beta: another one, at the same steps.
    real: the steps that count.
  """
  chex.assert_equal_shape((alpha, beta))
  p, alpha = _center(alpha, real)
  q, beta = _center(beta, real)
  count = jnp.maximum(jnp.sum(real, axis=1), 1)[:, None, None]
  # J - p q^T as a covariance: nothing cancels where nothing varies.
  highest = jax.lax.Precision.HIGHEST
  excess = jnp.einsum("bti,btj->bij", alpha, beta, precision=highest) / count
  product = jnp.swapaxes(p, 1, 2) * q
  return jnp.maximum(jnp.sum(_divergence_terms(product, excess), axis=(1, 2)), 0)


def source_scores(information: Float[Array, "B M M"]) -> Float[Array, "B M"]:
  """Score of each modality as a source: what the other modalities learn from it, averaged.

  The mean runs over targets. A mean over sources would give the only real modality the lowest
  score, because it learns nothing from the others.

  Args:
    information: [b, m, n] is that of target m about source n, 0 for m = n.
  """
  return jnp.sum(information, axis=1) / (information.shape[1] - 1)


def source_weights(
  score: Float[Array, "B M"], temperature: Float[Array, ""] | float
) -> Float[Array, "B M"]:
  """M softmax(score / temperature): 1 for every source if all score alike."""
  return score.shape[1] * jax.nn.softmax(score / temperature)


def _center(
  x: Float[Array, "B T C"], real: Bool[Array, "B T"]
) -> tuple[Float[Array, "B 1 C"], Float[Array, "B T C"]]:
  """Mean over the real steps, and x minus it (0 at padding).

  Steps that are all equal have that value as their mean, to the last bit.
  """
  real = real[..., None]
  first = jnp.argmax(real, axis=-2, keepdims=True)
  x = jnp.where(real, x, 0)
  first = jnp.take_along_axis(x, first, axis=-2)
  count = jnp.maximum(jnp.sum(real, axis=-2, keepdims=True), 1)
  gap = jnp.where(real, x - first, 0)
  mean = first + jnp.sum(gap, axis=-2, keepdims=True) / count
  return mean, jnp.where(real, x - mean, 0)


def _divergence_terms(q: Float[Array, "*S"], d: Float[Array, "*S"]) -> Float[Array, "*S"]:
  """Terms of KL(q + d || q), each at least 0: q ((1 + r) log(1 + r) - r) with r = d / q.

  `d` sums to 0, so the part that is linear in it changes nothing.
  """
  # Beyond these bounds gradients overflow.
  kept = q > 1e-16
  ratio = jnp.where(kept, d, 0) / jnp.where(kept, q, 1)
  log = jnp.log1p(jnp.maximum(ratio, 1e-6 - 1))
  return jnp.where(kept, q, 0) * ((1 + ratio) * log - ratio)
