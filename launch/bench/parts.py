"""What to measure, and the speed of training with every method."""

import math
from typing import NamedTuple

from bench import timing, training
from bench.cases import Case, Workload, make_case
from promise_jax import methods


class Plan(NamedTuple):
  """What to measure."""

  workloads: dict[str, Workload]
  methods: tuple[str, ...]
  num_rounds: int  # of a comparison
  quick: bool
  end: float = math.inf  # of `time.perf_counter`, after which no other case starts

  def cases(self, workload: str, method: str, *more) -> list[Case]:
    """The case, or none where the plan leaves out its workload or method."""
    if workload not in self.workloads or method not in self.methods:
      return []
    return [make_case(self.workloads[workload], method, *more)]


def measure_methods(plan: Plan) -> list[dict]:
  """Milliseconds, compile time and memory of training with every method."""
  rows = []
  for workload in plan.workloads:
    for case in (case for name in methods.METHODS for case in plan.cases(workload, name)):
      program = training.compile_training(case)
      times = timing.time_in_turns({"train": training.make_runner(program)}, plan.num_rounds)
      sizes = {"batch": case.workload.batch_size, "memory_mb": program.memory_mb}
      rows.append(case.key() | times["train"] | sizes | {"compile_s": program.compile_s})
  return rows
