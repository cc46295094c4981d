"""Latent reconstruction: what the private code must add to the shared one."""

import chex
import jax
import jax.numpy as jnp

from promise_jax.types import Array, Average


def latent_reconstruction(decoded: Array, latent: Array, where: Array) -> Array:
  """Squared error f[] of `decoded` f[B, H] against the detached `latent` f[B, H],
  relative to the variance of `latent` over the rows `where` bool[B].

  Ours, reconstructed for Robult (Nguyen, Kamboj, Do, IJCAI 2025) from the variational
  bound h(H | U, Z) <= E[-log q(H | U, Z)] with a Gaussian q of fixed variance. The
  target is detached, else the encoder shrinks it; dividing by its variance makes the
  weight free of scale. 0 where no row counts.
  """
  chex.assert_rank((decoded, latent, where), (2, 2, 1))
  latent = jax.lax.stop_gradient(latent)
  rows = where[:, None]
  count = jnp.maximum(jnp.sum(where), 1)
  mean = jnp.sum(latent, axis=0, where=rows, keepdims=True) / count
  variance = jnp.sum(jnp.square(latent - mean), where=rows) / (count * latent.shape[1])
  error = jnp.mean(jnp.square(jnp.where(rows, decoded - latent, 0)), axis=1)
  return Average.of(error, where).value / (variance + 1e-3)


def cross_covariance(shared: Array, private: Array, where: Array) -> Array:
  """Squared Frobenius norm f[] of the covariance of `shared` f[B, H] with `private`
  f[B, D] over the rows `where` bool[B]: an optional penalty (ours, off by default).
  """
  rows = where[:, None]
  count = jnp.maximum(jnp.sum(where), 1)

  def centre(x):
    mean = jnp.sum(x, axis=0, where=rows, keepdims=True) / count
    return jnp.where(rows, x - mean, 0)

  return jnp.sum(jnp.square(centre(shared).T @ centre(private) / count))
