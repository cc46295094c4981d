"""The variational bottleneck: Gaussian latents, their price, what stands in for them.

RedCore (Sun et al., AAAI 2024, arXiv 2312.10386); the body of the paper was not
available, the formulas are those of the released code.
"""

import chex
import jax.numpy as jnp

from promise_jax import types
from promise_jax.types import Array, Average


def reparameterise(mean: Array, logvar: Array, noise: Array) -> Array:
  """z = mean + exp(logvar / 2) noise, all f[..., H]."""
  return mean + jnp.exp(0.5 * logvar) * noise


def gaussian_kl(mean: Array, logvar: Array) -> Array:
  """sum_j (mean_j^2 + exp(logvar_j) - 1 - logvar_j) f[...] of f[..., H]: twice the
  Kullback-Leibler divergence from N(0, I), as the released code counts it."""
  return jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar, axis=-1)


def bottleneck_loss(mean: Array, logvar: Array, present: Array, valid: Array) -> types.Average:
  """`divergence` of f[B, M, H], summed over the modalities `present` bool[B, M] and
  averaged over all `valid` bool[B] rows: the pressure on a modality falls with its
  missing rate, as in the released code."""
  chex.assert_rank((mean, logvar, present, valid), (3, 3, 2, 1))
  present = present & valid[:, None]
  # Selected before the exponential: what is absent may hold anything.
  mean = jnp.where(present[..., None], mean, 0)
  logvar = jnp.where(present[..., None], logvar, 0)
  return Average.of(jnp.sum(gaussian_kl(mean, logvar), axis=1), valid)


def imputation_loss(
  imputed: Array, latent: Array, present: Array, *, average: bool = False
) -> types.Average:
  """Squared distance f[M] of `imputed` from `latent` f[B, M, H], over the n_m rows that
  are `present` bool[B, M]; the mean is 0, gradient included, where n_m is 0.

  Summed over the H coordinates as in the released code; with `average` their mean,
  which makes latents of other sizes comparable (ours). No gradient is stopped: the
  latent that is the target learns to be easy to impute.
  """
  chex.assert_rank((imputed, latent, present), (3, 3, 2))
  gap = jnp.where(present[..., None], imputed - latent, 0)
  error = jnp.sum(jnp.square(gap), axis=-1)
  if average:
    error = error / latent.shape[-1]
  return types.Average(jnp.sum(error, axis=0), jnp.sum(present, axis=0).astype(jnp.float32))


def compose_latents(latent: Array, imputed: Array, shown: Array) -> Array:
  """r f[B, M, H]: the latent of what is `shown` bool[B, M], else what was imputed."""
  return jnp.where(shown[..., None], latent, imputed)
