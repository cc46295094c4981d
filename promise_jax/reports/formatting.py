"""Numbers as text: a mean ± standard deviation over seeds, columns, markdown rows."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np


class Cell(NamedTuple):
  """One metric of one method in one row of a table."""

  mean: float
  std: float  # ddof = 1; NaN for one seed
  num_seeds: int

  @property
  def interval(self) -> float:
    """Half of the 95 % t-interval of the mean over seeds, for the test rows as they are."""
    from scipy import special  # slow to import

    quantile = special.stdtrit(self.num_seeds - 1, 0.975)
    return float(quantile * self.std / math.sqrt(self.num_seeds))


def make_cell(values: Sequence[float]) -> Cell | None:
  """The cell of one value a seed; None without any."""
  if not len(values):
    return None
  values = np.asarray(values, float)
  std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
  return Cell(float(np.mean(values)), std, len(values))


def is_share(metric: str) -> bool:
  """Whether a metric is a fraction of 1, shown in percent."""
  return any(part in metric for part in ("acc", "f1", "uar", "auroc", "precision", "recall"))


def metric_label(metric: str) -> str:
  """The name of a metric with its unit."""
  return f"{metric} (%)" if is_share(metric) else metric


def show_value(metric: str, value: float, signed: bool = False) -> str:
  """A value as text, in percent where it is a share; NaN is "undefined"."""
  if math.isnan(value):
    return "undefined"
  sign = "+" if signed else ""
  return f"{100 * value:{sign}.1f}" if is_share(metric) else f"{value:{sign}.3f}"


def show_cell(metric: str, cell: Cell | None, error: str = "std") -> str:
  """A cell as text, "81.4 ± 0.8"; `error` says what is behind ±, "std" or "interval"."""
  if cell is None:
    return "-"
  mean = show_value(metric, cell.mean)
  return mean if math.isnan(cell.std) else f"{mean} ± {show_value(metric, getattr(cell, error))}"


def align(lines: Sequence[Sequence[str]]) -> list[str]:
  """Columns of equal width, the first to the left and the others to the right."""
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return [
    "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
  ]


def markdown_rows(lines: Iterable[Sequence[str]]) -> str:
  """Lines of cells as the rows of a markdown table."""
  escape = lambda text: text.replace("\\", "\\\\").replace("|", "\\|")
  return "".join("| " + " | ".join(map(escape, line)) + " |\n" for line in lines)


def show_range(values: Iterable[int]) -> str:
  """The smallest and the largest, "30-34", or the only one."""
  low, high = min(values, default=0), max(values, default=0)
  return f"{low}" if low == high else f"{low}-{high}"
