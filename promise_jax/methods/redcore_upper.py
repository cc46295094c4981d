"""RedCore's upper level: how the weights beta of the imputation losses are set.

"relative_advantage" is that of the released code (`optim.relative_advantage`). Ours are
"hypergradient", Adam on the derivative of the supervised loss of a held-out quarter of the batch,
one training step ahead (`optim.bilevel`), and "none", all equal.

The model_state of RedCore is that of the upper level: "upper" is beta f[M], "controller" the
averages, "upper_opt" the state of the hypergradient's Adam.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from promise_jax.method import Stage
from promise_jax.methods import common
from promise_jax.optim import optimizer, relative_advantage, update_rules
from promise_jax.types import Average, Batch

MODULE_CLIP = 1.0  # of the released code
HELD_OUT = 0.25  # fraction of the batch


def init_state(config, num_modalities: int) -> dict:
  """The model_state before the first step. The released code starts beta at ones, which its
  first step scales to norm 1."""
  scale = 1 if config.upper == "relative_advantage" else num_modalities**-0.5
  beta = jnp.full((num_modalities,), scale, jnp.float32)
  state = {"upper": beta, "controller": make_controller(config).init(beta)}
  if config.upper == "hypergradient":
    state["upper_opt"] = make_adam(config).init(beta)
  return state


def make_controller(config) -> optax.GradientTransformationExtraArgs:
  return relative_advantage.controller(
    step_size=config.beta_step, growth=config.beta_growth, every=config.beta_every
  )


def make_adam(config) -> optax.GradientTransformation:
  return relative_advantage.projected_adam(config.hypergradient_lr)


def move_beta(config, names: tuple[str, ...], model_state: dict, losses: Average):
  """Moves beta by the imputation losses f[M] of a batch, before it weighs them.

  Only "relative_advantage" moves it here; the averages are updated for the log in any case.

  Returns:
    The new model_state, and metrics for each modality: beta, relative advantage and loss;
    "moved" is the distance of beta from equal parts.
  """
  beta = model_state["upper"]
  change, state = make_controller(config).update(
    jax.lax.stop_gradient(losses.value), model_state["controller"], beta, in_batch=losses.count > 0
  )
  if config.upper == "relative_advantage":
    beta = optax.apply_updates(beta, change)
  advantage = relative_advantage.relative_advantage(state.mean_loss)
  metrics = {}
  if config.upper != "none":
    metrics["moved"] = jnp.linalg.norm(beta - jnp.full_like(beta, len(beta) ** -0.5))
  for i, name in enumerate(names):
    metrics |= {f"beta/{name}": beta[i], f"advantage/{name}": advantage[i]}
    metrics[f"imputation/{name}"] = Average(losses.total[i], losses.count[i])
  return model_state | {"upper": beta, "controller": state}, metrics


def make_update(config, outer_loss, stage: Stage, tx: optax.GradientTransformation):
  """The update rule of the stage. `outer_loss` (params, batch, key) is the hypergradient's."""
  if config.as_released:
    tx = optimizer.clip_by_module(tx, MODULE_CLIP)
  if config.upper != "hypergradient":
    return update_rules.gradient_update(stage, tx)
  return update_rules.bilevel_update(
    stage,
    tx,
    outer_loss=outer_loss,
    outer_tx=make_adam(config),
    split=hold_out,
    first_step=config.hypergradient_from,
  )


def hold_out(batch: Batch, key: Key[Array, ""]) -> tuple[Batch, Batch]:
  """The batch without a random quarter of its rows, and that quarter. Rows are masked and not
  removed, so that shapes stay."""
  keys = common.row_keys(key, batch.id)
  held_out = jax.vmap(lambda k: jax.random.uniform(k) < HELD_OUT)(keys) & batch.row_mask
  fit_mask = batch.row_mask & ~held_out
  return batch.replace(row_mask=fit_mask), batch.replace(row_mask=held_out)
