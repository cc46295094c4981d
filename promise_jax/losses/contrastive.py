"""Contrast between two sets of codes of the same rows, and its two diagnostics."""

import chex
import jax
import jax.numpy as jnp

from promise_jax.types import Array


def normalise(x: Array) -> Array:
  """Unit vectors along the last axis; a zero vector stays zero, its gradient finite."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def affinity_contrast(
  anchor: Array,
  candidate: Array,
  affinity: Array,
  positive: Array,
  where: Array,
  temperature: float,
) -> Array:
  """Contrast f[B] of `anchor` f[B, D] against `candidate` f[B, D] (unit vectors).

  Ours, re-derived from what is known of Robult (Nguyen, Kamboj, Do, IJCAI 2025). With
  e_nk = exp(a_n . b_k / temperature) and `affinity` A, `positive` P f[B, B] in [0, 1]
  with ones on the diagonal,

    D_nk = e_nk + sum_{l != n, l != k} (1 - A_nl) e_nl
    l_n  = -(1 / sum_k P_nk) sum_k P_nk log(e_nk / D_nk).

  Candidates outside `where` bool[B] are left out; the caller leaves out anchors. A = I
  gives InfoNCE, label equality gives cross-modal SupCon without the other positives in
  the denominator.
  """
  chex.assert_equal_shape((anchor, candidate))
  similarity = anchor @ candidate.T / temperature
  similarity = jnp.where(where[None, :], similarity, -jnp.inf)
  peak = jax.lax.stop_gradient(jnp.max(similarity, axis=1, keepdims=True))
  similarity = similarity - jnp.where(jnp.isfinite(peak), peak, 0)
  similarity = jnp.where(where[None, :], similarity, 0)
  e = jnp.where(where[None, :], jnp.exp(similarity), 0)
  # The sum over l != n, k plus e_nk is T_n + A_nk e_nk, because A_nn = 1.
  negatives = jnp.sum((1 - affinity) * e, axis=1, keepdims=True)
  log_ratio = similarity - jnp.log(negatives + affinity * e + 1e-12)
  weight = jnp.where(where[None, :], positive, 0)
  return -jnp.sum(weight * log_ratio, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)


def alignment(a: Array, b: Array) -> Array:
  """Squared distance f[B] of matched unit vectors f[B, D]; small is aligned."""
  return jnp.sum(jnp.square(a - b), axis=-1)


def uniformity(x: Array) -> Array:
  """log E exp(-2 |x - x'|^2) f[] over pairs of different rows of `x` f[B, D]; lower is
  more evenly spread on the sphere."""
  square = jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
  rows = x.shape[0]
  different = ~jnp.eye(rows, dtype=bool)
  total = jnp.sum(jnp.where(different, jnp.exp(-2 * square), 0))
  return jnp.log(total / (rows * (rows - 1)))
