"""Losses that make private prompts differ from each other and keep what is shared.

Inspired by the abstract of ProMMA (arXiv 2604.05558), the only part of the paper that was
available to us: shared prompts are decomposed into private prompts of each modality. The
formulas are ours. L is the length of a prompt.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from promise_jax.losses import contrastive, mutual_information


def orthogonality_loss(
  private: Float[Array, "B M L H"], shared: Float[Array, "L H"]
) -> Float[Array, " B"]:
  """Overlap of the private prompts P_m with the shared prompt S and with each other.

    (1 / (M L^2)) (sum_m |P_m S^T|^2 + sum_{m < n} |P_m P_n^T|^2)

  Squared Frobenius norms of prompts whose L vectors have length 1. Between 0 (all vectors
  orthogonal) and (M + 1) / 2. A vector of zeros counts as orthogonal, with finite gradient.
  """
  rows, modalities, length, width = private.shape
  chex.assert_shape(shared, (length, width))
  shared = jnp.broadcast_to(shared[None, None], (rows, 1, length, width))
  unit = contrastive.normalise(jnp.concatenate([private, shared], axis=1))
  overlap = jnp.einsum("bmih,bnjh->bmnij", unit, unit)
  each = jnp.sum(jnp.square(overlap), axis=(3, 4))
  return jnp.sum(jnp.triu(each, 1), axis=(1, 2)) / (modalities * length**2)


def recovery_loss(
  private: Float[Array, "B M L H"], shared: Float[Array, "L H"], kernel: Float[Array, "MH H"]
) -> Float[Array, " B"]:
  """Mean squared error of the detached LN(shared), predicted from the private prompts.

  `kernel` maps the M private prompts side by side. Without this loss, private prompts that
  say nothing would be a decomposition too.
  """
  rows, modalities, length, width = private.shape
  chex.assert_shape(shared, (length, width))
  chex.assert_shape(kernel, (modalities * width, width))
  target = jax.lax.stop_gradient(mutual_information.layer_norm(shared))
  side = jnp.swapaxes(private, 1, 2).reshape(rows, length, modalities * width)
  return jnp.mean(jnp.square(target[None] - side @ kernel), axis=(1, 2))
