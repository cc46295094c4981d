"""Is a variant better than another one? Differences, intervals and verdicts as a DataFrame."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from promise_jax import missing
from promise_jax.evaluation import bootstrap, metrics
from promise_jax.types import Pattern, Split, Task


def best_baseline(method: str, valid_scores: Mapping[str, float], constant: str) -> str:
  """The variant to beat: the best on validation among variants of other methods.

  Variants of the same method, and then the `constant` predictor, only where there is
  nothing else.

  Args:
    method: the variant that is compared, as "robult" or "robult(pull=0.1)".
    valid_scores: {variant: score}, larger is better; `method` may be among them.
    constant: the variant that reads nothing.
  """
  others = [name for name in valid_scores if name != method]
  trained = [name for name in others if name != constant]
  foreign = [n for n in trained if n.partition("(")[0] != method.partition("(")[0]]
  return max(foreign or trained or others, key=lambda name: valid_scores[name])


def compare_variants(
  task: Task,
  ours: Float[np.ndarray, "S P N C"],
  baseline: Float[np.ndarray, "S P N C"],
  split: Split,
  patterns: Sequence[Pattern],
  names: Sequence[str],
  group: np.ndarray | None = None,
) -> pd.DataFrame:
  """The primary metric of ours minus the baseline's, with 95 % intervals and verdicts.

  One row for the mean over the incomplete patterns, one for all, and one for each pattern;
  without those that no row of the split has. `group` is as in `bootstrap`.
  """
  table = np.array(patterns)
  shown = (split.recorded[None] & table[:, None]).any(axis=-1)
  has_rows = shown.any(axis=1)
  sets = {"incomplete": ~table.all(axis=1), "all": np.ones(len(table), bool)}
  for number, pattern in enumerate(patterns):
    sets[missing.pattern_name(pattern, names)] = np.arange(len(table)) == number
  sets = {name: (chosen & has_rows)[has_rows] for name, chosen in sets.items()}
  sets = {name: chosen for name, chosen in sets.items() if chosen.any()}
  intervals = bootstrap.paired_intervals(
    task,
    ours.swapaxes(0, 1)[has_rows],
    baseline.swapaxes(0, 1)[has_rows],
    split.label,
    shown[has_rows].astype(np.float32),
    list(sets.values()),
    group=group,
  )
  name, sign = metrics.primary_metric(task)
  columns = {
    "rows": list(sets),
    "metric": name,
    "difference": [x.mean for x in intervals],
    "low": [x.low for x in intervals],
    "high": [x.high for x in intervals],
    "verdict": [verdict(sign, x) for x in intervals],
  }
  return pd.DataFrame(columns)


def verdict(sign: int, interval: bootstrap.Interval) -> str:
  """ "better" or "worse" if the interval excludes 0, else "undecided"."""
  worst, best = sorted((sign * interval.low, sign * interval.high))
  return "better" if worst > 0 else "worse" if best < 0 else "undecided"
