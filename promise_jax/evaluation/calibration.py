"""Probabilities, sets and intervals that hold what they say, for what a row has.

A model that sees one modality of three is right less often than one that sees all, and is sure of
itself in another way. Here every number of modalities present has its own temperature and its own
conformal scores. They are fitted on validation rows, to what is served: the mean over seeds of the
probabilities (softmax; sigmoid of each label of a multilabel task), or of the values of a
regression. Each validation row counts once under every pattern whose modalities it has.

The temperatures are those of `temperature_scaling`. Sets hold all classes of at least some
probability (LAC: Sadinle, Lei, Wasserman, "Least Ambiguous Set-Valued Classifiers with Bounded
Error Levels", JASA 2019), intervals all within a certain distance; both by split conformal
prediction. A row counts under several patterns, so the finite-sample correction is that for rows in
groups: Lee, Barber, Willett, "Distribution-free inference with hierarchical data" (2023).
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from promise_jax.evaluation import temperature_scaling
from promise_jax.types import Pattern, Task

MAX_PAIRS = 10_000  # pairs of row and pattern that are fitted to, of each number present
MAX_SCORES = 500  # conformal scores that are kept of them


@dataclasses.dataclass(frozen=True)
class Calibration:
  """How the logits of one variant become probabilities, sets and intervals.

  The tuples are indexed by the number of modalities present, 0 to M. Nothing is fitted for 0.
  """

  kind: str  # of the task
  scale: float  # of the task
  temperature: tuple[float, ...]
  num_rows: tuple[int, ...]  # validation rows, or groups of rows, that were fitted to
  scores: tuple[tuple[float, ...], ...]  # conformal scores, sorted; quantiles where rows are many
  seeds: tuple["Calibration", ...] = ()  # of each seed when it is served alone

  def to_json(self) -> dict:
    """What `from_json` reads."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, value: dict) -> "Calibration":
    """A calibration as it was before `to_json`, also by way of a file."""
    lists = {name: tuple(value[name]) for name in ("temperature", "num_rows")}
    lists["scores"] = tuple(map(tuple, value["scores"]))
    return cls(**value | lists | {"seeds": tuple(map(cls.from_json, value["seeds"]))})


def fit_calibration(
  task: Task,
  logits: Float[np.ndarray, "S P N C"],
  label: np.ndarray,
  recorded: Bool[np.ndarray, "N M"],
  patterns: Sequence[Pattern],
  group: Int[np.ndarray, " N"] | None = None,
) -> Calibration:
  """Fits all seeds served together, and in `seeds` each seed alone, to validation rows.

  `group` is equal where rows belong together, as those of one speaker: a group counts as one row
  does, in the shrinkage and in the finite-sample correction. Where no row has a number of
  modalities, or a logit is NaN, its temperature is the common one and sets and intervals hold
  everything. Without any row the temperature is 1.
  """
  group = np.arange(len(label)) if group is None else group
  served = [logits, *logits[:, None]]
  both, *alone = (_fit_served(task, x, label, recorded, patterns, group) for x in served)
  return dataclasses.replace(both, seeds=tuple(alone))


def calibrate(
  calibration: Calibration, logits: Float[np.ndarray, "S N C"], num_present: Int[np.ndarray, " N"]
) -> Float[np.ndarray, "N C"]:
  """Probabilities of classes or of labels; for a regression the value, in the unit of the label.

  `logits` are of all seeds that are served; one served alone has its own `calibration.seeds[s]`.
  """
  if calibration.kind == "regression":
    return np.mean(logits, axis=0) * calibration.scale
  temperature = np.array(calibration.temperature)[num_present]
  log_p = temperature_scaling.temper(_mean_log_probability(calibration.kind, logits), temperature)
  return np.exp(log_p[..., 1] if calibration.kind == "multilabel" else log_p)


def prediction_sets(
  calibration: Calibration,
  probability: Float[np.ndarray, "N C"],
  num_present: Int[np.ndarray, " N"],
  coverage: float = 0.9,
) -> Bool[np.ndarray, "N C"]:
  """The classes of each row among which the true one is, in `coverage` of the rows or more.

  The most probable class is always among them. All are where too few validation rows have as many
  modalities: fewer than coverage / (1 - coverage), 9 for 0.9. `probability` is that of `calibrate`.
  ValueError for another task than classes: there are no sets of labels.
  """
  if calibration.kind != "classes":
    raise ValueError(
      f"Prediction sets are for classes, the task is {calibration.kind}; a multilabel task has "
      "probabilities alone, a regression has prediction_intervals."
    )
  least = 1 - _thresholds(calibration, num_present, coverage)
  best = probability == probability.max(-1, keepdims=True)
  return ~(probability < least[:, None]) | best  # a NaN leaves its class in


