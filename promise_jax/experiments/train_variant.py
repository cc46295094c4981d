"""Trains one variant of an experiment: initial parameters, logs, predictions."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from promise_jax import files
from promise_jax.devices import distributed
from promise_jax.evaluation import selection
from promise_jax.experiments import init_from, tensorboard
from promise_jax.experiments.setup import Setup, Variant
from promise_jax.method import Method
from promise_jax.methods import constant
from promise_jax.training import checkpoint, loop
from promise_jax.types import PyTree


@dataclasses.dataclass(frozen=True)
class TrainedVariant:
  """A trained variant: its best parameters and their validation scores."""

  name: str
  method: Method | None  # None: the constant predictor
  params: PyTree  # leaves [S, ...]
  model_state: PyTree
  best_score: Float[np.ndarray, " S"]  # on validation; larger is better
  best_step: Int[np.ndarray, " S"]


def train_variant(
  setup: Setup,
  variant: Variant,
  folder: Path,
  *,
  stop: Callable[[], int] = lambda: 0,
  show: Callable[[str], None] | None = print,
  to_tensorboard: bool = False,
) -> TrainedVariant:
  """Trains `variant`, from its last checkpoint if it has one, with logs in `folder`, by
  `to_tensorboard` also for TensorBoard. `stop` is that of `loop.fit`, `show` prints a line."""
  name, primary = variant.name, distributed.is_primary()
  title = name if show and primary else None
  show = show or (lambda text: None)
  if variant.method is None:
    return fit_constant(setup, variant)
  config = setup.experiment.train
  with checkpoint.Checkpoints(variant.checkpoints, save_every=config.save_every) as checkpoints:
    step = checkpoints.latest_step()
    init_params = {} if step else load_initial_params(setup, variant, folder, show)
    with contextlib.ExitStack() as stack:
      log = stack.enter_context(open_metrics_log(folder / "metrics.jsonl", name, step))
      if to_tensorboard and primary:
        place = folder / "tensorboard" / variant.checkpoints.name
        log = stack.enter_context(tensorboard.extend_log(log, place, step))
      trained = loop.fit(
        variant.method,
        setup.spec,
        setup.train_data,
        setup.selection_data,
        config,
        mesh=setup.mesh,
        init_params=init_params,
        checkpoints=checkpoints,
        log=log,
        stop=stop,
        title=title,
      )
  if trained.speed["steps"] and primary:
    path = folder / "speed.jsonl"
    others = [x for x in files.read_jsonl(path) if x["method"] != name] if path.exists() else []
    files.write_jsonl(path, [*others, {"method": name} | trained.speed])
    show(describe_speed(trained.speed))
  return TrainedVariant(name, variant.method, *trained[:4])  # all but the speed


def load_initial_params(
  setup: Setup, variant: Variant, folder: Path, show: Callable[[str], None]
) -> dict[str, np.ndarray]:
  """{path: parameter} to copy from another run, empty without `init_from`; noted in init.json."""
  params = {}
  if plan := variant.init:
    if distributed.is_primary():
      path = folder / "init.json"
      folder.mkdir(parents=True, exist_ok=True)
      entries = files.read_json(path) if path.exists() else {}
      files.write_json(path, entries | {variant.name: dataclasses.asdict(plan)})
    show(init_from.describe_init(plan, variant.name))
    theirs = init_from.read_params(Path(plan.folder), plan.source)
    params = {path: theirs[path][: len(setup.experiment.seeds)] for path in plan.loaded}
  if untrained := init_from.describe_untrained(variant.method, params):
    show(f"note: {variant.name} {untrained}")
  return params


@contextlib.contextmanager
def open_metrics_log(path: Path, name: str, step: int) -> Iterator[Callable]:
  """A function with which the primary process appends lines of a variant to metrics.jsonl.

  What a killed run wrote after its last checkpoint, at `step`, is dropped first.
  """
  if not distributed.is_primary():
    yield lambda lines: None
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  text = path.read_text("utf-8") if path.exists() else ""
  # A kill can cut the last line short; it belongs to a step that no checkpoint has.
  files.write_text(path, text[: text.rfind("\n") + 1])
  lines = files.read_jsonl(path)
  files.write_jsonl(path, [x for x in lines if x["method"] != name or x["step"] <= step])
  with open(path, "a", encoding="utf-8") as file:

    def log(lines: list[dict]) -> None:
      file.writelines(files.to_line({"method": name} | x) for x in lines)
      file.flush()

    yield log


def describe_speed(speed: dict[str, Any]) -> str:
  """Compile time, rate and memory for a person; a line a stage where there are several."""
  lines = [
    f"  compiled in {speed['compile_s']:.1f} s, trained in {speed['train_s']:.1f} s, "
    f"{speed['examples_per_s']:,.0f} examples/s, "
    f"peak memory so far {speed['peak_memory_mb']:,.0f} MB"
  ]
  for stage in speed["stages"] if len(speed["stages"]) > 1 else ():
    trained, total = stage["trains"], stage["parameters"]
    lines.append(
      f"  {stage['stage']}: trains {trained:,} of {total:,} parameters "
      f"({100 * trained / total:.1f} %), {stage['steps']:,} steps, "
      f"compiled in {stage['compile_s']:.1f} s, {stage['examples_per_s']:,.0f} examples/s"
    )
  return "\n".join(lines)


def constant_logits(setup: Setup) -> Float[np.ndarray, "S C"]:
  """The constant predictor, fitted to the labelled rows of every seed."""
  rows, task = setup.train_data, setup.spec.task
  return np.stack([constant.constant_logits(rows.split.label, x, task) for x in rows.labelled])


def fit_constant(setup: Setup, variant: Variant) -> TrainedVariant:
  """The constant predictor and its validation scores."""
  logits, task, valid = constant_logits(setup), setup.spec.task, setup.selection_data
  select_on = setup.experiment.train.select_on
  patterns = selection.selection_patterns(len(setup.spec.modalities), select_on)
  weight = selection.row_weights(valid.recorded, np.ones(len(valid.id), bool), patterns)
  shape = (len(patterns), len(valid.id), logits.shape[1])
  score = [
    selection.selection_score(np.broadcast_to(x, shape), valid.label, weight, task) for x in logits
  ]
  step = np.zeros(len(logits), np.int32)
  return TrainedVariant(variant.name, None, {"logits": logits}, {}, np.array(score), step)
