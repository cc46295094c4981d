"""Is a variant better than another one? Differences, intervals and verdicts as a DataFrame."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from promise_jax import missing
from promise_jax.evaluation import bootstrap, conditions, metrics
from promise_jax.types import Pattern, Split, Task


def best_baseline(method: str, valid_scores: Mapping[str, float], constant: str) -> str:
  """The variant to beat: the best on validation among variants of other methods; one of the same
  method, and then the predictor `constant`, only where nothing else is. `method` may be among the
  `valid_scores` {variant: score}, of which larger ones are better."""
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

  One row for the mean over the incomplete patterns, one for all, and one for each pattern that a
  row of the split has, on the `conditions.comparable_rows`. `group` is as in `bootstrap`.
  """
  table = np.array(patterns)
  is_used = (split.recorded[None] & table[:, None]).any(axis=-1)
  is_used &= conditions.comparable_rows(split.recorded)
  has_rows = is_used.any(axis=1)
  sets = {"incomplete": ~table.all(axis=1), "all": np.ones(len(table), bool)}
  singles = np.eye(len(table), dtype=bool)
  sets |= {missing.pattern_name(p, names): one for p, one in zip(patterns, singles, strict=True)}
  sets = {name: where[has_rows] for name, where in sets.items() if where[has_rows].any()}
  pair = (logits.swapaxes(0, 1)[has_rows] for logits in (ours, baseline))
  weight = is_used[has_rows].astype(np.float32)
  intervals = bootstrap.paired_intervals(
    task, *pair, split.label, weight, list(sets.values()), group=group
  )
  metric, sign = metrics.primary_metric(task)
  lines = [
    {"rows": name, "metric": metric, "difference": x.mean, "low": x.low, "high": x.high}
    | {"verdict": verdict(sign, x)}
    for name, x in zip(sets, intervals, strict=True)
  ]
  return pd.DataFrame(lines)


def verdict(sign: int, interval: bootstrap.Interval) -> str:
  """ "better" or "worse" if the interval excludes 0, else "undecided"."""
  worst, best = sorted((sign * interval.low, sign * interval.high))
  return "better" if worst > 0 else "worse" if best < 0 else "undecided"
