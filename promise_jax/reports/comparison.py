"""What a run says beside its tables of patterns: means of all metrics, verdicts, variants."""

from collections.abc import Iterator, Sequence

import pandas as pd

from promise_jax.evaluation import metrics
from promise_jax.reports import formatting, tables
from promise_jax.reports.formatting import show_cell, show_value

SIGNS = {"better": "🟢", "worse": "🔴", "undecided": "⚪"}
LEGEND = (
  "🟢 better, 🔴 worse, ⚪ undecided (0 lies in the 95 % interval of the difference, which counts "
  "the seeds that both have). Bold: best on validation."
)
CONSTANT = "majority"  # the variant that reads nothing, `methods.constant`
STILL = 1e-3  # an upper level that moved less did not move


def is_selected(results: pd.DataFrame) -> pd.Series:
  """Which results are validation scores of selected steps; later evaluations select nothing."""
  return (results["split"] == "valid") & (results["step"].notna() if "step" in results else False)


def validation_means(results: pd.DataFrame) -> pd.Series:
  """The mean validation score over seeds of each variant, of which the largest is the best."""
  scores = results[is_selected(results)]
  means = scores.groupby("method", sort=False)["value"].mean().dropna()
  return means * metrics.metric_sign(scores["metric"].iloc[0]) if len(means) else means


def best_on_validation(results: pd.DataFrame) -> str | None:
  """The variant best on validation, the constant one only if it is alone; None without a score."""
  means = validation_means(results)
  trained = means.drop(CONSTANT, errors="ignore")
  return (trained if len(trained) else means).idxmax() if len(means) else None


def other_splits(results: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
  """(split, results) of what was evaluated later on other rows than those of the test."""
  lines = results[(results["split"] != "test") & ~is_selected(results)]
  yield from lines.groupby("split", sort=False)


def show_interval(line: pd.Series, name: str = "difference") -> str:
  """The difference of a comparison and its interval, "+1.2 [+0.3, +2.1]"."""
  values = (show_value(line["metric"], line[k], signed=True) for k in (name, "low", "high"))
  return "{} [{}, {}]".format(*values)


def interval_lines(lines: pd.DataFrame, by: Sequence[str], name: str) -> list[list[str]]:
  """The column `name` with its intervals as cells of text, the header first; verdicts are last."""
  body = [
    [*line[by], formatting.metric_label(line["metric"]), show_interval(line, name)]
    + ([line["verdict"]] if "verdict" in line else [])
    for _, line in lines.iterrows()
  ]
  return [[*by, "metric", f"{name} [95 % interval]", *[""] * ("verdict" in lines)], *body]


def variant_table(
  names: Sequence[str],
  against: Sequence[str],
  results: pd.DataFrame,
  comparison: pd.DataFrame,
  metric: str,
) -> str:
  """A markdown row a variant: its means, and how it differs from each one in `against`; the best on
  validation is in bold."""
  rows = "incomplete" if (comparison["rows"] == "incomplete").any() else "all"
  lines = comparison[comparison["rows"] == rows].set_index(["method", "baseline"])
  best = best_on_validation(results)
  header = ["variant", "seeds", "validation", "incomplete", "full"]
  header += [f"minus {name}, {rows}" for name in against]
  texts = [header, ["---"] * len(header)]
  for name in names:
    own = results[results["method"] == name]
    table = tables.pattern_table(own, metric, [name])
    cells, pairs = table.cells[name], [(name, other) for other in against]
    texts.append(
      [f"`{name}`" if name != best else f"**`{name}`**", str(own["seed"].nunique())]
      + [show_value(metric, own.loc[is_selected(own), "value"].mean())]
      + [show_cell(metric, cells.get("mean, incomplete"))]
      + [show_cell(metric, cells.iloc[table.num_plain - 1])]
      + [show_verdict(lines.loc[pair]) if pair in lines.index else "" for pair in pairs]
    )
  return f"{formatting.markdown_rows(texts)}\n{LEGEND}\n"


def show_verdict(line: pd.Series) -> str:
  """The sign of a verdict, the difference and its interval, "🟢 +1.2 [+0.3, +2.1]"."""
  return f"{SIGNS[line['verdict']]} {show_interval(line)}"


def metric_lines(lines: pd.DataFrame, by: Sequence[str]) -> list[list[str]]:
  """A line for each group `by` some columns, a column for each metric; the header first."""
  names = lines["metric"].unique()
  texts = [[*by, *names]]
  for key, part in lines.groupby(list(by), sort=False):
    values = {name: part.loc[part["metric"] == name, "value"] for name in names}
    texts.append([*key, *(show_cell(n, formatting.make_cell(v)) for n, v in values.items())])
  return texts


def class_lines(classes: pd.DataFrame) -> list[list[str]]:
  """Precision, recall and F1 of every class, mean ± std over seeds; the header first."""
  names = ["precision", "recall", "f1"]
  lines = [["class", "n", *map(formatting.metric_label, names)]]
  for name, part in classes.groupby("class", sort=False):
    cells = [show_cell(k, formatting.make_cell(part[k])) for k in names]
    lines.append([name, str(part["n"].iloc[0]), *cells])
  return lines


def metric_text(lines: pd.DataFrame) -> str:
  """Results of one protocol as text: a row a method, a column a metric."""
  first = lines.iloc[0]
  where = ", ".join(first[["dataset", "split", "protocol"]])
  caption = f"{where}, n = {first['n']}, mask {first['mask_hash']}"
  return "\n".join([caption, *formatting.align(metric_lines(lines, ["method"]))])


def means_text(results: pd.DataFrame, methods: Sequence[str]) -> str:
  """The means over patterns as text: a row a metric, a column a method."""
  by_pattern = results[(results["split"] == "test") & results["pattern"].notna()]
  blocks: dict[str, list] = {}
  for metric in by_pattern["metric"].unique():
    table = tables.pattern_table(results, metric, methods)
    for name, row in table.cells.iloc[table.num_plain :].iterrows():
      block = blocks.setdefault(name, [[name, *methods]])
      block.append([formatting.metric_label(metric), *(show_cell(metric, c) for c in row)])
  return "\n\n".join("\n".join(formatting.align(block)) for block in blocks.values()) + "\n"


def describe_upper_levels(training: pd.DataFrame) -> list[str]:
  """For each method with an upper level, a sentence on how far it has moved in the end: the term
  "moved" = |beta - beta0| of the last lines, each a mean over a block of steps."""
  if "moved" not in training:
    return []
  sentences = []
  for method, lines in training[training["moved"].notna()].groupby("method", sort=False):
    end = lines.loc[lines["step"] == lines["step"].max(), "moved"].mean()
    sentences.append(
      f"{method}: the upper level {'moved' if end > STILL else 'did not move'}, "
      f"|beta - beta0| = {end:.3f} on average over the last block of training steps"
    )
  return sentences
