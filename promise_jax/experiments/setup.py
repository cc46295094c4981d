"""`Setup`: what all variants of an experiment share, loaded and checked before training.

Every variant is trained on the same rows, labels and masks for the same number of steps, and
selected on the validation split. None of them meets the test split.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool

from promise_jax import data, methods, patterns
from promise_jax.checks import name_place_in_errors
from promise_jax.data import batches, sampling
from promise_jax.data.source import SPLITS
from promise_jax.devices import mesh as devices_mesh
from promise_jax.evaluation import conditions, measure
from promise_jax.experiments import init_from, run_dir
from promise_jax.experiments.experiment import DataConfig, Experiment
from promise_jax.losses import supervised
from promise_jax.method import Method
from promise_jax.methods.constant import CONSTANT_VARIANT
from promise_jax.nn import precision
from promise_jax.training import checkpoint, loop
from promise_jax.types import Pattern, Spec, Split


@dataclasses.dataclass(frozen=True)
class Variant:
  """The method of an experiment or one of its baselines, with settings, ready to train."""

  name: str
  checkpoints: Path  # their folder
  method: Method | None  # None: the constant predictor
  init: init_from.InitPlan | None  # parameters to copy from another run


@dataclasses.dataclass(frozen=True)
class Setup:
  """An experiment with its data and methods."""

  experiment: Experiment
  dataset: data.Dataset
  spec: Spec  # of the data set, with the number of labelled rows
  train_data: batches.TrainData
  valid_data: Split
  selection_data: Split  # the validation rows that select the step of each seed
  patterns: tuple[Pattern, ...]  # that are tested
  mesh: Mesh
  variants: tuple[Variant, ...]


def set_up(experiment: Experiment, folder: Path) -> Setup:
  """Loads the train and valid splits, builds every method and plans every initialisation.

  Nothing is written into `folder`, the folder of the run. ValueError where data, protocols, methods
  and training do not fit each other, or the run in `folder` has begun on other data.
  """
  dataset = load_dataset(experiment.data)
  train, valid = dataset.split("train"), dataset.split("valid")
  run_dir.check_data(folder, dataset, {"train": train, "valid": valid})
  masks = [labelled_mask(dataset, experiment.label_rate, seed) for seed in experiment.seeds]
  labelled = np.stack(masks)
  task = dataset.spec.task
  if experiment.class_weight == "balanced":
    # One network is compiled for all seeds, so they share their weights: those of all their
    # labels together. The subsets of seeds are stratified alike.
    task = supervised.balance_classes(task, np.concatenate([train.label[m] for m in masks]))
  spec = dataset.spec._replace(task=task, num_labelled=int(labelled.sum(axis=1).max()))
  how = experiment.seeds, experiment.train_protocol, experiment.data.prefetch
  train_data = batches.TrainData(train, labelled, *how, spec.names)
  # These three raise ValueError for protocols and metrics that do not fit, before training.
  with name_place_in_errors("train_protocol"):
    batches.draw_kept(train_data, experiment.seeds[0], 0, np.arange(len(train.id)))
  with name_place_in_errors("test_protocols"):
    conditions.protocol_conditions(valid, experiment.test_protocols, spec.names, "valid")
  measure.metrics_for(spec.task, experiment.metrics)
  mesh = devices_mesh.make_mesh(seed_devices=experiment.train.seed_devices)
  variants = []
  for config in experiment.variants:
    checkpoints, method, init = checkpoint.run_folder(folder) / config.folder, None, None
    if config.method != CONSTANT_VARIANT:
      method = methods.build_method(config.method, config.settings, spec)
      method = precision.with_precision(method, experiment.precision)
      loop.check_training(method, experiment.train, mesh, len(experiment.seeds), config.name)
      if not checkpoint.saved_steps(checkpoints):
        init = init_from.plan_init(experiment, config, method)
    variants.append(Variant(config.name, checkpoints, method, init))
  tested = patterns.tested_patterns(len(spec.modalities))
  chosen = choose_rows(valid, task.kind, experiment.train.valid_rows)
  return Setup(experiment, dataset, spec, train_data, valid, chosen, tested, mesh, tuple(variants))


def choose_rows(split: Split, task_kind: str, most: int) -> Split:
  """About `most` rows of a split, stratified by label, at least one of every class. The same ones
  for all seeds and methods. 0: all."""
  if not 0 < most < len(split.id):
    return split
  # Every 25 steps all of a large split would be read under every pattern: most of the time.
  mask = sampling.label_subset(split.label, task_kind, most / len(split.id), 0, split.id)
  return jax.tree.map(lambda x: x[mask], split)


def describe_selection(setup: Setup) -> list[str]:
  """A line if not all validation rows select the step."""
  most, num_rows = len(setup.selection_data.id), len(setup.valid_data.id)
  if most == num_rows:
    return []
  return [
    f"{most:,} of the {num_rows:,} validation rows, stratified by label, select the step of each "
    "seed and the best variant; train.valid_rows=0 takes all"
  ]


def load_dataset(config: DataConfig) -> data.Dataset:
  """The data set of an experiment. ValueError if it lacks a split."""
  dataset = data.load(config.name, **config.options)
  for name in SPLITS:
    if name not in dataset.splits:
      raise ValueError(
        f"data set {dataset.name!r} has no {name} split, a run needs train, valid and "
        f"test; its splits are {', '.join(dataset.splits)}"
      )
  return dataset


def labelled_mask(dataset: data.Dataset, rate: float, seed: int) -> Bool[np.ndarray, " N"]:
  """The labelled train rows that keep their label. Where rows come in groups (the
  segments of a recording), whole groups keep or lose it, drawn by the label of their first row."""
  split, group = dataset.split("train"), dataset.group("train")
  units, kind = split.id if group is None else group, dataset.spec.task.kind
  known = np.ones(len(units), bool) if dataset.labelled is None else dataset.labelled
  mask = np.zeros(len(units), bool)
  ids, first, inverse = np.unique(units[known], return_index=True, return_inverse=True)
  mask[known] = sampling.label_subset(split.label[known][first], kind, rate, seed, ids)[inverse]
  return mask
