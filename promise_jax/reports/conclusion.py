"""What a run has shown, in a few plain sentences made from its numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from promise_jax import patterns
from promise_jax.evaluation.conditions import COMPLETE_ROWS
from promise_jax.reports import comparison, formatting, tables
from promise_jax.reports.comparison import CONSTANT

FEW_ROWS = 50
WHERE = {"incomplete": "where modalities are missing", "all": "over all patterns"}


def describe_run(
  results: pd.DataFrame, differences: pd.DataFrame, contribution: pd.DataFrame
) -> list[str]:
  """Which variant is best on validation, what it costs it to lose a modality, and verdicts."""
  sentences = describe_best(results, contribution) + describe_verdicts(differences)
  sentences += describe_few_rows(results)
  if len(differences) and results["seed"].nunique() == 1:
    sentences.append("With one seed the intervals count the test rows alone, not another training.")
  return sentences


def describe_best(results: pd.DataFrame, contribution: pd.DataFrame) -> list[str]:
  """The variant best on validation, its primary metric with all modalities and with some missing,
  whether it has learnt anything, and the modality that it can least do without."""
  best, means = comparison.best_on_validation(results), comparison.validation_means(results)
  if best is None:
    return []
  metric = results.loc[comparison.is_selected(results), "metric"].iloc[0]
  table = tables.pattern_table(results, metric, [best])
  cells, unit = table.cells[best], " %" if formatting.is_share(metric) else ""
  level = lambda cell: formatting.show_value(metric, cell.mean) + unit
  text = f"{metric} on test {level(cells.iloc[table.num_plain - 1])} with every modality"
  if "mean, incomplete" in cells:
    text += f", {level(cells['mean, incomplete'])} {WHERE['incomplete']}"
  has_others = results["method"].nunique() > 1
  sentences = [
    f"Use {best}, the best on validation ({text})." if has_others else f"{best} ({text})."
  ]
  if best != CONSTANT and means.get(CONSTANT, -np.inf) >= means[best]:
    sentences.append(
      f"But {CONSTANT}, which reads nothing, is as good on validation: nothing was learnt."
    )
  own = contribution[contribution["variant"] == best] if len(contribution) else contribution
  return sentences + describe_loss(own)


def describe_few_rows(results: pd.DataFrame) -> list[str]:
  """That patterns are measured on few rows, where few of the test rows have every modality."""
  lines = results[(results["split"] == "test") & results["pattern"].notna()]
  total, count = (lines.loc[lines["protocol"] == p, "n"].max() for p in ("none", COMPLETE_ROWS))
  if not 0 < count < min(FEW_ROWS, total):
    return []
  return [
    f"Patterns are measured on the {count:g} of {total:g} test rows that have every modality; "
    "promise-jax table RUN --test-rows every takes all rows of each pattern."
  ]


def describe_loss(lines: pd.DataFrame) -> list[str]:
  """The modality whose absence costs one variant most, by its lines of contribution.json."""
  if not len(lines):
    return []
  lines = lines[(lines["kind"] == "without") & (lines["rows"] == "all")]
  if lines["value"].isna().all():
    return ["What a modality is worth to it is unknown: no test row has all, or a logit is NaN."]
  line = lines.loc[lines["value"].idxmin()]
  metric, name = line["metric"].removeprefix("-"), line["modality"]
  if line["low"] >= 0:
    return ["It loses nothing without any single modality."]
  if not line["high"] < 0:
    amount = show_amount(*line[["metric", "value", "low", "high"]], signed=True)
    return [f"Whether it needs any single modality is undecided: {amount} without {name}."]
  what = "it loses" if metric == line["metric"] else f"its {metric} grows by"
  amount = show_amount(metric, *-line[["value", "high", "low"]].astype(float))
  where = f"on the {line['n']} complete test rows"
  return [f"Without {name} {what} {amount}, more than without any other ({where})."]


def describe_kinds(lines: pd.DataFrame) -> list[str]:
  """That there are no Shapley values, where contributions come without them."""
  if not len(lines) or (lines["kind"] == "shapley").any():
    return []
  return [
    f"Shapley values are not computed for more than {patterns.MAX_ALL_TESTED} modalities, which "
    "have too many patterns."
  ]


def describe_verdicts(differences: pd.DataFrame) -> list[str]:
  """A sentence for each method that was compared: with one baseline the interval, else names."""
  if not len(differences):
    return []
  rows = "incomplete" if (differences["rows"] == "incomplete").any() else "all"
  lines, sentences = differences[differences["rows"] == rows], []
  for method, part in lines.groupby("method", sort=False):
    if len(part) == 1:
      text = _describe_pair(part.iloc[0])
    else:
      named = part.groupby("verdict")["baseline"].agg(", ".join)
      words = {"better": "better than {}", "worse": "worse than {}", "undecided": "undecided: {}"}
      found = [text.format(named[verdict]) for verdict, text in words.items() if verdict in named]
      text = f"{method} is " + "; ".join(found)
    sentences.append(f"{text}, {WHERE[rows]}.")
  return sentences


def _describe_pair(line: pd.Series) -> str:
  metric, pair = line["metric"], (line["method"], line["baseline"])
  numbers = line[["difference", "low", "high"]].astype(float)
  if line["verdict"] == "undecided":
    amount = show_amount(metric, *numbers, signed=True)
    return f"Whether {' or '.join(pair)} is better is undecided: {amount} of {metric}"
  if numbers["difference"] < 0:
    numbers = -numbers[["difference", "high", "low"]]
  amount = show_amount(metric, *numbers)
  return f"{line['method']} is {line['verdict']} than {line['baseline']} by {amount} of {metric}"


def describe_rows(counts: dict[str, Any]) -> str:
  """A sentence on the rows of each split and how many of them are labelled, by rows.json."""
  train, valid, test = (
    f"{counts['rows'][name]:,} rows"
    + (f" in {counts['groups'][name]:,} groups" if name in counts["groups"] else "")
    for name in ("train", "valid", "test")
  )
  labelled = f"{np.mean(counts['labelled']):,.1f}".removesuffix(".0")
  return (
    f"Train has {train}, {labelled} of them labelled (mean over seeds); validation "
    f"has {valid}, all labelled; test has {test}."
  )


def describe_missing(counts: dict[str, Any]) -> Iterator[str]:
  """Sentences on how much is missing in training, and in the data of the other splits."""
  whole = []
  for split, fractions in _missing_by_split(counts):
    lacking = [f"{_percent(x)} lack {name}" for name, x in fractions.items() if x]
    if lacking:
      yield f"Of the {split} rows {', '.join(lacking)}."
    else:
      whole.append(split)
  if whole:
    yield f"No row of {', '.join(whole)} lacks a modality."
  if counts["empty"]:
    yield f"{_percent(counts['empty'])} of the train rows have no modality at all."


def row_lines(counts: dict[str, Any]) -> list[list[str]]:
  """Rows, labels and what is missing of every split as cells of text, the header first."""
  lines = [["split", "rows", "labelled", *(f"without {name}" for name in counts["missing"])]]
  for split, fractions in _missing_by_split(counts):
    num_rows = counts["rows"][split]
    labelled = np.mean(counts["labelled"]) if split == "train" else num_rows
    lines.append([split, f"{num_rows:,}", f"{labelled:,.0f}", *map(_percent, fractions.values())])
  return lines


def _missing_by_split(counts: dict[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
  """What training may not read of the train rows, and what the data lack elsewhere."""
  yield "train", counts["missing"]
  yield from ((name, counts["unrecorded"][name]) for name in ("valid", "test"))


def _percent(share: float) -> str:
  return f"{100 * share:.1f} %"


def show_amount(metric: str, value: float, low: float, high: float, signed: bool = False) -> str:
  """A difference with its interval: "6.1 points [4.0, 8.2]"."""
  value, low, high = (formatting.show_value(metric, x, signed) for x in (value, low, high))
  return f"{value}{' points' if formatting.is_share(metric) else ''} [{low}, {high}]"
