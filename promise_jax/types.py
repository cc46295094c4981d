"""What data are: modalities, tasks, splits on the host, batches on the device.

Letters in shapes, the same everywhere: B rows of a batch, N rows of a split,
M modalities, S seeds, T steps of a sequence, D features, H hidden size, C classes or
outputs, P patterns of present modalities, K optimizer steps of one compiled block.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

PyTree = Any
Pattern = tuple[bool, ...]  # which modalities are present, one entry per modality

KINDS = ("image", "tokens", "sequence", "vector")
TASKS = ("classes", "multilabel", "regression")


class Modality(NamedTuple):
  """One input stream, and the shape of one example of it."""

  name: str
  kind: str  # one of KINDS
  # image (height, width, channels); tokens (T,), ids with 0 as padding;
  # sequence (T, D); vector (D,)
  shape: tuple[int, ...]
  vocabulary: int = 0  # tokens only: every id is smaller than this

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> "Modality":
    """A modality of its plain values, those of `_asdict`."""
    return cls(**{**value, "shape": tuple(value["shape"])})


class Task(NamedTuple):
  """What is predicted."""

  kind: str  # one of TASKS
  outputs: int  # C classes, C binary labels, or 1 for regression
  names: tuple[str, ...] = ()  # of the classes or labels
  # Unit of a regression label (3.0 for sentiment in [-3, 3]). Heads predict
  # label / scale, so that every head works with numbers near 1.
  scale: float = 1.0
  center: float = 0.0  # a regression label near which heads start
  # C weights in the loss, of the rows of each class, or of the positives of each label; empty: 1
  class_weight: tuple[float, ...] = ()
  metric: str = ""  # the first one: "auroc" where two classes are very unequal; "": by `kind`

  @property
  def output_names(self) -> tuple[str, ...]:
    """The names of the classes or labels, their numbers where they have none."""
    return self.names or tuple(map(str, range(self.outputs)))

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> "Task":
    """A task of its plain values, those of `_asdict`."""
    tuples = {field: tuple(value[field]) for field in ("names", "class_weight")}
    return cls(**{**value, **tuples})


class Spec(NamedTuple):
  """What a method must know of the data set to build its network. It is saved with every run."""

  modalities: tuple[Modality, ...]
  task: Task
  # {modality: (mean f32[D], std f32[D])} of the last axis, fitted on the recorded train
  # values before a protocol hides any. Modalities without an entry stay as they are.
  standardise: dict[str, tuple[np.ndarray, np.ndarray]]
  num_labelled: int = 1024  # train rows of one seed that carry a label

  @property
  def names(self) -> tuple[str, ...]:
    """The modalities by name, in the order of every mask."""
    return tuple(m.name for m in self.modalities)


class Split(NamedTuple):
  """The rows of one split, on the host."""

  inputs: dict[str, np.ndarray]  # {modality: [N, ...]}
  length: dict[str, np.ndarray]  # {sequence modality: i32[N]}, valid steps
  recorded: np.ndarray  # bool[N, M], False where the data set lacks a modality
  label: np.ndarray  # i32[N] classes, f32[N, C] of 0/1 multilabel, f32[N] regression
  id: np.ndarray  # i32[N], unique in the data set; seeds the random mask of its row


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Inputs:
  """What a model may read to predict: everything but the label."""

  inputs: dict[str, Array]  # {modality: [B, ...]}
  length: dict[str, Int[Array, " B"]]  # {sequence modality: valid steps}
  present: Bool[Array, "B M"]  # recorded and not hidden by a mask
  id: Int[Array, " B"]

  def replace(self, **changes):
    """A copy with some fields changed."""
    return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch(Inputs):
  """One training batch. Inputs of absent modalities and unknown labels may hold any garbage."""

  recorded: Bool[Array, "B M"]  # `present`, and what a loss may reconstruct though it is hidden
  label: Array  # as in Split
  labelled: Bool[Array, " B"]  # a loss may read the label
  bank_index: Int[Array, " B"]  # rank among the labelled rows of the seed, -1: unlabelled
  row_mask: Bool[Array, " B"]  # all True, but for rows that RedCore's upper level holds out

  def to_inputs(self) -> Inputs:
    """The part that `predict` takes."""
    return Inputs(self.inputs, self.length, self.present, self.id)


class Average(NamedTuple):
  """A mean as sum and count, so that averages of parts can be merged exactly."""

  total: Float[Array, "..."]
  count: Array

  @classmethod
  def of(cls, values: Array, where: Bool[Array, "..."]) -> "Average":
    """The average of `values` over the entries where `where` is True."""
    if values.shape != where.shape:
      raise ValueError(f"values have shape {values.shape}, where has {where.shape}")
    total = jnp.sum(jnp.where(where, values, 0))
    return cls(total, jnp.sum(where).astype(total.dtype))

  @property
  def value(self) -> Array:
    """total / count, and 0 where nothing was counted."""
    return self.total / jnp.maximum(self.count, 1)


def example_batch(spec: Spec, rows: int = 2) -> Batch:
  """A batch of zeros with the shapes of `spec`, to initialise a network with."""
  inputs, length = {}, {}
  for m in spec.modalities:
    dtype = {"image": np.uint8, "tokens": np.int32}.get(m.kind, np.float32)
    inputs[m.name] = np.zeros((rows, *m.shape), dtype)
    if m.kind == "sequence":
      length[m.name] = np.full((rows,), m.shape[0], np.int32)
  shape = (rows, spec.task.outputs) if spec.task.kind == "multilabel" else (rows,)
  label = np.zeros(shape, np.int32 if spec.task.kind == "classes" else np.float32)
  all_present = np.ones((rows, len(spec.modalities)), bool)
  ids = np.arange(rows, dtype=np.int32)
  return Batch(
    inputs=inputs,
    length=length,
    present=all_present,
    id=ids,
    recorded=all_present,
    label=label,
    labelled=np.ones((rows,), bool),
    bank_index=ids,
    row_mask=np.ones((rows,), bool),
  )
