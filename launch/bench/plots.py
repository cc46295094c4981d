"""The curves of `size` as one picture."""

import io

import matplotlib
from matplotlib import figure, ticker

from promise_jax.reports.plots import COLOURS

UNIT = {"rows": "s an epoch"}  # else ms a step
DISK = " from disk"


def draw_curves(rows: list[dict]) -> bytes:
  """Time above and memory below against every quantity, on logarithmic axes, as SVG."""
  curves = list(dict.fromkeys(row["curve"] for row in rows))
  fig = figure.Figure(figsize=(2.4 * len(curves), 4.4), layout="constrained")
  axes = fig.subplots(2, len(curves), squeeze=False)
  methods = list(dict.fromkeys(row["method"] for row in rows))
  colours = dict(zip((m for m in methods if DISK not in m), COLOURS, strict=False))
  drawn = {}
  for i, curve in enumerate(curves):
    for method in methods:
      points = [row for row in rows if (row["curve"], row["method"]) == (curve, method)]
      x, scale = [row["x"] for row in points], 1e-3 if curve == "rows" else 1
      marker = "x" if DISK in method else "o"
      style = {"marker": marker, "ms": 4, "color": colours[method.removesuffix(DISK)], "lw": 1.2}
      (line,) = axes[0, i].loglog(x, [scale * row["ms"] for row in points], **style)
      axes[1, i].loglog(x, [row["memory_mb"] for row in points], **style)
      drawn |= {method: line} if points else {}
    draw_axis(axes[0, i], f"{UNIT.get(curve, 'ms a step')}, by {curve}")
    draw_axis(axes[1, i], f"MB, by {curve}")
    for ax in axes[:, i]:
      ticks = sorted({row["x"] for row in rows if row["curve"] == curve})
      ax.set_xticks(ticks, [f"{x:,}" if x < 1000 else f"{x // 1000}k" for x in ticks])
  fig.legend(drawn.values(), drawn, loc="outside upper left", ncols=8, frameon=False, fontsize=8)
  file = io.BytesIO()
  # Letters as letters: the file stays small, and the same numbers give the same bytes.
  with matplotlib.rc_context({"svg.hashsalt": "speed", "svg.fonttype": "none"}):
    fig.savefig(file, format="svg", metadata={"Date": None})
  return file.getvalue()


def draw_axis(ax, title: str) -> None:
  """A title, plain numbers, and at least a decade from low to high."""
  low, high = ax.get_ylim()
  ax.set_ylim(low, max(high, 10 * low))
  ax.set_title(title, fontsize=8, loc="left")
  ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
  ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f"{y:,g}"))
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_minor_locator(ticker.NullLocator())
  ax.spines[["top", "right"]].set_visible(False)
  ax.tick_params(labelsize=7)
  ax.grid(color="#e8ecf0")
