"""What an accelerator is used for: a workload of many small kernels, and one of few large ones.

Each is measured with seeds in turn and at once, in float32 and bfloat16, and compared with what a
large product of matrices reaches on this device.
"""

import jax
import jax.numpy as jnp

from bench import timing, training
from bench.cases import STREAMS, Case, Plan, Workload, make_case
from promise_jax.nn import precision
from promise_jax.types import Modality, Spec, Task

PRODUCTS = 8  # matrix products in one call
ROUNDS = 5


def measure_device(plan: Plan) -> list[dict]:
  """Speed, share of the peak and memory of both workloads."""
  size, batch, hidden, num_steps = (64, 8, 16, 6) if plan.quick else (8192, 512, 512, 50)
  streams = tuple(Modality(n, "sequence", (num_steps, d)) for n, d in STREAMS.items())
  spec = Spec(streams, Task("classes", 4), {}, num_labelled=102)
  wide = Workload("large kernels", spec, 4 * batch, batch, 5, 5)
  small = plan.workloads["vectors"]._replace(name="small kernels")
  # Not `make_case`, which has one seed for slow methods.
  large = Case(wide, "redcore", {"encoder": "transformer", "hidden": hidden})
  peaks = {kind: measure_peak(kind, size) for kind in precision.PRECISIONS}
  rows = []
  for case in (make_case(small, "robult"), large):
    if case.method not in plan.methods:
      continue
    for kind, peak in peaks.items():
      own = case._replace(precision=kind)
      programs = {way: training.compile_training(own, way) for way in ("map", "vmap")}
      runs = {way: training.make_runner(program) for way, program in programs.items()}
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
  multiply = jax.jit(lambda x: jax.lax.fori_loop(0, PRODUCTS, lambda _, a: a @ x, x))

  def run() -> int:
    jax.block_until_ready(multiply(x))
    return PRODUCTS

  ms = timing.time_in_turns({"": run}, ROUNDS)[""]["least_ms"]
  return 2 * size**3 / ms / 1e9
