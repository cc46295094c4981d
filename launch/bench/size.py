"""How time and memory grow with rows, modalities, steps of a sequence, seeds and devices.

Every point of a curve is measured in a process of its own, so that none has the memory of another.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import psutil

from bench import timing, training
from bench.cases import MULT, Case, Plan, Workload, make_split, make_train_config, make_train_data
from promise_jax.cli import startup
from promise_jax.data import streaming
from promise_jax.training import loop
from promise_jax.types import Modality, Spec, Split, Task

# Vectors of about the shape of `flights`, whose weather is a sequence of six steps.
FLIGHTS = {"schedule": 42, "weather": 60, "plane": 33, "destination": 105, "leg": 4}
NUM_VALID = 1024  # rows of a validation, under all patterns that select
ROUNDS = 5


def make_vectors(sizes: dict[str, int]) -> tuple[Modality, ...]:
  return tuple(Modality(name, "vector", (size,)) for name, size in sizes.items())


def make_sequences(num_steps: int) -> tuple[Modality, ...]:
  return tuple(Modality(f"m{i}", "sequence", (num_steps, 16)) for i in range(3))


# How many, the methods, and the data of a point: modalities, rows, batch size, seeds, steps of a
# block. They are small where the curve is not of rows.
CURVES = {
  "rows": (
    (1000, 10_000, 100_000, 328_521),
    (("fusion",), ("distil",), ("robult",)),
    lambda x: (make_vectors(FLIGHTS), x, 256, 1, 160),
  ),
  "modalities": (
    (2, 5, 10),
    (("fusion",), ("robult",), ("mplmm",), ("promma",)),
    lambda x: (make_vectors({f"m{i}": 32 for i in range(x)}), 1200, 128, 1, 5),
  ),
  "steps": (
    (50, 200, 1000),
    (("fusion",), ("redcore", {"encoder": "transformer"}), ("mplmm", MULT)),
    lambda x: (make_sequences(x), 64, 8, 1, max(1, 500 // x)),
  ),
  "seeds": (
    (1, 2, 5, 10, 20),
    (("robult",),),
    lambda x: (make_vectors({f"m{i}": 128 for i in range(3)}), 1200, 128, x, 10),
  ),
  "devices": ((1, 2, 4, 8), (("fusion",),), lambda x: (make_sequences(100), 512, 64, 1, 5)),
}


class Point(NamedTuple):
  """A point of a curve."""

  curve: str
  x: int  # how many rows, modalities, steps, seeds or devices
  case: Case
  streamed: bool = False  # the rows lie on disk

  def key(self) -> dict:
    """The columns that name the point in a table."""
    method = self.case.name + " from disk" * self.streamed
    return {"curve": self.curve, "method": method, "x": self.x}


def make_points(quick: bool = False) -> list[Point]:
  """All points, curve by curve."""
  points = []
  for curve, (counts, methods, _) in CURVES.items():
    for method in methods[:1] if quick else methods:
      values = (2, 4) if quick else counts
      points += [Point(curve, x, Case(make_workload(curve, x), *method)) for x in values]
      if curve == "rows":
        points.append(points[-1]._replace(streamed=True))
  return points


def make_workload(curve: str, x: int) -> Workload:
  """The data of a point."""
  modalities, *sizes = CURVES[curve][-1](x)
  spec = Spec(modalities, Task("classes", 2), {}, num_labelled=max(sizes[0] // 10, 1))
  return Workload(curve, spec, *sizes)


def measure_size(plan: Plan) -> list[dict]:
  """Time and memory of all points whose method is in the plan."""
  points = [point for point in make_points(plan.quick) if point.case.method in plan.methods]
  spawn = multiprocessing.get_context("spawn")
  pool = concurrent.futures.ProcessPoolExecutor(1, spawn, max_tasks_per_child=1)
  with pool:
    return list(pool.map(measure_point, points))


def measure_point(point: Point) -> dict:
  """Milliseconds of a step of all seeds, of rows those of an epoch; and MB."""
  if point.curve == "devices":
    jax.config.update("jax_num_cpu_devices", point.x)
  startup.enable_compilation_cache()
  if point.curve == "rows":
    return point.key() | measure_training(point)
  num_devices = point.x if point.curve == "devices" else 1
  program = training.compile_training(point.case, num_devices=num_devices)
  times = timing.time_in_turns({"": training.make_runner(program)}, ROUNDS)
  ms = times[""]["least_ms"] * point.case.workload.num_seeds
  return point.key() | {"ms": ms, "memory_mb": program.memory_mb}


def measure_training(point: Point) -> dict:
  """The whole of training, with the draws of rows and the validations."""
  case, workload = point.case, point.case.workload
  before = psutil.Process().memory_info().rss
  config = dataclasses.replace(make_train_config(workload), select_on="all")
  with tempfile.TemporaryDirectory() as folder:
    split = store_rows(workload, Path(folder)) if point.streamed else None
    data, valid = make_train_data(workload, split), make_split(workload.spec, NUM_VALID, seed=1)
    size = sum(np.prod(x.shape) * x.dtype.itemsize for x in data.split.inputs.values())
    speed = loop.fit(case.build(), workload.spec, data, valid, config).speed
  rate = speed["examples_per_s"]
  memory = speed["peak_memory_mb"] - before / 2**20
  made = {"ms": 1e3 * workload.num_rows / rate, "memory_mb": memory}
  return made | {"examples_per_s": rate, "data_mb": float(size) / 2**20}


def store_rows(workload: Workload, folder: Path) -> Split:
  """Rows whose inputs are in files, where a thousand of them are repeated."""
  count, inputs = workload.num_rows, {}
  for name, x in make_split(workload.spec, 1000).inputs.items():
    with open(folder / name, "wb") as file:
      for start in range(0, count, len(x)):
        x[: count - start].tofile(file)
    inputs[name] = streaming.StoredRows(folder / name, (count, *x.shape[1:]), x.dtype)
  recorded = np.ones((count, len(inputs)), bool)
  rest = make_split(workload.spec._replace(modalities=()), count)
  return rest._replace(inputs=inputs, recorded=recorded)
