"""Tables of one or several finished runs, for a paper."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from promise_jax.checks import check_choice
from promise_jax.experiments import result_files, run_dir
from promise_jax.reports import tables

logger = logging.getLogger(__name__)

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

  ValueError for no finished run, a name that no run has, runs that do not fit in a table.
  """
  for name in rows:
    check_choice("a kind of rows", name, ROWS)
  check_choice("error", error, ERRORS)
  runs = list(dict.fromkeys(run for folder in folders for run in find_runs(folder)))
  check_same_labels(runs)
  results = read_all_results(runs)
  check_choice("split", split, results["split"].unique())
  # Lines with a step are validation scores that selected it.
  results = results[(results["split"] == split) & results["step"].isna()].assign(split="test")
  known = list(results["method"].unique())
  for name in variants:
    check_choice("a variant", name, known)
  columns = list(variants) or known
  given = [run_dir.read_config(run).get("test_protocols") for run in runs]
  wanted = {name for texts in given for name in result_files.canonical_protocols(texts)}
  protocols = tables.find_protocols(results, wanted)
  if "protocols" in rows and not protocols:
    raise ValueError(
      "the runs have no test protocol; `promise-jax evaluate` adds one to a finished run"
    )
  make = {
    "patterns": lambda metric: [tables.pattern_table(results, metric, columns, same_rows)],
    "rates": lambda metric: tables.rate_tables(results, metric, columns),
    "protocols": lambda metric: [tables.protocol_table(results, metric, columns, protocols)],
  }
  metrics = metrics or results["metric"].unique()[:1]
  made = [table for metric in metrics for kind in rows for table in make[kind](metric)]
  where = "" if split == "test" else f"rows of {split}"
  note = lambda table: "; ".join(filter(None, [table.note, where]))
  return [dataclasses.replace(table, error=error, note=note(table)) for table in made]


def find_runs(folder: Path) -> list[Path]:
  """The run in `folder`, or the finished runs inside it. ValueError if there is none."""
  inside = sorted(path.parent for path in folder.glob("*/config.json"))
  runs = [folder] if (folder / "config.json").exists() or not inside else inside
  finished = []
  for run in runs:
    run_dir.read_config(run)
    if run_dir.is_finished(run):
      finished.append(run)
    elif run != folder:
      logger.warning("%s is left out, it is not finished.", run)
  if not finished:
    raise ValueError(f"{folder} is not finished{run_dir.GO_ON}")
  return finished


def check_same_labels(runs: Sequence[Path]) -> None:
  """ValueError if two runs were tested on other rows or labels under one name of a data set."""
  known = {}
  for run in runs:
    found = run_dir.read_fingerprint(run) or {"splits": {}}
    if test := found["splits"].get("test"):
      tested = [test[key] for key in ("rows", "ids", "labels")]
      first, before = known.setdefault(found["name"], (run, tested))
      if tested != before:
        raise ValueError(
          f"the test rows of {found['name']} or their labels are others in {run} than in {first}; "
          "a table is for the same rows, `promise-jax evaluate --data FILE` makes such lines"
        )


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
