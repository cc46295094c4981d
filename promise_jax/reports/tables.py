"""What a run directory holds, as a console table, markdown and one HTML page.

Everything here works on plain lists of dicts, as the files of a run have them:

  results.jsonl     method, dataset, split, protocol, mask_hash, pattern (names present,
                    null for a mixed protocol and for pooled patterns), metric,
                    value, n, seed, label_rate, and rate for a protocol that
                    has one; of sentiment, "best constant" stands as a method
  metrics.jsonl     method, seed, step, loss, valid and other terms
  comparison.json   rows, method, control, metric, difference, low, high, verdict
  speed.jsonl       method and any measures, named with their unit, and those of its
                    stages, a list
  config.json       the configuration, with versions, commit and device

A cell is mean ± sample standard deviation over seeds. A mean over patterns is taken
within a seed first, so that its ± is that of the seeds too.
"""

import itertools
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from promise_jax import files, missing
from promise_jax.checks import check_choice
from promise_jax.evaluation import metrics as evaluation_metrics

POOLED = ("pooled(all)", "pooled(incomplete)")
MOST_PATTERNS = 15  # more than that are shown by the number of modalities present


class Cell(NamedTuple):
  """`mean` and sample standard deviation `std` (NaN for one seed) over `seeds`."""

  mean: float
  std: float  # ddof = 1; NaN for one seed
  seeds: int


class Row(NamedTuple):
  """`n` examples as text, a range where patterns differ; a cell without data: None."""

  name: str
  n: str
  cells: tuple[Cell | None, ...]
  best: tuple[bool, ...]


class Table(NamedTuple):
  """One `metric` of `methods` (the columns) in `rows`, whose names say what is `of`."""

  of: str  # "present" or "protocol"
  metric: str
  methods: tuple[str, ...]
  rows: tuple[Row, ...]


class Run(NamedTuple):
  """What the page shows; every part but the title may be empty."""

  title: str
  config: dict[str, Any] = {}
  results: Sequence[dict] = ()
  metrics: Sequence[dict] = ()
  comparison: Sequence[dict] = ()
  speed: Sequence[dict] = ()


def read_run(directory) -> Run:
  """A run from its directory; a file that is not there is an empty part."""
  directory = pathlib.Path(directory)
  parts = {}
  for name in ("results", "metrics", "speed"):
    if (directory / f"{name}.jsonl").exists():
      parts[name] = files.read_jsonl(directory / f"{name}.jsonl")
  for name in ("config", "comparison"):
    if (directory / f"{name}.json").exists():
      parts[name] = json.loads((directory / f"{name}.json").read_text("utf-8"))
  return Run(directory.resolve().name, **parts)


def number(value) -> float:
  """A value of a JSON file as a number; null is NaN."""
  return math.nan if value is None else float(value)


def cell(values: Sequence[float]) -> Cell | None:
  """The cell of one value a seed; None without any."""
  if not len(values):
    return None
  std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
  return Cell(float(np.mean(values)), std, len(values))


def order_methods(values: Iterable) -> list:
  """Different values in the order of their first appearance."""
  return list(dict.fromkeys(values))


def setting_of(row: dict) -> tuple:
  """What rows of one table must share: data set and label rate."""
  return row.get("dataset"), row.get("label_rate")


