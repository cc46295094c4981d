"""Derivatives through a training step: how an upper variable steers the parameters.

The upper variable (weights of losses, say) enters the inner loss. The parameters take a step on
that loss, and the outer loss is that of the parameters after the step:

  params' = params - tx(d inner(params, upper) / d params)
  hypergradient = d outer(params', upper) / d upper

Pass the optimizer state of the training, never a fresh one: the first
step of a fresh Adam is lr * sign(gradient), whose derivative is 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from promise_jax.types import PyTree

LevelLoss = Callable[[PyTree, PyTree], Float[Array, ""]]  # (params, upper) -> loss


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
  num_steps: int = 1,
) -> Callable[[PyTree, PyTree, optax.OptState], Float[Array, ""]]:
  """Returns f(upper, params, opt_state): the outer loss after `num_steps` inner steps.

  The backward pass recomputes each step, so memory holds params and opt_state per step and
  no activations.
  """

  def unrolled(upper, params, opt_state):
    def body(carry, _):
      return inner_step(tx, inner_loss, *carry, upper), None

    # In a scan nothing is shared between the passes, so no barrier is needed.
    body = jax.checkpoint(body, prevent_cse=False)
    (stepped, _), _ = jax.lax.scan(body, (params, opt_state), length=num_steps)
    return outer_loss(stepped, upper)

  return unrolled


def hypergradient(
  tx: optax.GradientTransformation,
  inner_loss: LevelLoss,
  outer_loss: LevelLoss,
  upper: PyTree,
  params: PyTree,
  opt_state: optax.OptState,
  *,
  num_steps: int = 1,
) -> PyTree:
  """The gradient of `unrolled_loss` in `upper`.

  An Adam needs eps_root > 0: where a gradient is exactly 0, as in a batch that lacks a
  modality, its square root has an infinite derivative and the result is NaN.

  Raises:
    ValueError: `num_steps` is 1 and Adam is fresh. Under jit, where the count of the state is
      not known, the result is NaN instead.
  """
  counts = adam_step_counts(opt_state) if num_steps == 1 else []
  concrete = [c for c in counts if not isinstance(c, jax.core.Tracer)]
  if any(int(c.min()) == 0 for c in concrete):
    raise ValueError(
      "the Adam state is fresh (count 0): its first step is lr * sign(gradient), whose "
      "derivative is 0, so there is no hypergradient; pass the state that training "
      "has, after at least one step, or unroll 2 steps or more"
    )
  loss = unrolled_loss(tx, inner_loss, outer_loss, num_steps=num_steps)
  grads = jax.grad(loss)(upper, params, opt_state)
  for count in counts:
    is_used = jnp.all(count > 0)
    grads = jax.tree.map(lambda g, is_used=is_used: jnp.where(is_used, g, jnp.nan), grads)
  return grads


def adam_step_counts(opt_state: optax.OptState) -> list[Array]:
  """The step count of every `optax.ScaleByAdamState` in an optimizer state."""

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
  """The hypergradient of one step of plain SGD in closed form, to test `hypergradient` with.

  d outer/d upper - lr (d grad/d upper)^T d outer/d params', grad that of the inner loss: one
  vector-Jacobian product.
  """
  grads, pull_back = jax.vjp(lambda u: jax.grad(inner_loss)(params, u), upper)
  stepped = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
  cotangent, direct = jax.grad(outer_loss, argnums=(0, 1))(stepped, upper)
  (mixed,) = pull_back(cotangent)
  return jax.tree.map(lambda d, m: d - learning_rate * m, direct, mixed)
