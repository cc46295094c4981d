"""fit(): the only training loop.

K steps for all seeds are one jitted call: a loop over the steps inside a map over the
seeds, ending in a validation of every seed under every missing pattern, which keeps the
best parameters on the device. The host draws rows and masks for the next call while one
runs. Where K steps take long, the same program runs them in parts, so that a signal is
answered within seconds. Everything follows from (seed, step): a resumed run repeats
nothing and skips nothing.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from promise_jax.checks import check_choice
from promise_jax.data import batches, device_data
from promise_jax.devices import distributed
from promise_jax.devices import mesh as devices_mesh
from promise_jax.method import Method, Stage
from promise_jax.optim import optimizer, param_paths
from promise_jax.training import checkpoint, progress
from promise_jax.training.keys import training_keys
from promise_jax.training.step import (
  TrainConfig,
  TrainLoopState,
  compiled,
  make_stage_start,
  make_train_steps,
)
from promise_jax.types import Array, PyTree, Spec, Split

ANSWER = 5.0  # seconds that a part of a call may take, if a step takes less


class Trained(NamedTuple):
  """What training left: the best `params`, `model_state` [S, ...], the validation `score` [S]
  and step `at` [S] of each, and `speed`, numbers for the log, with those of each of
  its "stages" (see `measured`)."""

  params: PyTree
  model_state: PyTree
  score: np.ndarray
  at: np.ndarray
  speed: dict[str, Any]


class TrainingInterrupted(Exception):
  """Training was asked to stop by `signal` and has saved after `step` steps."""

  def __init__(self, step: int, signal: int):
    super().__init__(f"stopped and saved after step {step}")
    self.step, self.signal = step, signal


def fit(
  method: Method,
  spec: Spec,
  rows: batches.TrainData,
  valid: Split,
  config: TrainConfig,
  *,
  mesh: Mesh | None = None,
  start: Mapping[str, Array] | None = None,
  manager: Any = None,
  log: Callable[[list[dict]], None] = lambda lines: None,
  stop: Callable[[], int] = lambda: 0,
  title: str | None = None,
) -> Trained:
  """Trains `method` for every seed, stage by stage.

  `start` holds parameters by path, [S, ...], that take the place of fresh ones before
  the first stage is entered; a resumed run, which is past that, does not read it.
  `manager` (of `checkpoint.opened`) makes the run resumable: it is asked for the last
  step and given a checkpoint after every call. `log` gets a line a seed and call.
  `stop` is asked after every part of a call (`spans`); if it answers with the number of
  a signal, what is done is saved and `Stopped` raised. `title` shows a progress bar.
  Raises FloatingPointError at the first non-finite loss or parameter, before anything
  of that part is saved, and ValueError for settings that do not fit.
  """
  mesh = mesh or devices_mesh.make_mesh(groups=config.seed_devices)
  calls = check_training(method, config, mesh, len(rows.seeds))
  data, own = device_data.training_data(method, rows.split, mesh)
  judge = device_data.to_devices(method, device_data.pad_to_blocks(valid, mesh), mesh)
  prepare = device_data.preprocess_batches(method, mesh)
  keys = training_keys(rows.seeds)
  done = checkpoint.latest_step(manager) if manager else 0
  save = functools.partial(checkpoint.save, manager) if manager else lambda *_: None
  stages, end, best, given = [], 0, None, dict(start or {})
  bar_of = progress.progress_bar(title, sum(calls) * config.eval_every, done)
  with bar_of as bar, contextlib.ExitStack() as reading:
    for number, (stage, count) in enumerate(zip(method.stages, calls, strict=True)):
      begin, end = end, end + count * config.eval_every
      tx = optimizer.make_optimizer(config.optim, end - begin, stage.trainable)
      begins = make_stage_start(method, number, tx, config, mesh)
      carry = jax.eval_shape(begins, keys, best, given)
      speed = measured(stage, carry.state.params, len(rows.seeds))
      stages.append(speed)
      if begin >= done:
        inputs = (keys, best, given)
        carry = compiled(begins, inputs, speed, once=True)(*inputs)
      span, entry, told = (begin, end), max(begin, done), []
      first = entry - (entry - begin) % config.eval_every  # step of the call it is in
      if begin < done <= end:
        carry, told = resumed(manager, done, carry, first < entry, mesh)
      asked = batches.iterate_blocks(rows, config, stage, span, first, own, mesh, prepare)
      reading.enter_context(contextlib.closing(asked))
      call, ready, later = None, None, None
      for at in range(first, end, config.eval_every):
        ready = ready or next(asked)
        if call is None:
          program = make_train_steps(method, stage, tx, spec, rows.protocol, config, mesh)
          args = (carry, ready, keys, data, judge, np.zeros(2, np.int32))
          call = compiled(program, args, speed)
        for steps in spans(max(entry - at, 0), config.eval_every, speed):
          since, (now, to) = time.perf_counter(), (at + steps).tolist()
          carry, metrics = call(carry, ready, keys, data, judge, steps)
          whole = to == at + config.eval_every
          later = later or next(asked, None)  # the rows of the next call
          told.append(progress.of_steps(jax.device_get(metrics), steps))
          speed["train_s"] += time.perf_counter() - since
          speed["steps"] += to - now
          progress.check_finite(told[-1], now, rows.seeds)
          bar.update(to - now)
          if whole:
            lines, told = progress.summarise(told, stage.name, to, rows.seeds), []
            log(lines)
            bar.set_postfix(progress.mean_over_seeds(lines))
            save(to, carry)
          if signal := stop():
            if not whole:
              save(to, {"carry": carry, "terms": progress.joined(told)})
            raise TrainingInterrupted(to, signal)
        ready, later = later, None
      best = carry.best
  carry = jax.device_put(carry._replace(state=None), devices_mesh.replicated(mesh))
  return finished(carry, stages, config.batch_size * len(rows.seeds))


def check_training(method: Method, config: TrainConfig, mesh: Mesh, seeds: int) -> list[int]:
  """The number of jitted calls of each stage; ValueError for what does not fit."""
  optimizer.check_optimizer(config.optim)
  if config.batch_size < 1 or not 0 <= config.labelled_per_batch <= config.batch_size:
    raise ValueError(
      f"train.batch_size is {config.batch_size} with {config.labelled_per_batch} labelled rows, "
      "at least 1 row is needed, and from 0 to all of them labelled"
    )
  devices_mesh.check_batch_size(config.batch_size, mesh)
  devices_mesh.check_seeds(seeds, mesh.shape["seed"])
  check_choice("train.seed_parallelism", config.seed_parallelism, ("auto", "map", "vmap"))
  check_choice("train.select_on", config.select_on, ("all", "full"))
  if config.eval_every < 1 or config.steps % config.eval_every or config.steps < 1:
    raise ValueError(
      f"train.steps is {config.steps}, it must be a positive multiple of "
      f"train.eval_every, {config.eval_every}"
    )
  total = config.steps // config.eval_every
  if total < len(method.stages):
    raise ValueError(
      f"train.steps is {config.steps}, the {len(method.stages)} stages of the method "
      f"need at least {len(method.stages) * config.eval_every}"
    )
  shares = np.array([s.fraction for s in method.stages])
  edges = np.round(np.cumsum(shares) / shares.sum() * total).astype(int)
  # Every stage gets a call: push the edges apart from the left, then from the right.
  for i in range(len(edges)):
    edges[i] = min(max(edges[i], i + 1), total - (len(edges) - 1 - i))
  return np.diff(edges, prepend=0).tolist()


def resumed(manager, step: int, like: TrainLoopState, cut: bool, mesh: Mesh):
  """The carry that was saved at `step`, and what the call it is in, if it was `cut`,
  has told so far, which is saved with it: a list of one part or none."""
  home = devices_mesh.seed_sharding(mesh)
  if not cut:
    return checkpoint.restore(manager, step, like, home), []
  both = {
    "carry": like,
    "terms": checkpoint.load_shapes(manager.directory, step, "terms"),
  }
  places = {"carry": home, "terms": devices_mesh.replicated(mesh)}
  saved = checkpoint.restore(manager, step, both, places)
  return saved["carry"], [{"terms": progress.restored(saved["terms"])}]


def spans(first: int, every: int, speed: dict) -> Iterator[np.ndarray]:
  """The parts i32[2], [from, to), in which a call takes its steps from `first` on: of
  so many that one takes `ANSWER` seconds or less, without the validation after the
  last, by the mean `speed` of the stage so far; of a single step before that is known
  or where one takes longer. The same in all processes."""
  while first < every:
    count = 1
    if speed["steps"]:
      pace = min(speed["train_s"] / speed["steps"], 1e3)
      pace = distributed.all_processes_max(int(1e6 * pace))  # in microseconds
      count = max(int(1e6 * ANSWER) // max(pace, 1), 1)
    last = min(first + count, every)
    yield np.array([first, last], np.int32)
    first = last


def measured(stage: Stage, params: PyTree, seeds: int) -> dict[str, Any]:
  """What is told of a stage: its name, how many of the numbers in `params` [S, ...] it
  `trains` of how many a seed has; the steps done and seconds spent, 0 so far."""
  trains, total = param_paths.count_parameters(params, stage.trainable)
  count = {"trains": trains // seeds, "parameters": total // seeds}
  return {"stage": stage.name} | count | {"steps": 0, "compile_s": 0.0, "train_s": 0.0}


def finished(carry: TrainLoopState, stages: list[dict], rows_a_step: int) -> Trained:
  """The result, with the numbers that the run reports of itself, in all and of each of
  the stages that took a step since it was started or resumed."""
  stages = [x for x in stages if x["steps"]]
  speed = {k: sum(x[k] for x in stages) for k in ("compile_s", "train_s", "steps")}
  for x in (speed, *stages) if stages else ():
    x["examples_per_s"] = x["steps"] * rows_a_step / x["train_s"]
  speed |= {"peak_memory_mb": progress.peak_memory_mb(), "stages": stages}
  score, at = np.asarray(carry.score), np.asarray(carry.at)
  return Trained(*carry.best, score, at, speed)
