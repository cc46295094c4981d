"""RedCore's variational bottleneck: the cost of Gaussian latents and of imputing them.

"RedCore", Sun et al., AAAI 2024, arXiv 2312.10386; formulas of the released code.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax.types import Average


def bottleneck_loss(
  mean: Float[Array, "B M H"],
  logvar: Float[Array, "B M H"],
  present: Bool[Array, "B M"],
  row_mask: Bool[Array, " B"],
) -> Average:
  """sum_j (mean_j^2 + exp(logvar_j) - 1 - logvar_j), twice the divergence from N(0, I), summed over
  present modalities, averaged over all rows of `row_mask`.

  So the pressure on a modality falls with its missing rate, as in the released code.
  """
  present = present & row_mask[:, None]
  # Selected before the exponential: what is absent may hold anything.
  mean = jnp.where(present[..., None], mean, 0)
  logvar = jnp.where(present[..., None], logvar, 0)
  divergence = jnp.sum(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar, axis=-1)
  return Average.of(jnp.sum(divergence, axis=1), row_mask)


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
  impute. The released code sums over the H coordinates; their `average` makes latents of different
  sizes comparable (ours).
  """
  gap = jnp.where(present[..., None], imputed - latent, 0)
  error = jnp.sum(jnp.square(gap), axis=-1)
  if average:
    error = error / latent.shape[-1]
  return Average(jnp.sum(error, axis=0), jnp.sum(present, axis=0).astype(jnp.float32))
