"""Optimiser settings -> optax: AdamW, warm-up and cosine, clipping, frozen leaves."""

import dataclasses
import re

import jax
import optax

from promise_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class OptimConfig:
  """AdamW. `warmup` is a part of the stage's steps; the rate then falls to 0 on a
  cosine. `weight_decay` applies to matrices only. `clip` bounds the global norm."""

  lr: float = 3e-3
  weight_decay: float = 0.3
  warmup: float = 0.05
  clip: float = 1.0


def check(config: OptimConfig) -> None:
  """Raises ValueError for a setting without meaning."""
  allowed = {
    "lr": ("above 0", config.lr > 0),
    "weight_decay": ("0 or more", config.weight_decay >= 0),
    "warmup": ("in [0, 1)", 0 <= config.warmup < 1),
    "clip": ("above 0", config.clip > 0),
  }
  for field, (bounds, good) in allowed.items():
    if not good:
      raise ValueError(
        f"train.optim.{field} is {getattr(config, field)}, it must be {bounds}"
      )


def build(
  config: OptimConfig, steps: int, trains: tuple[str, ...] = (".*",)
) -> optax.GradientTransformation:
  """The optimiser of one stage of `steps` updates.

  Leaves whose path matches no regex of `trains` are frozen: they get no update, no
  decay and no moments, and the clip does not see their gradient.
  """
  steps = max(steps, 2)
  warmup = min(max(1, round(config.warmup * steps)), steps - 1)
  rate = optax.warmup_cosine_decay_schedule(0.0, config.lr, warmup, steps)
  chain = optax.chain(
    optax.clip_by_global_norm(config.clip),
    optax.adamw(
      rate,
      weight_decay=config.weight_decay,
      mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    ),
  )
  if tuple(trains) == (".*",):
    return chain
  rules = (*((pattern, "train") for pattern in trains), (".*", "freeze"))
  return optax.partition(
    {"train": chain, "freeze": optax.set_to_zero()},
    lambda params: labels(params, rules),
  )


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
      names = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
      raise ValueError(f"{pattern!r} matches no parameter of {', '.join(names)}")
  return tree


def path_name(path) -> str:
  """The path of a leaf as "params/head/kernel"."""
  return "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path)
