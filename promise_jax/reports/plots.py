"""Plots as SVG: dots with intervals, lines with bands, a heat map. DataFrames in, bytes out.

`points` has the columns row, series, value, low and high; low and high are NaN without interval.
`order` names all series that have a colour of their own, so that it is the same in every plot.
matplotlib, slow to import, is imported where a plot is drawn: training starts without it.
"""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd

from promise_jax.reports import formatting
from promise_jax.reports.formatting import show_value

COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#0987a0", "#6b7280")
WIDTH = 5.0  # inches; two plots stand side by side on a screen, and one is readable on a phone
MAX_LABELLED = 40  # more numbers beside dots would overlap


def dots(points: pd.DataFrame, metric: str, order: Sequence[str] = (), zero: bool = False) -> bytes:
  """A line for each row, and in it a dot with its interval and number for each series.

  `metric` is the label and unit of the values; with `zero` they are differences.
  """
  rows, names = points["row"].unique().tolist(), points["series"].unique().tolist()
  labels = [_literal(name, 28) for name in rows]
  step = max(0.34, 0.19 * len(names), *(0.17 * len(x.splitlines()) for x in labels))  # inches a row
  fig, ax = _figure(WIDTH, 0.6 + step * len(rows), "x")
  for i in range(1, len(rows), 2):
    ax.axhspan(i - 0.5, i + 0.5, color="#f5f7fa", lw=0, zorder=0)
  if zero:
    ax.axvline(0, color="#3e4c59", lw=1, zorder=1)
  for name, part in points.groupby("series", sort=False):
    y = part["row"].map(rows.index) + (names.index(name) - (len(names) - 1) / 2) * 0.8 / len(names)
    colour, ends = _colour(name, order or names), part[["low", "high"]].T
    errors = abs(ends.to_numpy() - part["value"].to_numpy())
    style = {"fmt": "o", "ms": 4.5, "lw": 1.5, "color": colour, "label": _literal(name)}
    ax.errorbar(part["value"], y, xerr=errors, **style)
    for x, high, at in zip(part["value"], part["high"], y, strict=True):
      if len(points) <= MAX_LABELLED and not np.isnan(x):
        place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(show_value(metric, x, zero), (np.fmax(x, high), at), fontsize=8, **place)
  ax.set_ylim(len(rows) - 0.5, -0.5)
  low, high = ax.get_xlim()
  ax.set_xlim(low, high + 0.12 * (high - low))  # room for the numbers
  ax.set_yticks(range(len(rows)), labels)
  ax.tick_params(axis="y", length=0)
  _label_metric(ax.xaxis, metric)
  return _svg(fig, ax)


def lines(points: pd.DataFrame, x: str, metric: str, order: Sequence[str] = ()) -> bytes:
  """A line for each series over the numbers `row`, named `x`, with a band from low to high."""
  names = points["series"].unique().tolist()
  fig, ax = _figure(WIDTH, 3, "y")
  for name, part in points.dropna(subset="value").groupby("series", sort=False):
    colour, marker = _colour(name, order or names), "o" if len(part) <= 10 else ""
    ax.plot(part["row"], part["value"], marker=marker, ms=4, color=colour, label=_literal(name))
    ends = part[["low", "high"]].fillna({"low": part["value"], "high": part["value"]})
    ax.fill_between(part["row"], ends["low"], ends["high"], color=colour, alpha=0.15, lw=0)
  ax.set_xlabel(x)
  _label_metric(ax.yaxis, metric)
  return _svg(fig, ax)


def heat_map(counts: np.ndarray, names: Sequence[str]) -> bytes:
  """Counts [C, C], true classes down and predicted ones across, in percent of their row."""
  share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
  labels = [_literal(name if len(name) <= 20 else name[:18] + "...") for name in names]
  side = max(3, 0.8 + 0.08 * max(map(len, labels)) + 0.28 * len(names))
  fig, ax = _figure(side, side)
  ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
  for (i, j), value in np.ndenumerate(share):
    if value > 0.005:  # what rounds to 0 % is left blank; so is NaN
      colour = "white" if value > 0.55 else "black"
      ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=colour)
  turned = 90 if max(map(len, names)) > 3 else 0
  ax.set_xticks(range(len(names)), labels, rotation=turned)
  ax.set_yticks(range(len(names)), labels)
  ax.set(xlabel="predicted class", ylabel="true class")
  return _svg(fig, ax)


def _colour(name: str, order: Sequence[str]) -> str:
  return COLOURS[list(order).index(name) % len(COLOURS)] if name in order else COLOURS[-1]


def _label_metric(axis, metric: str) -> None:
  axis.set_label_text(_literal(formatting.metric_label(metric)))
  if formatting.is_share(metric):
    from matplotlib import ticker

    axis.set_major_formatter(ticker.PercentFormatter(1, symbol=None))


def _figure(width: float, height: float, grid: str = ""):
  from matplotlib import figure

  fig = figure.Figure(figsize=(width, height), layout="constrained")
  ax = fig.subplots()
  ax.spines[["top", "right"]].set_visible(False)
  if grid:
    ax.grid(axis=grid, color="#e8ecf0")
  ax.set_axisbelow(True)
  return fig, ax


def _svg(fig, ax) -> bytes:
  """The figure, made higher by a legend above the axes if there are several series."""
  handles, labels = ax.get_legend_handles_labels()
  if len(labels) > 1:
    wrapped = [name.splitlines() for name in labels]
    columns = max(1, 64 // (7 + max(len(line) for lines in wrapped for line in lines)))
    num_lines = -(-len(labels) // columns) * max(map(len, wrapped))
    fig.set_figheight(fig.get_figheight() + 0.2 * num_lines)
    place = {"loc": "outside upper left", "frameon": False, "columnspacing": 1.2}
    by_column = [i for c in range(columns) for i in range(len(labels))[c::columns]]
    handles, labels = ([x[i] for i in by_column] for x in (handles, labels))  # read by row
    fig.legend(handles, labels, ncols=columns, **place)
  import matplotlib

  file = io.BytesIO()
  with matplotlib.rc_context({"svg.hashsalt": "report"}):  # same data, same bytes
    fig.savefig(file, format="svg", metadata={"Date": None})
  return file.getvalue()


def _literal(name: str, width: int = 56) -> str:
  """A name as a plot label: no mathematics, no leading "_", which would hide it, and wrapped."""
  return "\N{ZERO WIDTH SPACE}" + textwrap.fill(name.replace("$", r"\$"), width)
