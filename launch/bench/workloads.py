"""What is measured: made-up data of named shapes, and which methods train on them.

Values are random: no number of the benchmark depends on them. Sequences have between
half of their steps and all; training shows one of the patterns of modalities a row, so
masks are at work. A tenth of the rows is labelled, which sets the size of Robult's
bank.
"""

from typing import Any, NamedTuple

import numpy as np

from promise_jax import methods, missing
from promise_jax.data import batches
from promise_jax.method import Method
from promise_jax.optim import optimizer
from promise_jax.training.config import TrainConfig
from promise_jax.types import Modality, Spec, Split, Task


class Workload(NamedTuple):
  """Data of `spec`, trained in batches of `batch` rows with `seeds` seeds a call of
  `steps` steps; `rows` there are in all. A `quick` one is compiled without optimising,
  where that takes longer than running it."""

  name: str
  spec: Spec
  rows: int
  batch: int
  seeds: int
  steps: int
  quick: bool


class Case(NamedTuple):
  """One method with settings `values` on a workload; `stage` is the number of the
  measured stage, -1 for the last."""

  workload: Workload
  method: str
  values: dict[str, Any] = {}
  stage: int = -1
  note: str = ""

  @property
  def name(self) -> str:
    """As it stands in the tables, for instance "redcore transformer"."""
    return f"{self.method} {self.note}".strip()

  def build(self) -> Method:
    """The method for the data."""
    return methods.build_method(self.method, self.values, self.workload.spec)


def streams(kind: str, *shapes: tuple[int, ...]) -> tuple[Modality, ...]:
  """Text, audio and video of such shapes."""
  names = ("text", "audio", "video")
  return tuple(Modality(n, kind, s) for n, s in zip(names, shapes, strict=True))


def workloads(quick: bool = False) -> dict[str, Workload]:
  """The workloads by name; `quick` ones have the same forms and take no time."""
  steps, side, words = (6, 8, 5) if quick else (50, 32, 32)
  wide = lambda width: [(width,), (74,), (35,)]
  long = lambda width: [(steps, *shape) for shape in wide(width)]
  page = (
    Modality("image", "image", (side, side, 3)),
    Modality("text", "tokens", (words,), vocabulary=2000),
  )
  forms = {
    "vectors": (streams("vector", *wide(300)), 4, 1200, 128, 5, 25),
    "sequences_300": (streams("sequence", *long(300)), 4, 512, 64, 2, 5),
    "sequences_768": (streams("sequence", *long(768)), 4, 512, 64, 2, 5),
    "images_text": (page, 8, 1200, 128, 5, 25),
  }
  out = {}
  for name, (modalities, classes, rows, batch, seeds, count) in forms.items():
    if quick:
      rows, batch, seeds, count = 40, 8, 1, 2
    spec = Spec(modalities, Task("classes", classes), {}, num_labelled=rows // 10)
    out[name] = Workload(name, spec, rows, batch, seeds, count, quick)
  return out


def split(workload: Workload, rows: int | None = None, seed: int = 0) -> Split:
  """Made-up rows that have everything."""
  spec, count = workload.spec, rows or workload.rows
  rng = np.random.default_rng(seed)
  inputs, length = {}, {}
  for m in spec.modalities:
    shape = (count, *m.shape)
    if m.kind == "image":
      inputs[m.name] = rng.integers(0, 256, shape, np.uint8)
    elif m.kind == "tokens":
      inputs[m.name] = rng.integers(0, m.vocabulary, shape, np.int32)
    else:
      inputs[m.name] = rng.standard_normal(shape, np.float32)
    if m.kind == "sequence":
      least = max(m.shape[0] // 2, 1)
      length[m.name] = rng.integers(least, m.shape[0] + 1, count).astype(np.int32)
  recorded = np.ones((count, len(spec.modalities)), bool)
  label = rng.integers(0, spec.task.outputs, count).astype(np.int32)
  return Split(inputs, length, recorded, label, np.arange(count, dtype=np.int32))


def rows_of(workload: Workload, seeds: int) -> batches.TrainData:
  """The training rows with a tenth labelled, for so many seeds."""
  data = split(workload)
  labelled = np.arange(workload.rows) % 10 == 0
  labelled = np.broadcast_to(labelled, (seeds, workload.rows))
  return batches.TrainData(data, labelled, tuple(range(seeds)), missing.parse_protocol("patterns"))


def settings(workload: Workload, seed_parallelism: str = "auto") -> TrainConfig:
  """Training with the usual optimiser at a constant rate; validation, which a twin
  does not have, of a few rows under one pattern."""
  return TrainConfig(
    steps=4 * workload.steps,
    eval_every=workload.steps,
    batch_size=workload.batch,
    labelled_per_batch=workload.batch // 4,
    select_on="full",
    seed_parallelism=seed_parallelism,
    optim=optimizer.OptimConfig(schedule="constant"),
  )
