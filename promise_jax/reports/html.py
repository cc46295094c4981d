"""A run as one self-contained HTML page: tables, plots, where the numbers come from.

Style and plots are inside; nothing is loaded and no script runs.
"""

import base64
import html as markup
from collections.abc import Sequence

from promise_jax.reports import curves, plots
from promise_jax.reports import tables as reports_tables

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


def _image(svg: bytes, alt: str) -> Raw:
  data = base64.b64encode(svg).decode()
  return Raw(f'<img alt="{_escape(alt)}" src="data:image/svg+xml;base64,{data}">')


def _rates(metric: str, family: str, found: dict[str, curves.Curve], methods) -> Raw:
  areas = [[name, reports_tables.show_cell(metric, curve.area)] for name, curve in found.items()]
  caption = f"area under {metric} / range of rates"
  header = ["method", f"{metric}{' (%)' if reports_tables.is_share(metric) else ''}"]
  svg = plots.rates(metric, found, methods)
  image = _image(svg, f"{metric} over the rate of {family}")
  return Raw(f"<h3>{_escape(family)}</h3>\n{image}\n{_grid(header, areas, caption)}")


def _training(run: reports_tables.Run, methods: Sequence[str]) -> list[str]:
  alt = "training loss and validation over steps, one line a method"
  out = [_image(plots.training(run.metrics, methods), alt)]
  note = "Lines: mean over seeds; bands: ± one std. Losses compare within a method."
  out.append(f'<p class="note">{note}</p>')
  for method, groups in curves.by_modality(run.metrics).items():
    lines = [r for r in run.metrics if r["method"] == method]
    alt = f"{', '.join(groups)} of {method} over steps, one line a modality"
    svg = plots.by_modality(lines, groups)
    out += [f"<h3>{_escape(method)}</h3>", _image(svg, alt)]
  out += [f"<p>{_escape(line)}</p>" for line in curves.upper_levels(run.metrics)]
  return out


def _comparison(lines) -> Raw:
  header = ["rows", "method", "control", "metric", "difference", "95 % interval", ""]
  rows, kinds = [], []
  for r in lines:
    numbers = [reports_tables.number(r[k]) for k in ("difference", "low", "high")]
    difference, low, high = (
      reports_tables.show_value(r["metric"], v, signed=True) for v in numbers
    )
    unit = " points" if reports_tables.is_share(r["metric"]) else ""
    rows.append([*(r[k] for k in header[:4]), difference + unit, f"{low} to {high}", r["verdict"]])
    known = r["verdict"] in ("better", "worse", "undecided")
    kinds.append([""] * 6 + [r["verdict"] if known else ""])
  note = (
    "method minus control; 95 % percentile interval of a bootstrap paired over seeds "
    "and test examples"
  )
  return _grid(header, rows, note, cell_kinds=kinds)


def _table(table: reports_tables.Table) -> Raw:
  means = [r.name.startswith("mean, ") for r in table.rows]
  row_kinds = [
    "mean first" if now and not before else "mean" if now else ""
    for now, before in zip(means, [False, *means[:-1]], strict=True)
  ]
  cells = [["", "", *("best" if b else "" for b in r.best)] for r in table.rows]
  header, *body = reports_tables.table_lines(table)
  return _grid(header, body, reports_tables.caption(table), "", row_kinds, cells)


def _has_patterns(row: dict) -> bool:
  named = row["protocol"] == "none" and row["pattern"] is not None
  return named and row["split"] == "test"


def _folded(tables: Sequence[reports_tables.Table]) -> list[str]:
  """All tables but the first, each behind its metric."""
  return [
    f"<details><summary>{_escape(t.metric)}</summary>{_table(t)}</details>" for t in tables[1:]
  ]


