"""AdamW from a few settings: learning rate schedule, clipping, weight decay, frozen leaves."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from promise_jax.checks import check_fields, check_that
from promise_jax.optim import param_paths
from promise_jax.types import PyTree

# Added inside Adam's square root; its effect on a step is that of eps = 1e-8. Without it
# the derivative of a step is infinite where a gradient is exactly 0, and a
# `bilevel.hypergradient` NaN.
EPS_ROOT = 1e-16
# Last word of the names of leaves without weight decay, whatever their rank: layers that
# are stacked for a scan have biases and scales of rank 2.
UNDECAYED = ("bias", "scale", "prompts")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """AdamW."""

  lr: float = 3e-3  # the highest learning rate
  weight_decay: float = 0.3  # of matrices only
  warmup: float = 0.05  # part of a stage's steps in which "cosine" rises from 0
  # "linear" is that of RedCore's released code. MPLMM's released code has "constant" and
  # also cuts the rate when validation stands still, which is not reproduced.
  schedule: Literal["cosine", "linear", "constant"] = "cosine"
  clip: float = 1.0  # bound on the global norm of the gradient

  def __post_init__(self):
    check_fields(self, "train.optim", weight_decay=0, warmup=0)
    check_that("train.optim.lr", self.lr, self.lr > 0, "be above 0")
    check_that("train.optim.clip", self.clip, self.clip > 0, "be above 0")
    check_that("train.optim.warmup", self.warmup, self.warmup < 1, "be below 1")


def make_optimizer(
  config: OptimConfig, num_steps: int, trainable: tuple[str, ...] = (".*",)
) -> optax.GradientTransformation:
  """The optimizer of one training stage of `num_steps` updates, over which the schedule runs.

  `trainable` are regexes on parameter paths. Leaves that none of them matches are frozen: they
  have no update, no decay and no moments, and their gradient does not count in the clip.
  """
  adamw = optax.chain(
    clip_by_global_norm(config.clip),
    optax.adamw(
      learning_rate_schedule(config, num_steps),
      eps_root=EPS_ROOT,
      weight_decay=config.weight_decay,
      mask=weight_decay_mask,
    ),
  )
  if tuple(trainable) == (".*",):
    return adamw
  return optax.partition(
    {"train": adamw, "freeze": optax.set_to_zero()},
    lambda params: param_paths.label_trainable(params, trainable),
  )


def learning_rate_schedule(config: OptimConfig, num_steps: int) -> optax.Schedule:
  """The learning rate as a function of the update, 0 to num_steps - 1."""
  num_steps = max(num_steps, 2)
  if config.schedule == "constant":
    return optax.constant_schedule(config.lr)
  if config.schedule == "linear":
    # Of 60 epochs, 30 at the full rate; it then falls by equal steps to 1 / 31 in the last.
    return lambda step: config.lr * (1 - jnp.maximum(0, 60 * step // num_steps - 29) / 31)
  warmup = min(max(1, round(config.warmup * num_steps)), num_steps - 1)
  return optax.warmup_cosine_decay_schedule(0.0, config.lr, warmup, num_steps)


def weight_decay_mask(params: PyTree) -> PyTree:
  """True for matrices, but not for stacked biases and scales nor for prompts."""

  def decays(path, x):
    # "gate_bias" is a bias.
    return x.ndim > 1 and param_paths.path_to_string(path[-1:]).split("_")[-1] not in UNDECAYED

  return jax.tree_util.tree_map_with_path(decays, params)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
  """Scales a gradient that is longer than `max_norm` down to that norm.

  In place of `optax.clip_by_global_norm`, whose derivative is NaN where the whole gradient
  is 0, as in a batch without labelled rows: `bilevel.hypergradient` differentiates the clip.
  """

  def update(updates, state, params=None):
    del params
    square = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(updates))
    is_short = square <= max_norm * max_norm  # False for NaN, which then spreads to all leaves
    root = jax.lax.rsqrt(jnp.where(is_short, 1.0, square))
    scale = jnp.where(is_short, 1.0, max_norm) * root
    return jax.tree.map(lambda x: x * scale, updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_by_module(
  tx: optax.GradientTransformation, max_norm: float
) -> optax.GradientTransformation:
  """`tx` after the gradient of every top module {"params": {module: ...}} is clipped alone.

  RedCore's released code clips so. The state is that of `tx`.
  """
  clip = clip_by_global_norm(max_norm)

  def update(updates, state, params=None):
    modules = {name: clip.update(x, None)[0] for name, x in updates["params"].items()}
    return tx.update({"params": modules}, state, params)

  return optax.GradientTransformation(tx.init, update)


def scale_updates_of(
  tx: optax.GradientTransformation, leaf_name: str, factor: float
) -> optax.GradientTransformation:
  """`tx` with `factor` times the learning rate for leaves called `leaf_name`. The state is
  that of `tx`."""

  def scale(path, x):
    return factor * x if param_paths.path_to_string(path[-1:]) == leaf_name else x

  def update(updates, state, params=None):
    updates, state = tx.update(updates, state, params)
    return jax.tree_util.tree_map_with_path(scale, updates), state

  return optax.GradientTransformation(tx.init, update)
