"""The training program of the library, compiled for one case."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.extend import core

from bench.cases import Case, make_split, make_train_config, make_train_data
from promise_jax.data import batches, device_data
from promise_jax.devices import mesh as devices_mesh
from promise_jax.devices import placement
from promise_jax.method import Method, Stage
from promise_jax.optim import optimizer
from promise_jax.training import random_keys
from promise_jax.training import step as training_step

NUM_VALID = 8  # rows of the validation that ends a block


class Program(NamedTuple):
  """A compiled block of training steps, as `training.loop.fit` runs it."""

  method: Method
  stage: Stage
  train_block: Callable  # (loop_state, *inputs) -> (loop_state, metrics)
  loop_state: training_step.TrainLoopState  # donated by `train_block`
  inputs: tuple  # block, keys of the seeds, train rows, validation rows
  num_steps: int  # optimizer steps of all seeds together
  compile_s: float
  memory_mb: float  # arguments, results and temporaries, as XLA plans them
  flops: int  # of the matrix products of a block


def compile_training(case: Case, seed_parallelism: str = "auto", num_devices: int = 1) -> Program:
  """Compiles the middle block of the stage of `case`.

  In the middle of a stage everything is at work that starts late, such as Robult's guesses.
  """
  workload = case.workload
  config = make_train_config(workload, seed_parallelism)
  train_data = make_train_data(workload)
  mesh = devices_mesh.make_mesh(jax.devices()[:num_devices])
  method = case.build()
  number = case.stage % len(method.stages)
  stage = method.stages[number]
  tx = optimizer.make_optimizer(config.optim, config.steps, stage.trainable)
  keys = random_keys.make_keys(train_data.seeds, mesh)
  best, speed = None, {"compile_s": 0.0}
  for i in sorted({0, number}):
    start, args = training_step.make_stage_start(method, i, tx, config, mesh), (keys, best, {})
    loop_state = training_step.compile_program(start, args, {"compile_s": 0.0}, once=True)(*args)
    best = loop_state.best
  steps = batches.StageSteps(0, config.steps, stage.hide)
  block = batches.draw_block(train_data, config, steps, config.steps // 2)
  block = placement.place(block, devices_mesh.replicated(mesh))
  data = device_data.to_devices(method, device_data.collect_arrays(train_data.split), mesh)
  valid = device_data.pad_to_blocks(make_split(workload.spec, NUM_VALID, seed=1), mesh)
  inputs = (block, keys, data, device_data.to_devices(method, valid, mesh))
  program = training_step.make_train_block(
    method, stage, tx, workload.spec, train_data.protocol, config, mesh
  )
  args = loop_state, *inputs
  flops = count_flops(program.trace(*args).jaxpr.jaxpr)
  program = training_step.compile_program(program, args, speed)
  plan = program.memory_analysis()
  size = plan.argument_size_in_bytes + plan.output_size_in_bytes
  size += plan.temp_size_in_bytes - plan.alias_size_in_bytes
  num_steps = workload.num_seeds * workload.num_steps
  compile_s, memory_mb = speed["compile_s"], size / 2**20
  return Program(method, stage, program, loop_state, inputs, num_steps, compile_s, memory_mb, flops)


def count_flops(jaxpr: core.Jaxpr) -> int:
  """Multiplications and additions of all matrix products, those of a scan as often as it turns."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contracted, _), _ = eqn.params["dimension_numbers"]
      left, out = eqn.invars[0].aval, eqn.outvars[0].aval
      total += 2 * math.prod(out.shape) * math.prod(left.shape[i] for i in contracted)
    inner = sum(map(count_flops, core.jaxprs_in_params(eqn.params)))
    total += inner * eqn.params.get("length", 1)
  return total


def make_runner(program: Program) -> Callable[[], int]:
  """A function that runs a block to its end and returns its number of steps."""
  state = [program.loop_state]

  def run_block() -> int:
    state[0], metrics = program.train_block(state[0], *program.inputs)
    jax.block_until_ready((state[0], metrics))
    return program.num_steps

  return run_block
