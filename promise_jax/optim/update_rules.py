"""One training step of a stage: update(state, batch, key, step_info) -> (state, metrics)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from promise_jax.method import Stage, StepInfo, TrainState
from promise_jax.optim import bilevel
from promise_jax.types import Array, Batch


def gradient_update(stage: Stage, tx: optax.GradientTransformation) -> Callable:
  """A step on the gradient of `stage.loss`. Metrics are those of the loss and "loss", its
  value before the step."""

  def update(state: TrainState, batch: Batch, key: Array, step_info: StepInfo):
    (loss, (model_state, metrics)), grads = jax.value_and_grad(stage.loss, has_aux=True)(
      state.params, state.model_state, batch, key, step_info
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, model_state, opt_state), {"loss": loss, **metrics}

  return update


def bilevel_update(
  stage: Stage,
  tx: optax.GradientTransformation,
  *,
  outer_loss: Callable[..., Array],
  outer_tx: optax.GradientTransformation,
  split: Callable[[Batch, Array], tuple[Batch, Batch]],
  first_step: int,
) -> Callable:
  """A step of the upper variable on its hypergradient, then a `gradient_update`.

  The look-ahead step on the fit rows is thrown away; the `gradient_update` uses the whole
  batch. The hypergradient goes through the live state of `tx`; the lower level is the loss of the
  stage. The upper variable is model_state["upper"], its optimizer state, of `outer_tx`,
  "upper_opt". Adds the metric "hypergradient", its norm.

  Args:
    outer_loss: (params, held-out rows, key) -> loss of the upper level.
    split: (batch, key) -> (fit rows, held-out rows).
    first_step: The upper variable rests before this step of the run, and in the first step
      of a stage, where the optimizer is fresh and there is no hypergradient.
  """
  lower_update = gradient_update(stage, tx)

  def update(state: TrainState, batch: Batch, key: Array, step_info: StepInfo):
    fit_rows, held_out_rows = split(batch, key)

    def inner(params, upper):
      model_state = state.model_state | {"upper": upper}
      return stage.loss(params, model_state, fit_rows, key, step_info)[0]

    def outer(params, upper):
      del upper
      return outer_loss(params, held_out_rows, key)

    def move(upper, opt_state):
      grads = bilevel.hypergradient(tx, inner, outer, upper, state.params, state.opt_state)
      updates, opt_state = outer_tx.update(grads, opt_state, upper)
      return optax.apply_updates(upper, updates), opt_state, optax.tree.norm(grads)

    def rest(upper, opt_state):
      return upper, opt_state, jnp.zeros(())

    may_move = (step_info.step >= first_step) & (step_info.progress > 0)
    old = state.model_state["upper"], state.model_state["upper_opt"]
    upper, opt_state, norm = jax.lax.cond(may_move, move, rest, *old)
    model_state = state.model_state | {"upper": upper, "upper_opt": opt_state}
    state, metrics = lower_update(state._replace(model_state=model_state), batch, key, step_info)
    return state, metrics | {"hypergradient": norm}

  return update
