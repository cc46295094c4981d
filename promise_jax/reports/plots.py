"""The plots of a run as SVG: one function a plot, DataFrames in, bytes out."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import figure

from promise_jax.reports import formatting, tables

COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#0987a0", "#6b7280")


def bars(table: tables.Table) -> bytes:
  """The metric of a table by pattern, one bar a method."""
  cells = table.cells.iloc[: table.num_plain]
  fig, (ax,) = _figure(9.5, 3.6)
  width = 0.8 / len(cells.columns)
  for i, method in enumerate(cells.columns):
    mean, std = _scaled(table.metric, cells[method])
    ax.bar(
      np.arange(len(cells)) + (i - (len(cells.columns) - 1) / 2) * width,
      mean,
      width * 0.92,
      yerr=np.nan_to_num(std),
      error_kw={"elinewidth": 1, "capsize": 2, "ecolor": "#3e4c59"},
      color=COLOURS[i % len(COLOURS)],
      label=_literal(method),
    )
  names = [_literal(name).replace(" + ", "\n+ ") for name in cells.index]
  ax.set_xticks(range(len(cells)), names, fontsize=8)
  ax.set_ylabel(_literal(formatting.metric_label(table.metric)))
  return _svg(fig, ax, len(cells.columns))


def rates(table: tables.Table) -> bytes:
  """The metric of a table over its missing rates, one line a method."""
  fig, (ax,) = _figure(7, 3.6)
  cells = table.cells.iloc[: table.num_plain]
  for i, method in enumerate(cells.columns):
    if len(known := cells[method].dropna()):
      _band(ax, known.index.astype(float), *_scaled(table.metric, known), i, method, marker="o")
  ax.set(xlabel="missing rate", ylabel=_literal(formatting.metric_label(table.metric)))
  return _svg(fig, ax, len(cells.columns))


def training(log: pd.DataFrame, methods: Sequence[str]) -> bytes:
  """Loss and validation over steps. A method has its colour by its place in `methods`."""
  fig, axes = _figure(9.5, 3.4, panels=2)
  for ax, term in zip(axes, ("loss", "valid"), strict=True):
    ax.set(xlabel="step", ylabel="training loss" if term == "loss" else "validation")
    for i, method in enumerate(dict.fromkeys((*methods, *log["method"]))):
      if method in log["method"].values:
        _over_steps(ax, log[log["method"] == method], term, i, method)
  return _svg(fig, axes[0], log["method"].nunique())


def by_modality(log: pd.DataFrame, groups: dict[str, list[str]]) -> bytes:
  """The terms "group/modality" of one method over steps: a panel a group."""
  fig, axes = _figure(9.5, 3.0, panels=len(groups))
  for ax, (group, names) in zip(axes, groups.items(), strict=True):
    ax.set(xlabel="step", ylabel=_literal(group))
    for i, name in enumerate(names):
      _over_steps(ax, log, f"{group}/{name}", i, name)
  return _svg(fig, axes[0], len(names))


def modality_terms(log: pd.DataFrame) -> dict[str, list[str]]:
  """{group: modalities} of the terms "group/modality" that a training log has."""
  groups: dict[str, list[str]] = {}
  for term in log.columns[log.notna().any()]:
    group, slash, name = term.partition("/")
    if slash:
      groups.setdefault(group, []).append(name)
  return groups


def _figure(width: float, height: float, panels: int = 1):
  fig = figure.Figure(figsize=(width, height), layout="constrained")
  axes = fig.subplots(1, panels, squeeze=False)[0]
  for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e8ecf0")
    ax.set_axisbelow(True)
  return fig, axes


def _svg(fig, ax, num_labels: int) -> bytes:
  handles, labels = ax.get_legend_handles_labels()
  fig.legend(handles, labels, loc="outside upper left", ncols=min(num_labels, 5), frameon=False)
  file = io.BytesIO()
  with matplotlib.rc_context({"svg.hashsalt": "report"}):  # same data, same bytes
    fig.savefig(file, format="svg", metadata={"Date": None})
  return file.getvalue()


def _literal(name: str) -> str:
  """A name as a plot label: no mathematics, and no leading "_", which would hide it."""
  return "\N{ZERO WIDTH SPACE}" + name.replace("$", r"\$")


def _scaled(metric: str, cells: pd.Series) -> tuple[np.ndarray, np.ndarray]:
  """(means, standard deviations) as shown; NaN where there is no cell."""
  scale = 100 if formatting.is_share(metric) else 1
  numbers = [(c.mean, c.std) if c else (np.nan, np.nan) for c in cells]
  mean, std = scale * np.array(numbers).T
  return mean, std


def _band(ax, x, mean, std, i: int, name: str, marker: str = "") -> None:
  std, colour = np.nan_to_num(std), COLOURS[i % len(COLOURS)]
  ax.plot(x, mean, color=colour, marker=marker, ms=4, lw=1.5, label=_literal(name))
  ax.fill_between(x, mean - std, mean + std, color=colour, alpha=0.15, lw=0)


def _over_steps(ax, log: pd.DataFrame, term: str, i: int, name: str) -> None:
  """The mean over seeds and ± one standard deviation of a term of the training log."""
  seeds = log.groupby("step")[term].agg(["mean", "std"]).dropna(subset="mean")
  marker = "." if len(seeds) == 1 else ""
  _band(ax, seeds.index, seeds["mean"], seeds["std"], i, name, marker)
