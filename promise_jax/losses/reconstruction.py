"""Latent reconstruction: makes a private code keep what the shared one leaves out."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax.types import Average


def latent_reconstruction(
  decoded: Float[Array, "B H"], latent: Float[Array, "B H"], where: Bool[Array, " B"]
) -> Float[Array, ""]:
  """Squared error of `decoded`, relative to the variance of `latent` over the rows.

  The latent gets no gradient, else the encoder would shrink it. Dividing by its variance
  makes the weight of this loss free of scale: the mean as a guess costs 1. Without any row that
  counts it is 0.

  Source: ours, re-derived for Robult (Nguyen, Kamboj, Do, IJCAI 2025) from the bound
  h(H | U, Z) <= E[-log q(H | U, Z)] with a Gaussian q of fixed variance.
  """
  chex.assert_rank((decoded, latent, where), (2, 2, 1))
  latent = jax.lax.stop_gradient(latent)
  rows = where[:, None]
  count = jnp.maximum(jnp.sum(where), 1)
  mean = jnp.sum(latent, axis=0, where=rows, keepdims=True) / count
  variance = jnp.sum(jnp.square(latent - mean), where=rows) / (count * latent.shape[1])
  error = jnp.mean(jnp.square(jnp.where(rows, decoded - latent, 0)), axis=1)
  return Average.of(error, where).value / (variance + 1e-3)
