"""The settings of training, and what is refused of them."""

import dataclasses
from typing import Literal

from jax.sharding import Mesh

from promise_jax.checks import check_fields
from promise_jax.optim import optimizer


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """How long a method trains, on what batches, and on which devices."""

  steps: int = 300  # optimizer updates in all stages together
  eval_every: int = 25  # K steps that are one compiled block and end in a validation
  batch_size: int = 128  # rows of a batch, over all devices
  labelled_per_batch: int = 32  # labelled rows of a batch, while there are unlabelled rows
  select_on: Literal["all", "full"] = "all"  # patterns that select the step: all, or the full one
  valid_rows: int = 1024  # about the most validation rows that select the step; 0: all
  # Seeds one after another (map) or at once (vmap); auto: map on CPU, vmap elsewhere.
  seed_parallelism: Literal["auto", "map", "vmap"] = "auto"
  save_every: float = 60.0  # seconds between two checkpoints; 0 saves after every block
  keep_checkpoints: bool = False  # of a finished run, which does not need them any more
  seed_devices: int = 1  # parts of the devices, each of which trains its share of the seeds
  optim: optimizer.OptimConfig = optimizer.OptimConfig()


def check_train_config(config: TrainConfig, mesh: Mesh, num_seeds: int) -> None:
  """Raises ValueError for settings that do not fit each other, the devices or the seeds."""
  check_fields(config, "train", valid_rows=0)
  if config.batch_size < 1 or not 0 <= config.labelled_per_batch <= config.batch_size:
    raise ValueError(
      f"train.batch_size is {config.batch_size} with {config.labelled_per_batch} labelled rows, "
      "at least 1 row is needed, and from 0 to all of them labelled"
    )
  if config.batch_size % mesh.shape["data"]:
    raise ValueError(
      f"train.batch_size is {config.batch_size}, it must be a multiple of the "
      f"{mesh.shape['data']} devices that share a batch"
    )
  if num_seeds % mesh.shape["seed"]:
    raise ValueError(
      f"seeds is {num_seeds}, it must be a multiple of train.seed_devices, {mesh.shape['seed']}"
    )
  if config.eval_every < 1 or config.steps < 1 or config.steps % config.eval_every:
    raise ValueError(
      f"train.steps is {config.steps}, it must be a positive multiple of "
      f"train.eval_every, {config.eval_every}"
    )
