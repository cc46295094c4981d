"""`fit`, the training loop of all methods.

K steps of all seeds and the validation after them are one compiled program, a block. While the
device computes a block, the host logs the one before and draws the rows of the next. All random
draws follow from (seed, step), so a resumed run ends like one that never stopped.
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from promise_jax.data import batches, device_data
from promise_jax.devices import mesh as devices_mesh
from promise_jax.method import Method
from promise_jax.optim import optimizer, param_paths
from promise_jax.training import progress, random_keys
from promise_jax.training.checkpoint import Checkpoints
from promise_jax.training.config import TrainConfig, check_train_config
from promise_jax.training.step import (
  TrainLoopState,
  compile_program,
  make_stage_start,
  make_train_block,
)
from promise_jax.types import PyTree, Spec, Split


class Trained(NamedTuple):
  """The result of training, of all seeds [S, ...]."""

  params: PyTree  # those with the best validation score
  model_state: PyTree
  best_score: Float[np.ndarray, " S"]
  best_step: Int[np.ndarray, " S"]
  speed: dict[str, Any]  # seconds, steps and examples/s, in all and of each of its "stages"


class TrainingInterrupted(Exception):
  """Training was stopped by `signal`, a number, and has saved after `step` steps."""

  def __init__(self, step: int, signal: int):
    super().__init__(f"stopped and saved after step {step}")
    self.step, self.signal = step, signal


def fit(
  method: Method,
  spec: Spec,
  train_data: batches.TrainData,
  valid_data: Split,
  config: TrainConfig,
  *,
  mesh: Mesh | None = None,
  init_params: Mapping[str, Array] | None = None,
  checkpoints: Checkpoints | None = None,
  log: Callable[[list[dict]], None] = lambda lines: None,
  stop: Callable[[], int] = lambda: 0,
  title: str | None = None,
) -> Trained:
  """Trains `method` for every seed, stage by stage.

  Args:
    method, spec: what to train, and the modalities and task of the data.
    train_data: train rows, which of them are labelled, the seeds, the training protocol.
    valid_data: rows that select the best step.
    config: steps, batches, devices and the optimizer.
    mesh: the devices, default all.
    init_params: {path: parameter [S, ...]} in place of randomly initialised ones.
    checkpoints: where the run saves, and resumes from.
    log: called with the lines of every block, one for each seed.
    stop: called after every block; if it returns a signal, not 0, training saves and stops.
    title: heading of the progress on the console; None shows nothing.

  Raises:
    FloatingPointError: a loss or parameter is not finite; nothing of that block is saved.
    TrainingInterrupted: `stop` returned a signal.
  """
  seeds = train_data.seeds
  mesh = mesh or devices_mesh.make_mesh(seed_devices=config.seed_devices)
  num_blocks = check_training(method, config, mesh, len(seeds), title or "the method")
  keys = random_keys.make_keys(seeds, mesh)
  data, host_rows = device_data.place_train_rows(method, train_data.split, mesh)
  valid = device_data.to_devices(method, device_data.pad_to_blocks(valid_data, mesh), mesh)
  preprocess = device_data.preprocess_batches(method, mesh)
  done = checkpoints.latest_step() if checkpoints else 0
  stages, end, best = [], 0, None
  with progress.Progress(config, spec.task, seeds, done, log, title) as reporter:
    for number, (stage, count) in enumerate(zip(method.stages, num_blocks, strict=True)):
      begin, end = end, end + count * config.eval_every
      tx = optimizer.make_optimizer(config.optim, end - begin, stage.trainable)
      start, args = make_stage_start(method, number, tx, config, mesh), (keys, best, init_params)
      shapes = jax.eval_shape(start, *args)
      trains, total = param_paths.count_parameters(shapes.state.params, stage.trainable)
      sizes = {"trains": trains // len(seeds), "parameters": total // len(seeds)}
      speed = {"stage": stage.name} | sizes | {"steps": 0, "compile_s": 0.0, "train_s": 0.0}
      stages.append(speed)
      loop_state = devices_mesh.placed_shapes(shapes, devices_mesh.seed_sharding(mesh))
      if done <= begin:
        make_state = functools.partial(compile_program(start, args, speed, once=True), *args)
      elif done <= end:
        make_state = functools.partial(checkpoints.restore, done, loop_state)
      if done == end:
        loop_state = make_state()
      elif done < end:
        steps = batches.StageSteps(begin, end, stage.hide)
        blocks = batches.iterate_blocks(
          train_data, config, steps, max(begin, done), host_rows, preprocess, mesh
        )
        program = make_train_block(method, stage, tx, spec, train_data.protocol, config, mesh)
        report = functools.partial(reporter.report, stage.name)
        with contextlib.closing(blocks):
          first, inputs = next(blocks), (keys, data, valid)
          # Beside the start, of which only the shapes are needed here.
          program = compile_program(program, (loop_state, first, *inputs), speed)
          blocks_left = itertools.chain([first], blocks)
          loop_state = train_stage(
            program, make_state(), blocks_left, inputs, report, checkpoints, stop, speed
          )
      best = loop_state.best
  result = jax.device_put(loop_state._replace(state=None), devices_mesh.replicated(mesh))
  scores = np.asarray(result.best_score), np.asarray(result.best_step)
  return Trained(*result.best, *scores, summarise_speed(stages, config.batch_size * len(seeds)))


def train_stage(
  program: Callable,
  loop_state: TrainLoopState,
  blocks: Iterator[batches.Block],
  inputs: tuple,
  report: Callable[[int, dict], None],
  checkpoints: Checkpoints | None,
  stop: Callable[[], int],
  speed: dict[str, Any],
) -> TrainLoopState:
  """Runs the compiled `program` on the blocks of a stage; returns the last loop state."""
  block, pending = next(blocks), None
  since = time.perf_counter()
  while block:
    step = int(block.info.step[-1]) + 1
    speed["steps"] += len(block.info.step)
    loop_state, metrics = program(loop_state, block, *inputs)
    if pending:
      report(*pending)  # while the device computes this block
    pending, block, signal = (step, metrics), next(blocks, None), stop()
    if signal or not block or (checkpoints and checkpoints.is_due()):
      # The next block takes over the memory of the loop state: save before it starts.
      report(*pending)
      pending = None
      if checkpoints:
        checkpoints.save(step, loop_state)
    speed["train_s"] = time.perf_counter() - since
    if signal:
      raise TrainingInterrupted(step, signal)
  return loop_state


def check_training(
  method: Method, config: TrainConfig, mesh: Mesh, num_seeds: int, name: str = "the method"
) -> list[int]:
  """The number of blocks of each stage; ValueError for settings that do not fit."""
  check_train_config(config, mesh, num_seeds)
  total = config.steps // config.eval_every
  if total < len(method.stages):
    raise ValueError(
      f"train.steps is {config.steps}, the {len(method.stages)} stages of {name} need at least "
      f"{len(method.stages) * config.eval_every}: train.eval_every, {config.eval_every}, each"
    )
  fractions = np.array([s.fraction for s in method.stages])
  edges = np.round(np.cumsum(fractions) / fractions.sum() * total).astype(int)
  # Every stage gets a block: push the edges apart.
  for i in range(len(edges)):
    least = edges[i - 1] + 1 if i else 1
    edges[i] = min(max(edges[i], least), total - (len(edges) - 1 - i))
  return np.diff(edges, prepend=0).tolist()


def summarise_speed(stages: list[dict], rows_per_step: int) -> dict[str, Any]:
  """The speed of the whole run, and of the stages that took a step since it was started."""
  stages = [x for x in stages if x["steps"]]
  speed = {k: sum(x[k] for x in stages) for k in ("compile_s", "train_s", "steps")}
  for x in (speed, *stages) if stages else ():
    x["examples_per_s"] = x["steps"] * rows_per_step / x["train_s"]
  return speed | {"peak_memory_mb": progress.peak_memory_mb(), "stages": stages}
