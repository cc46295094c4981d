"""Bi-level problems as nested optax updates, and the controller of RedCore's weights.

An upper-level variable (the weights of some losses) steers how the lower level (the
parameters of a network) is trained. `unrolled` is the lower level's update as an
ordinary function of the upper variable, `hypergradient` its derivative; both use the
optimiser state that training has, never a new one: the first step of a fresh Adam is
lr * sign(gradient), whose derivative is zero.

`relative_advantage` needs no derivative: it compares how hard the losses are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from promise_jax.types import Array, PyTree

LevelLoss = Callable[[PyTree, PyTree], Array]  # (params, upper) -> f[]


def inner_step(
  tx: optax.GradientTransformation,
  inner_loss: LevelLoss,
  params: PyTree,
  opt_state: optax.OptState,
  upper: PyTree,
) -> tuple[PyTree, optax.OptState]:
  """One step of `tx` on `inner_loss`, differentiable in `upper`."""
  grads = jax.grad(inner_loss)(params, upper)
  updates, opt_state = tx.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def unrolled_loss(
  tx: optax.GradientTransformation,
  inner_loss: LevelLoss,
  outer_loss: LevelLoss,
  *,
  steps: int = 1,
) -> Callable[[PyTree, PyTree, optax.OptState], Array]:
  """f(upper, params, opt_state) -> the outer loss f[] after `steps` inner steps, which
  are thrown away. If there are several, the backward pass recomputes each: what memory
  holds of it is its params and opt_state."""

  def f(upper, params, opt_state):
    def body(carry, _):
      return inner_step(tx, inner_loss, *carry, upper), None

    # A scan needs no barriers, and without them a single step is not recomputed.
    body = jax.checkpoint(body, prevent_cse=False)
    (ahead, _), _ = jax.lax.scan(body, (params, opt_state), length=steps)
    return outer_loss(ahead, upper)

  return f


def hypergradient(
  tx: optax.GradientTransformation,
  inner_loss: LevelLoss,
  outer_loss: LevelLoss,
  upper: PyTree,
  params: PyTree,
  opt_state: optax.OptState,
  *,
  steps: int = 1,
) -> PyTree:
  """The gradient of `unrolled` in `upper`, through the live `opt_state`.

  An Adam needs eps_root > 0: where a gradient is exactly 0, as in every batch that
  lacks a modality, the derivative of its square root is otherwise infinite and the
  result NaN. Raises ValueError for one step of a fresh Adam; inside jit, where a count
  cannot be looked at, that result is NaN instead.
  """
  counts = adam_counts(opt_state) if steps == 1 else []
  known = [c for c in counts if not isinstance(c, jax.core.Tracer)]
  if any(int(c.min()) == 0 for c in known):
    raise ValueError(
      "the Adam state is fresh (count 0): its first step is lr * sign(gradient), whose "
      "derivative is 0, so there is no hypergradient; pass the state that training "
      "has, after at least one step, or unroll 2 steps or more"
    )
  grads = jax.grad(unrolled_loss(tx, inner_loss, outer_loss, steps=steps))(upper, params, opt_state)
  for count in counts:
    live = jnp.all(count > 0)
    grads = jax.tree.map(lambda g, live=live: jnp.where(live, g, jnp.nan), grads)
  return grads


def adam_counts(opt_state: optax.OptState) -> list[Array]:
  """The step counts i32[] of every Adam in an optimiser state, which it knows by
  optax's `ScaleByAdamState` and by nothing else."""

  def is_adam(node):
    return isinstance(node, optax.ScaleByAdamState)

  nodes = jax.tree.leaves(opt_state, is_leaf=is_adam)
  return [node.count for node in nodes if is_adam(node)]


def sgd_hypergradient(
  inner_loss: LevelLoss,
  outer_loss: LevelLoss,
  learning_rate: float,
  upper: PyTree,
  params: PyTree,
) -> PyTree:
  """The hypergradient of one step of gradient descent in closed form.

  With p' = p - lr g(p, u): d outer(p', u)/du = -lr (dg/du)^T d outer/dp' + the direct
  term: one vector-Jacobian product, no Hessian.
  """
  grads, pull = jax.vjp(lambda u: jax.grad(inner_loss)(params, u), upper)
  stepped = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
  cotangent, direct = jax.grad(outer_loss, argnums=(0, 1))(stepped, upper)
  (mixed,) = pull(cotangent)
  return jax.tree.map(lambda d, m: d - learning_rate * m, direct, mixed)


def advantage_from_ema(ema: Array) -> Array:
  """RA f[M] = (mean(ema) - ema) / mean(ema) of averaged losses f[M]; 0 while all are 0.

  RedCore's released code. It sums to 0, is at most 1, and is positive for a modality
  that is easier to impute than the average.
  """
  mean = jnp.mean(ema)
  return jnp.where(mean > 0, (mean - ema) / jnp.where(mean > 0, mean, 1), 0)


def advantage_of_losses(rho: float) -> optax.GradientTransformationExtraArgs:
  """Losses f[M] in, relative advantage out; the state is their moving average.

  ema <- (1 - rho) ema + rho loss, from 0 and without bias correction: `rho` is the
  weight of the NEW value. Where the extra argument `seen` bool[M] is False (no row of
  the batch had the modality) the average stays.
  """

  def init(upper):
    return jnp.zeros_like(upper)

  def update(losses, ema, upper=None, *, seen=True, **extra):
    del upper, extra
    ema = jnp.where(seen, (1 - rho) * ema + rho * losses, ema)
    return advantage_from_ema(ema), ema

  return optax.GradientTransformationExtraArgs(init, update)


def growing_weight(size: float, growth: float, period: int) -> optax.Schedule:
  """A step size that is multiplied by `growth` every `period` steps, at step 0 already:
  size * growth^(1 + floor(step / period)), as in RedCore's released code. With growth 1
  it stays `size`. It ends at 1e6 (ours), long after beta stands in a corner: a norm
  that overflows would make all of beta 0."""
  return lambda step: jnp.minimum(size * growth ** (1.0 + step // period), 1e6)


def project_to_sphere(floor: float) -> optax.GradientTransformation:
  """The last link of a chain: the update after which every entry is at least `floor`
  (above 0) before the whole is scaled to norm 1, so that one can end below `floor`."""

  def update(updates, state, upper):
    raised = jnp.maximum(upper + updates, floor)
    return raised / jnp.linalg.norm(raised) - upper, state

  return optax.GradientTransformation(lambda upper: optax.EmptyState(), update)


def relative_advantage(
  *,
  rho: float = 0.7,
  size: float = 0.1,
  growth: float = 1.0,
  period: int = 500,
  every: int = 3,
  floor: float = 0.1,
) -> optax.GradientTransformationExtraArgs:
  """RedCore's controller of beta f[M], an optax transformation of imputation losses.

  From the released code: the averages follow every batch; every `every`-th one, from
  the first on, beta <- b / |b| with b = max(beta - step * RA, floor). The authors have
  growth 1.5. The first link of its state is the average of the losses.
  """
  return optax.chain(
    advantage_of_losses(rho),
    optax.scale_by_learning_rate(growing_weight(size, growth, period)),
    optax.conditionally_mask(project_to_sphere(floor), lambda step: step % every == 0),
  )


def projected_adam(learning_rate: float, floor: float = 0.1) -> optax.GradientTransformation:
  """Adam on beta f[M] from its hypergradient, with the same floor and sphere (ours)."""
  return optax.chain(optax.adam(learning_rate), project_to_sphere(floor))
