"""Writes the tables of finished comparisons into RESULTS.md and docs/results/.

  python launch/results.py runs/results

Every folder in it with a comparison.json is one, and stands on the page of its data set,
docs/results/NAME.md. RESULTS.md has the differences at the lowest label rate of every data set, and
where training rows lack modalities; the page of a method has its own. Only what stands between the
two marks of a page is written anew; the text around them, what the numbers show, is by hand.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from promise_jax import files
from promise_jax.experiments import compare
from promise_jax.reports import comparison, formatting, tables

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tables of launch/results.py -->", "<!-- end of the tables -->"
SETS = ("mfeat", "emoji", "watch", "cdda", "flights", "mosi")


class Comparison(NamedTuple):
  """A finished comparison of `results/methods` or of ablations."""

  dataset: str
  config: dict  # of its first run
  text: str  # comparison.md
  lines: pd.DataFrame  # comparison.json
  results: pd.DataFrame

  @property
  def against(self) -> tuple[str, ...]:
    return tuple(self.lines["baseline"].unique())

  @property
  def place(self) -> tuple:
    """Where it stands: the sets in their order, complete training rows first, few labels first."""
    rank = SETS.index(self.dataset) if self.dataset in SETS else len(SETS)
    config = self.config
    return (rank, self.dataset, -len(self.against), config["train_protocol"] != "none") + (
      config["label_rate"],
      self.against,
    )


def read_comparison(folder: Path) -> Comparison:
  """The comparison in `folder`."""
  runs = sorted(path.parent for path in folder.glob("*/results.jsonl"))
  merged = compare.merge_variants(runs)
  lines = pd.DataFrame(files.read_json(folder / "comparison.json"))
  compared = [merged[name].results for name in merged if name in {*lines["method"]}]
  results = pd.concat(compared)
  return Comparison(
    results["dataset"].iloc[0],
    files.read_json(runs[0] / "config.json")["config"],
    (folder / "comparison.md").read_text("utf-8"),
    lines,
    results,
  )


def write_section(one: Comparison) -> str:
  """The markdown of a comparison; its tables by pattern are folded."""
  head, _, by_pattern = one.text.partition(compare.BY_PATTERN)
  fold = "<details>\n<summary>By pattern</summary>\n\n{}\n\n</details>\n"
  return f"{head}{fold.format(by_pattern.strip())}"


def write_summary(found: Sequence[Comparison], baseline: str) -> str:
  """A table of how every variant differs from `baseline`, a column a comparison."""
  counts = pd.concat([one.results.groupby("method", sort=False)["seed"].nunique() for one in found])
  seeds = {name: formatting.show_range(own) for name, own in counts.groupby(level=0, sort=False)}
  names = [name for name in seeds if name != baseline]
  first = [f"minus `{baseline}` (seeds)", f"`{baseline}` itself ({seeds[baseline]})"]
  first += [f"`{name}` ({seeds[name]})" for name in names]
  columns = [
    [show_setting(one), show_level(one, baseline), *(show_cell(one, n, baseline) for n in names)]
    for one in found
  ]
  header, *rows = zip(first, *columns, strict=True)
  return formatting.markdown_rows([header, ["---"] * len(header), *rows])


def write_method(found: Sequence[Comparison], name: str) -> str:
  """A row a comparison: a method itself, and how it differs."""
  header = ["data, labels", name, "minus `distil`", "minus `fusion`", "seeds"]
  rows = [header, ["---"] * len(header)]
  for one in found:
    seeds = one.results.loc[one.results["method"] == name, "seed"].nunique()
    if seeds:
      setting = show_setting(one).replace("docs/", "../")
      setting += "" if one.config["train_protocol"] == "none" else ", training rows lack modalities"
      cells = (show_cell(one, name, other) for other in ("distil", "fusion"))
      rows.append([setting, show_level(one, name), *cells, str(seeds)])
  return formatting.markdown_rows(rows)


def show_setting(one: Comparison) -> str:
  metric = one.lines["metric"].iloc[0]
  what = "" if metric == "accuracy" else f", {metric}"
  rate = f"{100 * one.config['label_rate']:g} %"
  return f"[{one.dataset}](docs/results/{one.dataset}.md), {rate}{what}"


def show_level(one: Comparison, name: str) -> str:
  """The mean of a variant over incomplete patterns, ± the standard deviation over seeds."""
  own = one.results[one.results["method"] == name]
  metric = one.lines["metric"].iloc[0]
  cells = tables.pattern_table(own, metric, [name]).cells[name]
  return formatting.show_cell(metric, cells["mean, incomplete"])


def show_cell(one: Comparison, name: str, baseline: str) -> str:
  """How a variant differs over incomplete patterns."""
  keys = one.lines[["method", "baseline", "rows"]]
  line = one.lines[(keys == [name, baseline, "incomplete"]).all(axis=1)]
  return comparison.show_verdict(line.iloc[0]) if len(line) else "not made"


def fill(path: Path, text: str, title: str) -> None:
  """Puts `text` between the marks of a page, which is made if there is none."""
  empty = f"# {title}\n\n{BEGIN}\n{END}\n"
  page = path.read_text("utf-8") if path.exists() else empty
  parts = re.split(f"({BEGIN}|{END})", page)
  if len(parts) != 5:
    raise ValueError(f"{path} needs one line {BEGIN} and one line {END}")
  path.parent.mkdir(parents=True, exist_ok=True)
  files.write_text(path, "".join([*parts[:2], f"\n\n{text.strip()}\n\n", *parts[3:]]))


def main(words: Sequence[str]) -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("folder", type=Path, help="has the folders of the comparisons")
  parser.add_argument("--root", type=Path, default=ROOT, help="has RESULTS.md and docs/")
  args = parser.parse_args(words)
  paths = args.folder.glob("*/comparison.json")
  found = sorted((read_comparison(path.parent) for path in paths), key=lambda one: one.place)
  for name in dict.fromkeys(one.dataset for one in found):
    text = "\n".join(write_section(one) for one in found if one.dataset == name)
    fill(args.root / "docs" / "results" / f"{name}.md", text, name)
  found = [one for one in found if one.against == ("distil", "fusion")]
  complete = [one for one in found if one.config["train_protocol"] == "none"]
  lowest = list({one.dataset: one for one in reversed(complete)}.values())[::-1]
  lacking = [one for one in found if one.config["train_protocol"] != "none"]
  blocks = []
  for title, part in (
    ("Lowest label rate, training rows complete", lowest),
    ("Training rows lack modalities", lacking),
  ):
    if part:
      blocks += [f"### {title}\n", *(write_summary(part, b) for b in ("distil", "fusion"))]
  fill(args.root / "RESULTS.md", "\n".join([*blocks, comparison.LEGEND]), "Results")
  for path in (args.root / "docs" / "methods").glob("*.md"):
    if BEGIN in path.read_text("utf-8"):
      fill(path, f"{write_method([*lowest, *lacking], path.stem)}\n{comparison.LEGEND}", path.stem)


if __name__ == "__main__":
  main(sys.argv[1:])
