"""Optimiser settings -> optax: AdamW, its rate, clipping, frozen leaves."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import optax

from promise_jax.checks import check_choice
from promise_jax.types import PyTree

# Inside the root of Adam: 1e-8 at the end, as eps is. Without it the derivative of a
# step is infinite where a gradient is exactly 0 (`bilevel.hypergradient`).
EPS_ROOT = 1e-16
UNDECAYED = ("bias", "scale", "prompts")
SCHEDULES = ("cosine", "linear", "constant")


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """AdamW. `schedule` "cosine": `warmup`, a part of the stage's steps, then the rate
  falls to 0 on a cosine; "linear": `constant_then_linear` over the stage as 30 + 30
  epochs, without warm-up; "constant": `lr` at every step (the released code of MPLMM
  also cuts it where validation stands still, ReduceLROnPlateau, which is not
  reproduced). `weight_decay` applies to matrices only. `clip` bounds the global
  norm."""

  lr: float = 3e-3
  weight_decay: float = 0.3
  warmup: float = 0.05
  schedule: str = "cosine"
  clip: float = 1.0


def check_optimizer(config: OptimConfig) -> None:
  """Raises ValueError for a setting without meaning."""
  check_choice("train.optim.schedule", config.schedule, SCHEDULES)
  allowed = {
    "lr": ("above 0", config.lr > 0),
    "weight_decay": ("0 or more", config.weight_decay >= 0),
    "warmup": ("in [0, 1)", 0 <= config.warmup < 1),
    "clip": ("above 0", config.clip > 0),
  }
  for field, (bounds, good) in allowed.items():
    if not good:
      raise ValueError(f"train.optim.{field} is {getattr(config, field)}, it must be {bounds}")


def make_optimizer(
  config: OptimConfig, steps: int, trains: tuple[str, ...] = (".*",)
) -> optax.GradientTransformation:
  """The optimiser of one stage of `steps` updates.

  Leaves whose path matches no regex of `trains` are frozen: they get no update, no
  decay and no moments, and the clip does not see their gradient.
  """
  chain = optax.chain(
    clip_by_norm(config.clip),
    optax.adamw(
      learning_rate_schedule(config, steps),
      eps_root=EPS_ROOT,
      weight_decay=config.weight_decay,
      mask=decayed,
    ),
  )
  if tuple(trains) == (".*",):
    return chain
  return optax.partition(
    {"train": chain, "freeze": optax.set_to_zero()},
    lambda params: split_trainable(params, trains),
  )


def split_trainable(params: PyTree, trains: tuple[str, ...]) -> PyTree:
  """The part of every leaf in a stage that `trains` by these regexes: "train" or
  "freeze"."""
  rules = (*((pattern, "train") for pattern in trains), (".*", "freeze"))
  return labels(params, rules)


def count_parameters(params: PyTree, trains: tuple[str, ...]) -> tuple[int, int]:
  """How many numbers of `params` a stage trains, and how many there are."""
  sizes = [x.size for x in jax.tree.leaves(params)]
  part = jax.tree.leaves(split_trainable(params, trains))
  moving = [n for n, p in zip(sizes, part, strict=True) if p == "train"]
  return sum(moving), sum(sizes)


def learning_rate_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
  """The learning rate at every one of `steps` updates."""
  steps = max(steps, 2)
  if config.schedule == "constant":
    return optax.constant_schedule(config.lr)
  if config.schedule == "linear":
    return lambda step: config.lr * constant_then_linear(1 + 60 * step // steps, 30, 30)
  warmup = min(max(1, round(config.warmup * steps)), steps - 1)
  return optax.warmup_cosine_decay_schedule(0.0, config.lr, warmup, steps)


def constant_then_linear(epoch, constant: int, decay: int):
  """The multiplier of the rate in `epoch` 1, 2, ...: 1 for `constant` epochs, then
  falling to 1 / (decay + 1) over `decay` (the released code of RedCore)."""
  return 1 - jnp.maximum(0, epoch - constant) / (decay + 1)


def decayed(params: PyTree) -> PyTree:
  """True for the leaves that weight decay applies to: matrices, but not the biases and
  scales of layers that are stacked for a scan, nor prompts ("gate_bias" is a bias)."""

  def matrix(path, x):
    return x.ndim > 1 and path_name(path[-1:]).split("_")[-1] not in UNDECAYED

  return jax.tree_util.tree_map_with_path(matrix, params)


def clip_by_norm(limit: float) -> optax.GradientTransformation:
  """Scales a gradient down to norm `limit`. Like `optax.clip_by_global_norm`, but its
  own derivative is finite at a gradient of 0."""

  def update(updates, state, params=None):
    del params
    square = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(updates))
    short = square <= limit * limit  # not of NaN: then all of it becomes NaN
    root = jax.lax.rsqrt(jnp.where(short, 1.0, square))
    scale = jnp.where(short, 1.0, limit) * root
    return jax.tree.map(lambda x: x * scale, updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_by_module(tx: optax.GradientTransformation, limit: float) -> optax.GradientTransformation:
  """`tx`, with the gradient of every module of a flax network, {"params": {module:
  ...}}, clipped by itself first. Its state is that of `tx`."""
  clip = clip_by_norm(limit)

  def update(updates, state, params=None):
    parts = {k: clip.update(v, None)[0] for k, v in updates["params"].items()}
    return tx.update({"params": parts}, state, params)

  return optax.GradientTransformation(tx.init, update)


def scale_module(
  tx: optax.GradientTransformation, name: str, factor: float
) -> optax.GradientTransformation:
  """`tx`, with `factor` times the learning rate for the leaves whose path ends in
  `name`. Its state is that of `tx`."""

  def update(updates, state, params=None):
    updates, state = tx.update(updates, state, params)

    def one(path, x):
      return factor * x if path_name(path[-1:]) == name else x

    return jax.tree_util.tree_map_with_path(one, updates), state

  return optax.GradientTransformation(tx.init, update)


def labels(params: PyTree, rules: tuple[tuple[str, str], ...]) -> PyTree:
  """Labels every leaf by the first of `rules` (regex, label) that its path fully
  matches. Raises ValueError for a rule that matches no leaf, or a leaf without rule."""
  used = set()

  def label(path, _):
    name = path_name(path)
    for i, (pattern, value) in enumerate(rules):
      if re.fullmatch(pattern, name):
        used.add(i)
        return value
    raise ValueError(f"parameter {name} matches none of {[r for r, _ in rules]}")

  tree = jax.tree_util.tree_map_with_path(label, params)
  for i, (pattern, _) in enumerate(rules):
    if i not in used and pattern != ".*":
      names = list(by_path(params))
      raise ValueError(f"{pattern!r} matches no parameter of {', '.join(names)}")
  return tree


def by_path(params: PyTree) -> dict:
  """The leaves {path: leaf}."""
  return {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}


def path_name(path) -> str:
  """The path of a leaf as "params/head/kernel"."""
  return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)
