"""A run as one self-contained HTML page: tables, plots, where the numbers come from.

The layout is in page.html.j2, page.css and page.js. The page needs no other file, and no script.
"""

import base64
import dataclasses
from collections.abc import Iterator
from typing import Any

import jinja2
import pandas as pd

from promise_jax import files
from promise_jax.evaluation import metrics
from promise_jax.reports import comparison, conclusion, glossary, plots, points, render, tables

SOURCES = ("versions", "commit", "device")


@dataclasses.dataclass(frozen=True)
class Report:
  """A run as its report shows it; every part but the title may be empty."""

  title: str
  config: dict[str, Any] = dataclasses.field(default_factory=dict)  # with SOURCES
  results: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
  training: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)  # log lines
  comparison: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
  speed: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
  test_protocols: tuple[str, ...] = ()  # those that have a table of their own
  rows: dict[str, Any] = dataclasses.field(default_factory=dict)  # as in rows.json
  data: dict[str, Any] = dataclasses.field(default_factory=dict)  # as in data.json
  classes: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
  calibration: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)
  contribution: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)


def render_page(run: Report) -> str:
  """The page. The first metric of the results has the plots, the others a folded table."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("promise_jax", "reports"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["svg"] = lambda svg: base64.b64encode(svg).decode()
  modules = (comparison, conclusion, glossary, metrics, plots, points, render, tables)
  environment.globals |= {module.__name__.split(".")[-1]: module for module in modules}
  methods = list(run.results["method"].unique()) if len(run.results) else []
  fields = files.flatten(run.config).items()
  return environment.get_template("page.html.j2").render(
    run=run,
    methods=methods,
    settings=list(_by_setting(run, methods)) if methods else [],
    fields=[[k, v] for k, v in fields if not k.startswith(SOURCES)],
    sources=[[k, v] for k, v in fields if k.startswith(SOURCES)],
    speed=list(_speed_tables(run.speed)),
  )


def _by_setting(run: Report, methods: list[str]) -> Iterator[dict[str, Any]]:
  """For each data set and label rate its title, results, and tables on the test rows."""
  settings = run.results.groupby(["dataset", "label_rate"], sort=False, dropna=False)
  for (dataset, rate), part in settings:
    test = part[part["split"] == "test"]
    has_pattern = (test["protocol"] == "none") & test["pattern"].notna()
    protocols = tables.find_protocols(test, run.test_protocols)
    names, pattern_names = test["metric"].unique(), test.loc[has_pattern, "metric"].unique()
    yield {
      "title": dataset if pd.isna(rate) else f"{dataset}, label rate {100 * rate:g} %",
      "results": part,
      "metric": names[0],
      "by_pattern": [tables.pattern_table(test, name, methods) for name in pattern_names],
      "by_protocol": [
        tables.protocol_table(test, name, methods, protocols) for name in names if protocols
      ],
      "by_rate": tables.rate_tables(test, names[0], methods),
      "pooled": test[test["protocol"].str.startswith("pooled(")],
    }


def _speed_tables(speed: pd.DataFrame) -> Iterator[list[list[str]]]:
  """A line a method; then a line a stage, where a method has several or trains a part."""
  if not len(speed):
    return
  yield _measures(speed.drop(columns="stages", errors="ignore"))
  stages = []
  for _, line in speed.iterrows():
    own = line["stages"] if isinstance(line.get("stages"), list) else []
    if len(own) > 1 or any(s["trains"] < s["parameters"] for s in own):
      stages += [{"method": line["method"]} | stage for stage in own]
  if stages:
    yield _measures(pd.DataFrame(stages))


def _measures(lines: pd.DataFrame) -> list[list[str]]:
  def show(value):
    if not isinstance(value, (int, float)):
      return str(value)
    return "-" if pd.isna(value) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

  header = [name.replace("_", " ") for name in lines.columns]
  return [header, *lines.map(show).to_numpy().tolist()]
