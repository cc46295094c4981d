"""Synthetic data with a known answer: the best score for each number of modalities."""

import dataclasses
import functools
import math
import numbers

import numpy as np

from promise_jax.checks import check_at_least, check_choice
from promise_jax.data import dataset
from promise_jax.data import source as data_source
from promise_jax.data.source import SPLITS
from promise_jax.types import TASKS, Modality, Task

KINDS = ("vector", "sequence")


@dataclasses.dataclass(frozen=True)
class SyntheticOptions:
  """What is made, see `make_synthetic`."""

  seed: int = 0
  rows: tuple[int, int, int] = (1200, 400, 400)  # of train, valid, test
  modalities: int = 3  # M, named m0, m1, ...
  classes: int = 4  # C; regression has one output
  shared: float = 1.0  # strength of the factor that all modalities hold
  private: float = 1.0  # strength of the factors that one modality holds
  noise: float = 1.0  # standard deviation, values have variance 1
  dim: int = 16  # features of a modality, at least 2 C
  kind: str = "vector"  # or "sequence"
  steps: int = 8  # longest sequence; the shortest has half
  task: str = "classes"  # one of types.TASKS

  def __post_init__(self):
    check_choice("task", self.task, TASKS)
    check_choice("kind", self.kind, KINDS)
    if not isinstance(self.modalities, numbers.Integral):
      raise ValueError(f"modalities is {self.modalities!r}, here it is how many are made.")
    if len(self.rows) != len(SPLITS) or min(self.rows) < 1:
      raise ValueError(f"rows is {self.rows}, it must be three positive numbers.")
    check_at_least("modalities", self.modalities, 1)
    check_at_least("classes", self.classes, 1 + (self.task == "classes"))
    check_at_least("steps", self.steps, 1)
    check_at_least("dim", self.dim, 2 * self.num_factors)
    if min(self.shared, self.private, self.noise) < 0 or self.shared == self.private == 0:
      raise ValueError(
        f"shared, private, noise are {self.shared}, {self.private}, {self.noise}: they must "
        "not be negative, and shared and private not both 0."
      )

  @property
  def num_factors(self) -> int:
    """C, the outputs of the task."""
    return 1 if self.task == "regression" else self.classes


def make_synthetic(options: SyntheticOptions | None = None) -> dataset.Dataset:
  """Makes a label from a factor that every modality holds and one private to each.

  With s and p_1..p_M independent and normal in R^C, the score is

    u = (shared s + private (p_1 + ... + p_M) / sqrt(M)) / sqrt(shared^2 + private^2)

  and the label argmax u (classes), u > 0 (multilabel) or u itself (regression). Modality m
  holds A_m (s, p_m) plus noise: A_m [dim, 2C] has orthogonal columns, a value has variance
  1 on average. A sequence has steps/2 to `steps` such frames of one signal, with noise
  scaled so that their mean is distributed as the vector.

  What can be known: (s, p_m) is read off modality m with noise of variance
  v = noise^2 2C / dim. With n modalities present the posterior of u is normal and isotropic
  around a mean whose correlation with u is rho,

    rho^2 = (shared^2 n / (n + v) + private^2 n / (M (1 + v))) / (shared^2 + private^2)

  so no predictor beats `ceiling`. With private=0 every modality knows all, and a second one
  only removes noise; with shared=0 a modality knows 1/M of the variance, and nothing of
  what the others know. Ours.
  """
  c = options or SyntheticOptions()
  names = tuple(f"m{i}" for i in range(c.modalities))
  shape = (c.dim,) if c.kind == "vector" else (c.steps, c.dim)
  rng = np.random.default_rng([c.seed, 0])
  bases = rng.normal(size=(c.modalities, c.dim, 2 * c.num_factors))
  mixing = math.sqrt(c.dim / (2 * c.num_factors)) * np.linalg.qr(bases)[0]

  def draw(split: str) -> data_source.Rows:
    index = SPLITS.index(split)
    n, rng = c.rows[index], np.random.default_rng([c.seed, index + 1])
    s = rng.normal(size=(n, c.num_factors))
    p = rng.normal(size=(c.modalities, n, c.num_factors))
    u = c.shared * s + c.private * p.sum(0) / math.sqrt(c.modalities)
    inputs, length = {}, {}
    for name, private, mix in zip(names, p, mixing, strict=True):
      signal = np.concatenate([s, private], axis=1) @ mix.T
      if c.kind == "vector":
        inputs[name] = signal + c.noise * rng.normal(size=signal.shape)
      else:
        length[name] = rng.integers(max(c.steps // 2, 1), c.steps + 1, n)
        spread = c.noise * np.sqrt(length[name])[:, None, None]
        inputs[name] = signal[:, None] + spread * rng.normal(size=(n, *shape))
    start = sum(c.rows[:index])
    return data_source.Rows(
      inputs,
      length,
      recorded=np.ones((n, c.modalities), bool),
      label=_make_label(u / math.hypot(c.shared, c.private), c.task),
      id=np.arange(start, start + n),
    )

  source = data_source.Source(
    name="synthetic",
    card=f"Synthetic: {c.task}, {c.modalities} modalities, shared {c.shared}, private "
    f"{c.private}, noise {c.noise}, seed {c.seed}.",
    modalities=tuple(Modality(name, c.kind, shape) for name in names),
    task=Task(c.task, c.num_factors),
    splits=SPLITS,
    rows=draw,
  )
  return dataset.assemble(source)


def ceiling(num_present: int, options: SyntheticOptions | None = None) -> float:
  """The best score that a number of present modalities allows.

  With rho as in `make_synthetic`: the correlation rho (regression), the accuracy
  1/2 + asin(rho)/pi (multilabel), or the chance that two rho-correlated normal vectors have
  their maximum at the same place (classes), from 400,000 draws, standard error below 0.001.
  """
  c = options or SyntheticOptions()
  v = c.noise**2 * 2 * c.num_factors / c.dim
  known = c.shared**2 * num_present / (num_present + v) if num_present else 0.0
  known += c.private**2 * num_present / c.modalities / (1 + v)
  rho = math.sqrt(known) / math.hypot(c.shared, c.private)
  if c.task == "classes":
    return _chance_of_equal_argmax(rho, c.classes)
  return rho if c.task == "regression" else 0.5 + math.asin(min(rho, 1.0)) / math.pi


@functools.cache
def _chance_of_equal_argmax(rho: float, classes: int, draws: int = 400_000) -> float:
  rng = np.random.default_rng(0)
  a, rest = rng.normal(size=(2, draws, classes))
  b = rho * a + math.sqrt(max(1 - rho**2, 0.0)) * rest
  return float(np.mean(a.argmax(1) == b.argmax(1)))


def _make_label(u: np.ndarray, task: str) -> np.ndarray:
  if task == "classes":
    return u.argmax(1).astype(np.int32)
  return (u[:, 0] if task == "regression" else u > 0).astype(np.float32)
