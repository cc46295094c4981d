"""A run as one self-contained HTML page: tables, plots, where the numbers come from.

Style and plots are inside; nothing is loaded and no script runs.
"""

import base64
import html as markup
import io
import math
from collections.abc import Sequence

import numpy as np

from promise_jax import report

COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#0987a0", "#6b7280")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.25rem; margin-top: 2.4rem; border-bottom: 1px solid #d9dee4; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0;
        font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #5b6770; padding-bottom: .3rem;
          white-space: nowrap; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #e8ecf0;
         white-space: nowrap; }
th { font-weight: 600; } thead th { border-bottom: 2px solid #9aa5b1; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
table.words td, table.words th { text-align: left; white-space: normal;
                                 overflow-wrap: anywhere; }
tr.mean td { background: #f5f7fa; } tr.first td { border-top: 2px solid #9aa5b1; }
td.best { font-weight: 700; }
.better, .worse { color: #22703f; font-weight: 600; } .worse { color: #b42318; }
.undecided, .note { color: #5b6770; }
img { max-width: 100%; height: auto; } summary { cursor: pointer; margin: .6rem 0; }
"""


class Raw(str):
  """Text that is HTML already."""


def _escape(value) -> str:
  return value if isinstance(value, Raw) else markup.escape(str(value))


def _grid(header, rows, caption="", kind="", row_kinds=None, cell_kinds=None) -> Raw:
  """An HTML table. `row_kinds` and `cell_kinds` are CSS classes by row and cell."""
  out = [f'<div class="scroll"><table class="{kind}">']
  if caption:
    out.append(f"<caption>{_escape(caption)}</caption>")
  head = "".join(f"<th>{_escape(h)}</th>" for h in header)
  out.append(f"<thead><tr>{head}</tr></thead><tbody>")
  for i, row in enumerate(rows):
    kinds = cell_kinds[i] if cell_kinds else [""] * len(row)
    cells = zip(row, kinds, strict=True)
    line = "".join(f'<td class="{k}">{_escape(c)}</td>' for c, k in cells)
    out.append(f'<tr class="{row_kinds[i] if row_kinds else ""}">{line}</tr>')
  return Raw("\n".join([*out, "</tbody></table></div>"]))


def _figure(width: float, height: float, panels: int = 1):
  from matplotlib import figure  # here: the library must import without it

  fig = figure.Figure(figsize=(width, height), layout="constrained")
  axes = fig.subplots(1, panels, squeeze=False)[0]
  for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e8ecf0")
    ax.set_axisbelow(True)
  return fig, axes


def _image(fig, alt: str) -> Raw:
  import matplotlib

  file = io.BytesIO()
  with matplotlib.rc_context({"svg.hashsalt": "report"}):  # same data, same bytes
    fig.savefig(file, format="svg", metadata={"Date": None})
  data = base64.b64encode(file.getvalue()).decode()
  return Raw(f'<img alt="{_escape(alt)}" src="data:image/svg+xml;base64,{data}">')


def _literal(name: str) -> str:
  """A name as a plot label: no mathematics, and no leading "_", which would hide it."""
  return "\N{ZERO WIDTH SPACE}" + name.replace("$", r"\$")


def _legend(fig, axes, count: int) -> None:
  handles, labels = axes[0].get_legend_handles_labels()
  columns = min(count, 5)
  fig.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)


def _axis_label(metric: str) -> str:
  return _literal(f"{metric} (%)" if report.is_share(metric) else metric)


def _bars(table: report.Table) -> Raw:
  rows = [r for r in table.rows if not r.name.startswith("mean, ")]
  fig, axes = _figure(9.5, 3.6)
  scale = 100 if report.is_share(table.metric) else 1
  width = 0.8 / len(table.methods)
  for i, method in enumerate(table.methods):
    cells = [r.cells[i] or report.Cell(math.nan, math.nan, 0) for r in rows]
    axes[0].bar(
      np.arange(len(rows)) + (i - (len(table.methods) - 1) / 2) * width,
      [scale * c.mean for c in cells],
      width * 0.92,
      yerr=[scale * np.nan_to_num(c.std) for c in cells],
      error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#3e4c59"},
      color=COLOURS[i % len(COLOURS)],
      label=_literal(method),
    )
  names = [_literal(r.name).replace(" + ", "\n+ ") for r in rows]
  axes[0].set_xticks(range(len(rows)), names, fontsize=8)
  axes[0].set_ylabel(_axis_label(table.metric))
  _legend(fig, axes, len(table.methods))
  return _image(fig, f"{table.metric} by pattern, one bar a method")


def _band(ax, x, mean, std, i: int, name: str, marker: str = "") -> None:
  mean, std = np.asarray(mean), np.nan_to_num(std)
  colour = COLOURS[i % len(COLOURS)]
  ax.plot(x, mean, color=colour, marker=marker, ms=4, lw=1.5, label=_literal(name))
  ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, lw=0)


def _rates(metric: str, family: str, curves: dict[str, report.Curve], methods) -> Raw:
  fig, axes = _figure(7, 3.6)
  scale = 100 if report.is_share(metric) else 1
  for name, curve in curves.items():
    mean, std = ([scale * getattr(c, k) for c in curve.cells] for k in ("mean", "std"))
    _band(axes[0], curve.rates, mean, std, methods.index(name), name, "o")
  axes[0].set(xlabel="missing rate", ylabel=_axis_label(metric))
  _legend(fig, axes, len(curves))
  areas = [
    [name, report.show_cell(metric, curve.area)] for name, curve in curves.items()
  ]
  caption = f"area under {metric} / range of rates"
  header = ["method", f"{metric}{' (%)' if report.is_share(metric) else ''}"]
  image = _image(fig, f"{metric} over the rate of {family}")
  return Raw(f"<h3>{_escape(family)}</h3>\n{image}\n{_grid(header, areas, caption)}")


def _training(lines, methods: Sequence[str]) -> Raw:
  """Loss and validation over steps: the mean over seeds and ± one std. A method has the
  colour of its place in `methods`, as in the other plots."""
  fig, axes = _figure(9.5, 3.4, panels=2)
  trained = report.in_order(r["method"] for r in lines)
  methods = [*methods, *(m for m in trained if m not in methods)]
  for ax, term in zip(axes, ("loss", "valid"), strict=True):
    ax.set(xlabel="step", ylabel="training loss" if term == "loss" else "validation")
    for i, method in enumerate(methods):
      if method not in trained:
        continue
      by_step = {}
      for r in lines:
        if r["method"] == method and isinstance(r.get(term), (int, float)):
          by_step.setdefault(r["step"], []).append(r[term])
      cells = [report.cell(by_step[s]) for s in sorted(by_step)]
      mean, std = [c.mean for c in cells], [c.std for c in cells]
      _band(ax, sorted(by_step), mean, std, i, method, "." if len(cells) == 1 else "")
  _legend(fig, axes, len(trained))
  return _image(fig, "training loss and validation over steps, one line a method")


def _comparison(lines) -> Raw:
  header = ["rows", "method", "control", "metric", "difference", "95 % interval", ""]
  rows, kinds = [], []
  for r in lines:
    numbers = [report.number(r[k]) for k in ("difference", "low", "high")]
    difference, low, high = (
      report.show_value(r["metric"], v, signed=True) for v in numbers
    )
    unit = " points" if report.is_share(r["metric"]) else ""
    rows.append(
      [*(r[k] for k in header[:4]), difference + unit, f"{low} to {high}", r["verdict"]]
    )
    known = r["verdict"] in ("better", "worse", "undecided")
    kinds.append([""] * 6 + [r["verdict"] if known else ""])
  note = (
    "method minus control; 95 % percentile interval of a bootstrap paired over seeds "
    "and test examples"
  )
  return _grid(header, rows, note, cell_kinds=kinds)


def _table(table: report.Table) -> Raw:
  means = [r.name.startswith("mean, ") for r in table.rows]
  row_kinds = [
    "mean first" if now and not before else "mean" if now else ""
    for now, before in zip(means, [False, *means[:-1]], strict=True)
  ]
  cells = [["", "", *("best" if b else "" for b in r.best)] for r in table.rows]
  header = ["present", "n", *table.methods]
  return _grid(
    header, report.table_body(table), report.caption(table), "", row_kinds, cells
  )


def _has_patterns(row: dict) -> bool:
  named = row["protocol"] == "none" and row["pattern"] is not None
  return named and row["split"] == "test"


def _results(results, methods) -> list[str]:
  """The sections of one data set and label rate: tables, bars, rate curves."""
  names = report.in_order(r["metric"] for r in results if r["split"] == "test")
  patterns = report.in_order(r["metric"] for r in results if _has_patterns(r))
  out = []
  if patterns:
    tables = [report.pattern_table(results, name, methods) for name in patterns]
    out += ["<h3>By pattern of what is present</h3>", _table(tables[0])]
    out += ['<p class="note">Bold: best mean of the row.</p>', _bars(tables[0])]
    out += [
      f"<details><summary>{_escape(t.metric)}</summary>{_table(t)}</details>"
      for t in tables[1:]
    ]
  for name in names[:1]:
    curves = report.rate_curves(results, name, methods)
    out += [_rates(name, family, c, methods) for family, c in curves.items()]
  return out


def _flat(config: dict, prefix: str = "") -> list[list[str]]:
  rows = []
  for key, value in config.items():
    nested = isinstance(value, dict) and value
    rows += _flat(value, f"{prefix}{key}.") if nested else [[f"{prefix}{key}", value]]
  return rows


SOURCES = ("versions", "commit", "device")


def _sources(run: report.Run) -> list[str]:
  masks = report.in_order((r["protocol"], r["mask_hash"]) for r in run.results)
  facts = _flat({k: run.config[k] for k in SOURCES if k in run.config})
  out = [_grid(["made with", ""], facts, kind="words")] if facts else []
  if masks:
    out.append(_grid(["test protocol", "hash of its mask"], masks, kind="words"))
  return out


def _speed(lines) -> Raw:
  header = report.in_order(key for r in lines for key in r)

  def show(value):
    if not isinstance(value, (int, float)):
      return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

  rows = [[show(r.get(k, "-")) for k in header] for r in lines]
  return _grid([k.replace("_", " ") for k in header], rows)


def html(run: report.Run) -> str:
  """One page that needs nothing else: style and plots are in it, no script.

  The first metric of the results has the plots; the others have a folded table.

  Raises:
    ValueError: as `pattern_table`.
  """
  methods = report.in_order(r["method"] for r in run.results)
  config = _flat({k: v for k, v in run.config.items() if k not in SOURCES})
  grid = _grid(["field", "value"], config, kind="words")
  fold = (
    f"<details><summary>Configuration, {len(config)} fields</summary>{grid}</details>"
  )
  parts = [fold] if config else []
  settings = report.in_order(map(report.setting_of, run.results))
  for dataset, rate in settings:
    title = str(dataset) if rate is None else f"{dataset}, {100 * rate:g} % of labels"
    chosen = [r for r in run.results if report.setting_of(r) == (dataset, rate)]
    parts += [f"<h2>{_escape(title)}</h2>", *_results(chosen, methods)]
  if run.comparison:
    parts += ["<h2>Against the controls</h2>", _comparison(run.comparison)]
  if run.metrics:
    parts += ["<h2>Training</h2>", _training(run.metrics, methods)]
    note = "Lines: mean over seeds; bands: ± one std. Losses compare within a method."
    parts.append(f'<p class="note">{note}</p>')
  if run.speed:
    parts += ["<h2>Speed and memory</h2>", _speed(run.speed)]
  parts += ["<h2>Where the numbers come from</h2>", *_sources(run)]
  seeds = len(report.in_order(r["seed"] for r in run.results))
  line = f"{len(methods)} methods, {seeds} seeds, {len(run.results)} results"
  return "\n".join(
    [
      '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f"<title>{_escape(run.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
      f'<h1>{_escape(run.title)}</h1>\n<p class="note">{line}</p>',
      *parts,
      "</body>\n</html>\n",
    ]
  )
