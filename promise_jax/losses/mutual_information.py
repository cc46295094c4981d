"""How much a cross-attention says of its target: mutual information of soft codes.

Inspired by the abstract of ProMMA (arXiv 2604.05558), the one part of the paper that
was available: weights of prompts by the mutual information of cross-attention outputs.
The estimators and all formulas are ours. Information is in nats. It is of one row and
its T steps, needs no other rows, and over few steps is biased upwards; a source that
says the same at every step has exactly 0.
"""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp

from promise_jax.types import Array


def soft_codes(x: Array, kernel: Array, temperature: float) -> Array:
  """Each step's distribution f[B, T, C] over C codes: softmax(LN(x) kernel /
  temperature), of `x` f[B, T, H] and `kernel` f[H, C].

  LN is over H and has no parameters; a step of zeros stays zeros, all codes alike.
  Steps that are not real must hold finite numbers.
  """
  logits = layer_norm(x) @ kernel / temperature
  return jax.nn.softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def layer_norm(x: Array) -> Array:
  """(x - mean) / sqrt(variance + 1e-5) over the last axis of f[..., H]."""
  variance = jnp.var(x, axis=-1, keepdims=True)
  return jax.nn.standardize(x, variance=variance, epsilon=1e-5)


def mutual_information(alpha: Array, beta: Array, real: Array | None = None) -> Array:
  """I f[B] = sum_ij J_ij log(J_ij / (J_i. J_.j)), J = mean_t alpha_t beta_t^T.

  `alpha` and `beta` f[B, T, C] are distributions over C codes at the same steps, `real`
  bool[B, T] tells the steps that count (None: all). 0 <= I <= log C; 0 where no step
  counts. Gradients are finite at probabilities of 0 too.
  """
  chex.assert_equal_shape((alpha, beta))
  if real is None:
    real = jnp.ones(alpha.shape[:2], bool)
  p, alpha = _centre(alpha, real)
  q, beta = _centre(beta, real)
  count = jnp.maximum(jnp.sum(real, axis=1), 1)[:, None, None]
  # J - p q^T is a covariance: nothing cancels where nothing varies.
  highest = jax.lax.Precision.HIGHEST
  excess = jnp.einsum("bti,btj->bij", alpha, beta, precision=highest) / count
  product = jnp.swapaxes(p, 1, 2) * q
  return jnp.maximum(jnp.sum(_divergence(product, excess), axis=(1, 2)), 0)


def source_scores(information: dict[tuple[str, str], Array], names: Sequence[str]) -> Array:
  """Score f[B, M] of each of `names` as a source: mean of what the other modalities
  hear from it.

  `information` {(target, source): f[B]} has every pair of different names. By source,
  not by target: a target that is the only real one hears nothing from the others, and
  would get the lowest score. Raises ValueError for less than two names or other pairs.
  """
  pairs = {(m, n) for m in names for n in names if m != n}
  if not pairs or set(information) != pairs:
    raise ValueError(
      f"information of each (target, source) of at least two modalities is expected, "
      f"found {sorted(information)} for {', '.join(names)}"
    )
  scores = [sum(information[m, n] for m in names if m != n) / (len(names) - 1) for n in names]
  return jnp.stack(scores, axis=1)


def source_weights(score: Array, temperature: Array) -> Array:
  """M softmax(score / temperature) f[B, M] of `score` f[B, M]: 1 each if all score
  alike."""
  return score.shape[1] * jax.nn.softmax(score / temperature)


def attention_information(
  weight: Array, real: Array | None = None, sees: Array | None = None
) -> Array:
  """I f[B] = mean_heads mean_i KL(A_i || mean_i A_i) of attention A = `weight`
  f[B, N, Q, T] of N heads, less the same of even attention under the mask, at least 0:
  do queries look at different places, more than the mask makes them?

  `real` bool[B, Q] tells the queries that count (None: all; 0 where none does), `sees`
  bool[B or 1, Q or 1, T] what each may attend to (None: everything; a query that sees
  nothing attends to all alike). Without the baseline a causal mask alone has
  information. No parameters; 0 for keys that are all the same.
  """
  rows, _, queries, keys = weight.shape
  if real is None:
    real = jnp.ones((rows, queries), bool)
  found = jnp.mean(_spread(weight, real), axis=1)
  if sees is None:
    return found
  sees = jnp.broadcast_to(sees, (rows, queries, keys))
  sees = sees | ~jnp.any(sees, axis=2, keepdims=True)
  even = sees / jnp.sum(sees, axis=2, keepdims=True)
  return jnp.maximum(found - _spread(even[:, None], real)[:, 0], 0)


def _spread(weight: Array, real: Array) -> Array:
  """mean_i KL(A_i || mean_i A_i) f[B, N] over the `real` i, of A f[B, N, Q, T]."""
  mean, gap = _centre(weight, real[:, None])
  total = jnp.sum(_divergence(jnp.broadcast_to(mean, gap.shape), gap), axis=(2, 3))
  return jnp.maximum(total / jnp.maximum(jnp.sum(real, axis=1), 1)[:, None], 0)


def _centre(x: Array, real: Array) -> tuple[Array, Array]:
  """Mean f[..., 1, C] of f[..., T, C] over the `real` [..., T], and what is left, 0
  where not real. Equal steps have that value as their mean to the last bit."""
  real = real[..., None]
  first = jnp.argmax(real, axis=-2, keepdims=True)
  x = jnp.where(real, x, 0)
  first = jnp.take_along_axis(x, first, axis=-2)
  count = jnp.maximum(jnp.sum(real, axis=-2, keepdims=True), 1)
  gap = jnp.where(real, x - first, 0)
  mean = first + jnp.sum(gap, axis=-2, keepdims=True) / count
  return mean, jnp.where(real, x - mean, 0)


def _divergence(q: Array, d: Array) -> Array:
  """Terms q ((1 + r) log(1 + r) - r), r = d / q, of KL(q + d || q): `d` sums to 0, so
  its part changes nothing, and with it no term is below 0. Terms of q below 1e-16 are
  left out and 1 + r is kept above 1e-6 in the logarithm: beyond, gradients overflow."""
  there = q > 1e-16
  ratio = jnp.where(there, d, 0) / jnp.where(there, q, 1)
  log = jnp.log1p(jnp.maximum(ratio, 1e-6 - 1))
  return jnp.where(there, q, 0) * ((1 + ratio) * log - ratio)
