"""Timing, page faults, the work in a program, and the peak of the machine."""

import math
import os
import resource
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

SECONDS = 10  # that a comparison may take
PAUSE = 0.2  # seconds after which a run is no longer warm


def timed(runs: dict[str, Callable[[], int]], repeats: int) -> dict[str, dict]:
  """Times each of `runs`, which do some steps and return how many, in alternating
  blocks A B A B: {name: {"ms", "least_ms", "faults"}}, a step each: the median over
  `repeats` blocks, the least, and minor page faults.

  One that has not run for a `PAUSE` is run untimed first: the host of a virtual machine
  may have taken its memory back. A run must not return before its results are there.
  Where a round takes long there are fewer of them, so that all last `SECONDS` or so,
  but no fewer than 3.
  """
  ended = dict.fromkeys(runs, -math.inf)
  took, faults = {n: [] for n in runs}, {n: [] for n in runs}
  start, turn = time.perf_counter(), 0
  while turn < repeats and (turn < 3 or time.perf_counter() - start < SECONDS):
    turn += 1
    for name, run in runs.items():
      if time.perf_counter() - ended[name] > PAUSE:
        run()
      before, since = minor_faults(), time.perf_counter()
      steps = run()
      ended[name] = time.perf_counter()
      took[name].append(1e3 * (ended[name] - since) / steps)
      faults[name].append((minor_faults() - before) / steps)
  return {
    name: {
      "ms": statistics.median(took[name]),
      "least_ms": min(took[name]),
      "faults": statistics.median(faults[name]),
    }
    for name in runs
  }


def cores() -> int:
  """How many processor cores this process may use."""
  known = getattr(os, "sched_getaffinity", None)
  return len(known(0)) if known else os.cpu_count() or 1


def minor_faults() -> int:
  """Pages that the kernel has given this process so far without reading a disk."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def scanned(program) -> Callable[[], int]:
  """A run of the call of `program`, for `timed`."""
  state = [program.carry]

  def run() -> int:
    state[0], metrics = program.call(state[0], *program.args)
    jax.block_until_ready((state[0], metrics))
    return program.seed_steps

  return run


def dispatched(single: tuple, args: tuple) -> Callable[[], int]:
  """A run of the steps of `program.single`, one after the other."""
  step, state, choices = single
  _, keys, data, *_ = args
  held = [state]

  def run() -> int:
    for choice in choices:
      held[0], metrics = step(held[0], choice, keys[0], data)
    jax.block_until_ready((held[0], metrics))
    return len(choices)

  return run


def products(single: tuple, args: tuple) -> float:
  """Floating point operations in the matrix products of one step that are run: the
  gradients of what a stage freezes are not."""
  step, state, choices = single
  _, keys, data, *_ = args
  closed = jax.make_jaxpr(step)(state, choices[0], keys[0], data)
  used, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.out_avals))
  return float(work(used))


def work(jaxpr) -> int:
  """Operations in the matrix products of a jaxpr, a product and a sum each being one;
  the body of a scan counts once a turn, of several branches the dearest."""
  total = 0
  for eqn in jaxpr.eqns:
    if eqn.primitive.name == "dot_general":
      (contract, _), _ = eqn.params["dimension_numbers"]
      shape = eqn.invars[0].aval.shape
      inner = math.prod(shape[d] for d in contract)
      total += 2 * math.prod(eqn.outvars[0].aval.shape) * inner
    inside = [work(j) for j in inner_jaxprs(eqn)]
    if inside:
      several = eqn.primitive.name == "cond"
      turns = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
      total += turns * (max(inside) if several else sum(inside))
  return total


def inner_jaxprs(eqn) -> list:
  """The jaxprs among the parameters of an equation."""
  found = []
  for value in eqn.params.values():
    for x in value if isinstance(value, tuple | list) else (value,):
      x = getattr(x, "jaxpr", x)
      if hasattr(x, "eqns"):
        found.append(x)
  return found


def matrix_peak(size: int, repeats: int = 5) -> float:
  """The best rate, in operations a second, of f32 products of `size` x `size` matrices
  in the default precision of the first device."""
  x = jnp.asarray(np.random.default_rng(0).standard_normal((size, size), np.float32))
  product = jax.jit(jnp.matmul)
  jax.block_until_ready(product(x, x))
  best = math.inf
  for _ in range(repeats):
    since = time.perf_counter()
    for _ in range(4):
      out = product(x, x)
    jax.block_until_ready(out)
    best = min(best, (time.perf_counter() - since) / 4)
  return peak_rate(size, best)


def peak_rate(size: int, seconds: float) -> float:
  """Operations a second of one product of two `size` x `size` matrices."""
  return 2 * size**3 / seconds
