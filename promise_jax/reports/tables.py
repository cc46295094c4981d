"""Results as tables: from the long DataFrame of a run to cells of numbers.

`results` has the columns method, dataset, split, label_rate, protocol, pattern ("text+audio", or
null for a mixed protocol), metric, value, n, seed and mask_hash; `rate` where the protocol has one.

A cell is the mean ± sample standard deviation over seeds, or ± half the width of a t-interval. A
mean over patterns is taken within a seed first, so that its ± is that of the seeds too.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import pandas as pd

from promise_jax import patterns
from promise_jax.checks import check_choice
from promise_jax.evaluation import conditions, metrics
from promise_jax.reports import formatting

MAX_PATTERN_ROWS = 15  # more patterns are shown by the number of modalities present
ON_SOME_ROWS = "each line on the rows that have something left"


@dataclasses.dataclass(frozen=True)
class Table:
  """One metric of several methods, the columns of `cells`, by pattern, protocol or rate."""

  row_kind: str  # "present", "protocol", or the protocol that has the rates
  metric: str
  n: list[str]  # examples of each row, a range where patterns differ
  cells: pd.DataFrame  # of Cell, or None where a method has no result
  num_plain: int  # rows before those of means or areas
  note: str = ""  # which test rows, where there is a choice
  error: Literal["std", "interval"] = "std"  # what stands behind ±

  def best(self) -> pd.DataFrame:
    """Which cells have the best mean of their row, if there are several methods."""
    means = self.cells.map(lambda c: c.mean if c else math.nan).astype(float)
    means *= metrics.metric_sign(self.metric)
    return means.eq(means.max(axis=1), axis=0) & (len(means.columns) > 1)

  def caption(self) -> str:
    """What the table shows, in a line."""
    seeds = formatting.show_range({c.num_seeds for c in self.cells.to_numpy().flat if c})
    error = {"std": "std (n-1)", "interval": "half of the 95 % t-interval"}[self.error]
    over = "1 seed" if seeds == "1" else f"mean ± {error} over {seeds} seeds"
    return "; ".join(filter(None, [f"{formatting.metric_label(self.metric)}, {over}", self.note]))

  def lines(self) -> list[list[str]]:
    """All cells as text, the header first."""
    header = [self.row_kind, "n", *self.cells.columns]
    texts = self.cells.map(lambda c: formatting.show_cell(self.metric, c, self.error))
    body = zip(self.cells.index, self.n, texts.to_numpy().tolist(), strict=True)
    return [header, *([name, n, *cells] for name, n, cells in body)]


def pattern_table(
  results: pd.DataFrame, metric: str, methods: Sequence[str], same_rows: bool = True
) -> Table:
  """The metric under every pattern, fewest modalities first, and its means over them.

  A seed that lacks a pattern of a row does not count in that row. Where the data have holes, every
  pattern is measured on the test rows that have all modalities (`same_rows`), so that the lines of
  the table can be compared, or on those that have something left.

  ValueError for no test line, lines of several data sets, label rates or test rows, or one twice.
  """
  by_pattern = results[(results["split"] == "test") & results["pattern"].notna()]
  # First, because the choice of rows may leave out all lines of one of two data sets.
  selected = _select_lines(by_pattern, metric, methods, "pattern")
  lines, note = choose_rows(selected, same_rows)
  _check_lines(lines, "pattern")
  patterns = _sort_patterns(lines["pattern"].unique())
  size = lambda pattern: len(pattern.split("+"))
  rows = {p.replace("+", " + "): [p] for p in patterns}
  if len(patterns) > MAX_PATTERN_ROWS:
    sizes = itertools.groupby(patterns, key=size)
    rows = {f"{k} of {size(patterns[-1])} present": list(group) for k, group in sizes}
  incomplete = [p for p in patterns if size(p) < size(patterns[-1])]
  means = ({"mean, incomplete": incomplete} if incomplete else {}) | {"mean, all": patterns}
  summary = _summarise(lines, "pattern", methods, rows | means)
  return Table("present", metric, *summary, len(rows), note)


def choose_rows(lines: pd.DataFrame, same_rows: bool = True) -> tuple[pd.DataFrame, str]:
  """Of lines by pattern those on the same rows, or on all, and a note where there is a choice; it
  names the modalities that no row has. Patterns without a row are left out."""
  every, same = (lines[lines["protocol"] == p] for p in ("none", conditions.COMPLETE_ROWS))
  lacking = [p for p in every.loc[every["n"] == 0, "pattern"].unique() if "+" not in p]
  note = f"no row has {', '.join(lacking)}, which is left out; " if lacking else ""
  found = set(every["pattern"])
  total = max((len(pattern.split("+")) for pattern in found), default=0)
  if total > patterns.MAX_ALL_TESTED:
    note += f"a fixed sample of {len(found)} of the {2**total - 1:,} patterns; "
  every, same = (x[x["n"] > 0] if x["n"].any() else x for x in (every, same))
  if same_rows and same["n"].any():
    count = f"{same['n'].max()} of {every['n'].max()}"
    return same, note + f"each line on the {count} rows that have every modality"
  if len(same) and not same["n"].any():
    return every, note + f"no row has every modality: {ON_SOME_ROWS}"
  return every, (note + _note_rows(every)).removesuffix("; ")


def protocol_table(
  results: pd.DataFrame, metric: str, methods: Sequence[str], protocols: Sequence[str]
) -> Table:
  """The metric under each of `protocols`, which are written as in the results; ValueError as in
  `pattern_table`, or for a protocol without a line."""
  lines = results[results["protocol"].isin(protocols) & results["pattern"].isna()]
  lines = _check_lines(_select_lines(lines, metric, methods, "protocol"), "protocol")
  for name in protocols:
    check_choice("protocol", name, lines["protocol"].unique())
  summary = _summarise(lines, "protocol", methods, {p: [p] for p in protocols})
  return Table("protocol", metric, *summary, len(protocols), _note_rows(lines))


def find_protocols(results: pd.DataFrame, wanted: Iterable[str]) -> list[str]:
  """The protocols of a protocol table: no pooled ones, and those with a rate only if `wanted`."""
  lines = results[(results["split"] == "test") & results["pattern"].isna()]
  if "rate" in lines:
    lines = lines[lines["rate"].isna() | lines["protocol"].isin(wanted)]
  return [name for name in lines["protocol"].unique() if not name.startswith("pooled(")]


def rate_tables(results: pd.DataFrame, metric: str, methods: Sequence[str]) -> list[Table]:
  """For each protocol with a rate, the metric at every rate, and the area under this curve: that of
  a seed, by trapezoids, divided by the range of rates (AUILC)."""
  if "rate" not in results:
    return []
  lines = results[results["rate"].notna()]
  family = lines["protocol"].str.replace(r"\([^,)]*", "(rate", n=1, regex=True)
  tables = []
  for name, part in lines.groupby(family, sort=False):
    part = _check_lines(_select_lines(part, metric, methods, "protocol"), "protocol")
    protocols = part.drop_duplicates("protocol").set_index("rate")["protocol"].sort_index()
    rows = {f"{rate:g}": [protocol] for rate, protocol in protocols.items()}
    area = f"area {protocols.index[0]:g} to {protocols.index[-1]:g} (AUILC)"
    weights = {area: np.convolve(np.diff(protocols.index), [0.5, 0.5])}  # of trapezoids
    areas = {area: list(protocols)} if len(rows) > 1 else {}
    summary = _summarise(part, "protocol", methods, rows | areas, weights)
    tables.append(Table(name, metric, *summary, len(rows), _note_rows(part)))
  return tables


def _note_rows(lines: pd.DataFrame) -> str:
  """A note where the lines are about different rows."""
  return ON_SOME_ROWS if lines["n"].nunique() > 1 else ""


def _select_lines(lines, metric: str, methods: Sequence[str], key: str) -> pd.DataFrame:
  """The test lines of a metric and methods; ValueError for none, or lines of several settings."""
  lines = lines[(lines["split"] == "test") & lines["method"].isin(methods)]
  selected = lines[lines["metric"] == metric]
  if selected.empty:
    known = ", ".join(lines["metric"].unique()) or "nothing"
    raise ValueError(f"No test results by {key} for {metric!r}; there is: {known}.")
  settings = selected[["dataset", "label_rate"]].drop_duplicates().to_numpy().tolist()
  if len(settings) > 1:
    raise ValueError(f"A table is for one data set and label rate, not {settings}.")
  return selected


def _check_lines(selected: pd.DataFrame, key: str) -> pd.DataFrame:
  """`selected`; ValueError for lines that are doubled or on several masks."""
  if (selected.groupby(key)["mask_hash"].nunique() > 1).any():
    raise ValueError("A table is for the same test rows under the same masks, not for several.")
  double = selected[selected.duplicated(["method", "seed", key])]
  if len(double):
    metric, *where = double.iloc[0][["metric", "method", "seed", key]]
    raise ValueError(f"The results hold {metric} of {tuple(where)} twice.")
  return selected


def _sort_patterns(patterns: Iterable[str]) -> list[str]:
  """Fewest modalities first, then as the fullest pattern lists them."""
  split = {p: p.split("+") for p in patterns}
  widest_first = sorted(split.values(), key=len, reverse=True)
  rank = {m: i for i, m in enumerate(dict.fromkeys(itertools.chain(*widest_first)))}
  return sorted(split, key=lambda p: (len(split[p]), sorted(rank[m] for m in split[p])))


def _summarise(
  lines: pd.DataFrame,
  key: str,
  methods: Sequence[str],
  rows: dict[str, list[str]],
  weights: dict[str, np.ndarray] | None = None,
) -> tuple[list[str], pd.DataFrame]:
  """`n` and `cells` of a table whose `rows` {name: patterns or protocols} are averages, within a
  seed, with the `weights` of this name if there are any."""
  pivot = lines.pivot(index=["method", "seed"], columns=key, values=["value", "n"])
  values, exists = pivot["value"], pivot["n"].notna()
  counts, cells = [], pd.DataFrame(None, list(rows), list(methods), dtype=object)
  for name, group in rows.items():
    counts.append(formatting.show_range(lines.loc[lines[key].isin(group), "n"]))
    means = np.average(values[group], axis=1, weights=(weights or {}).get(name))
    for method in methods:
      has_all = exists[group].all(axis=1) & (exists.index.get_level_values("method") == method)
      cells.at[name, method] = formatting.make_cell(means[has_all])
  return counts, cells
