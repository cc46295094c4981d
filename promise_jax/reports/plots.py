"""The plots of a run as SVG: one function a plot, text in, bytes out."""

import io
import math
from collections.abc import Sequence

import numpy as np

from promise_jax.reports import curves, tables

COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#0987a0", "#6b7280")


def _figure(width: float, height: float, panels: int = 1):
  from matplotlib import figure  # here: the library must import without it

  fig = figure.Figure(figsize=(width, height), layout="constrained")
  axes = fig.subplots(1, panels, squeeze=False)[0]
  for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e8ecf0")
    ax.set_axisbelow(True)
  return fig, axes


def _svg(fig) -> bytes:
  import matplotlib

  file = io.BytesIO()
  with matplotlib.rc_context({"svg.hashsalt": "report"}):  # same data, same bytes
    fig.savefig(file, format="svg", metadata={"Date": None})
  return file.getvalue()


def _literal(name: str) -> str:
  """A name as a plot label: no mathematics, and no leading "_", which would hide it."""
  return "\N{ZERO WIDTH SPACE}" + name.replace("$", r"\$")


def _legend(fig, axes, count: int) -> None:
  handles, labels = axes[0].get_legend_handles_labels()
  columns = min(count, 5)
  fig.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False)


def _axis_label(metric: str) -> str:
  return _literal(f"{metric} (%)" if tables.is_share(metric) else metric)


def bars(table: tables.Table) -> bytes:
  """The first metric by pattern, one bar a method."""
  rows = [r for r in table.rows if not r.name.startswith("mean, ")]
  fig, axes = _figure(9.5, 3.6)
  scale = 100 if tables.is_share(table.metric) else 1
  width = 0.8 / len(table.methods)
  for i, method in enumerate(table.methods):
    cells = [r.cells[i] or tables.Cell(math.nan, math.nan, 0) for r in rows]
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
  return _svg(fig)


def _band(ax, x, mean, std, i: int, name: str, marker: str = "") -> None:
  mean, std = np.asarray(mean), np.nan_to_num(std)
  colour = COLOURS[i % len(COLOURS)]
  ax.plot(x, mean, color=colour, marker=marker, ms=4, lw=1.5, label=_literal(name))
  ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, lw=0)


def rates(metric: str, found: dict[str, curves.Curve], methods) -> bytes:
  """A metric over missing rates, one line a method."""
  fig, axes = _figure(7, 3.6)
  scale = 100 if tables.is_share(metric) else 1
  for name, curve in found.items():
    mean, std = ([scale * getattr(c, k) for c in curve.cells] for k in ("mean", "std"))
    _band(axes[0], curve.rates, mean, std, methods.index(name), name, "o")
  axes[0].set(xlabel="missing rate", ylabel=_axis_label(metric))
  _legend(fig, axes, len(found))
  return _svg(fig)


def training(lines, methods: Sequence[str]) -> bytes:
  """Loss and validation over steps: the mean over seeds and ± one std. A method has the
  colour of its place in `methods`, as in the other plots."""
  fig, axes = _figure(9.5, 3.4, panels=2)
  trained = tables.order_methods(r["method"] for r in lines)
  methods = [*methods, *(m for m in trained if m not in methods)]
  for ax, term in zip(axes, ("loss", "valid"), strict=True):
    ax.set(xlabel="step", ylabel="training loss" if term == "loss" else "validation")
    for i, method in enumerate(methods):
      if method not in trained:
        continue
      own = [r for r in lines if r["method"] == method]
      _over_steps(ax, own, term, i, method)
  _legend(fig, axes, len(trained))
  return _svg(fig)


def by_modality(lines, groups: dict[str, list[str]]) -> bytes:
  """The terms "group/modality" of one method over steps: a panel a group, a line a
  modality; means over seeds ± one std."""
  fig, axes = _figure(9.5, 3.0, panels=len(groups))
  for ax, (group, names) in zip(axes, groups.items(), strict=True):
    ax.set(xlabel="step", ylabel=_literal(group))
    for i, name in enumerate(names):
      _over_steps(ax, lines, f"{group}/{name}", i, name)
  _legend(fig, axes, len(names))
  return _svg(fig)


def _over_steps(ax, lines, term: str, i: int, name: str) -> None:
  by_step = {}
  for r in lines:
    if isinstance(r.get(term), (int, float)):
      by_step.setdefault(r["step"], []).append(r[term])
  cells = [tables.cell(by_step[s]) for s in sorted(by_step)]
  mean, std = [c.mean for c in cells], [c.std for c in cells]
  _band(ax, sorted(by_step), mean, std, i, name, "." if len(cells) == 1 else "")
