"""Builders of update(state, batch, key, clock) -> (state, metrics) for a stage."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from promise_jax.method import Stage, StepInfo, TrainState
from promise_jax.optim import bilevel
from promise_jax.types import Array, Batch


def gradient_update(stage: Stage, tx: optax.GradientTransformation) -> Callable:
  """One step of gradient descent on `stage.loss`.

  The metrics are those of the loss, each a `Mean`, and "loss" f[] itself, taken before
  the step.
  """

  def update(state: TrainState, batch: Batch, key: Array, clock: StepInfo):
    (loss, (model_state, metrics)), grads = jax.value_and_grad(stage.loss, has_aux=True)(
      state.params, state.model_state, batch, key, clock
    )
    steps, opt = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, steps)
    return TrainState(params, model_state, opt), {"loss": loss, **metrics}

  return update


def bilevel_update(
  stage: Stage,
  tx: optax.GradientTransformation,
  *,
  outer_loss: Callable[..., Array],
  outer_tx: optax.GradientTransformation,
  split: Callable[[Batch, Array], tuple[Batch, Batch]],
  after: int,
) -> Callable:
  """One step of the upper variable, then one of the parameters.

  `split(batch, key)` -> (fit rows, held-out rows). The hypergradient of
  `outer_loss(params, held rows, key)` f[] is taken through one step of `tx` on
  `stage.loss` of the fit rows, with the live optimiser state, and thrown away; then
  `outer_tx` moves model_state["upper"] (its state is "upper_opt") and `gradient_update`
  uses the whole batch. Before step `after` of the run, and in the first of a stage,
  only the latter happens: a fresh optimiser has no hypergradient. Adds the metric
  "hypergradient", its norm f[].
  """
  inner = gradient_update(stage, tx)

  def update(state: TrainState, batch: Batch, key: Array, clock: StepInfo):
    fit_rows, held_rows = split(batch, key)

    def inner_loss(params, upper):
      return stage.loss(params, state.model_state | {"upper": upper}, fit_rows, key, clock)[0]

    def outer(params, upper):
      del upper
      return outer_loss(params, held_rows, key)

    def move(upper, opt):
      grads = bilevel.hypergradient(tx, inner_loss, outer, upper, state.params, state.opt_state)
      steps, opt = outer_tx.update(grads, opt, upper)
      return optax.apply_updates(upper, steps), opt, optax.tree.norm(grads)

    def rest(upper, opt):
      return upper, opt, jnp.zeros(())

    moves = (clock.step >= after) & (clock.progress > 0)
    upper, opt, norm = jax.lax.cond(
      moves, move, rest, state.model_state["upper"], state.model_state["upper_opt"]
    )
    model_state = state.model_state | {"upper": upper, "upper_opt": opt}
    state, metrics = inner(state._replace(model_state=model_state), batch, key, clock)
    return state, metrics | {"hypergradient": norm}

  return update
