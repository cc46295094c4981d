"""Temperatures that make probabilities hold what they say, one for each number present.

Temperature scaling is that of Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural
Networks" (ICML 2017), on the logarithm of the mean probability over seeds. Ours is that the
temperatures are shrunk to a common one, and stay 1 unless two scores of validation speak against
it: a mean over seeds is often calibrated already.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

# Both were chosen by the ECE on left-out folds of validation rows.
RIDGE = 50.0  # precision of the normal priors on the logarithms of temperatures
LEAST_GAINS = 1.96, 1.0  # of a temperature in NLL and in Brier score, in standard errors
MAX_LOG_TEMPERATURE = 3.0


def fit_temperatures(log_p: list, label: list, group: list, num_rows: list[int]) -> list[float]:
  """For each number of modalities present the temperature that minimises

    R mean(NLL) + RIDGE / 2 (log T - log T_common)^2

  over its R rows, a mean over patterns; 1 unless that lowers NLL and Brier score by more than
  LEAST_GAINS: few rows that are sure and wrong may rule the NLL. T_common minimises the sum of
  R mean(NLL), with one T for all numbers, + RIDGE / 2 (log T_common)^2; of a number without rows
  it is the temperature.
  """
  numbers = [k for k, count in enumerate(num_rows) if count]
  loss = lambda k, t: -num_rows[k] * log_likelihood(log_p[k], label[k], math.exp(t)).mean()
  common = _minimise(lambda t: sum(loss(k, t) for k in numbers) + RIDGE / 2 * t**2, 0.0)
  temperature = [1.0] + [1.0 if count else math.exp(common) for count in num_rows[1:]]
  for k in numbers:
    own = _minimise(lambda t, k=k: loss(k, t) + RIDGE / 2 * (t - common) ** 2, common)
    gains = np.subtract(*(_row_scores(log_p[k], label[k], t) for t in (1.0, math.exp(own))))
    errors = [_standard_error(x, group[k]) for x in gains]
    if all(gains.mean(axis=1) > np.multiply(LEAST_GAINS, errors)):
      temperature[k] = math.exp(own)
  return temperature


def temper(log_p: np.ndarray, temperature: float | Float[np.ndarray, " N"]) -> np.ndarray:
  """The logarithm of probabilities to the power of 1 / T, which add up to 1 again."""
  temperature = np.asarray(temperature)
  x = log_p / temperature.reshape(temperature.shape + (1,) * (log_p.ndim - 1))
  return x - log_sum(x, -1)


def log_sum(x: np.ndarray, axis: int) -> np.ndarray:
  """log(sum(exp(x))) over an axis, which stays as 1."""
  largest = x.max(axis, keepdims=True)
  return largest + np.log(np.exp(x - largest).sum(axis, keepdims=True))


def log_likelihood(log_p: np.ndarray, label: np.ndarray, temperature: float) -> np.ndarray:
  """Of each row, [N], or of each row and label, [N, C]."""
  index = label.astype(int)[..., None]
  return np.take_along_axis(temper(log_p, temperature), index, axis=-1)[..., 0]


def _row_scores(
  log_p: np.ndarray, label: np.ndarray, temperature: float
) -> Float[np.ndarray, "2 N"]:
  """Negative log-likelihood and Brier score of each row, means over its labels."""
  true = np.eye(log_p.shape[-1])[label.astype(int)]
  brier = ((np.exp(temper(log_p, temperature)) - true) ** 2).sum(axis=-1)
  scores = np.stack([-log_likelihood(log_p, label, temperature), brier])
  return scores.reshape(*scores.shape[:2], -1).mean(axis=2)


def _standard_error(values: Float[np.ndarray, " N"], group: np.ndarray) -> float:
  """Of the mean of values of which those of a group belong together; infinite for one group."""
  total = np.bincount(np.unique(group, return_inverse=True)[1], values - values.mean())
  count = len(total)
  return math.sqrt(count / (count - 1) * (total**2).sum()) / len(values) if count > 1 else math.inf


def _minimise(function: Callable[[float], float], start: float) -> float:
  """Where a function has its one minimum, by golden sections; `start` if that is not smaller."""
  low, high, part = -MAX_LOG_TEMPERATURE, MAX_LOG_TEMPERATURE, (math.sqrt(5) - 1) / 2
  while high - low > 1e-3:
    left, right = high - part * (high - low), low + part * (high - low)
    low, high = (low, right) if function(left) < function(right) else (left, high)
  return min(start, (low + high) / 2, key=function)
