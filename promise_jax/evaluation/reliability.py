"""Whether probabilities, sets and intervals hold what they say, before and after calibration.

nll       mean -log probability of the label; multilabel: mean over rows and labels
brier     mean squared difference of the probabilities to 0/1, summed over classes (Brier 1950);
          multilabel: mean over rows and labels
ece       expected calibration error (Guo et al. 2017): rows in 15 bins of equal width by the
          probability of the most probable class; mean over rows of |accuracy - mean probability|
          of their bin. Multilabel: of the probability of each label against how often it is
          true, mean over labels
coverage  part of the rows whose 90 % set or interval has the label
size      mean number of classes in the set
width     mean width of the interval, in the unit of the label
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from promise_jax import missing
from promise_jax.evaluation import calibration
from promise_jax.evaluation.calibration import Calibration
from promise_jax.types import Pattern, Split

NUM_BINS = 15
COVERAGE = 0.9


def negative_log_likelihood(probability: Float[np.ndarray, "N C"], label: np.ndarray) -> float:
  """`nll`, of classes or labels; a probability of 0 counts as the smallest float."""
  true = _one_hot(probability, label)
  of_truth = np.where(true, probability, 1 - probability if label.ndim == 2 else 1)
  log_p = np.log(np.maximum(of_truth, np.finfo(np.float64).tiny))
  return -float(log_p.mean() if label.ndim == 2 else log_p.sum(-1).mean())


def brier_score(probability: Float[np.ndarray, "N C"], label: np.ndarray) -> float:
  """`brier`, of classes or labels."""
  error = (probability - _one_hot(probability, label)) ** 2
  return float(error.mean() if label.ndim == 2 else error.sum(-1).mean())


def calibration_error(probability: Float[np.ndarray, "N C"], label: np.ndarray) -> float:
  """`ece`, of classes or labels. Bin b holds b / 15 < probability <= (b + 1) / 15."""
  if label.ndim == 2:
    pairs = zip(probability.T, label.T > 0.5, strict=True)
  else:
    pairs = [(probability.max(-1), probability.argmax(-1) == label)]
  return float(np.mean([_binned_gap(*pair) for pair in pairs]))


def _binned_gap(probability: Float[np.ndarray, " N"], hit: Bool[np.ndarray, " N"]) -> float:
  index = np.clip(np.ceil(probability * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
  return abs(np.bincount(index, probability - hit)).sum() / len(hit)


def _one_hot(probability: np.ndarray, label: np.ndarray) -> Bool[np.ndarray, "N C"]:
  return label > 0.5 if label.ndim == 2 else label[:, None] == np.arange(probability.shape[1])


ERRORS = {"nll": negative_log_likelihood, "brier": brier_score, "ece": calibration_error}
METRICS = {
  "classes": (*ERRORS, "coverage", "size"),
  "multilabel": (*ERRORS,),
  "regression": ("coverage", "width"),
}


def measure_calibration(
  calibrations: Mapping[str, Calibration],
  logits: Mapping[str, Float[np.ndarray, "S P N C"]],
  split: Split,
  patterns: Sequence[Pattern],
  names: Sequence[str],
) -> pd.DataFrame:
  """A row for each variant, pattern and metric, all seeds served together: variant, pattern,
  num_present, n (rows that have all of the pattern), metric, before (with temperature 1) and after.

  Sets and intervals have no value before. A pattern without rows is left out; NaN where a logit is.
  """
  lines = []
  for variant, fitted in calibrations.items():
    for pattern, x in zip(patterns, np.moveaxis(logits[variant], 1, 0), strict=True):
      rows = split.recorded[:, np.array(pattern)].all(axis=1)
      if not rows.any():
        continue
      columns = {"variant": variant, "pattern": missing.pattern_name(pattern, names)}
      columns |= {"num_present": sum(pattern), "n": int(rows.sum())}
      num_present = np.full(columns["n"], sum(pattern))
      values = measure_rows(fitted, x[:, rows], num_present, split.label[rows])
      lines += [
        columns | {"metric": name, "before": before, "after": after}
        for name, (before, after) in values.items()
      ]
  return pd.DataFrame(lines)


def measure_rows(
  fitted: Calibration,
  logits: Float[np.ndarray, "S N C"],
  num_present: Int[np.ndarray, " N"],
  label: np.ndarray,
) -> dict[str, tuple[float, float]]:
  """{metric: (before, after)}, NaN without rows and where a logit is NaN."""
  if not len(label) or np.isnan(logits).any():
    return dict.fromkeys(METRICS[fitted.kind], (np.nan, np.nan))
  plain = dataclasses.replace(fitted, temperature=(1.0,) * len(fitted.temperature))
  before, after = (calibration.calibrate(x, logits, num_present) for x in (plain, fitted))
  errors = {} if fitted.kind == "regression" else ERRORS
  values = {name: (error(before, label), error(after, label)) for name, error in errors.items()}
  covered = _measure_sets(fitted, after, num_present, label)
  return values | {name: (np.nan, float(each.mean())) for name, each in covered.items()}


def _measure_sets(fitted: Calibration, output, num_present, label) -> dict[str, np.ndarray]:
  """Of each row whether its set or interval has the label, and how large it is."""
  if fitted.kind == "classes":
    sets = calibration.prediction_sets(fitted, output, num_present, COVERAGE)
    return {"coverage": sets[np.arange(len(label)), label], "size": sets.sum(-1)}
  if fitted.kind == "regression":
    low, high = calibration.prediction_intervals(fitted, output, num_present, COVERAGE).T
    return {"coverage": (low <= label) & (label <= high), "width": high - low}
  return {}
