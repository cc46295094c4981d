"""The library's own training call, made and compiled for one case of the benchmark."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from bench import workloads
from promise_jax.data import batches, device_data
from promise_jax.devices import mesh as devices_mesh
from promise_jax.devices import placement
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.optim import optimizer, update_rules
from promise_jax.training import step as training_step
from promise_jax.types import PyTree

VALID = 8  # rows of the validation that ends a call


class Program(NamedTuple):
  """Everything that a measurement needs.

  `call(carry, *args) -> (carry, metrics)` is what `train.fit` runs, compiled in
  `compile_s`; `update` and `chosen` [K] make single steps of the first seed.
  """

  method: Method
  stage: Stage
  call: Callable
  carry: training_step.TrainLoopState
  args: tuple
  compile_s: float
  memory_mb: float
  update: Callable
  seed_steps: int


def made(
  case: workloads.Case,
  *,
  seeds: int | None = None,
  seed_parallelism: str = "auto",
  devices: int = 1,
  groups: int = 1,
  steps: int | None = None,
) -> Program:
  """The program of `case` on the first `devices` in so many `groups`, at the start of
  its stage."""
  load = case.workload
  load = load._replace(seeds=seeds or load.seeds, steps=steps or load.steps)
  config, rows = (
    workloads.settings(load, seed_parallelism),
    workloads.rows_of(load, load.seeds),
  )
  mesh, method = devices_mesh.make_mesh(jax.devices()[:devices], seed_devices=groups), case.build()
  number = range(len(method.stages))[case.stage]
  stage = method.stages[number]
  tx = optimizer.make_optimizer(config.optim, config.steps, stage.trainable)
  carry = started(method, number, tx, config, rows.seeds, mesh)
  steps_of_stage = batches.StageSteps(0, config.steps, stage.hide)
  # From the middle: what comes in by and by (Robult's guesses) is at work.
  ready = batches.draw_block(rows, config, steps_of_stage, config.steps // 2)
  data = device_data.to_devices(method, device_data.collect_arrays(rows.split), mesh)
  valid = device_data.pad_to_blocks(workloads.split(load, VALID, seed=1), mesh)
  ready = placement.place(ready, devices_mesh.replicated(mesh))
  keys, judge = make_keys(rows.seeds), device_data.to_devices(method, valid, mesh)
  args = (ready, keys, data, judge)
  call = training_step.make_train_block(method, stage, tx, load.spec, rows.protocol, config, mesh)
  speed = {"compile_s": 0.0}
  call = training_step.compile_program(call, (carry, *args), speed, once=load.quick)
  update = (stage.update or update_rules.gradient_update)(stage, tx)
  held = memory_mb(call)
  count = load.seeds * load.steps
  return Program(method, stage, call, carry, args, speed["compile_s"], held, update, count)


def started(method, number, tx, config, seeds, mesh) -> training_step.TrainLoopState:
  """The carry with which stage `number` begins where those before it did nothing."""
  best = None
  for n in sorted({0, number}):
    first = training_step.make_stage_start(method, n, tx, config, mesh)
    carry = training_step.compile_program(
      first, args := (make_keys(seeds), best, {}), {"compile_s": 0.0}, once=True
    )(*args)
    best = carry.best
  return carry


def make_keys(seeds: tuple[int, ...]) -> jax.Array:
  """The keys of training, one for each seed."""
  return jax.vmap(jax.random.key)(np.array(seeds, np.uint32))


def memory_mb(compiled) -> float:
  """What a compiled program holds at its peak, MB: arguments, results and temporaries,
  as XLA plans them."""
  plan = compiled.memory_analysis()
  sizes = plan.argument_size_in_bytes + plan.output_size_in_bytes
  return (sizes + plan.temp_size_in_bytes - plan.alias_size_in_bytes) / 2**20


def single(program: Program, redraw: bool = False) -> tuple[Callable, PyTree, list]:
  """(step, state, choices): one step of the first seed as a program of its own, the
  state it starts from, and what each of the K steps reads.

  `step(state, choice, key, data) -> (state, metrics)`, jitted; it donates the state.
  """
  ready, keys, data, *_ = program.args
  mesh = devices_mesh.make_mesh(list(keys.devices())[:1])

  def step(state, choice, key, data):
    chosen, clock = choice
    batch = batches.make_batch(data, chosen, redraw, mesh)
    key = jax.random.fold_in(jax.random.fold_in(key, 1), clock.step)
    return program.update(state, batch, key, clock)

  return (
    jax.jit(step, donate_argnums=0),
    first_seed(program.carry.state),
    choices(ready),
  )


def first_seed(tree: PyTree) -> PyTree:
  """Entry 0 of every array, as new arrays."""
  return jax.jit(lambda tree: jax.tree.map(lambda x: x[0], tree))(tree)


def choices(ready: dict) -> list[tuple]:
  """What each of the K steps of the first seed reads, on the device."""
  host = jax.device_get(ready)
  each = []
  for k in range(len(host.info.step)):
    chosen = {name: x[0, k] for name, x in host.choice.items()}
    each.append(jax.device_put((chosen, StepInfo(*(x[k] for x in host.info)))))
  return each
