"""Two parts of the benchmark: speed of training, and static patterns against masks."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bench import timing, training
from bench.cases import Case, Workload, make_case, make_split
from promise_jax import methods, missing
from promise_jax.types import Inputs

# Wider text changes one layer only, so not every method is measured on it.
METHODS_ON = {"sequences_768": ("fusion", "robult", "redcore", "mplmm")}
PATTERN_WORKLOADS = ("sequences_300", "images_text")
PATTERN_METHODS = ("fusion", "robult", "redcore", "promise", "mplmm")
CALLS = 4  # of `predict` in one measurement


class Plan(NamedTuple):
  """What to measure."""

  workloads: dict[str, Workload]
  methods: tuple[str, ...]
  num_rounds: int  # of a comparison
  quick: bool

  def cases(self, workload: str, method: str, *more) -> list[Case]:
    """The case, or none where the plan leaves out its workload or method."""
    if workload not in self.workloads or method not in self.methods:
      return []
    return [make_case(self.workloads[workload], method, *more)]


def measure_methods(plan: Plan) -> list[dict]:
  """Milliseconds, compile time and memory of training with every method."""
  rows = []
  for workload in plan.workloads:
    names = METHODS_ON.get(workload, methods.METHODS)
    cases = [case for name in names for case in plan.cases(workload, name)]
    if workload.startswith("sequences"):
      for encoder in ("transformer", "lstm"):
        cases += plan.cases(workload, "redcore", {"encoder": encoder})
    for case in cases:
      program = training.compile_training(case)
      times = timing.time_in_turns({"train": training.make_runner(program)}, plan.num_rounds)
      sizes = {"batch": case.workload.batch_size, "memory_mb": program.memory_mb}
      rows.append(case.key() | times["train"] | sizes | {"compile_s": program.compile_s})
  return rows


def measure_patterns(plan: Plan) -> list[dict]:
  """Prediction under every pattern: as a mask, by one program for all patterns, and as a
  static pattern, by a program that leaves out what is absent."""
  cases = [
    case
    for workload in PATTERN_WORKLOADS
    for method in PATTERN_METHODS
    for case in plan.cases(workload, method)
  ]
  return [row for case in cases for row in measure_patterns_of(plan, case)]


def measure_patterns_of(plan: Plan, case: Case) -> list[dict]:
  """The rows of one method on one workload."""
  spec, method = case.workload.spec, case.build()
  params, model_state = jax.jit(method.init)(jax.random.key(0))
  split = make_split(spec, 16 if plan.quick else 256)
  inputs = jax.jit(method.preprocess)(split.inputs)
  inputs = jax.device_put(Inputs(inputs, split.length, split.recorded, split.id))

  def predict(pattern, params, model_state, inputs):
    return method.predict(params, model_state, inputs, pattern)["logits"]

  def make_runner(call, inputs):
    def run() -> int:
      for _ in range(CALLS):
        logits = call(params, model_state, inputs)
      jax.block_until_ready(logits)
      return CALLS

    return run

  masked = jax.jit(functools.partial(predict, None))
  patterns, runs = missing.all_patterns(len(spec.modalities)), {}
  for pattern in patterns:
    shown = inputs.replace(present=inputs.present & jnp.asarray(pattern)[None])
    static = jax.jit(functools.partial(predict, pattern))
    runs["mask", pattern] = make_runner(masked, shown)
    runs["static", pattern] = make_runner(static, inputs)
  times = timing.time_in_turns(runs, 2 * plan.num_rounds)
  rows = []
  for pattern in patterns:
    row = case.key() | {"present": missing.pattern_name(pattern, spec.names)}
    rows.append(row | {kind: times[kind, pattern]["least_ms"] for kind in ("mask", "static")})
  return rows
