"""What is measured: methods on made-up data of realistic shapes.

No time depends on the values, so they are random. Sequences have between half of their steps
and all of them. Training hides modalities, and a tenth of the rows is labelled.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from promise_jax import methods, missing
from promise_jax.data import batches, scaling
from promise_jax.method import Method
from promise_jax.nn import precision
from promise_jax.optim import optimizer
from promise_jax.training.config import TrainConfig
from promise_jax.types import Modality, Spec, Split, Task

SLOW = ("mult", "transformer")  # their steps take long, so a block has few
# MPLMM as in its paper, with two layers as in version 0.1.0 of this library; the default has
# another host.
MULT = {"host": "mult", "width": 30, "heads": 5, "layers": 2, "memory_layers": 2}
MULT |= {"pretrain": 0.5, "tune": 0.5}
STREAMS = {"text": 300, "audio": 74, "video": 35}  # numbers of a step


class Workload(NamedTuple):
  """Made-up data, and the batches that train on them."""

  name: str
  spec: Spec
  num_rows: int
  batch_size: int
  num_seeds: int
  num_steps: int  # of a block, the compiled program that is timed


class Case(NamedTuple):
  """A method with some settings on a workload."""

  workload: Workload
  method: str
  settings: dict[str, Any] = {}
  stage: int = -1  # the number of the stage that is measured, -1: the last
  precision: str = "float32"

  @property
  def kind(self) -> str:
    """The encoder or host, where it is not the default."""
    return self.settings.get("encoder") or self.settings.get("host", "")

  @property
  def name(self) -> str:
    """The method as the tables call it, such as "redcore transformer"."""
    return f"{self.method} {self.kind}".strip()

  @property
  def config(self):
    """The config of the method."""
    return methods.make_config(self.method, self.settings)

  def build(self) -> Method:
    """The method for the data of the workload."""
    method = methods.build_method(self.method, self.settings, self.workload.spec)
    return precision.with_precision(method, self.precision)

  def key(self) -> dict[str, str]:
    """The columns that name the case in a table."""
    stages = self.build().stages
    stage = stages[self.stage].name if len(stages) > 1 else ""
    return {"workload": self.workload.name, "method": self.name, "stage": stage}


def make_case(workload: Workload, *args) -> Case:
  """The case; slow ones get one seed and at most 5 steps a block."""
  case = Case(workload, *args)
  if case.kind in SLOW:
    workload = workload._replace(num_seeds=1, num_steps=min(workload.num_steps, 5))
  return case._replace(workload=workload)


class Plan(NamedTuple):
  """What to measure, and how long."""

  workloads: dict[str, Workload]
  methods: tuple[str, ...]
  num_rounds: int  # of a comparison
  quick: bool
  end: float = math.inf  # of `time.perf_counter`, after which no other case starts


def make_workloads(quick: bool = False) -> dict[str, Workload]:
  """All workloads by name."""
  num_steps, side, num_words = (6, 8, 5) if quick else (50, 32, 32)

  streams = lambda kind, *lead: tuple(
    Modality(name, kind, (*lead, size)) for name, size in STREAMS.items()
  )
  image = Modality("image", "image", (side, side, 3))
  words = Modality("text", "tokens", (num_words,), vocabulary=2000)
  # Modalities, classes, rows, batch size, seeds, steps of a block.
  table = {
    "vectors": (streams("vector"), 4, 1200, 128, 5, 25),
    "sequences": (streams("sequence", num_steps), 4, 512, 64, 2, 5),
    "images_text": ((image, words), 8, 1200, 128, 5, 25),
  }
  workloads = {}
  for name, (modalities, num_classes, *sizes) in table.items():
    sizes = (40, 8, 1, 2) if quick else sizes
    spec = Spec(modalities, Task("classes", num_classes), {}, num_labelled=sizes[0] // 10)
    workloads[name] = Workload(name, spec, *sizes)
  return workloads


def make_split(spec: Spec, num_rows: int, seed: int = 0) -> Split:
  """Random rows with all modalities."""
  rng = np.random.default_rng(seed)
  draw = {
    "image": lambda m, shape: rng.integers(0, 256, shape, np.uint8),
    "tokens": lambda m, shape: rng.integers(0, m.vocabulary, shape, np.int32),
  }
  inputs, length = {}, {}
  for m in spec.modalities:
    # In memory like that of standardised rows.
    normal = lambda m, shape: rng.standard_normal(
      out=scaling.make_aligned_zeros(shape, np.float32), dtype=np.float32
    )
    inputs[m.name] = draw.get(m.kind, normal)(m, (num_rows, *m.shape))
    if m.kind == "sequence":
      shortest = max(m.shape[0] // 2, 1)
      length[m.name] = rng.integers(shortest, m.shape[0] + 1, num_rows).astype(np.int32)
  recorded = np.ones((num_rows, len(spec.modalities)), bool)
  label = rng.integers(0, spec.task.outputs, num_rows).astype(np.int32)
  return Split(inputs, length, recorded, label, np.arange(num_rows, dtype=np.int32))


def make_train_data(workload: Workload, split: Split | None = None) -> batches.TrainData:
  """Training rows, made up without `split`; each is trained under a random pattern."""
  labelled = np.arange(workload.num_rows) % 10 == 0
  labelled = np.broadcast_to(labelled, (workload.num_seeds, workload.num_rows))
  split = split or make_split(workload.spec, workload.num_rows)
  seeds = tuple(range(workload.num_seeds))
  return batches.TrainData(split, labelled, seeds, missing.parse_protocol("patterns"))


def make_train_config(workload: Workload, seed_parallelism: str = "auto") -> TrainConfig:
  """Training at a constant rate; validation, which the twins lack, has one pattern."""
  return TrainConfig(
    steps=4 * workload.num_steps,
    eval_every=workload.num_steps,
    batch_size=workload.batch_size,
    labelled_per_batch=workload.batch_size // 4,
    select_on="full",
    seed_parallelism=seed_parallelism,
    optim=optimizer.OptimConfig(schedule="constant"),
  )
