"""`init_from`: the best parameters of a finished run as the start of this one.

All variants of the run's own method start there, and those of a method that is built on the same
network (`methods.family`); the other baselines start from random weights. Seed s takes the
parameters of seed s. A parameter is taken over if its whole path matches a regex of `init_filter`
and its shape is the same in both runs. Paths count the modalities (`encoder_0`) and do not name
them, so both runs should have them in one order. The optimiser and the model_state start anew.
The other run is read until a variant has its first checkpoint, and never after.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import numpy as np

from promise_jax import methods
from promise_jax.experiments import run_dir
from promise_jax.experiments.experiment import Experiment, VariantConfig
from promise_jax.inference import saved_model
from promise_jax.inference.saved_model import SavedModel, SavedVariant
from promise_jax.method import Method
from promise_jax.optim import param_paths

NUM_LISTED = 8  # paths a reason in a message; init.json has all of them


@dataclasses.dataclass(frozen=True)
class InitPlan:
  """Which parameters a variant takes over, and from where."""

  folder: str  # of the other run
  source: str  # its variant
  loaded: tuple[str, ...]  # paths of parameters
  random: dict[str, str]  # {path: why it is not taken over}


def plan_init(experiment: Experiment, variant: VariantConfig, method: Method) -> InitPlan | None:
  """Plans what `variant` takes over; None if it starts from random weights. ValueError for a run
  that is not finished or does not fit, or where no parameter at all can be taken over."""
  own_family = methods.family(experiment.variants[0].method)
  if not experiment.init_from or methods.family(variant.method) != own_family:
    return None
  folder = Path(experiment.init_from)
  try:
    run_dir.read_finished(folder)
    model = saved_model.read_model(folder / "model")
    if len(model.seeds) < len(experiment.seeds):
      found, needed = len(model.seeds), len(experiment.seeds)
      raise ValueError(f"{folder} has {found} seeds, {needed} are needed; lower seeds to {found}")
    if not (source := find_variant(model, variant)):
      names = ", ".join(v.name for v in model.variants)
      raise ValueError(f"{folder} has no variant of {own_family}, it has {names}")
    theirs = read_params(folder, source.name)
  except ValueError as error:
    raise ValueError(f"init_from: {error}") from error
  ours = param_paths.leaves_by_path(init_shapes(method))
  filters = experiment.init_filter
  reasons = {path: why_random(path, x, theirs.get(path), filters) for path, x in ours.items()}
  random = {path: reason for path, reason in reasons.items() if reason}
  if len(random) == len(ours):
    listed = list_paths(random)
    raise ValueError(f"init_from: {folder} has no parameter for {variant.name}: {listed}")
  loaded = tuple(path for path in ours if path not in random)
  return InitPlan(str(folder), source.name, loaded, random)


def find_variant(model: SavedModel, variant: VariantConfig) -> SavedVariant | None:
  """The variant of `model` that `variant` starts from: the one of the same name, or else the
  first one of the same method, or of its family."""
  family = methods.family(variant.method)
  related = [v for v in model.variants if methods.family(v.method) == family]
  key = lambda v: (v.name != variant.name, v.method != variant.method)
  return min(related, key=key, default=None)


def why_random(path: str, ours, theirs, init_filter: tuple[str, ...]) -> str:
  """Why the parameter `ours` is not taken over from `theirs` [S, ...]; empty if it is."""
  if not any(re.fullmatch(pattern, path) for pattern in init_filter):
    return "matches nothing of init_filter"
  if theirs is None:
    return "is not there"
  shapes = f"{ours.dtype}{[*ours.shape]}", f"{theirs.dtype}{[*theirs.shape[1:]]}"
  return "" if shapes[0] == shapes[1] else f"is {shapes[0]}, there {shapes[1]}"


def init_shapes(method: Method):
  """The parameters of a method as shapes and dtypes."""
  return jax.eval_shape(method.init, jax.eval_shape(lambda: jax.random.key(0)))[0]


def read_params(folder: Path, name: str) -> dict[str, np.ndarray]:
  """The best parameters of a variant of the run in `folder`, {path: [S, ...]}."""
  by_name = {v.name: v for v in saved_model.read_model(folder / "model").variants}
  arrays = saved_model.read_arrays(folder / "model", by_name[name])
  return {
    path.removeprefix("params/"): x for path, x in arrays.items() if path.startswith("params/")
  }


def describe_init(plan: InitPlan, name: str) -> str:
  """A sentence for the console: how many parameters the variant `name` copies."""
  count = f"{len(plan.loaded)} of {len(plan.loaded) + len(plan.random)} parameters"
  rest = f"; random are {list_paths(plan.random)}" if plan.random else ""
  return f"{name}: {count} start from the best of {plan.source} in {plan.folder}{rest}"


def describe_untrained(method: Method, loaded: Collection[str]) -> str:
  """Which parameters keep their random values: no stage trains them, and they are not among
  the `loaded` ones. Empty if there are none."""
  params = init_shapes(method)
  labels = [
    param_paths.leaves_by_path(param_paths.label_trainable(params, stage.trainable))
    for stage in method.stages
  ]
  frozen = [p for p in param_paths.leaves_by_path(params) if all(x[p] == "freeze" for x in labels)]
  left = {p: "no stage trains them, no init_from has them" for p in frozen if p not in loaded}
  return f"leaves parameters at random values: {list_paths(left)}" if left else ""


def list_paths(reasons: Mapping[str, str]) -> str:
  """Paths by their reason; the first few of a long list."""
  parts = []
  for reason in dict.fromkeys(reasons.values()):
    paths = [path for path in reasons if reasons[path] == reason]
    more = f" and {len(paths) - NUM_LISTED} more" if len(paths) > NUM_LISTED else ""
    parts.append(f"{', '.join(paths[:NUM_LISTED])}{more} ({reason})")
  return "; ".join(parts)
