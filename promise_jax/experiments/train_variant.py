"""Trains one variant of an experiment: initial parameters, logs, predictions."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from promise_jax import files
from promise_jax.devices import distributed
from promise_jax.evaluation import predict, selection
from promise_jax.experiments import init_from
from promise_jax.experiments.setup import Setup, Variant
from promise_jax.methods import constant
from promise_jax.training import checkpoint, loop
from promise_jax.types import Split


@dataclasses.dataclass(frozen=True)
class TrainedVariant:
  """A trained variant: its validation scores and a function that predicts."""

  name: str
  best_score: Float[np.ndarray, " S"]  # on validation; larger is better
  best_step: Int[np.ndarray, " S"]
  predict: Callable[[Split], Float[np.ndarray, "S P N C"]]


def train_variant(
  setup: Setup,
  variant: Variant,
  folder: Path,
  *,
  stop: Callable[[], int] = lambda: 0,
  show: Callable[[str], None] | None = print,
) -> TrainedVariant:
  """Trains `variant`, from its last checkpoint if it has one, with logs in `folder`.

  `stop` is called while it trains, see `loop.fit`. `show` prints a line of text.
  """
  name, primary = variant.name, distributed.is_primary()
  title = name if show and primary else None
  show = show or (lambda text: None)
  if variant.method is None:
    return fit_constant(setup, name)
  config = setup.experiment.train
  with checkpoint.Checkpoints(variant.checkpoints, save_every=config.save_every) as checkpoints:
    step = checkpoints.latest_step()
    init_params = {} if step else load_initial_params(setup, variant, folder, show)
    with open_metrics_log(folder / "metrics.jsonl", name, step) as log:
      trained = loop.fit(
        variant.method,
        setup.spec,
        setup.train_data,
        setup.valid_data,
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

  def predict_split(split: Split):
    params, model_state = trained.params, trained.model_state
    return predict.predict_split(variant.method, params, model_state, split, setup.patterns)

  return TrainedVariant(name, trained.best_score, trained.best_step, predict_split)


def load_initial_params(
  setup: Setup, variant: Variant, folder: Path, show: Callable[[str], None]
) -> dict[str, Array]:
  """{path: parameter} to copy from another run, empty without `init_from`; noted in init.json."""
  params = {}
  if plan := variant.init:
    if distributed.is_primary():
      path = folder / "init.json"
      path.parent.mkdir(parents=True, exist_ok=True)
      entries = json.loads(path.read_text("utf-8")) if path.exists() else {}
      files.write_json(path, entries | {variant.name: dataclasses.asdict(plan)})
    show(init_from.describe_init(plan, variant.name))
    params = init_from.load_init_params(plan, len(setup.experiment.seeds))
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


def fit_constant(setup: Setup, name: str) -> TrainedVariant:
  """The constant predictor, fitted to the labelled rows of every seed."""
  label, task = setup.train_data.split.label, setup.spec.task
  labelled = setup.train_data.labelled
  logits = np.stack([constant.constant_logits(label, mask, task) for mask in labelled])

  def predict_split(split: Split):
    shape = (len(logits), len(setup.patterns), len(split.id), logits.shape[1])
    return np.broadcast_to(logits[:, None, None], shape)

  valid = setup.valid_data
  patterns = selection.selection_patterns(setup.patterns, setup.experiment.train.select_on)
  weight = selection.row_weights(valid.recorded, np.ones(len(valid.id), bool), patterns)
  # The logits are the same under every pattern: take as many as there are patterns.
  under_patterns = predict_split(valid)[:, : len(patterns)]
  score = [selection.selection_score(x, valid.label, weight, task) for x in under_patterns]
  return TrainedVariant(name, np.array(score), np.zeros(len(logits), np.int32), predict_split)
