"""RedCore's weights beta of the imputation losses: larger where imputation is harder.

"RedCore", Sun et al., AAAI 2024, arXiv 2312.10386; equations of the released code:

  mean_m <- (1 - rho) mean_m + rho loss_m         from 0, without bias correction
  RA_m    = (mean(mean) - mean_m) / mean(mean)    > 0: easier to impute than the average
  beta   <- b / |b|, b = max(beta - step RA, floor)

No gradient is needed. The alternative, Adam on a hypergradient (`bilevel`), keeps beta on
the same part of the sphere.
"""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class ControllerState(NamedTuple):
  mean_loss: Float[Array, " M"]  # moving average of the imputation losses
  step: Int[Array, ""]


def relative_advantage(mean_loss: Float[Array, " M"]) -> Float[Array, " M"]:
  """RA of averaged losses. It sums to 0 and is at most 1; all 0 while all losses are 0."""
  mean = jnp.mean(mean_loss)
  return jnp.where(mean > 0, (mean - mean_loss) / jnp.where(mean > 0, mean, 1), 0)


def growing_step(step_size: float, growth: float, growth_every: int) -> optax.Schedule:
  """step_size * growth^(1 + floor(step / growth_every)), as in the released code; growth 1
  is a constant step.

  At most 1e6 (ours), at which beta has long stopped changing: without a limit the step would
  overflow in float32, so would the norm, and all of beta would be 0.
  """
  return lambda step: jnp.minimum(step_size * growth ** (1.0 + step // growth_every), 1e6)


def project_to_sphere(beta: Float[Array, " M"], floor: float) -> Float[Array, " M"]:
  """Raises every entry to `floor` (above 0), then scales to norm 1, which may take an entry
  below `floor` again."""
  raised = jnp.maximum(beta, floor)
  return raised / jnp.linalg.norm(raised)


def controller(
  *,
  rho: float = 0.7,
  step_size: float = 0.1,
  growth: float = 1.0,
  growth_every: int = 500,
  every: int = 3,
  floor: float = 0.1,
) -> optax.GradientTransformationExtraArgs:
  """Turns imputation losses f[M] into updates of beta f[M].

  The averages are updated in every batch, beta in every `every`-th, from the first on. The
  defaults are those of the released code, but its growth is 1.5. Where the extra argument
  `in_batch` bool[M] is False, no row has the modality and its average stays (released code: NaN).
  """
  schedule = growing_step(step_size, growth, growth_every)

  def init(beta):
    return ControllerState(jnp.zeros_like(beta), jnp.zeros((), jnp.int32))

  def update(losses, state, beta, *, in_batch=True):
    mean_loss = jnp.where(in_batch, (1 - rho) * state.mean_loss + rho * losses, state.mean_loss)
    moved = beta - schedule(state.step).astype(beta.dtype) * relative_advantage(mean_loss)
    change = jnp.where(state.step % every == 0, project_to_sphere(moved, floor) - beta, 0)
    return change, ControllerState(mean_loss, state.step + 1)

  return optax.GradientTransformationExtraArgs(init, update)


def projected_adam(learning_rate: float, floor: float = 0.1) -> optax.GradientTransformation:
  """Adam on beta f[M], followed by `project_to_sphere` (ours)."""
  adam = optax.adam(learning_rate)

  def update(grads, state, beta):
    change, state = adam.update(grads, state, beta)
    return project_to_sphere(beta + change, floor) - beta, state

  return optax.GradientTransformation(adam.init, update)
