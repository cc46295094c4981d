"""The contracts that every part of the library keeps.

Letters in shapes, fixed once: B rows, M modalities, S seeds, T steps, D features,
H hidden, C classes, N rows of a split, P patterns, K steps of one jitted call.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

Array = jax.Array
PyTree = Any
Batch = dict[str, Any]
Pattern = tuple[bool, ...]

KINDS = ("image", "tokens", "sequence", "vector")
TASKS = ("classes", "multilabel", "regression")


class Modality(NamedTuple):
  """One input stream.

  `shape` is that of one example: image (height, width, channels), tokens (T,) of ids
  below `vocabulary` with 0 as padding, sequence (T, D), vector (D,).
  """

  name: str
  kind: str
  shape: tuple[int, ...]
  vocabulary: int = 0


class Task(NamedTuple):
  """What is predicted: `outputs` is C classes, C binary labels, or 1 for regression.

  `names` are those of the classes or labels; of a regression, whose convention its
  label keeps where the unit does not tell (`sentiment_metrics.SIMS_LABEL`).
  `scale` is the unit of a regression label as the data set declares it (3.0 for
  sentiment in [-3, 3]); heads predict `label / scale`.
  """

  kind: str
  outputs: int
  names: tuple[str, ...] = ()
  scale: float = 1.0


class Spec(NamedTuple):
  """All that a method and a later reader of its checkpoint must know of the data.

  `standardise` maps a modality to (mean, std), each f32[D] over its last axis, fitted
  on all train values that are recorded, before a protocol hides any; a modality that is
  not named is left as it is. `labelled` is how many train rows of a seed carry a label.
  """

  modalities: tuple[Modality, ...]
  task: Task
  standardise: dict[str, tuple[np.ndarray, np.ndarray]] = {}
  labelled: int = 1024

  @property
  def names(self) -> tuple[str, ...]:
    """The modalities by name, in the order of every mask."""
    return tuple(m.name for m in self.modalities)


class Split(NamedTuple):
  """The rows of one split, on the host.

  `inputs` {modality: [N, ...]}, `length` {sequence modality: i32[N]} (real steps),
  `recorded` bool[N, M] (False: the data do not have it), `label` i32[N] for classes,
  f32[N, C] of 0/1 for multilabel, f32[N] for regression, `id` i32[N], which is unique
  in the data set and decides every mask of the row.
  """

  inputs: dict[str, np.ndarray]
  length: dict[str, np.ndarray]
  recorded: np.ndarray
  label: np.ndarray
  id: np.ndarray


class Mean(NamedTuple):
  """A mean that merges: the sums over rows and the count of rows."""

  total: Array
  count: Array


class Clock(NamedTuple):
  """Where training stands. One for all seeds: batched, it would make `lax.cond` run
  both branches under `vmap`.

  `step` i32[] counts from 0 over the whole run; `progress` f32[] in [0, 1) is the part
  of this stage that is done.
  """

  step: Array
  progress: Array


class State(NamedTuple):
  """Training state of ONE seed; only `fit` stacks it."""

  params: PyTree
  aux: PyTree
  opt: optax.OptState


# A batch is a dict: inputs {modality: [B, ...]}, length {modality: i32[B]},
# recorded bool[B, M] (the data have it), present bool[B, M] (recorded and not hidden),
# label, labelled bool[B], valid bool[B] (False: a padding row), id i32[B],
# slot i32[B] (rank of the row among this seed's labelled rows; -1: unlabelled).
Init = Callable[[Array], tuple[PyTree, PyTree]]
Loss = Callable[
  [PyTree, PyTree, Batch, Array, Clock], tuple[Array, tuple[PyTree, dict]]
]
Predict = Callable[..., dict[str, Array]]
Enter = Callable[[Array, PyTree, PyTree], tuple[PyTree, PyTree]]


def keep(key: Array, params: PyTree, aux: PyTree) -> tuple[PyTree, PyTree]:
  """The `enter` of a stage that starts from what the stage before it left."""
  del key
  return params, aux


class Stage(NamedTuple):
  """One part of training, as data; `fit` runs a tuple of them.

  `trains` are regexes on the parameter path, the leaves that none matches are frozen.
  `share` is the part of `steps` that this stage gets. `complete` switches simulated
  masks off. `enter` sees (key, params, aux) before the first step. `update` builds the
  update from (stage, optimiser). `predict` replaces the method's while this stage runs.
  """

  name: str
  loss: Loss
  trains: tuple[str, ...] = (".*",)
  share: float = 1.0
  complete: bool = False
  enter: Enter = keep
  update: Callable | None = None
  predict: Predict | None = None


def as_they_are(inputs: dict[str, Array]) -> dict[str, Array]:
  """The `prepare` of a method that reads the raw inputs."""
  return inputs


class Method(NamedTuple):
  """A method is a few pure functions over pytrees.

  `init(key) -> (params, aux)`; `predict(params, aux, batch, pattern=None) ->
  {"logits": f[B, C], ...}`, never random, reads only inputs, length and present (and
  id, where a row has noise of its own), and with a static `pattern` leaves encoders of
  single modalities that are absent out of the program; `stages` are run in turn.
  `prepare` maps the inputs of many rows to what losses and `predict` may be given in
  their place: a first part that nothing trains, done once a run, not in every step.
  """

  init: Init
  predict: Predict
  stages: tuple[Stage, ...]
  prepare: Callable[[dict[str, Array]], dict[str, Array]] = as_they_are


def example(spec: Spec, rows: int = 2) -> Batch:
  """A batch of zeros with the shapes of `spec`, for the `init` of a network."""
  count = len(spec.modalities)
  inputs, length = {}, {}
  for m in spec.modalities:
    dtype = {"image": np.uint8, "tokens": np.int32}.get(m.kind, np.float32)
    inputs[m.name] = np.zeros((rows, *m.shape), dtype)
    if m.kind == "sequence":
      length[m.name] = np.full((rows,), m.shape[0], np.int32)
  label = {
    "classes": np.zeros((rows,), np.int32),
    "multilabel": np.zeros((rows, spec.task.outputs), np.float32),
    "regression": np.zeros((rows,), np.float32),
  }[spec.task.kind]
  every = np.ones((rows,), bool)
  return {
    "inputs": inputs,
    "length": length,
    "recorded": np.ones((rows, count), bool),
    "present": np.ones((rows, count), bool),
    "label": label,
    "labelled": every,
    "valid": every,
    "id": np.arange(rows, dtype=np.int32),
    "slot": np.arange(rows, dtype=np.int32),
  }


def one_of(name: str, value, known: tuple) -> None:
  """Raises ValueError, listing what is known, unless `value` is one of `known`."""
  if value not in known:
    raise ValueError(f"{name} is {value!r}, known are {', '.join(known)}")


def at_least(name: str, value: float, low: float) -> None:
  """Raises ValueError unless `value` is a number of at least `low`."""
  if not value >= low:
    raise ValueError(f"{name} is {value}, it must be at least {low}")
