"""The compiled programs of training: the start of a stage, and K steps with a validation."""

import concurrent.futures
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import flatten_util
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from promise_jax import missing
from promise_jax.data import batches
from promise_jax.devices import mesh as devices_mesh
from promise_jax.evaluation import predict as evaluation_predict
from promise_jax.evaluation import selection
from promise_jax.method import Method, Stage, TrainState
from promise_jax.optim import param_paths, update_rules
from promise_jax.training.config import TrainConfig
from promise_jax.types import PyTree, Spec

COMPILER = concurrent.futures.ThreadPoolExecutor(1, "compiler")


class TrainLoopState(NamedTuple):
  """The training state and the best parameters of all seeds, each leaf [S, ...]."""

  state: TrainState
  best: tuple[PyTree, PyTree]  # (params, model_state) with the best validation score
  best_score: Float[Array, " S"]
  best_step: Int[Array, " S"]


def make_stage_start(
  method: Method, number: int, tx: optax.GradientTransformation, config: TrainConfig, mesh: Mesh
) -> Callable:
  """The jitted start(keys, best, init_params) -> TrainLoopState of stage `number`.

  The first stage starts from `method.init`, with `init_params` {path: [S, ...]} in place of
  what it drew; a later stage from `best`, the (params, model_state) of the one before.
  """
  stage = method.stages[number]

  def start(key, best, init_params):
    params, model_state = best if number else method.init(jax.random.fold_in(key, 0))
    params = params if number else replace_leaves(params, init_params)
    params, model_state = stage.on_start(jax.random.fold_in(key, 2 + number), params, model_state)
    state = TrainState(params, model_state, tx.init(params))
    score, step = jnp.full((), -jnp.inf), jnp.zeros((), jnp.int32)
    return TrainLoopState(state, (params, model_state), score, step)

  start = map_over_seeds(start, config, mesh)
  return jax.jit(start, out_shardings=devices_mesh.seed_sharding(mesh))


def make_train_block(
  method: Method,
  stage: Stage,
  tx: optax.GradientTransformation,
  spec: Spec,
  protocol: missing.Protocol,
  config: TrainConfig,
  mesh: Mesh,
) -> Callable:
  """The jitted train_block(loop_state, block, keys, data, valid) -> (loop_state, metrics): K
  optimizer steps of every seed on the train rows `data`, then a validation on the rows `valid`.

  `metrics` are "terms" {name: [S, K]} of the loss and, of the parameters after the last step,
  "valid" f[S] (the score) and "finite" bool[S]. The loop state is donated.
  """
  update = (stage.update or update_rules.gradient_update)(stage, tx)
  source = stage if stage.predict else method
  # A stage on complete rows, unless it is the last one, is validated on complete rows.
  on_complete = not stage.hide and stage.name != method.stages[-1].name
  select_on = "full" if on_complete else config.select_on
  patterns = selection.selection_patterns(len(spec.modalities), select_on)

  def train_block(loop_state, block: batches.Block, keys, data, valid):
    def train_seed(loop_state: TrainLoopState, choice, key):
      # Of a seed's key fold 0 is for `init`, 1 for the steps and 2 + n for the start of stage n.
      steps_key = jax.random.fold_in(key, 1)

      def train_step(state, choice_and_info):
        step_choice, info = choice_and_info
        step_key = jax.random.fold_in(steps_key, info.step)
        batch = batches.make_batch(data, step_choice, protocol.redraw, mesh)
        return update(state, batch, step_key, info)

      state, terms = jax.lax.scan(train_step, loop_state.state, (choice, block.info))
      params, model_state = state.params, state.model_state
      logits = evaluation_predict.predict_patterns(
        source.predict, params, model_state, valid, patterns, mesh, source.encode
      )
      weight = selection.row_weights(valid["recorded"], valid["valid"], patterns)
      score = selection.selection_score(logits, valid["label"], weight, spec.task)
      finite = jnp.all(jnp.isfinite(flatten_util.ravel_pytree(params)[0]))
      metrics = {"terms": terms, "valid": score, "finite": finite}
      return keep_best(loop_state, state, score, block.info.step[-1] + 1), metrics

    return map_over_seeds(train_seed, config, mesh)(loop_state, block.choice, keys)

  shardings = devices_mesh.seed_sharding(mesh), devices_mesh.replicated(mesh)
  return jax.jit(train_block, donate_argnames="loop_state", out_shardings=shardings)


def keep_best(loop_state: TrainLoopState, state: TrainState, score, step) -> TrainLoopState:
  """The loop state of one seed with `state`, which is also the best if its score is higher."""
  better = score > loop_state.best_score
  new = state.params, state.model_state
  return TrainLoopState(
    state,
    jax.lax.cond(better, lambda: new, lambda: loop_state.best),
    jnp.where(better, score, loop_state.best_score),
    jnp.where(better, step, loop_state.best_step),
  )


def map_over_seeds(function: Callable, config: TrainConfig, mesh: Mesh) -> Callable:
  """`function` of one seed as a function of all S, stacked on a leading axis.

  "map" runs one seed after another, which needs least memory and was 13 to 17 % faster on a
  CPU; "vmap" runs all at once. On devices in several parts, "map" runs one seed on each part.
  """
  kind, parts = config.seed_parallelism, mesh.shape["seed"]
  if kind == "auto":
    kind = "map" if jax.default_backend() == "cpu" else "vmap"
  # With the axis name, the sharding constraint on a batch leaves each seed on its devices.
  at_once = jax.vmap(function, spmd_axis_name="seed")
  if kind == "vmap":
    return at_once
  if parts == 1:
    return lambda *args: jax.lax.map(lambda one: function(*one), args)

  def in_turn(*args):
    # [S, ...] -> [S / parts, parts, ...] without moving a seed to another device.
    split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]).swapaxes(0, 1), args)
    results = jax.lax.map(lambda one_each: at_once(*one_each), split)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), results)

  return in_turn


def replace_leaves(params: PyTree, new: Mapping[str, Array] | None) -> PyTree:
  """`params` with the leaves `new` {path: array} in place of its own. ValueError if it lacks one
  of the paths, or has another shape or dtype there."""
  known, new = param_paths.leaves_by_path(params), new or {}
  for name, x in new.items():
    if name not in known or (known[name].shape, known[name].dtype) != (x.shape, x.dtype):
      raise ValueError(f"init_params has {name} {x.dtype}{x.shape}, no parameter is like it")
  return jax.tree_util.tree_map_with_path(
    lambda path, x: new.get(param_paths.path_to_string(path), x), params
  )


def compile_program(
  program: Callable, args: tuple, speed: dict[str, Any], once: bool = False
) -> Callable:
  """Compiles `program` for the shapes of `args`; adds the seconds to speed["compile_s"].

  `once`: the program runs only once. On a CPU it is compiled without optimisation, by a thread
  beside what is compiled next, and its first call waits for it.
  """
  since = time.perf_counter()
  lowered = program.lower(*args)  # here: settings of JAX may be of this thread alone
  if not once or jax.default_backend() != "cpu":
    compiled = lowered.compile()
    speed["compile_s"] += time.perf_counter() - since
    return compiled
  compiling = COMPILER.submit(lowered.compile, {"xla_backend_optimization_level": 0})
  speed["compile_s"] += time.perf_counter() - since

  def call_once(*args):
    since = time.perf_counter()
    compiled = compiling.result()
    speed["compile_s"] += time.perf_counter() - since
    return compiled(*args)

  return call_once
