"""Parameters of a finished run as the start of another: `init_from`, `init_filter`.

All variants of the run's own method start there, its variants among the baselines too, so
that they differ by their settings alone, and so do those of a method of its family
(`methods.family`: one is built on the network of the other); the other baselines start
fresh. Seed s starts from the best parameters, chosen on validation, of seed s of the
same variant of that run, or, where it has none of that text, of its first variant of the
method, or else of its first of the family.

A parameter is taken over if its path fully matches a regex of `init_filter` and that run
has it in the same shape, whatever data either run is of. Paths count the modalities
(`encode_0`) and do not name them, so both runs should have them in one order. All other
parameters start fresh, each named, and so do the optimiser and model_state (running means,
banks, the state of a controller), which belong to the data they were made on.

That run is read until a variant has its first checkpoint, and never after.
"""

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from promise_jax import files, methods
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import run_dir
from promise_jax.experiments.config import Experiment, Variant
from promise_jax.method import Method
from promise_jax.optim import param_paths
from promise_jax.training import checkpoint

SHOWN = 8  # fresh parameters a reason in the sentence; init.json has them all


class InitPlan(NamedTuple):
  """Where one variant starts: the `source` variant of the run in `folder`, its `checkpoints`
  and their last `step`; the paths `taken`, and of those that stay `fresh`, why."""

  folder: Path
  source: Variant
  checkpoints: Path
  step: int
  taken: tuple[str, ...]
  fresh: dict[str, str]


def plan_init(experiment: Experiment, variant: Variant, method: Method) -> InitPlan | None:
  """What `variant` takes over; None if it starts fresh. No parameter is read.

  Raises ValueError if `init_from` is no run, is not finished, has no variant of the family,
  fewer seeds or no checkpoint any more, or if nothing at all could be taken over.
  """
  own_family = methods.family(experiment.variants[0].method)
  if not experiment.init_from or methods.family(variant.method) != own_family:
    return None
  folder = Path(experiment.init_from)
  config = run_dir.read_config(folder)["config"]
  if not (folder / "results.jsonl").exists():
    raise ValueError(f"init_from {folder} is not finished: it has no results.jsonl")
  if config["seeds"] < len(experiment.seeds):
    raise ValueError(
      f"init_from {folder} has {config['seeds']} seeds and this run {len(experiment.seeds)}, "
      "every seed starts from the same one there"
    )
  source = find_variant(folder, config, variant)
  checkpoints = checkpoint.variant_folder(folder, source.folder)
  step = config["train"]["steps"]
  params, _ = checkpoint.load_shapes(checkpoints, step, "best")
  found = {name: (x.shape[1:], x.dtype) for name, x in param_paths.leaves_by_path(params).items()}
  key = jax.eval_shape(lambda: jax.random.key(0))
  own = param_paths.leaves_by_path(jax.eval_shape(method.init, key)[0])
  own = {name: (x.shape, x.dtype) for name, x in own.items()}
  fresh = {n: reason_not_loaded(n, own[n], found.get(n), experiment.init_filter) for n in own}
  fresh = {name: reason for name, reason in fresh.items() if reason}
  if len(fresh) == len(own):
    raise ValueError(
      f"init_from {folder} starts no parameter of {variant.text}: {list_paths(fresh)}"
    )
  taken = tuple(name for name in own if name not in fresh)
  return InitPlan(folder, source, checkpoints, step, taken, fresh)


def find_variant(folder: Path, config: dict, variant: Variant) -> Variant:
  """The variant of the run in `folder` with the text of `variant`, or the first of its method,
  or of its family; ValueError if there is none."""
  names = (config["method"], *config["baselines"])
  known = [experiment_config.parse_variant(text, config) for text in names]
  family = methods.family(variant.method)
  kin = [x for x in known if methods.family(x.method) == family]
  if not kin:
    serve = " or ".join(x for x in methods.METHODS if methods.family(x) == family)
    raise ValueError(f"init_from {folder} has no variant of {serve}, it has {', '.join(names)}")
  return min(kin, key=lambda x: (x.text != variant.text, x.method != variant.method))


def reason_not_loaded(name: str, own: tuple, found: tuple | None, only: tuple) -> str:
  """Why a parameter of (shape, dtype) `own` is not taken over; empty if it is."""
  if not any(re.fullmatch(pattern, name) for pattern in only):
    return "matches nothing of init_filter"
  if found is None:
    return "is not there"
  if own != found:
    return f"is {describe_kind(own)}, there {describe_kind(found)}"
  return ""


def describe_kind(kind: tuple) -> str:
  """A shape and dtype as "float32[4, 2]"."""
  shape, dtype = kind
  return f"{np.dtype(dtype).name}{list(shape)}"


def list_paths(fresh: Mapping[str, str]) -> str:
  """The fresh parameters by their reason; of a long list, the first."""
  parts = []
  for reason in dict.fromkeys(fresh.values()):
    names = [name for name in fresh if fresh[name] == reason]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    parts.append(f"{', '.join(names[:SHOWN])}{more} ({reason})")
  return "; ".join(parts)


def load_init_params(start: InitPlan, seeds: int) -> dict[str, np.ndarray]:
  """The parameters that are taken over, by path, [S, ...] for the first `seeds`."""
  params, _ = checkpoint.load_parameters(start.checkpoints, start.step, "best")
  found = param_paths.leaves_by_path(params)
  return {name: found[name][:seeds] for name in start.taken}


def describe_init(start: InitPlan, variant: Variant) -> str:
  """What `variant` takes over, for a person."""
  total = len(start.taken) + len(start.fresh)
  fresh = f"fresh are {list_paths(start.fresh)}" if start.fresh else "no parameter is fresh"
  return (
    f"{variant.text}: {len(start.taken)} of {total} parameters start from the best of "
    f"{start.source.text} in {start.folder}, model_state and the optimiser fresh; {fresh}"
  )


def describe_untrained(method: Method, taken: Collection[str]) -> str:
  """Which parameters stay as they were drawn, for a person: no stage of the method
  trains them, and they are not among those `taken` over. Empty if there is none."""
  params = jax.eval_shape(method.init, jax.eval_shape(lambda: jax.random.key(0)))[0]
  parts = [
    param_paths.leaves_by_path(param_paths.label_trainable(params, s.trainable))
    for s in method.stages
  ]
  still = [n for n in param_paths.leaves_by_path(params) if all(p[n] == "freeze" for p in parts)]
  reason = "no stage trains them, no init_from has them"
  left = {name: reason for name in still if name not in taken}
  return f"leaves parameters as they were drawn: {list_paths(left)}" if left else ""


def write_init_note(path: Path, start: InitPlan, variant: Variant) -> None:
  """Puts the same, with every name, into init.json, an entry a variant."""
  entries = json.loads(path.read_text("utf-8")) if path.exists() else {}
  entries[variant.text] = {
    "init_from": str(start.folder),
    "variant": start.source.text,
    "step": start.step,
    "taken": start.taken,
    "fresh": start.fresh,
  }
  files.write_json(path, entries)
