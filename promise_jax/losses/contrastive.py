"""Contrast between two sets of codes of the same rows, and two diagnostics of codes."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def normalise(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
  """Unit vectors along the last axis. A zero vector stays zero, its gradient finite."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, 1e-12))


def affinity_contrast(
  anchor: Float[Array, "B D"],
  candidate: Float[Array, "B D"],
  affinity: Float[Array, "B B"],
  positive: Float[Array, "B B"],
  where: Bool[Array, " B"],
  temperature: float,
) -> Float[Array, " B"]:
  """Contrast of each anchor with all candidates, with soft positives and negatives.

  With e_nk = exp(anchor_n . candidate_k / temperature), A the affinity and P the
  positives,

    D_nk = e_nk + sum_{l != n, l != k} (1 - A_nl) e_nl
    l_n  = -(1 / sum_k P_nk) sum_k P_nk log(e_nk / D_nk).

  A = P = I gives InfoNCE; A = P = equality of labels gives the cross-modal SupCon
  without the other positives in the denominator.

  Args:
    anchor: unit vectors.
    candidate: unit vectors; row n belongs to anchor n.
    affinity: in [0, 1], 1 on the diagonal; 1 takes a candidate out of the negatives.
    positive: in [0, 1], 1 on the diagonal.
    where: candidates that count. The caller leaves out anchors.
    temperature: divides the similarities.

  Source: ours, re-derived from what is known of Robult (Nguyen, Kamboj, Do, IJCAI 2025).
  """
  chex.assert_equal_shape((anchor, candidate))
  similarity = anchor @ candidate.T / temperature
  similarity = jnp.where(where[None, :], similarity, -jnp.inf)
  peak = jax.lax.stop_gradient(jnp.max(similarity, axis=1, keepdims=True))
  similarity = similarity - jnp.where(jnp.isfinite(peak), peak, 0)
  similarity = jnp.where(where[None, :], similarity, 0)
  e = jnp.where(where[None, :], jnp.exp(similarity), 0)
  # D_nk = e_nk + sum over l != n, k is this sum plus A_nk e_nk, because A_nn = 1.
  negatives = jnp.sum((1 - affinity) * e, axis=1, keepdims=True)
  log_ratio = similarity - jnp.log(negatives + affinity * e + 1e-12)
  weight = jnp.where(where[None, :], positive, 0)
  return -jnp.sum(weight * log_ratio, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)


def alignment(a: Float[Array, "B D"], b: Float[Array, "B D"]) -> Float[Array, " B"]:
  """Squared distance of matched unit vectors: small is aligned."""
  return jnp.sum(jnp.square(a - b), axis=-1)


def uniformity(x: Float[Array, "B D"]) -> Float[Array, ""]:
  """log E exp(-2 |x - x'|^2) over pairs of rows: low is evenly spread on the sphere."""
  square = jnp.sum(jnp.square(x[:, None] - x[None]), axis=-1)
  num_rows = x.shape[0]
  total = jnp.sum(jnp.where(~jnp.eye(num_rows, dtype=bool), jnp.exp(-2 * square), 0))
  return jnp.log(total / (num_rows * (num_rows - 1)))