def _results(results, methods, protocols) -> list[str]:
  """The sections of one data set and label rate: tables, bars, rate curves."""
  names = reports_tables.order_methods(r["metric"] for r in results if r["split"] == "test")
  patterns = reports_tables.order_methods(r["metric"] for r in results if _has_patterns(r))
  out = []
  if patterns:
    tables = [reports_tables.pattern_table(results, name, methods) for name in patterns]
    alt = f"{tables[0].metric} by pattern, one bar a method"
    out += ["<h3>By pattern of what is present</h3>", _table(tables[0])]
    out += [
      '<p class="note">Bold: best mean of the row.</p>',
      _image(plots.bars(tables[0]), alt),
      *_folded(tables),
    ]
  if protocols:
    tables = [reports_tables.protocol_table(results, n, methods, protocols) for n in names]
    out += ["<h3>By test protocol</h3>", _table(tables[0]), *_folded(tables)]
  pooled = reports_tables.pooled_table(results, methods)
  if pooled:
    note = "predictions under several patterns, pooled before the metric is taken"
    out += ["<h3>Pooled over patterns</h3>", _grid(*pooled, note)]
  for name in names[:1]:
    found = curves.rate_curves(results, name, methods)
    out += [_rates(name, family, c, methods) for family, c in found.items()]
  return out


def _flat(config: dict, prefix: str = "") -> list[list[str]]:
  rows = []
  for key, value in config.items():
    nested = isinstance(value, dict) and value
    rows += _flat(value, f"{prefix}{key}.") if nested else [[f"{prefix}{key}", value]]
  return rows


SOURCES = ("versions", "commit", "device")


def _sources(run: reports_tables.Run) -> list[str]:
  masks = reports_tables.order_methods((r["protocol"], r["mask_hash"]) for r in run.results)
  facts = _flat({k: run.config[k] for k in SOURCES if k in run.config})
  out = [_grid(["made with", ""], facts, kind="words")] if facts else []
  if masks:
    out.append(_grid(["test protocol", "hash of its mask"], masks, kind="words"))
  return out


def _speed(lines) -> list[Raw]:
  """A line an arm, and a line a stage of the arms that have several or train a part."""
  whole = [{k: v for k, v in r.items() if k != "stages"} for r in lines]
  stages = []
  for r in lines:
    found = r.get("stages", ())
    if len(found) > 1 or any(s["trains"] < s["parameters"] for s in found):
      stages += [{"method": r["method"]} | s for s in found]
  return [_measures(whole)] + ([_measures(stages)] if stages else [])


def _measures(lines) -> Raw:
  header = reports_tables.order_methods(key for r in lines for key in r)

  def show(value):
    if not isinstance(value, (int, float)):
      return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

  rows = [[show(r.get(k, "-")) for k in header] for r in lines]
  return _grid([k.replace("_", " ") for k in header], rows)


def render_page(run: reports_tables.Run) -> str:
  """One page that needs nothing else: style and plots are in it, no script.

  The first metric of the results has the plots; the others have a folded table.

  Raises:
    ValueError: as `pattern_table`.
  """
  methods = reports_tables.order_methods(r["method"] for r in run.results)
  config = _flat({k: v for k, v in run.config.items() if k not in SOURCES})
  grid = _grid(["field", "value"], config, kind="words")
  fold = f"<details><summary>Configuration, {len(config)} fields</summary>{grid}</details>"
  parts = [fold] if config else []
  protocols = run.config.get("config", {}).get("test_protocols", ())
  settings = reports_tables.order_methods(map(reports_tables.setting_of, run.results))
  for dataset, rate in settings:
    title = str(dataset) if rate is None else f"{dataset}, {100 * rate:g} % of labels"
    chosen = [r for r in run.results if reports_tables.setting_of(r) == (dataset, rate)]
    parts += [f"<h2>{_escape(title)}</h2>", *_results(chosen, methods, protocols)]
  if run.comparison:
    parts += ["<h2>Against the controls</h2>", _comparison(run.comparison)]
  if run.metrics:
    parts += ["<h2>Training</h2>", *_training(run, methods)]
  if run.speed:
    parts += ["<h2>Speed and memory</h2>", *_speed(run.speed)]
  parts += ["<h2>Where the numbers come from</h2>", *_sources(run)]
  seeds = len(reports_tables.order_methods(r["seed"] for r in run.results))
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
