"""The variants of an experiment: what they share, and the training of one.

Every variant sees the same rows, label subsets, masks and number of steps, and is chosen on
validation; none sees the test split.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from promise_jax import data, files, methods, missing
from promise_jax.data import batches, prefetch, sampling
from promise_jax.devices import distributed
from promise_jax.devices import mesh as devices_mesh
from promise_jax.evaluation import metrics, predict
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import init_from, run_dir
from promise_jax.experiments.config import CONSTANT_VARIANT, Experiment, Variant
from promise_jax.method import Method
from promise_jax.methods import constant
from promise_jax.nn import precision
from promise_jax.training import checkpoint, loop
from promise_jax.types import Pattern, Spec, Split


class Setup(NamedTuple):
  """What all variants share."""

  config: dict
  experiment: Experiment
  dataset: data.Dataset
  spec: Spec
  rows: batches.TrainData
  valid: Split
  patterns: tuple[Pattern, ...]


class TrainedVariant(NamedTuple):
  """One variant: `score` [S] on validation, at step `at` [S]; what it `predicts` on a
  split, f32[S, P, N, C]."""

  variant: Variant
  score: np.ndarray
  at: np.ndarray
  predicts: Callable[[Split], np.ndarray]


def setup_run(config: dict) -> Setup:
  """Checks the config and loads what training reads: the train and valid splits."""
  experiment = experiment_config.parse_experiment(config)
  dataset = load_data(config)
  split, valid = dataset.split("train"), dataset.split("valid")
  labelled = np.stack([label_subset(dataset, config, seed) for seed in experiment.seeds])
  spec = dataset.spec._replace(num_labelled=int(labelled.sum(axis=1).max()))
  for variant in experiment.variants:
    if variant.method != CONSTANT_VARIANT:
      method = build_method(experiment, variant, spec)
      mesh = devices_mesh.make_mesh(groups=experiment.train.seed_devices)
      loop.check_training(method, experiment.train, mesh, len(experiment.seeds))
  # The config of a run made before there were these fields has none.
  readers = {k: config["data"].get(k, v) for k, v in run_dir.PREFETCH_OPTIONS.items()}
  reading = prefetch.check_prefetch(prefetch.PrefetchConfig(**readers))
  rows = batches.TrainData(split, labelled, experiment.seeds, experiment.protocol, reading)
  batches.train_mask(rows, experiment.seeds[0])
  predict.protocol_conditions(valid, experiment.tests, "valid")  # raises if one does not fit
  metrics.metrics_for(spec.task, config["metrics"])
  patterns = missing.all_patterns(len(spec.modalities))
  return Setup(config, experiment, dataset, spec, rows, valid, patterns)


def build_method(experiment: Experiment, variant: Variant, spec: Spec) -> Method:
  """The method of a variant, in the precision of the run."""
  return precision.with_precision(
    methods.build_method(variant.method, variant.values, spec), experiment.precision
  )


def label_subset(dataset: data.Dataset, config: dict, seed: int) -> np.ndarray:
  """The train rows bool[N] that keep their label; where rows come in groups (segments
  of one recording), whole groups are drawn, by the label of their first row."""
  split, group = dataset.split("train"), dataset.group("train")
  kind, rate = dataset.spec.task.kind, config["label_rate"]
  if group is None:
    return sampling.label_subset(split.label, kind, rate, seed, split.id)
  ids, first, back = np.unique(group, return_index=True, return_inverse=True)
  return sampling.label_subset(split.label[first], kind, rate, seed, ids)[back]


def load_data(config: dict) -> data.Dataset:
  """The data set of the config; ValueError if it lacks a split that a run reads."""
  options = {k: v for k, v in config["data"].items() if k not in run_dir.PREFETCH_OPTIONS}
  folder = options.pop("data_dir") or None
  if config["dataset"] == "synthetic":
    # It is made, not read: what says how to read the others, unless set, is not for it.
    unset = experiment_config.DATA_OPTIONS.items()
    options = {k: v for k, v in options.items() if (k, v) not in unset}
    count = options.get("modalities")
    if isinstance(count, str) and count.isdecimal():
      options["modalities"] = int(count)  # how many are made, not which are kept
  else:
    options["scale"] = options["scale"] or None
    options["kinds"] = experiment_config.parse_pairs(options["kinds"])
    # The config of a run made before there was this field has none.
    options["frozen"] = experiment_config.parse_pairs(options.get("frozen", ""))
  dataset = data.load(config["dataset"], data_dir=folder, **options)
  for name in ("train", "valid", "test"):
    if name not in dataset.splits:
      raise ValueError(
        f"data set {dataset.name!r} has no {name} split, a run needs train, valid and "
        f"test; its splits are {', '.join(dataset.splits)}"
      )
  return dataset


def train_variant(
  setup: Setup,
  variant: Variant,
  folder: Path,
  stop: Callable[[], int] = lambda: 0,
  show: Callable[[str], None] | None = print,
) -> TrainedVariant:
  """Trains one variant, from its last checkpoint if it has one, else from `init_from`."""
  if variant.method == CONSTANT_VARIANT:
    return fit_constant(setup, variant)
  method = build_method(setup.experiment, variant, setup.spec)
  own = checkpoint.variant_folder(folder, variant.folder)
  torn = distributed.run_on_all_processes(
    lambda: checkpoint.set_aside_unreadable(own), distributed.is_primary()
  )
  for line in torn or ():
    (show or print)(line)
  start = load_init(setup, variant, folder, show)
  with checkpoint.open_manager(own) as manager:
    done = checkpoint.latest_step(manager)
    if show and not done and (left := init_from.describe_untrained(method, start)):
      show(f"note: {variant.text} {left}")
    with metrics_log(folder / "metrics.jsonl", variant.text, done) as log:
      fit = loop.fit(
        method,
        setup.spec,
        setup.rows,
        setup.valid,
        setup.experiment.train,
        start=start,
        manager=manager,
        log=log,
        stop=stop,
        title=variant.text if show else None,
      )
  if fit.speed["steps"] and distributed.is_primary():
    write_speed(folder / "speed.jsonl", variant.text, fit.speed)
    if show:
      show("  " + speed_line(fit.speed))
      for stage in fit.speed["stages"] if len(method.stages) > 1 else ():
        show("  " + stage_line(stage))

  def predicts(split: Split) -> np.ndarray:
    return predict.predict_split(method, fit.params, fit.model_state, split, setup.patterns)

  return TrainedVariant(variant, fit.score, fit.at, predicts)


def plan_variant_init(setup: Setup, variant: Variant, folder: Path) -> init_from.InitPlan | None:
  """What a variant takes over from `init_from`: nothing once it has a checkpoint of its
  own. ValueError if that run does not serve."""
  own = checkpoint.variant_folder(folder, variant.folder)
  if variant.method == CONSTANT_VARIANT or checkpoint.has_checkpoint(own):
    return None
  method = build_method(setup.experiment, variant, setup.spec)
  return init_from.plan_init(setup.experiment, variant, method)


def load_init(
  setup: Setup, variant: Variant, folder: Path, show: Callable[[str], None] | None
) -> dict[str, np.ndarray]:
  """The parameters by path with which the variant starts, told and noted in init.json."""
  start = plan_variant_init(setup, variant, folder)
  if start is None:
    return {}
  if distributed.is_primary():
    folder.mkdir(parents=True, exist_ok=True)
    init_from.write_init_note(folder / "init.json", start, variant)
  if show:
    show(init_from.describe_init(start, variant))
  return init_from.load_init_params(start, len(setup.experiment.seeds))


def write_speed(path: Path, method: str, speed: dict[str, Any]) -> None:
  """Puts the numbers of one variant into speed.jsonl, in place of earlier ones: after a
  resume they are those of the part that was trained last."""
  lines = files.read_jsonl(path) if path.exists() else []
  kept = [x for x in lines if x["method"] != method]
  files.write_jsonl(path, [*kept, {"method": method} | speed])


def speed_line(speed: dict[str, Any]) -> str:
  """Compile time, rate and memory, for a person."""
  return (
    f"compiled in {speed['compile_s']:.1f} s, trained in {speed['train_s']:.1f} s, "
    f"{speed['examples_per_s']:,.0f} examples/s, "
    f"peak memory so far {speed['peak_memory_mb']:,.0f} MB"
  )


def stage_line(stage: dict[str, Any]) -> str:
  """What a stage trains, its compile time and rate, for a person."""
  trains, total = stage["trains"], stage["parameters"]
  return (
    f"{stage['stage']}: trains {trains:,} of {total:,} parameters "
    f"({100 * trains / total:.1f} %), {stage['steps']:,} steps, "
    f"compiled in {stage['compile_s']:.1f} s, {stage['examples_per_s']:,.0f} examples/s"
  )


@contextlib.contextmanager
def metrics_log(path: Path, method: str, done: int) -> Iterator[Callable]:
  """A function that appends lines of one variant; what a killed run wrote after its last
  checkpoint, at step `done`, is dropped first. Of several processes one does it."""
  if not distributed.is_primary():
    yield lambda lines: None
    return
  if path.exists():
    # A kill can cut the last line short; it is of a step that no checkpoint has.
    whole, end, _ = path.read_text("utf-8").rpartition("\n")
    files.write_text(path, whole + end)
  lines = files.read_jsonl(path) if path.exists() else []
  kept = [x for x in lines if x["method"] != method or x["step"] <= done]
  files.write_jsonl(path, kept)
  with open(path, "a", encoding="utf-8") as file:

    def log(lines: list[dict]) -> None:
      file.writelines(files.to_line({"method": method} | x) for x in lines)
      file.flush()

    yield log


def fit_constant(setup: Setup, variant: Variant) -> TrainedVariant:
  """The constant predictor of every seed's labelled rows."""
  label, task = setup.rows.split.label, setup.spec.task
  logits = np.stack([constant.constant_logits(label, known, task) for known in setup.rows.labelled])

  def predicts(split: Split) -> np.ndarray:
    shape = (len(logits), len(setup.patterns), len(split.id), logits.shape[1])
    return np.broadcast_to(logits[:, None, None], shape)

  valid = setup.valid
  table = predict.selection_patterns(setup.patterns, setup.experiment.train.select_on)
  weight = predict.row_weights(valid.recorded, np.ones(len(valid.id), bool), table)
  # The same logits under every pattern: as many as choose.
  every = predicts(valid)[:, : len(table)]
  score = [predict.selection_score(x, valid.label, weight, task) for x in every]
  at = np.zeros(len(logits), np.int32)
  return TrainedVariant(variant, np.array(score), at, predicts)
