"""Times of functions that are compared, and the names of the machine."""

import importlib.metadata
import importlib.util
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax

MAX_SECONDS = 10  # of a comparison, after its third round
COLD_AFTER = 0.2  # seconds
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def time_in_turns(runs: dict[str, Callable[[], int]], num_rounds: int) -> dict[str, dict]:
  """Milliseconds of a step of each function, {name: {"ms": median, "least_ms": least}}.

  The functions run in turns, A B A B, so that a machine that slows down slows all of them. One
  that has not run for a moment runs once untimed first: the host of a virtual machine may have
  taken its memory back.

  Args:
    runs: each runs some steps, waits for their results, and returns how many they were.
    num_rounds: fewer where they take longer than `MAX_SECONDS`, but at least 3.
  """
  last_end = dict.fromkeys(runs, -math.inf)
  times = {name: [] for name in runs}
  start = time.perf_counter()
  for number in range(num_rounds):
    if number >= 3 and time.perf_counter() - start > MAX_SECONDS:
      break
    for name, run in runs.items():
      if time.perf_counter() - last_end[name] > COLD_AFTER:
        run()
      begin = time.perf_counter()
      num_steps = run()
      last_end[name] = time.perf_counter()
      times[name].append(1e3 * (last_end[name] - begin) / num_steps)
  return {name: {"ms": statistics.median(x), "least_ms": min(x)} for name, x in times.items()}


def count_cores() -> int:
  """Processor cores that this process may use."""
  affinity = getattr(os, "sched_getaffinity", None)
  return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe_machine(quick: bool) -> dict:
  """The name of the machine, its system, and the versions of what is measured."""
  info, device = Path("/proc/cpuinfo"), jax.devices()[0]
  lines = info.read_text().splitlines() if info.exists() else []
  models = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
  name = f"{models[0] if models else platform.machine()}, {count_cores()} cores"
  if device.platform != "cpu":
    name = f"{jax.device_count()} x {device.device_kind}, {name}"
  name += ", quick sizes that say nothing of speed" if quick else ""
  installed = [p for p in PACKAGES if importlib.util.find_spec(p)]
  versions = {package: importlib.metadata.version(package) for package in installed}
  versions = {"python": platform.python_version()} | versions
  return {"name": name, "system": platform.system(), "versions": versions}