def _order(patterns: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
  """Fewest modalities first, then as the fullest pattern lists them."""
  widest_first = sorted(patterns, key=len, reverse=True)
  rank = {m: i for i, m in enumerate(order_methods(itertools.chain(*widest_first)))}
  return sorted(patterns, key=lambda p: (len(p), sorted(rank[m] for m in p)))


def _groups(patterns: Iterable[tuple[str, ...]]) -> list[tuple[str, list]]:
  """(name, patterns of the row) of every row of a pattern table."""
  patterns = _order(patterns)
  most = len(patterns[-1])
  if len(patterns) <= MOST_PATTERNS:
    rows = [(" + ".join(p) or "nothing", [p]) for p in patterns]
  else:
    sizes = itertools.groupby(patterns, key=len)
    rows = [(f"{size} of {most} present", list(group)) for size, group in sizes]
  incomplete = [p for p in patterns if len(p) < most]
  rows += [("mean, incomplete", incomplete)] if incomplete else []
  return [*rows, ("mean, all", patterns)]


def pattern_table(results, metric: str, methods: Sequence[str]) -> Table:
  """The metric under every pattern (fewest modalities first) and its means over them.

  Reads the test lines of protocol "none" that name a pattern. A seed that lacks a
  pattern of a row does not count in that row. Raises ValueError for no such line, lines
  of several data sets or label rates, a line twice.
  """
  lines = [r for r in results if r["protocol"] == "none" and r["pattern"] is not None]
  return _table("present", lines, metric, methods, _groups)


def means_text(results, methods: Sequence[str]) -> str:
  """The means over the incomplete patterns and over all, as text: a row a metric, a
  column a method, of the lines that `pattern_table` reads."""
  by_pattern = [r for r in results if r["split"] == "test" and r["pattern"]]
  rows: dict[str, list] = {}
  for metric in order_methods(r["metric"] for r in by_pattern):
    for row in pattern_table(results, metric, methods).rows:
      if row.name.startswith("mean, "):
        label = f"{metric} (%)" if is_share(metric) else metric
        cells = [show_cell(metric, c) for c in row.cells]
        rows.setdefault(row.name, []).append([label, *cells])
  blocks = [_aligned([[name, *methods], *lines]) for name, lines in rows.items()]
  return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def protocol_table(results, metric: str, methods: Sequence[str], protocols) -> Table:
  """The metric under each of `protocols`, texts as "map(0.7)", from their test lines.

  Raises ValueError as `pattern_table`, and for a protocol unknown or without a line.
  """
  names = [str(missing.parse_protocol(text)) for text in protocols]

  def groups(found):
    for name in names:
      check_choice("protocol", name, tuple(found))
    return [(name, [name]) for name in names]

  lines = [r for r in results if r["protocol"] in names and r["pattern"] is None]
  return _table("protocol", lines, metric, methods, groups)


def _table(of: str, lines, metric: str, methods: Sequence[str], groups) -> Table:
  """`groups` gives (name, its patterns or protocols) of every row, from those found."""
  lines = [r for r in lines if r["split"] == "test" and r["method"] in methods]
  chosen = [r for r in lines if r["metric"] == metric]
  if not chosen:
    known = ", ".join(order_methods(r["metric"] for r in lines)) or "nothing"
    by = "pattern" if of == "present" else of
    raise ValueError(f"No test results by {by} for {metric!r}; there is: {known}.")
  settings = order_methods(map(setting_of, chosen))
  if len(settings) > 1:
    raise ValueError(f"A table is for one data set and label rate, not {settings}.")
  values, counts = {}, {}
  for r in chosen:
    where = r["protocol"] if r["pattern"] is None else tuple(r["pattern"])
    key = r["method"], r["seed"], where
    if key in values:
      raise ValueError(f"The results hold {metric} of {key} twice.")
    values[key] = number(r["value"])
    counts.setdefault(where, set()).add(r["n"])
  seeds = order_methods(r["seed"] for r in chosen)
  rows = []
  for name, group in groups(counts):
    cells = []
    for method in methods:
      by_seed = [[values.get((method, s, w)) for w in group] for s in seeds]
      cells.append(cell([np.mean(v) for v in by_seed if None not in v]))
    n = sorted(set().union(*(counts[w] for w in group)))
    n = str(n[0]) if len(n) == 1 else f"{n[0]}-{n[-1]}"
    rows.append(Row(name, n, tuple(cells), _best(cells, evaluation_metrics.metric_sign(metric))))
  return Table(of, metric, tuple(methods), tuple(rows))


def _best(cells: Sequence[Cell | None], sign: int) -> tuple[bool, ...]:
  means = [sign * c.mean if c else math.nan for c in cells]
  top = max((m for m in means if not math.isnan(m)), default=None)
  return tuple(len(cells) > 1 and m == top for m in means)


def is_share(metric: str) -> bool:
  """Whether a metric is a part of 1, shown in percent."""
  return any(part in metric for part in ("acc", "f1", "uar", "auroc"))


def show_value(metric: str, value: float, signed: bool = False) -> str:
  """A value as text, in percent where it is a share; NaN is "undefined"."""
  if math.isnan(value):
    return "undefined"
  sign = "+" if signed else ""
  return f"{100 * value:{sign}.1f}" if is_share(metric) else f"{value:{sign}.3f}"


def show_cell(metric: str, cell: Cell | None) -> str:
  """A cell as text, "81.4 ± 0.8"."""
  if cell is None:
    return "-"
  mean = show_value(metric, cell.mean)
  return mean if math.isnan(cell.std) else f"{mean} ± {show_value(metric, cell.std)}"


def caption(table: Table) -> str:
  """What the table shows, in a line."""
  seeds = {c.seeds for r in table.rows for c in r.cells if c} or {0}
  unit = " (%)" if is_share(table.metric) else ""
  span = f"{min(seeds)}-{max(seeds)}" if len(seeds) > 1 else f"{max(seeds)}"
  if seeds == {1}:
    return f"{table.metric}{unit}, 1 seed"
  return f"{table.metric}{unit}, mean ± std over {span} seeds"


def table_lines(table: Table) -> list[list[str]]:
  """The table as text, the header first."""
  body = [[r.name, r.n, *(show_cell(table.metric, c) for c in r.cells)] for r in table.rows]
  return [[table.of, "n", *table.methods], *body]


def to_text(table: Table) -> str:
  """The table for a console, columns aligned, means set off by a line."""
  header, *text = _aligned(table_lines(table))
  rule = "-" * len(header)
  plain = sum(not r.name.startswith("mean, ") for r in table.rows)
  if plain < len(text):
    text.insert(plain, rule)
  return "\n".join([caption(table), header, rule, *text]) + "\n"


def interval(line: dict) -> str:
  """The difference of a comparison and its interval, "+1.2 [+0.3, +2.1]"."""
  numbers = [number(line[k]) for k in ("difference", "low", "high")]
  mean, low, high = (show_value(line["metric"], v, signed=True) for v in numbers)
  return f"{mean} [{low}, {high}]"


def describe_verdict(line: dict) -> str:
  """One line of a comparison as a sentence."""
  arms = f"{line['method']} - {line['control']}"
  return f"{line['rows']}: {arms} = {interval(line)}, {line['verdict']}"


def _by_metric(lines, names: Sequence[str]) -> list[str]:
  """The cells of the metrics `names` over all `lines`, as text."""
  values = [[number(r["value"]) for r in lines if r["metric"] == n] for n in names]
  return [show_cell(n, cell(v)) for n, v in zip(names, values, strict=True)]


def pooled_table(results, methods: Sequence[str]) -> tuple[list, list] | None:
  """(header, rows) of the test metrics of pooled patterns; None without any."""
  lines = [r for r in results if r["split"] == "test" and r["protocol"] in POOLED]
  names = order_methods(r["metric"] for r in lines)
  rows = []
  for protocol, method in itertools.product(POOLED, methods):
    own = [r for r in lines if (r["protocol"], r["method"]) == (protocol, method)]
    rows += [[protocol, method, *_by_metric(own, names)]] if own else []
  return (["patterns", "method", *names], rows) if rows else None


def metric_table(results) -> str:
  """Lines of one protocol as text: a row a method, a column a metric."""
  names = order_methods(r["metric"] for r in results)
  lines = [["method", *names]]
  for method in order_methods(r["method"] for r in results):
    own = [r for r in results if r["method"] == method]
    lines.append([method, *_by_metric(own, names)])
  first = results[0]
  where = ", ".join(first[k] for k in ("dataset", "split", "protocol"))
  caption = f"{where}, n = {first['n']}, mask {first['mask_hash']}"
  return "\n".join([caption, *_aligned(lines)])


def _aligned(lines: list[list[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return [
    "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
  ]


def to_markdown(table: Table) -> str:
  """The table in markdown, the best mean of a row in bold."""
  escape = lambda text: text.replace("\\", "\\\\").replace("|", "\\|")
  header, *body = table_lines(table)
  lines = [header, ["---", *["---:"] * (len(header) - 1)]]
  for row, (name, n, *cells) in zip(table.rows, body, strict=True):
    marked = zip(cells, row.best, strict=True)
    lines.append([name, n, *(f"**{text}**" if best else text for text, best in marked)])
  rows = ("| " + " | ".join(map(escape, line)) + " |" for line in lines)
  return f"{caption(table)}\n\n" + "\n".join(rows) + "\n"
