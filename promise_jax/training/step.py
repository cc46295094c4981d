"""The jitted programs of training: the start of a stage, and a call of K steps."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from promise_jax import missing
from promise_jax.data import batches
from promise_jax.devices import mesh as devices_mesh
from promise_jax.evaluation import predict as evaluation_predict
from promise_jax.evaluation import selection
from promise_jax.method import Method, Stage, StepInfo, TrainState
from promise_jax.optim import optimizer, param_paths, update_rules
from promise_jax.types import Array, PyTree, Spec


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """`steps` updates of `batch` rows, `labelled_per_batch` of them labelled while
  unlabelled rows exist; validation `every` so many; `select` says what chooses the
  step: the mean over "all" patterns, or the "full" one; `seed_parallelism` how seeds run:
  "map", "vmap", or "auto" (map on CPU, vmap elsewhere); `seed_devices` into how many
  groups the devices are split, each of which trains its part of the seeds."""

  steps: int = 300
  eval_every: int = 25
  batch_size: int = 128
  labelled_per_batch: int = 32
  select_on: str = "all"
  seed_parallelism: str = "auto"
  seed_devices: int = 1
  optim: optimizer.OptimConfig = optimizer.OptimConfig()


class TrainLoopState(NamedTuple):
  """All seeds, stacked: the state, and the best (params, model_state), its score and step."""

  state: TrainState
  best: tuple[PyTree, PyTree]
  score: Array
  at: Array


def make_stage_start(method: Method, number: int, tx, config: TrainConfig, mesh: Mesh) -> Callable:
  """The jitted start(keys, best, given) -> the Carry with which stage `number` begins:
  from `init` with what is `given` in its place, or from the best of the stage before.
  It is `sharding.of_seeds`."""
  stage = method.stages[number]

  def one(key, best, given):
    params, model_state = best if number else method.init(jax.random.fold_in(key, 0))
    params = params if number else replace_leaves(params, given)
    params, model_state = stage.on_start(jax.random.fold_in(key, 2 + number), params, model_state)
    state = TrainState(params, model_state, tx.init(params))
    score, at = jnp.full((), -jnp.inf), jnp.zeros((), jnp.int32)
    return TrainLoopState(state, (params, model_state), score, at)

  grouped = devices_mesh.shard_map_over_seeds(over_seeds(one, config), mesh, (True, True, True))
  return jax.jit(grouped, out_shardings=devices_mesh.seed_sharding(mesh))


def replace_leaves(params: PyTree, given: Mapping[str, Array]) -> PyTree:
  """`params` with the leaves `given` by path in place of its own; ValueError for a path
  that it has not, or another shape or dtype."""
  own = param_paths.leaves_by_path(params)
  for name, x in given.items():
    if name not in own or (own[name].shape, own[name].dtype) != (x.shape, x.dtype):
      raise ValueError(f"start has {name} {x.dtype}{x.shape}, no parameter is like it")
  return jax.tree_util.tree_map_with_path(
    lambda path, x: given.get(param_paths.path_to_string(path), x), params
  )


def over_seeds(one: Callable, config: TrainConfig) -> Callable:
  """The function of one seed as a function of all, stacked on a leading axis."""
  kind = config.seed_parallelism
  if kind == "auto":
    kind = "map" if jax.default_backend() == "cpu" else "vmap"
  if kind == "vmap":
    return lambda *stacked: jax.vmap(one)(*stacked)
  return lambda *stacked: jax.lax.map(lambda args: one(*args), stacked)


def make_train_steps(
  method: Method,
  stage: Stage,
  tx,
  spec: Spec,
  protocol: missing.Protocol,
  config: TrainConfig,
  mesh: Mesh,
) -> Callable:
  """The jitted call (carry, ready, keys, data, judge, steps) -> (carry, metrics).

  Of K steps of every seed, on the rows that `ready` (of `feed.host_rows`) names, those
  in `steps` i32[2], [from, to); after the last of the K, validation. In `metrics`,
  "terms" f[S, K] mean something at those steps, "finite" [S] after them, and "valid"
  f[S] after the last. The carry is donated; it stays `sharding.of_seeds`.
  """
  update = (stage.update or update_rules.gradient_update)(stage, tx)
  predict = stage.predict or method.predict
  patterns = missing.all_patterns(len(spec.modalities))
  # An earlier stage on complete rows hands on what is best on complete rows.
  complete = not stage.hide and stage.name != method.stages[-1].name
  patterns = selection.selection_patterns(patterns, "full" if complete else config.select_on)

  def validate(params, model_state, judge):
    logits = evaluation_predict.predict_patterns(
      predict, params, model_state, judge, patterns, mesh
    )
    weight = selection.row_weights(judge["recorded"], judge["valid"], patterns)
    return selection.selection_score(logits, judge["label"], weight, spec.task)

  def call(carry, ready, keys, data, judge, steps):
    clocks = StepInfo(*ready["clock"])
    whole = steps[1] == config.eval_every

    def one(carry, chosen, key):
      @jax.jit  # traced once, for what it tells and for the loop
      def step(state, k):
        now = lambda x: jax.lax.dynamic_index_in_dim(x, k, keepdims=False)
        read, clock = jax.tree.map(now, (chosen, clocks))
        batch = batches.make_batch(data, read, protocol.redraw, mesh)
        # The stream of step keys is fold 1 of the seed's key; fold 0 made the weights.
        step_key = jax.random.fold_in(jax.random.fold_in(key, 1), clock.step)
        return update(state, batch, step_key, clock)

      def take(k, now):
        state, terms = now
        state, told = step(state, k)
        put = lambda xs, x: jax.lax.dynamic_update_index_in_dim(xs, x, k, 0)
        return state, jax.tree.map(put, terms, told)

      _, like = jax.eval_shape(step, carry.state, steps[0])
      none = jax.tree.map(lambda x: jnp.zeros((config.eval_every, *x.shape), x.dtype), like)
      state, terms = jax.lax.fori_loop(*steps, take, (carry.state, none))
      judged = lambda: validate(state.params, state.model_state, judge)
      score = jax.lax.cond(whole, judged, lambda: -jnp.inf)  # which is never better
      better = score > carry.score
      best = jax.lax.cond(better, lambda: (state.params, state.model_state), lambda: carry.best)
      at = jnp.where(better, clocks.step[-1] + 1, carry.at)
      score_now = jnp.where(better, score, carry.score)
      finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state.params)]
      told = {"terms": terms, "valid": score, "finite": jnp.all(jnp.stack(finite))}
      return TrainLoopState(state, best, score_now, at), told

    return over_seeds(one, config)(carry, ready["chosen"], keys)

  seeds = (True, {"chosen": True, "clock": False}, True, False, False, False)
  places = (devices_mesh.seed_sharding(mesh), devices_mesh.replicated(mesh))
  grouped = devices_mesh.shard_map_over_seeds(call, mesh, seeds)
  return jax.jit(grouped, donate_argnums=0, out_shardings=places)


def compiled(program: Callable, args: tuple, speed: dict, once: bool = False) -> Callable:
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
