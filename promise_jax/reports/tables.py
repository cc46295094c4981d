"""Results as tables: from the long DataFrame of a run to text and markdown.

`results` has the columns method, dataset, split, label_rate, protocol, pattern ("text+audio", or
null for a mixed protocol), metric, value, n and seed; `rate` where the protocol has one.

A cell is the mean ± sample standard deviation over seeds. A mean over patterns is taken within a
seed first, so that its ± is that of the seeds too.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd

from promise_jax.checks import check_choice
from promise_jax.evaluation import metrics
from promise_jax.reports import formatting

MAX_PATTERN_ROWS = 15  # more patterns are shown by the number of modalities present


@dataclasses.dataclass(frozen=True)
class Table:
  """One metric of several methods, the columns of `cells`, by pattern or protocol."""

  row_kind: str  # "present" or "protocol"
  metric: str
  n: list[str]  # examples of each row, a range where patterns differ
  cells: pd.DataFrame  # of Cell, or None where a method has no result

  @property
  def num_plain(self) -> int:
    """Rows before those of the means."""
    return sum(not name.startswith("mean, ") for name in self.cells.index)

  def best(self) -> pd.DataFrame:
    """Which cells have the best mean of their row, if there are several methods."""
    means = self.cells.map(lambda c: c.mean if c else math.nan).astype(float)
    means *= metrics.metric_sign(self.metric)
    return means.eq(means.max(axis=1), axis=0) & (len(means.columns) > 1)

  def caption(self) -> str:
    """What the table shows, in a line."""
    seeds = formatting.show_range({c.num_seeds for c in self.cells.to_numpy().flat if c})
    over = "1 seed" if seeds == "1" else f"mean ± std over {seeds} seeds"
    return f"{formatting.metric_label(self.metric)}, {over}"

  def lines(self) -> list[list[str]]:
    """All cells as text, the header first."""
    header = [self.row_kind, "n", *self.cells.columns]
    texts = self.cells.map(lambda c: formatting.show_cell(self.metric, c))
    body = zip(self.cells.index, self.n, texts.to_numpy().tolist(), strict=True)
    return [header, *([name, n, *cells] for name, n, cells in body)]

  def to_text(self) -> str:
    """The table for a console: columns aligned, means set off by a line."""
    header, *body = formatting.align(self.lines())
    rule = "-" * len(header)
    if self.num_plain < len(body):
      body.insert(self.num_plain, rule)
    return "\n".join([self.caption(), header, rule, *body]) + "\n"

  def to_markdown(self) -> str:
    """The table in markdown, the best mean of a row in bold."""
    header, *body = self.lines()
    for cells, best in zip(body, self.best().to_numpy(), strict=True):
      cells[2:] = [f"**{text}**" if b else text for text, b in zip(cells[2:], best, strict=True)]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return f"{self.caption()}\n\n{formatting.markdown_rows([header, rule, *body])}"


def pattern_table(results: pd.DataFrame, metric: str, methods: Sequence[str]) -> Table:
  """The metric under every pattern, fewest modalities first, and its means over them.

  A seed that lacks a pattern of a row does not count in that row.

  Raises:
    ValueError: no test line, lines of several data sets or label rates, or a line twice.
  """
  lines = results[(results["protocol"] == "none") & results["pattern"].notna()]
  lines = _check_lines(lines, metric, methods, "pattern")
  patterns = _sort_patterns(lines["pattern"].unique())
  size = lambda pattern: len(pattern.split("+"))
  rows = {p.replace("+", " + "): [p] for p in patterns}
  if len(patterns) > MAX_PATTERN_ROWS:
    sizes = itertools.groupby(patterns, key=size)
    rows = {f"{k} of {size(patterns[-1])} present": list(group) for k, group in sizes}
  incomplete = [p for p in patterns if size(p) < size(patterns[-1])]
  rows |= {"mean, incomplete": incomplete} if incomplete else {}
  return _summarise(lines, "pattern", "present", metric, methods, rows | {"mean, all": patterns})


def protocol_table(
  results: pd.DataFrame, metric: str, methods: Sequence[str], protocols: Sequence[str]
) -> Table:
  """The metric under each of `protocols`, which are written as in the results.

  Raises:
    ValueError: as `pattern_table`, or for a protocol without a line.
  """
  lines = results[results["protocol"].isin(protocols) & results["pattern"].isna()]
  lines = _check_lines(lines, metric, methods, "protocol")
  for name in protocols:
    check_choice("protocol", name, lines["protocol"].unique())
  return _summarise(lines, "protocol", "protocol", metric, methods, {p: [p] for p in protocols})


def _check_lines(lines, metric: str, methods: Sequence[str], key: str) -> pd.DataFrame:
  lines = lines[(lines["split"] == "test") & lines["method"].isin(methods)]
  selected = lines[lines["metric"] == metric]
  if selected.empty:
    known = ", ".join(lines["metric"].unique()) or "nothing"
    raise ValueError(f"No test results by {key} for {metric!r}; there is: {known}.")
  settings = selected[["dataset", "label_rate"]].drop_duplicates().to_numpy().tolist()
  if len(settings) > 1:
    raise ValueError(f"A table is for one data set and label rate, not {settings}.")
  double = selected[selected.duplicated(["method", "seed", key])]
  if len(double):
    where = tuple(double.iloc[0][["method", "seed", key]])
    raise ValueError(f"The results hold {metric} of {where} twice.")
  return selected


def _sort_patterns(patterns: Iterable[str]) -> list[str]:
  """Fewest modalities first, then as the fullest pattern lists them."""
  split = {p: p.split("+") for p in patterns}
  widest_first = sorted(split.values(), key=len, reverse=True)
  rank = {m: i for i, m in enumerate(dict.fromkeys(itertools.chain(*widest_first)))}
  return sorted(split, key=lambda p: (len(split[p]), sorted(rank[m] for m in split[p])))


def _summarise(lines, key: str, row_kind: str, metric: str, methods, rows: dict) -> Table:
  """A table with the means of the values under `rows` {name: patterns or protocols}."""
  pivot = lines.pivot(index=["method", "seed"], columns=key, values=["value", "n"])
  values, exists = pivot["value"], pivot["n"].notna()
  counts, cells = [], pd.DataFrame(None, list(rows), list(methods), dtype=object)
  for name, group in rows.items():
    counts.append(formatting.show_range(lines.loc[lines[key].isin(group), "n"]))
    means = np.ascontiguousarray(values[group]).mean(axis=1)
    for method in methods:
      has_all = exists[group].all(axis=1) & (exists.index.get_level_values("method") == method)
      cells.at[name, method] = formatting.make_cell(means[has_all])
  return Table(row_kind, metric, counts, cells)


def rate_cells(
  results: pd.DataFrame, metric: str, methods: Sequence[str]
) -> Iterator[tuple[str, pd.DataFrame, dict]]:
  """For each protocol with a rate: its name, cells by rate and method, areas by method.

  An area is that under the curve of a seed, divided by the range of rates (AUILC).
  """
  if "rate" not in results:
    return
  lines = results[(results["metric"] == metric) & (results["split"] == "test")]
  lines = lines[lines["rate"].notna() & lines["method"].isin(methods)]
  family = lines["protocol"].str.replace(r"\([^,)]*", "(rate", n=1, regex=True)
  for name, part in lines.groupby(family, sort=False):
    values = part.pivot(index="rate", columns=["method", "seed"], values="value")
    rates = values.index.to_numpy()
    cells = pd.DataFrame(None, rates, list(methods), dtype=object)
    areas = {}
    for method in part["method"].unique():
      curves = values[method].to_numpy()
      cells[method] = [formatting.make_cell(curve) for curve in curves]
      if len(rates) > 1:
        area = np.trapezoid(curves, rates, axis=0) / (rates[-1] - rates[0])
        areas[method] = formatting.make_cell(area)
    yield name, cells, areas
