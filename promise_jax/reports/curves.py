"""What changes over a missing rate, or over the steps of training."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from promise_jax.evaluation import metrics
from promise_jax.reports.tables import Cell, cell, number, order_methods

STILL = 1e-3  # an upper level that moved less did not move


class Curve(NamedTuple):
  """A metric over missing rates: cells by rate, and the area under it / rate range."""

  rates: tuple[float, ...]
  cells: tuple[Cell, ...]
  area: Cell | None


def rate_curves(
  results, metric: str, methods: Sequence[str], *, split: str = "test"
) -> dict[str, dict[str, Curve]]:
  """{protocol with its rate left open: {method: Curve}}.

  Reads the lines that have a rate. The area counts the seeds that have every rate.
  """
  found = {}
  for r in results:
    wanted = r["metric"] == metric and r["split"] == split and r["method"] in methods
    if wanted and r.get("rate") is not None:
      family = re.sub(r"\([^,)]*", "(rate", r["protocol"], count=1)
      by_seed = found.setdefault(family, {}).setdefault(r["method"], {})
      by_seed.setdefault(r["seed"], {})[float(r["rate"])] = number(r["value"])
  return {
    family: {m: _curve(by_method[m]) for m in methods if m in by_method}
    for family, by_method in found.items()
  }


def _curve(by_seed: dict[Any, dict[float, float]]) -> Curve:
  rates = sorted(set().union(*by_seed.values()))
  cells = [cell([v[r] for v in by_seed.values() if r in v]) for r in rates]
  whole = [[v[r] for r in rates] for v in by_seed.values() if len(v) == len(rates)]
  areas = [metrics.area_under_curve(rates, v) for v in whole] if len(rates) > 1 else []
  return Curve(tuple(rates), tuple(cells), cell(areas))


def by_modality(lines) -> dict[str, dict[str, list[str]]]:
  """{method: {group: modalities}} of the terms "group/modality" of training."""
  found = {}
  for line in lines:
    for group, slash, name in (key.partition("/") for key in line):
      if slash:
        names = found.setdefault(line["method"], {}).setdefault(group, [])
        names += [name] if name not in names else []
  return found


def upper_levels(lines) -> list[str]:
  """How far the upper level of each method that has one has moved in the end: a
  sentence a method, from the term "moved" = |beta - beta0| of its last lines, each of
  which is a mean over the steps of the last call of training."""
  out = []
  for method in order_methods(r["method"] for r in lines if "moved" in r):
    own = [r for r in lines if r["method"] == method]
    last = max(r["step"] for r in own)
    end = cell([number(r["moved"]) for r in own if r["step"] == last])
    did = "moved" if end.mean > STILL else "did not move"
    out.append(
      f"{method}: the upper level {did}, |beta - beta0| = {end.mean:.3f} on average "
      "over the last call of training"
    )
  return out
