"""Builders of update(state, batch, key, clock) -> (state, metrics) for a stage."""

from collections.abc import Callable

import jax
import optax

from promise_jax.types import Array, Batch, Clock, Stage, State


def gradient_update(stage: Stage, tx: optax.GradientTransformation) -> Callable:
  """One step of gradient descent on `stage.loss`.

  The metrics are those of the loss, each a `Mean`, and "loss" f[] itself, taken before
  the step.
  """

  def update(state: State, batch: Batch, key: Array, clock: Clock):
    (loss, (aux, metrics)), grads = jax.value_and_grad(stage.loss, has_aux=True)(
      state.params, state.aux, batch, key, clock
    )
    steps, opt = tx.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, steps)
    return State(params, aux, opt), {"loss": loss, **metrics}

  return update
