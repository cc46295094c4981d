"""RedCore's variational bottleneck: Gaussian latents, their cost, and how to impute them.

"RedCore", Sun et al., AAAI 2024, arXiv 2312.10386; formulas of the released code.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax.types import Average


def reparameterise(mean: Float[Array, "..."], logvar: Float[Array, "..."], noise) -> Array:
  """z = mean + exp(logvar / 2) noise."""
  return mean + jnp.exp(0.5 * logvar) * noise


def gaussian_kl(mean: Float[Array, "*B H"], logvar: Float[Array, "*B H"]) -> Float[Array, "*B"]:
  """sum_j (mean_j^2 + exp(logvar_j) - 1 - logvar_j): twice the divergence from N(0, I), as the
  released code counts it."""
  return jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar, axis=-1)


def bottleneck_loss(
  mean: Float[Array, "B M H"],
  logvar: Float[Array, "B M H"],
  present: Bool[Array, "B M"],
  row_mask: Bool[Array, " B"],
) -> Average:
  """`gaussian_kl` summed over present modalities, averaged over all rows of `row_mask`.

  So the pressure on a modality falls with its missing rate, as in the released code.
  """
  present = present & row_mask[:, None]
  # Selected before the exponential: what is absent may hold anything.
  mean = jnp.where(present[..., None], mean, 0)
  logvar = jnp.where(present[..., None], logvar, 0)
  return Average.of(jnp.sum(gaussian_kl(mean, logvar), axis=1), row_mask)


def imputation_loss(
  imputed: Float[Array, "B M H"],
  latent: Float[Array, "B M H"],
  present: Bool[Array, "B M"],
  *,
  average: bool = False,
) -> Average:
  """Squared distance of imputed from true latents for each modality, f[M].

  The mean is over the rows where the modality is present; without any it is 0, and so is its
  gradient. No gradient is stopped here: the caller detaches `latent`, or it learns to be easy to
  impute.

  Args:
    imputed: From the latents of the other modalities.
    latent: The target.
    present: Where there is a target.
    average: Average over the H coordinates, which makes latents of different sizes
      comparable (ours). The released code sums them.
  """
  gap = jnp.where(present[..., None], imputed - latent, 0)
  error = jnp.sum(jnp.square(gap), axis=-1)
  if average:
    error = error / latent.shape[-1]
  return Average(jnp.sum(error, axis=0), jnp.sum(present, axis=0).astype(jnp.float32))


def compose_latents(
  latent: Float[Array, "B M H"], imputed: Float[Array, "B M H"], visible: Bool[Array, "B M"]
) -> Float[Array, "B M H"]:
  """The latent of what is visible, the imputed one of the rest."""
  return jnp.where(visible[..., None], latent, imputed)
