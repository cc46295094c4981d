"""What to measure."""

import math
from typing import NamedTuple

from bench.cases import Case, Workload, make_case


class Plan(NamedTuple):
  """The cases, and how long they are measured."""

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
