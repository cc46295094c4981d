"""Tables of one or several finished runs, for a paper."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from promise_jax.checks import check_choice
from promise_jax.evaluation import conditions
from promise_jax.experiments import result_files, run_dir
from promise_jax.reports import tables

ROWS = ("patterns", "rates", "protocols")
ERRORS = ("std", "interval")
KEY = ["method", "seed", "split", "protocol", "pattern", "metric"]  # of a line of results


def make_tables(
  folders: Sequence[Path],
  *,
  rows: Sequence[str] = ("patterns",),
  metrics: Sequence[str] = (),
  variants: Sequence[str] = (),
  split: str = "test",
  error: str = "std",
  same_rows: bool = True,
) -> list[tables.Table]:
  """A table for each metric and kind of rows, with a column for each variant of all runs.

  Args:
    folders: of finished runs, or of comparisons, which stand for every run inside.
    rows: of ROWS.
    metrics: default the first one of the runs.
    variants: which columns, in this order; default all.
    split: whose rows; others than "test" come from `evaluate_run`.
    error: what stands behind ±, one of ERRORS.
    same_rows: see `tables.pattern_table`.

  Raises:
    ValueError: no finished run, a name that the runs do not have, runs that do not fit in a table.
  """
  for name in rows:
    check_choice("a kind of rows", name, ROWS)
  check_choice("error", error, ERRORS)
  runs = list(dict.fromkeys(run for folder in folders for run in find_runs(folder)))
  results = read_all_results(runs)
  check_choice("split", split, results["split"].unique())
  # Lines with a step are validation scores that selected it.
  results = results[(results["split"] == split) & results["step"].isna()].assign(split="test")
  known = list(results["method"].unique())
  for name in variants:
    check_choice("a variant", name, known)
  columns = list(variants) or known
  made = []
  for metric in metrics or results["metric"].unique()[:1]:
    for kind in rows:
      if kind == "patterns":
        made.append(tables.pattern_table(results, metric, columns, same_rows))
      elif kind == "rates":
        made += tables.rate_tables(results, metric, columns)
      else:
        protocols = find_protocols(results, runs)
        made.append(tables.protocol_table(results, metric, columns, protocols))
  where = "" if split == "test" else f"rows of {split}"
  note = lambda table: "; ".join(filter(None, [table.note, where]))
  return [dataclasses.replace(table, error=error, note=note(table)) for table in made]


def find_runs(folder: Path) -> list[Path]:
  """The run in `folder`, or the runs in a folder of several. ValueError if one is not finished."""
  runs = [folder]
  if not (folder / "config.json").exists():
    runs = sorted(path.parent for path in folder.glob("*/config.json")) or runs
  for run in runs:
    run_dir.read_config(run)
    if not run_dir.is_finished(run):
      raise ValueError(f"{run} is not finished: the command that trains it continues it")
  return runs


def read_all_results(runs: Sequence[Path]) -> pd.DataFrame:
  """The results of several runs. Lines that are the same in several runs occur once; a variant
  whose values differ between runs, as by its settings, is called "run/variant"."""
  names = {run: run.resolve().name for run in runs}
  if len(set(names.values())) < len(names):
    names = {run: str(run) for run in runs}
  read = lambda run: result_files.read_results(run / "results.jsonl").assign(run=names[run])
  lines = pd.concat(map(read, runs), ignore_index=True)
  differs = lines.groupby(KEY, dropna=False)["value"].transform("nunique", dropna=False) > 1
  ambiguous = lines["method"].isin(lines.loc[differs, "method"])
  lines.loc[ambiguous, "method"] = lines["run"] + "/" + lines["method"]
  return lines.drop_duplicates([*KEY, "dataset", "label_rate", "mask_hash"], ignore_index=True)


def find_protocols(results: pd.DataFrame, runs: Sequence[Path]) -> list[str]:
  """The protocols of the results, without what is pooled and the rates that every run has, unless
  its config names them. ValueError if there is none."""
  configs = [run_dir.read_config(run) for run in runs]
  wanted = [result_files.canonical_protocols(config["test_protocols"]) for config in configs]
  always = {str(p) for p in conditions.rate_protocols()}.difference(*wanted)
  mixed = results.loc[results["pattern"].isna(), "protocol"].unique()
  found = [p for p in mixed if not (p in always or p.startswith("pooled("))]
  if not found:
    raise ValueError(
      "the runs have no test protocol; `promise-jax evaluate` adds one to a finished run"
    )
  return found
