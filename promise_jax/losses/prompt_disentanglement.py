"""Private prompts that differ from each other and together keep what is shared.

Inspired by the abstract of ProMMA (arXiv 2604.05558), the one part of the paper that
was available: shared prompts decomposed into private ones of a modality. The formulas
are ours. L is the length of a prompt.
"""

import chex
import jax
import jax.numpy as jnp

from promise_jax.losses import contrastive, mutual_information
from promise_jax.types import Array


def orthogonality_loss(private: Array, shared: Array) -> Array:
  """Overlap f[B] of `private` f[B, M, L, H] with `shared` f[L, H] and each other,

    (1 / (M L^2)) (sum_m |P_m S^T|^2 + sum_{m < n} |P_m P_n^T|^2),

  squared Frobenius norms of prompts whose L vectors have length 1: between 0, for
  vectors that are all orthogonal, and (M + 1) / 2. A vector of zeros counts as
  orthogonal; its gradient is finite.
  """
  rows, modalities, length, width = private.shape
  chex.assert_shape(shared, (length, width))
  shared = jnp.broadcast_to(shared[None, None], (rows, 1, length, width))
  unit = contrastive.normalise(jnp.concatenate([private, shared], axis=1))
  overlap = jnp.einsum("bmih,bnjh->bmnij", unit, unit)
  each = jnp.sum(jnp.square(overlap), axis=(3, 4))
  return jnp.sum(jnp.triu(each, 1), axis=(1, 2)) / (modalities * length**2)


def recovery_loss(private: Array, shared: Array, kernel: Array) -> Array:
  """Mean squared error f[B] of LN(`shared`), detached, from the private prompts side by
  side: without it, a private prompt that says nothing would be a decomposition too.

  `private` f[B, M, L, H], `shared` f[L, H], `kernel` f[M * H, H], modalities in order.
  LN has no parameters.
  """
  rows, modalities, length, width = private.shape
  chex.assert_shape(shared, (length, width))
  chex.assert_shape(kernel, (modalities * width, width))
  target = jax.lax.stop_gradient(mutual_information.layer_norm(shared))
  side = jnp.swapaxes(private, 1, 2).reshape(rows, length, modalities * width)
  return jnp.mean(jnp.square(target[None] - side @ kernel), axis=(1, 2))
