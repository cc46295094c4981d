"""What the plots of a run show, as the `points` of `plots`."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from promise_jax.evaluation import metrics
from promise_jax.reports import tables

MAX_ROWS = tables.MAX_PATTERN_ROWS + 2  # differences under patterns, and two means
COLUMNS = ["row", "series", "value", "low", "high"]


def table_points(table: tables.Table) -> pd.DataFrame:
  """Mean ± std of the cells of a table, without its rows of means; a series for each method."""
  points = [
    (row, name, cell.mean, cell.mean - cell.std, cell.mean + cell.std)
    for row, cells in table.cells[: table.num_plain].iterrows()
    for name, cell in cells.items()
    if cell is not None
  ]
  return pd.DataFrame(points, columns=COLUMNS)


def split_far(points: pd.DataFrame, sign: int) -> tuple[pd.DataFrame, list[str]]:
  """The points without series far below the others (for sign -1 above), and the names of these: by
  more than what the others span. A constant predictor on the same axis would squeeze them."""
  values = (sign * points["value"]).groupby(points["series"])
  spans = values.agg(["mean", "min", "max"]).sort_values("mean", ascending=False)
  low, high = spans["min"].cummin(), spans["max"].cummax()
  reach = np.maximum(high - low, 0.2 * abs(high))
  last_near = np.flatnonzero(low - spans["max"].shift(-1) > reach)
  far = spans.index[last_near[-1] + 1 :].tolist() if len(last_near) else []
  return points[~points["series"].isin(far)], far


def log_points(log: pd.DataFrame, term: str) -> pd.DataFrame:
  """A term of the training log over steps, a series for each method: mean ± std over seeds."""
  return _over_steps(log[["step", "method", term]].set_axis(["step", "series", "value"], axis=1))


def modality_points(log: pd.DataFrame, group: str, names: Sequence[str]) -> pd.DataFrame:
  """The terms "group/modality" of one method over steps, a series for each modality."""
  values = log.set_index("step")[[f"{group}/{name}" for name in names]].set_axis(names, axis=1)
  return _over_steps(values.melt(var_name="series", ignore_index=False).reset_index())


def _over_steps(lines: pd.DataFrame) -> pd.DataFrame:
  values = lines.groupby(["series", "step"], sort=False)["value"]
  mean, std = values.mean().dropna(), values.std()
  points = pd.DataFrame({"value": mean, "low": mean - std, "high": mean + std}, mean.index)
  return points.rename_axis(["series", "row"]).reset_index().sort_values("row", kind="stable")


def modality_terms(log: pd.DataFrame) -> dict[str, list[str]]:
  """{group: modalities} of the terms "group/modality" that a training log has."""
  groups: dict[str, list[str]] = {}
  for term in log.columns[log.notna().any()]:
    group, slash, name = term.partition("/")
    if slash:
      groups.setdefault(group, []).append(name)
  return groups


def difference_points(comparison: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
  """The differences to baselines: of one pair by rows, which are the means alone if patterns are
  many; of several pairs over the means, without pairs that are far from the others. Returns also
  the names of these."""
  pair = comparison["method"] + " - " + comparison["baseline"]
  points = comparison.rename(columns={"difference": "value", "rows": "row"}).assign(series=pair)
  means = points[points["row"].isin(["incomplete", "all"])]
  if pair.nunique() == 1:
    return (points if len(points) <= MAX_ROWS else means)[COLUMNS], []
  sign = metrics.metric_sign(comparison["metric"].iloc[0])
  means, far = split_far(means, -sign)
  return means.rename(columns={"row": "series", "series": "row"})[COLUMNS], far


def calibration_points(lines: pd.DataFrame) -> pd.DataFrame:
  """Before and after calibration by the number of modalities present: means over patterns. Sets
  and intervals have no value before."""
  means = lines.groupby("num_present")[["before", "after"]].mean()
  points = means.melt(var_name="series", ignore_index=False).dropna().reset_index(names="row")
  points["row"] = [f"{k} present" for k in points["row"]]
  return points.assign(low=np.nan, high=np.nan)


def confusion_counts(classes: pd.DataFrame) -> tuple[list[str], np.ndarray]:
  """(names, rows of each class by the class that was predicted [C, C], means over seeds)."""
  names = classes["class"].unique().tolist()
  counts = np.array(classes["predicted"].tolist(), float).reshape(len(names), -1, len(names))
  return names, counts.mean(axis=1)
