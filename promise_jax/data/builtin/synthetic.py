"""Synthetic data with a known answer: the best score for each pattern of modalities."""

import dataclasses
import functools
import math
import numbers
from collections.abc import Sequence

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
  # Of each modality, as (3, 1, 0) or "3+1+0": classes are clusters, see `draw_clusters`.
  strengths: str | Sequence[float] = ()
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
    if self.strengths:
      self.check_clusters()

  def check_clusters(self) -> None:
    """Raises ValueError where `strengths` is wrong, or another option has no meaning beside it."""
    try:
      good = len(self.numbers) == self.modalities and min(self.numbers) >= 0
    except (TypeError, ValueError):
      good = False
    if not good:
      raise ValueError(
        f"strengths is {self.strengths!r}, expected are {self.modalities} numbers of at least 0, "
        "joined by +, one for each of `modalities`."
      )
    if (self.task, self.shared, self.private) != ("classes", 1, 1) or not self.noise:
      raise ValueError(
        f"strengths is given, and task, shared, private, noise are {self.task}, {self.shared}, "
        f"{self.private}, {self.noise}: beside it they must be classes, 1, 1 and more than 0."
      )

  @property
  def numbers(self) -> tuple[float, ...]:
    """`strengths` as numbers."""
    given = self.strengths
    return tuple(map(float, given.split("+") if isinstance(given, str) else given))

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
  what the others know. With `strengths`, `draw_clusters` says what is made. Ours.
  """
  c = options or SyntheticOptions()
  names = tuple(f"m{i}" for i in range(c.modalities))
  shape = (c.dim,) if c.kind == "vector" else (c.steps, c.dim)
  rng = np.random.default_rng([c.seed, 0])
  bases = rng.normal(size=(c.modalities, c.dim, 2 * c.num_factors))
  scale = c.numbers if c.strengths else [math.sqrt(c.dim / (2 * c.num_factors))] * c.modalities
  mixing = np.reshape(scale, (-1, 1, 1)) * np.linalg.qr(bases)[0]

  def draw(split: str) -> data_source.Rows:
    index = SPLITS.index(split)
    n, rng = c.rows[index], np.random.default_rng([c.seed, index + 1])
    s, p = (draw_clusters if c.strengths else draw_factors)(c, n, rng)
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

  kind = f"strengths {c.strengths}" if c.strengths else f"shared {c.shared}, private {c.private}"
  card = f"Synthetic: {c.task}, {c.modalities} modalities, {kind}, noise {c.noise}, seed {c.seed}."
  source = data_source.Source(
    name="synthetic",
    card=card,
    modalities=tuple(Modality(name, c.kind, shape) for name in names),
    task=Task(c.task, c.num_factors),
    splits=SPLITS,
    rows=draw,
  )
  return dataset.assemble(source)


def draw_factors(
  c: SyntheticOptions, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Draws s [n, C] and p [M, n, C] of `make_synthetic`, independent and normal."""
  return rng.normal(size=(n, c.num_factors)), rng.normal(size=(c.modalities, n, c.num_factors))


def draw_clusters(
  c: SyntheticOptions, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
  """Draws s as one 1 a row, the label, and p = 0: modality m is a cloud around a mean a class.

  With `strengths` w a row of class y has x_m = w_m a_my + noise, the means a_m1..a_mC being
  orthonormal: a modality is more certain the larger w_m / noise, and of w_m = 0 noise alone. Given
  the label, modalities are independent. `bayes_accuracy` is what a pattern allows. Ours.
  """
  return np.eye(c.classes)[rng.integers(0, c.classes, n)], np.zeros((c.modalities, n, c.classes))


def bayes_accuracy(pattern: Sequence[bool], options: SyntheticOptions) -> float:
  """The accuracy, 0 to 1, of the Bayes rule on rows with a pattern of M modalities.

  For options with `strengths`. The means of the present modalities side by side are orthogonal
  and of the length D = sqrt(sum w_m^2), so the rule takes the largest of C normal scores of
  which that of the label is higher by d = D / noise, and is right with the probability

    integral phi(t - d) Phi(t)^(C-1) dt
  """
  from scipy import special  # slow to import

  strengths = np.array(options.numbers)[np.array(pattern, bool)]
  d = math.sqrt(np.sum(strengths**2)) / options.noise
  t = np.linspace(-9, 9, 4001) + d
  density = np.exp(-((t - d) ** 2) / 2) / math.sqrt(2 * math.pi)
  return float(np.trapezoid(density * special.ndtr(t) ** (options.classes - 1), t))


def ceiling(num_present: int, options: SyntheticOptions | None = None) -> float:
  """The best score that a number of present modalities allows, without `strengths`.

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
