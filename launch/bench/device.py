"""What an accelerator is used for: a workload of many small kernels, and one of few large ones.

Each is measured with seeds in turn and at once, in float32 and bfloat16, and compared with what a
large product of matrices reaches on this device.
"""

import functools

import jax
import jax.numpy as jnp

from bench import timing, training
from bench.cases import STREAMS, Workload, make_case
from bench.parts import Plan
from promise_jax.nn import precision
from promise_jax.types import Modality, Spec, Task

PRODUCTS = 8  # matrix products in one call
ROUNDS = 5


def measure_device(plan: Plan) -> list[dict]:
  """Speed, share of the peak and memory of both workloads."""
  size, batch, hidden, num_steps = (64, 8, 16, 6) if plan.quick else (8192, 512, 512, 50)
  streams = tuple(Modality(n, "sequence", (num_steps, d)) for n, d in STREAMS.items())
  spec = Spec(streams, Task("classes", 4), {}, num_labelled=102)
  wide = Workload("large kernels", spec, 4 * batch, batch, 5, 5, plan.quick)
  small = plan.workloads["vectors"]._replace(name="small kernels")
  # Not `make_case` for the second: that has one seed for slow methods.
  transformer = {"encoder": "transformer", "hidden": hidden}
  large = make_case(wide, "redcore", transformer)._replace(workload=wide)
  peaks = {kind: measure_peak(kind, size) for kind in precision.PRECISIONS}
  rows = []
  for case in (make_case(small, "robult"), large):
    if case.method not in plan.methods:
      continue
    for kind, peak in peaks.items():
      runs, programs = {}, {}
      for way in ("map", "vmap"):
        programs[way] = training.compile_training(case._replace(precision=kind), way)
        runs[way] = training.make_runner(programs[way])
      times = timing.time_in_turns(runs, ROUNDS)
      for way, program in programs.items():
        ms = times[way]["ms"]
        rate = program.flops / program.num_steps / ms / 1e9  # TFLOP/s
        row = case.key() | {"seeds": way, "precision": kind, "ms": ms, "tflops": rate}
        row |= {"share": rate / peak, "memory_mb": program.memory_mb}
        rows.append(row | {"batch": case.workload.batch_size, "compile_s": program.compile_s})
  return rows


def measure_peak(kind: str, size: int) -> float:
  """TFLOP/s of products of square matrices."""
  x = jnp.full((size, size), 1 / size, kind)

  @functools.partial(jax.jit, donate_argnums=0)
  def multiply(a, b):
    return jax.lax.fori_loop(0, PRODUCTS, lambda _, a: a @ b, a)

  state = [x + 0]

  def run() -> int:
    state[0] = jax.block_until_ready(multiply(state[0], x))
    return PRODUCTS

  ms = timing.time_in_turns({"": run}, ROUNDS)[""]["least_ms"]
  return 2 * size**3 / ms / 1e9