def prediction_intervals(
  calibration: Calibration,
  value: Float[np.ndarray, "N 1"],
  num_present: Int[np.ndarray, " N"],
  coverage: float = 0.9,
) -> Float[np.ndarray, "N 2"]:
  """Low and high end around `value` of `calibrate`, with the label between in `coverage` of the
  rows or more; infinite where `prediction_sets` has all classes.

  ValueError for another task than a regression.
  """
  if calibration.kind != "regression":
    raise ValueError(f"Prediction intervals are for regression, the task is {calibration.kind}.")
  distance = _thresholds(calibration, num_present, coverage)[:, None]
  return np.concatenate([value - distance, value + distance], axis=1)


def _fit_served(task, logits, label, recorded, patterns, group) -> Calibration:
  patterns = np.asarray(patterns, bool)
  has_all = ~(patterns[:, None] & ~recorded[None]).any(-1)  # [P, N]
  parts = []
  for number in range(recorded.shape[1] + 1):
    pattern, row = np.nonzero(has_all & (patterns.sum(1) == number)[:, None])
    chosen = np.linspace(0, len(row) - 1, min(len(row), MAX_PAIRS)).astype(int)
    selected, row = logits[:, pattern[chosen], row[chosen]], row[chosen]
    if np.isnan(selected).any():
      selected, row = selected[:, :0], row[:0]
    parts.append((selected, label[row], group[row]))
  outputs, labels, groups = zip(*parts, strict=True)
  num_rows = [len(np.unique(x)) for x in groups]
  if task.kind == "regression":
    temperature, values = [1.0] * len(num_rows), [x[..., 0].mean(0) * task.scale for x in outputs]
    scores = [abs(x - y) for x, y in zip(values, labels, strict=True)]
  else:
    outputs = [_mean_log_probability(task.kind, x) for x in outputs]
    temperature = temperature_scaling.fit_temperatures(outputs, labels, groups, num_rows)
    log_p = [
      temperature_scaling.log_likelihood(*x) for x in zip(outputs, labels, temperature, strict=True)
    ]
    scores = [1 - np.exp(x) if task.kind == "classes" else x[:0] for x in log_p]
  scores = tuple(map(_keep_quantiles, scores))
  return Calibration(task.kind, task.scale, tuple(temperature), tuple(num_rows), scores)


def _mean_log_probability(kind: str, logits: Float[np.ndarray, "S N C"]) -> np.ndarray:
  """Logarithm of the mean probability over seeds: f[N, C] of classes, f[N, C, 2] of no and yes."""
  x = np.asarray(logits, np.float64)
  if kind == "multilabel":
    x = np.stack([np.zeros_like(x), x], axis=-1)
  log_p = x - temperature_scaling.log_sum(x, -1)
  return temperature_scaling.log_sum(log_p, 0)[0] - math.log(len(x))


def _keep_quantiles(scores: Float[np.ndarray, " N"]) -> tuple[float, ...]:
  """The scores, sorted; of many every N / MAX_SCORES-th, from above."""
  count = min(len(scores), MAX_SCORES)
  rank = -(-np.arange(1, count + 1) * len(scores) // max(count, 1))
  return tuple(float(f"{x:.6g}") for x in np.sort(scores)[rank - 1])


def _thresholds(
  calibration: Calibration, num_present: np.ndarray, coverage: float
) -> Float[np.ndarray, " N"]:
  """The conformal score that a row's label has at most, in `coverage` of the rows or more."""
  if not 0 < coverage < 1:
    raise ValueError(f"The coverage is {coverage}; a number between 0 and 1 is expected, as 0.9.")

  def threshold(scores: Sequence[float], num_rows: int) -> float:
    # In floats (n + 1) coverage may be a hair above the integer that it is.
    rank = math.ceil(coverage * (1 + 1 / max(num_rows, 1)) * len(scores) - 1e-9)
    # Six digits are kept of a score: rounding must not exclude what ties with it.
    return scores[rank - 1] * (1 + 1e-5) if 0 < rank <= len(scores) else math.inf

  by_number = [threshold(*x) for x in zip(calibration.scores, calibration.num_rows, strict=True)]
  return np.array(by_number)[num_present]
