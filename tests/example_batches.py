"""Small specs and batches that the tests of the methods share."""

import jax
import numpy as np

from promise_jax.method import Method, StepInfo
from promise_jax.types import Batch, Inputs, Modality, PyTree, Spec, Task

VECTORS = (
  Modality("a", "vector", (4,)),
  Modality("b", "vector", (3,)),
  Modality("c", "vector", (5,)),
)
KINDS = (
  Modality("photo", "image", (8, 8, 3)),
  Modality("words", "tokens", (5,), vocabulary=11),
  Modality("motion", "sequence", (6, 3)),
  Modality("numbers", "vector", (4,)),
)
TASKS = {
  "classes": Task("classes", 3),
  "multilabel": Task("multilabel", 4),
  "regression": Task("regression", 1, scale=3.0),
}
ROWS = 16


def spec(task: str = "classes", modalities=VECTORS) -> Spec:
  """A spec of tiny modalities with room for 16 labelled rows."""
  return Spec(modalities, TASKS[task], {}, num_labelled=ROWS)


def complete_batch(spec: Spec, rows: int = ROWS, seed: int = 0) -> Batch:
  """Random rows with every modality and a label, each with a slot of the bank."""
  rng = np.random.default_rng(seed)
  draw = {
    "image": lambda m: rng.random((rows, *m.shape), np.float32),
    "tokens": lambda m: rng.integers(0, m.vocabulary, (rows, *m.shape), np.int32),
    "sequence": lambda m: rng.normal(size=(rows, *m.shape)).astype(np.float32),
    "vector": lambda m: rng.normal(size=(rows, *m.shape)).astype(np.float32),
  }
  every = np.ones((rows, len(spec.modalities)), bool)
  return Batch(
    inputs={m.name: draw[m.kind](m) for m in spec.modalities},
    length={
      m.name: rng.integers(1, m.shape[0] + 1, rows).astype(np.int32)
      for m in spec.modalities
      if m.kind == "sequence"
    },
    recorded=every,
    present=every,
    label=random_labels(spec.task, rows, rng),
    labelled=np.ones(rows, bool),
    row_mask=np.ones(rows, bool),
    id=100 + rng.permutation(rows).astype(np.int32),
    bank_index=np.arange(rows, dtype=np.int32),
  )


def random_labels(task: Task, rows: int, rng: np.random.Generator) -> np.ndarray:
  """Labels in which every class, or every label, occurs."""
  if task.kind == "classes":
    return (rng.permutation(rows) % task.outputs).astype(np.int32)
  if task.kind == "multilabel":
    turn = (np.arange(rows)[:, None] + np.arange(task.outputs)[None]) % task.outputs
    return (rng.permutation(turn) < 2).astype(np.float32)
  return rng.uniform(-task.scale, task.scale, rows).astype(np.float32)


def mixed_batch(spec: Spec, seed: int = 0) -> Batch:
  """16 rows, 10 labelled. Some of the last 10 were not recorded in full, in some a modality
  is hidden, and the last two have nothing left."""
  batch = complete_batch(spec, seed=seed)
  rng = np.random.default_rng(seed + 1)
  recorded, hidden = batch.recorded.copy(), np.zeros_like(batch.recorded)
  recorded[6:] = rng.random(recorded[6:].shape) < 0.7
  hidden[6:] = rng.random(hidden[6:].shape) < 0.3
  recorded[6, 0], hidden[7, 0], hidden[8] = False, True, False
  recorded[-2:], hidden[-1] = [[False], [True]], True
  labelled = np.arange(ROWS) % 8 < 5
  return batch.replace(
    recorded=recorded,
    present=recorded & ~hidden,
    labelled=labelled,
    bank_index=np.where(labelled, np.cumsum(labelled) - 1, -1).astype(np.int32),
  )


def random_params(method: Method, seed: int = 0) -> PyTree:
  """Parameters of the shapes of `method.init`, drawn on the host and none of them 0.
  Compiling an `init` takes longer than most tests."""
  rng = np.random.default_rng(seed)

  def draw(leaf):
    scale = 1 / np.sqrt(leaf.shape[-2]) if len(leaf.shape) > 1 else 0.1
    x = scale * rng.normal(size=leaf.shape)
    return x.astype(leaf.dtype)

  shapes, _ = jax.eval_shape(method.init, jax.random.key(0))
  return jax.tree.map(draw, shapes)


def step_info(progress: float) -> StepInfo:
  """The fourth step, at a part of training."""
  return StepInfo(np.int32(3), np.float32(progress))


def poison(batch: Batch, spec: Spec, there: np.ndarray) -> Batch:
  """Garbage where `there` bool[B, M] is False: NaN, ids out of range, impossible lengths."""
  inputs, length = {}, dict(batch.length)
  for i, m in enumerate(spec.modalities):
    x = batch.inputs[m.name].copy()
    x[~there[:, i]] = np.nan if x.dtype == np.float32 else 10**6
    inputs[m.name] = x
    if m.name in length:
      length[m.name] = np.where(there[:, i], length[m.name], 10**6).astype(np.int32)
  return batch.replace(inputs=inputs, length=length)


def zero(batch: Batch, spec: Spec, there: np.ndarray) -> Batch:
  """Zeros in the inputs where `there` bool[B, M] is False."""
  inputs = {}
  for i, m in enumerate(spec.modalities):
    x = batch.inputs[m.name].copy()
    x[~there[:, i]] = 0
    inputs[m.name] = x
  return batch.replace(inputs=inputs)


def take_rows(batch: Batch, rows) -> Batch:
  """The rows of a batch, in the order given."""
  return jax.tree.map(lambda x: x[rows], batch)


def to_inputs(batch: Batch, with_ids: bool = False) -> Inputs:
  """What `predict` may read of a batch. Only a method with test noise reads the ids."""
  inputs = batch.to_inputs()
  return inputs if with_ids else inputs.replace(id=np.zeros_like(batch.id))
