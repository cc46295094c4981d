"""fit(): the only training loop.

K steps for all seeds are one jitted call: a scan over the steps inside a map over the
seeds, ending in a validation of every seed under every missing pattern, which keeps the
best parameters on the device. The host draws rows and masks for the next call while one
runs. Everything follows from (seed, step): a resumed run repeats nothing and skips
nothing.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from promise_jax import (
  checkpoint,
  evaluate,
  missing,
  placing,
  progress,
  sharding,
  updates,
)
from promise_jax import optim as optimisers
from promise_jax.data import ahead, feed
from promise_jax.types import (
  Array,
  Clock,
  Method,
  PyTree,
  Spec,
  Split,
  Stage,
  State,
  one_of,
)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """`steps` updates of `batch` rows, `labelled_per_batch` of them labelled while
  unlabelled rows exist; validation `every` so many; `select` says what chooses the
  step: the mean over "all" patterns, or the "full" one; `replicate` how seeds run:
  "map", "vmap", or "auto" (map on CPU, vmap elsewhere)."""

  steps: int = 300
  every: int = 25
  batch: int = 128
  labelled_per_batch: int = 32
  select: str = "all"
  replicate: str = "auto"
  optim: optimisers.OptimConfig = optimisers.OptimConfig()


class Carry(NamedTuple):
  """All seeds, stacked: the state, and the best (params, aux), its score and step."""

  state: State
  best: tuple[PyTree, PyTree]
  score: Array
  at: Array


class Fit(NamedTuple):
  """What training left: the best `params`, `aux` [S, ...], the validation `score` [S]
  and step `at` [S] of each, and `speed`, numbers for the log, with those of each of
  its "stages" (see `measured`)."""

  params: PyTree
  aux: PyTree
  score: np.ndarray
  at: np.ndarray
  speed: dict[str, Any]


class Stopped(Exception):
  """Training was asked to stop by `signal` and has saved after `step` steps."""

  def __init__(self, step: int, signal: int):
    super().__init__(f"stopped and saved after step {step}")
    self.step, self.signal = step, signal


def fit(
  method: Method,
  spec: Spec,
  rows: feed.Rows,
  valid: Split,
  config: TrainConfig,
  *,
  mesh: Mesh | None = None,
  start: Mapping[str, Array] | None = None,
  manager: Any = None,
  log: Callable[[list[dict]], None] = lambda lines: None,
  stop: Callable[[], int] = lambda: 0,
  title: str | None = None,
) -> Fit:
  """Trains `method` for every seed, stage by stage.

  `start` holds parameters by path, [S, ...], that take the place of fresh ones before
  the first stage is entered; a resumed run, which is past that, does not read it.
  `manager` (of `checkpoint.opened`) makes the run resumable: it is asked for the last
  step and given a checkpoint after every call. `log` gets a line a seed and call.
  `stop` is asked after each call; if it answers with the number of a signal, the save
  is finished and `Stopped` raised. `title` shows a progress bar. Raises
  FloatingPointError at the first non-finite loss or parameter, before anything of
  that call is saved, and ValueError for settings that do not fit.
  """
  mesh = mesh or sharding.make_mesh()
  calls = check(method, config, mesh)
  everywhere = sharding.replicated(mesh)
  data, own = placing.rows_of(rows.split), None
  if ahead.streamed(rows.split):
    data, own = {}, data
  elif everywhere.is_fully_addressable:
    placing.check_room(method, data, mesh)
    data = placing.put(method, data, mesh)
  else:  # other processes have other devices: each gives its own what they need
    data, own = {}, placing.on_host(method, data)
  judge = placing.put(method, placing.padded(valid, mesh), mesh)
  prepare = placing.of_calls(method, mesh)
  keys = jax.vmap(jax.random.key)(jnp.asarray(rows.seeds, jnp.uint32))
  done = checkpoint.latest(manager) if manager else 0
  stages, end, best, given = [], 0, None, dict(start or {})
  bar_of = progress.progress_bar(title, sum(calls) * config.every, done)
  with bar_of as bar, contextlib.ExitStack() as reading:
    for number, (stage, count) in enumerate(zip(method.stages, calls, strict=True)):
      begin, end = end, end + count * config.every
      tx = optimisers.build(config.optim, end - begin, stage.trains)
      first = jax.jit(starter(method, number, tx, config), out_shardings=everywhere)
      carry = jax.eval_shape(first, keys, best, given)
      speed = measured(stage, carry.state.params, len(rows.seeds))
      stages.append(speed)
      if begin >= done:
        inputs = (keys, best, given)
        carry = compiled(first, inputs, speed, once=True)(*inputs)
      if begin < done <= end:
        carry = checkpoint.restore(manager, done, carry, everywhere)
      span, entry = (begin, end), max(begin, done)
      asked = feed.calls(rows, config, stage, span, entry, own, mesh, prepare)
      reading.enter_context(contextlib.closing(asked))
      call, ready = None, None
      for at in range(entry, end, config.every):
        ready = ready or next(asked)
        if call is None:
          program = make_call(method, stage, tx, spec, rows.protocol, config, mesh)
          call = compiled(program, (carry, ready, keys, data, judge), speed)
        since = time.perf_counter()
        carry, metrics = call(carry, ready, keys, data, judge)
        later = at + config.every
        ready = next(asked, None)
        metrics = jax.device_get(metrics)
        speed["train_s"] += time.perf_counter() - since
        speed["steps"] += config.every
        progress.check_finite(metrics, at, rows.seeds)
        lines = progress.summary(metrics, stage.name, later, rows.seeds)
        log(lines)
        if manager:
          checkpoint.save(manager, later, carry)
        bar.update(config.every)
        bar.set_postfix(progress.mean_of(lines))
        if signal := stop():
          raise Stopped(later, signal)
      best = carry.best
  return finished(carry, stages, config.batch * len(rows.seeds))


def check(method: Method, config: TrainConfig, mesh: Mesh) -> list[int]:
  """The number of jitted calls of each stage; ValueError for what does not fit."""
  optimisers.check(config.optim)
  if config.batch < 1 or not 0 <= config.labelled_per_batch <= config.batch:
    raise ValueError(
      f"train.batch is {config.batch} with {config.labelled_per_batch} labelled rows, "
      "at least 1 row is needed, and from 0 to all of them labelled"
    )
  sharding.check_rows(config.batch, mesh)
  one_of("train.replicate", config.replicate, ("auto", "map", "vmap"))
  one_of("train.select", config.select, ("all", "full"))
  if config.every < 1 or config.steps % config.every or config.steps < 1:
    raise ValueError(
      f"train.steps is {config.steps}, it must be a positive multiple of "
      f"train.every, {config.every}"
    )
  total = config.steps // config.every
  if total < len(method.stages):
    raise ValueError(
      f"train.steps is {config.steps}, the {len(method.stages)} stages of the method "
      f"need at least {len(method.stages) * config.every}"
    )
  shares = np.array([s.share for s in method.stages])
  edges = np.round(np.cumsum(shares) / shares.sum() * total).astype(int)
  # Every stage gets a call: push the edges apart from the left, then from the right.
  for i in range(len(edges)):
    edges[i] = min(max(edges[i], i + 1), total - (len(edges) - 1 - i))
  return np.diff(edges, prepend=0).tolist()


def starter(method: Method, number: int, tx, config: TrainConfig) -> Callable:
  """start(keys, best, given) -> the Carry with which stage `number` begins: from `init`
  with what is `given` in its place, or from the best of the stage before."""
  stage = method.stages[number]

  def one(key, best, given):
    params, aux = best if number else method.init(jax.random.fold_in(key, 0))
    params = params if number else placed(params, given)
    params, aux = stage.enter(jax.random.fold_in(key, 2 + number), params, aux)
    state = State(params, aux, tx.init(params))
    score, at = jnp.full((), -jnp.inf), jnp.zeros((), jnp.int32)
    return Carry(state, (params, aux), score, at)

  return replicate(one, config)


def placed(params: PyTree, given: Mapping[str, Array]) -> PyTree:
  """`params` with the leaves `given` by path in place of its own; ValueError for a path
  that it has not, or another shape or dtype."""
  own = optimisers.by_path(params)
  for name, x in given.items():
    if name not in own or (own[name].shape, own[name].dtype) != (x.shape, x.dtype):
      raise ValueError(f"start has {name} {x.dtype}{x.shape}, no parameter is like it")
  return jax.tree_util.tree_map_with_path(
    lambda path, x: given.get(optimisers.path_name(path), x), params
  )


def replicate(one: Callable, config: TrainConfig) -> Callable:
  """The function of one seed as a function of all, stacked on a leading axis."""
  kind = config.replicate
  if kind == "auto":
    kind = "map" if jax.default_backend() == "cpu" else "vmap"
  if kind == "vmap":
    return lambda *stacked: jax.vmap(one)(*stacked)
  return lambda *stacked: jax.lax.map(lambda args: one(*args), stacked)


def make_call(
  method: Method,
  stage: Stage,
  tx,
  spec: Spec,
  protocol: missing.Protocol,
  config: TrainConfig,
  mesh: Mesh,
) -> Callable:
  """The jitted call (carry, ready, keys, data, judge) -> (carry, metrics).

  K steps of every seed on the rows that `ready` (of `feed.host_rows`) names, then
  validation. The carry is donated.
  """
  update = (stage.update or updates.gradient_update)(stage, tx)
  predict = stage.predict or method.predict
  patterns = missing.all_patterns(len(spec.modalities))
  # An earlier stage on complete rows hands on what is best on complete rows.
  complete = stage.complete and stage.name != method.stages[-1].name
  patterns = evaluate.choosing(patterns, "full" if complete else config.select)

  def validate(params, aux, judge):
    logits = evaluate.predict_patterns(predict, params, aux, judge, patterns, mesh)
    weight = evaluate.weights(judge["recorded"], judge["valid"], patterns)
    return evaluate.score(logits, judge["label"], weight, spec.task)

  def call(carry, ready, keys, data, judge):
    clock = Clock(*ready["clock"])

    def one(carry, chosen, key):
      def step(state, now):
        chosen, clock = now
        batch = feed.gather(data, chosen, protocol.redraw, mesh)
        # The stream of step keys is fold 1 of the seed's key; fold 0 made the weights.
        step_key = jax.random.fold_in(jax.random.fold_in(key, 1), clock.step)
        return update(state, batch, step_key, clock)

      state, metrics = jax.lax.scan(step, carry.state, (chosen, clock))
      score = validate(state.params, state.aux, judge)
      better = score > carry.score
      best = jax.lax.cond(better, lambda: (state.params, state.aux), lambda: carry.best)
      at = jnp.where(better, clock.step[-1] + 1, carry.at)
      score_now = jnp.where(better, score, carry.score)
      finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.params)]
      told = {"terms": metrics, "valid": score, "finite": jnp.all(jnp.stack(finite))}
      return Carry(state, best, score_now, at), told

    return replicate(one, config)(carry, ready["chosen"], keys)

  everywhere = sharding.replicated(mesh)
  return jax.jit(call, donate_argnums=0, out_shardings=everywhere)


def compiled(
  program: Callable, args: tuple, speed: dict, once: bool = False
) -> Callable:
  """`program` compiled for `args`; other shapes are an error, not a recompile.

  `once`: it runs a single time, so on CPU, where optimising it takes longer than
  running it, it is not optimised.
  """
  since = time.perf_counter()
  plain = once and jax.default_backend() == "cpu"
  options = {"xla_backend_optimization_level": 0} if plain else None
  call = program.lower(*args).compile(compiler_options=options)
  speed["compile_s"] += time.perf_counter() - since
  return call


def measured(stage: Stage, params: PyTree, seeds: int) -> dict[str, Any]:
  """What is told of a stage: its name, how many of the numbers in `params` [S, ...] it
  `trains` of how many a seed has; the steps done and seconds spent, 0 so far."""
  trains, total = optimisers.counts(params, stage.trains)
  count = {"trains": trains // seeds, "parameters": total // seeds}
  return {"stage": stage.name} | count | {"steps": 0, "compile_s": 0.0, "train_s": 0.0}


def finished(carry: Carry, stages: list[dict], rows_a_step: int) -> Fit:
  """The result, with the numbers that the run reports of itself, in all and of each of
  the stages that took a step since it was started or resumed."""
  stages = [x for x in stages if x["steps"]]
  speed = {k: sum(x[k] for x in stages) for k in ("compile_s", "train_s", "steps")}
  for x in (speed, *stages) if stages else ():
    x["examples_per_s"] = x["steps"] * rows_a_step / x["train_s"]
  speed |= {"peak_memory_mb": progress.peak_memory_mb(), "stages": stages}
  score, at = np.asarray(carry.score), np.asarray(carry.at)
  return Fit(*carry.best, score, at, speed)
