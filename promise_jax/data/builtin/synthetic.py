"""Data whose answer is known: what each pattern of modalities can know of the label."""

import functools
import math

import numpy as np

from promise_jax.data import dataset
from promise_jax.data import source as data_source
from promise_jax.types import TASKS, Modality, Task

SPLITS = ("train", "valid", "test")
KINDS = ("vector", "sequence")


def synthetic(
  *,
  seed: int = 0,
  rows: tuple[int, int, int] = (1200, 400, 400),
  modalities: int = 3,
  classes: int = 4,
  shared: float = 1.0,
  private: float = 1.0,
  noise: float = 1.0,
  dim: int = 16,
  kind: str = "vector",
  steps: int = 8,
  task: str = "classes",
) -> dataset.Dataset:
  """A label made of a factor that every modality has and of one private to each.

  With C = `classes` (1 for regression), s and p_1..p_M independent and normal in R^C,
  the score is

    u = (shared s + private (p_1 + ... + p_M) / sqrt(M)) / sqrt(shared^2 + private^2)

  and the label argmax u (classes), u > 0 (multilabel) or u itself (regression).
  Modality m holds `A_m (s, p_m)` plus noise: A_m [dim, 2C] has orthogonal columns, a
  value has variance 1 on average and the noise on it the std `noise`. A sequence has
  steps/2 to `steps` such frames of one signal, their noise scaled so that their mean is
  distributed as the vector.

  What can be known: (s, p_m) is read off modality m with noise of variance
  `v = noise^2 2C / dim`. With n modalities present the posterior of u is normal and
  isotropic around a mean whose correlation with u is rho,

    rho^2 = (shared^2 n / (n + v) + private^2 n / (M (1 + v))) / (shared^2 + private^2)

  so that no predictor beats `ceiling`: the correlation rho for regression, the accuracy
  1/2 + asin(rho)/pi for every binary label, and for classes the chance that two
  rho-correlated normal vectors have their maximum at the same place. `private=0`: every
  modality knows all, a second one removes noise only. `shared=0`: a modality knows its
  own part, 1/M of the variance, and nothing of the others'. Ours.

  Named m0..m{M-1}; `rows` are those of train, valid, test. ValueError for strengths
  that are negative or both 0, dim < 2C, fewer than 1 modality or 2 classes, an unknown
  `kind` or `task`.
  """
  if len(rows) != len(SPLITS) or min(rows) < 1:
    raise ValueError(f"rows is {rows}, it must be three positive numbers.")
  factors = _check(modalities, classes, shared, private, noise, dim, kind, steps, task)
  names = tuple(f"m{i}" for i in range(modalities))
  shape = (dim,) if kind == "vector" else (steps, dim)
  rng = np.random.default_rng([seed, 0])
  bases = rng.normal(size=(modalities, dim, 2 * factors))
  mixing = math.sqrt(dim / (2 * factors)) * np.linalg.qr(bases)[0]

  def draw(split: str) -> data_source.Rows:
    index = SPLITS.index(split)
    n, rng = rows[index], np.random.default_rng([seed, index + 1])
    s = rng.normal(size=(n, factors))
    p = rng.normal(size=(modalities, n, factors))
    u = shared * s + private * p.sum(0) / math.sqrt(modalities)
    inputs, length = {}, {}
    for name, own, mix in zip(names, p, mixing, strict=True):
      signal = np.concatenate([s, own], axis=1) @ mix.T
      if kind == "vector":
        inputs[name] = signal + noise * rng.normal(size=signal.shape)
      else:
        length[name] = rng.integers(max(steps // 2, 1), steps + 1, n)
        spread = noise * np.sqrt(length[name])[:, None, None]
        inputs[name] = signal[:, None] + spread * rng.normal(size=(n, *shape))
    start = sum(rows[:index])
    return data_source.Rows(
      inputs,
      length,
      recorded=np.ones((n, modalities), bool),
      label=_label(u / math.hypot(shared, private), task),
      id=np.arange(start, start + n),
    )

  source = data_source.Source(
    name="synthetic",
    card=f"Synthetic: {task}, {modalities} modalities, shared {shared}, private "
    f"{private}, noise {noise}, seed {seed}.",
    modalities=tuple(Modality(name, kind, shape) for name in names),
    task=Task(task, factors),
    splits=SPLITS,
    rows=draw,
  )
  return dataset.assemble(source)


def ceiling(
  present: int,
  *,
  modalities: int = 3,
  classes: int = 4,
  shared: float = 1.0,
  private: float = 1.0,
  noise: float = 1.0,
  dim: int = 16,
  task: str = "classes",
) -> float:
  """The best that `present` of the modalities allow on `synthetic` data of the same
  arguments: accuracy, or for regression the correlation with the label.

  Exact but for classes, where 400,000 draws leave a standard error below 0.001.
  """
  factors = _check(modalities, classes, shared, private, noise, dim, "vector", 1, task)
  v = noise**2 * 2 * factors / dim
  known = shared**2 * present / (present + v) if present else 0.0
  known += private**2 * present / modalities / (1 + v)
  rho = math.sqrt(known) / math.hypot(shared, private)
  if task == "classes":
    return _agreement(rho, classes)
  return rho if task == "regression" else 0.5 + math.asin(min(rho, 1.0)) / math.pi


@functools.cache
def _agreement(rho: float, classes: int, draws: int = 400_000) -> float:
  """P(argmax a = argmax b) for normal vectors a, b whose entries correlate by rho."""
  rng = np.random.default_rng(0)
  a, rest = rng.normal(size=(2, draws, classes))
  b = rho * a + math.sqrt(max(1 - rho**2, 0.0)) * rest
  return float(np.mean(a.argmax(1) == b.argmax(1)))


def _label(u: np.ndarray, task: str) -> np.ndarray:
  if task == "classes":
    return u.argmax(1).astype(np.int32)
  return (u[:, 0] if task == "regression" else u > 0).astype(np.float32)


def _check(
  modalities: int,
  classes: int,
  shared: float,
  private: float,
  noise: float,
  dim: int,
  kind: str,
  steps: int,
  task: str,
) -> int:
  """ValueError for arguments without meaning; the number of factors C."""
  if task not in TASKS:
    raise ValueError(f"task is {task!r}, it must be one of {', '.join(TASKS)}.")
  if kind not in KINDS:
    raise ValueError(f"kind is {kind!r}, it must be one of {', '.join(KINDS)}.")
  least = {"modalities": 1, "classes": 1 + (task == "classes"), "steps": 1}
  given = {"modalities": modalities, "classes": classes, "steps": steps}
  for name, low in least.items():
    if given[name] < low:
      raise ValueError(f"{name} is {given[name]}, it must be at least {low}.")
  if min(shared, private, noise) < 0 or shared == private == 0:
    raise ValueError(
      f"shared, private, noise are {shared}, {private}, {noise}: they must not be "
      "negative, and shared and private not both 0."
    )
  factors = 1 if task == "regression" else classes
  if dim < 2 * factors:
    raise ValueError(f"dim is {dim}, it must be at least {2 * factors}.")
  return factors
