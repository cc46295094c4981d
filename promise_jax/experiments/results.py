"""From trained variants to the results of a run, its verdicts and its tables.

Two pandas DataFrames: `results` has a row for every (method, pattern or protocol, metric,
seed), `differences` a row for every difference between the method and its best baseline.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool

from promise_jax import files, missing, patterns
from promise_jax.data import batches
from promise_jax.evaluation import (
  conditions,
  contribution,
  mask_files,
  measure,
  metrics,
  reliability,
  verdicts,
)
from promise_jax.experiments import predictions, result_files, save_model
from promise_jax.experiments.experiment import Experiment
from promise_jax.experiments.setup import Setup
from promise_jax.experiments.train_variant import TrainedVariant, constant_logits
from promise_jax.methods.constant import CONSTANT_VARIANT
from promise_jax.reports import comparison, conclusion, html, render, tables
from promise_jax.types import Spec, Split, Task

BEST_CONSTANT = "best constant"


def write_test_results(
  setup: Setup, variants: list[TrainedVariant], split: Split, predicted: dict, folder: Path
) -> html.Report:
  """Writes all files of results from `predicted`, see `predictions`; returns the report."""
  experiment, spec, group = setup.experiment, setup.spec, setup.dataset.groups.get("test")
  logits = {name: values[:, : len(setup.patterns)] for name, values in predicted["test"].items()}
  arrays = {f"logits/{name}": values for name, values in logits.items()}
  ids = setup.dataset.keys.get("test", split.id)  # as they are written
  arrays |= {"pattern": np.array(setup.patterns), "id": ids, "label": split.label}
  arrays |= {"recorded": split.recorded, "seed": np.array(experiment.seeds)}
  files.write_npz(folder / "predictions.npz", arrays | ({} if group is None else {"group": group}))
  calibrations = predictions.fit_calibrations(setup, predicted["valid"])
  gains = predictions.fit_gains(setup, predicted["valid"], calibrations)
  best, rows = save_model.find_best(variants), split.recorded.any(axis=1)
  complete = logits[best][:, -1, rows], split.label[rows]  # with every modality present
  classes = measure.score_classes(spec.task, *complete, experiment.seeds)
  found = {
    "calibration": reliability.measure_calibration(
      calibrations, logits, split, setup.patterns, spec.names
    ),
    "classes": pd.DataFrame({"variant": best}, classes.index).join(classes),
    "comparison": compare_with_baseline(setup, variants, logits, split, group),
    "contribution": measure_contributions(setup, logits, split, group),
  }
  for name, frame in found.items():
    files.write_json(folder / f"{name}.json", frame.to_dict("records"))
  files.write_json(folder / "rows.json", count_rows(setup, split))
  cases = make_conditions(spec, experiment.test_protocols, split)
  frame = measure_variants(experiment, spec.task, predicted["test"], split, cases)
  results = [add_run_columns(frame, experiment, setup.dataset.name, "test")]
  results += [validation_scores(setup, v) for v in variants]
  run = result_files.read_run(folder, pd.concat(results, ignore_index=True))
  files.write_text(folder / "report.html", html.render_page(run))
  save_model.save_model(setup, variants, folder, run, calibrations, gains)
  # The last file: a run that has it is finished.
  result_files.write_results(folder / "results.jsonl", run.results)
  return run


def make_conditions(
  spec: Spec, test_protocols: Sequence[missing.Protocol], split: Split, split_name: str = "test"
) -> list[conditions.Condition]:
  """What is tested: patterns, rates of missing modalities, test protocols, pooled patterns."""
  tested = patterns.tested_patterns(len(spec.modalities))
  protocols = conditions.tested_protocols(test_protocols)
  return [
    *conditions.pattern_conditions(split, tested, spec.names),
    *conditions.complete_row_conditions(split, tested, spec.names),
    *conditions.protocol_conditions(split, protocols, spec.names, split_name, len(tested)),
    *conditions.pooled_conditions(split, tested),
  ]


def measure_variants(
  experiment: Experiment, task: Task, logits: dict, split: Split, cases: list[conditions.Condition]
) -> pd.DataFrame:
  """Every metric of every variant, and of the best constant where the task is sentiment."""
  seeds, extra = experiment.seeds, experiment.metrics
  frames = {
    name: measure.measure_conditions(task, values, split, cases, seeds, extra)
    for name, values in logits.items()
  }
  frames[BEST_CONSTANT] = measure.measure_best_constant(task, split, cases, seeds, extra)
  frames = [x.assign(method=name) for name, x in frames.items() if len(x)]
  return pd.concat(frames, ignore_index=True)


def add_run_columns(
  frame: pd.DataFrame, experiment: Experiment, dataset: str, split_name: str
) -> pd.DataFrame:
  """`frame`, after the columns that all results on one split share; `method` is the first."""
  shared = {"method": frame["method"], "dataset": dataset, "split": split_name}
  shared |= {"label_rate": experiment.label_rate, "train_protocol": str(experiment.train_protocol)}
  return pd.DataFrame(shared, frame.index).join(frame.drop(columns="method"))


def validation_scores(setup: Setup, trained: TrainedVariant) -> pd.DataFrame:
  """The validation score of the selected step of each seed, as rows of `results`."""
  name, sign = metrics.primary_metric(setup.spec.task)
  selects = {"all": "mean over patterns", "full": "full pattern"}
  ids = setup.train_data.split.id
  columns = {
    "method": trained.name,
    "pattern": None,
    "protocol": selects[setup.experiment.train.select_on],
    "mask_hash": mask_files.mask_hash(setup.selection_data.recorded, setup.selection_data.id),
    "metric": name,
    "value": sign * np.asarray(trained.best_score, float),
    "n": len(setup.selection_data.id),
    "seed": setup.experiment.seeds,
    "step": trained.best_step,
    "train_mask_hash": [mask_files.mask_hash(mask, ids) for mask in first_masks(setup)],
  }
  columns = pd.DataFrame(columns)
  return add_run_columns(columns, setup.experiment, setup.dataset.name, "valid")


def first_masks(setup: Setup) -> Bool[np.ndarray, "S N M"]:
  """What training may read of every train row, in its first epoch."""
  rows, every = setup.train_data, np.arange(len(setup.train_data.split.id))
  masks = [batches.draw_kept(rows, seed, 0, every).mask for seed in rows.seeds]
  return rows.split.recorded & np.stack(masks)


def compare_with_baseline(
  setup: Setup, variants: list[TrainedVariant], logits: dict, split: Split, group: np.ndarray | None
) -> pd.DataFrame:
  """The method, the first of `variants`, minus the baseline with the best validation score."""
  if len(variants) < 2:
    return pd.DataFrame()
  method, valid_scores = variants[0].name, {v.name: v.best_score.mean() for v in variants}
  best = verdicts.best_baseline(method, valid_scores, CONSTANT_VARIANT)
  spec, pair = setup.spec, (logits[method], logits[best])
  lines = verdicts.compare_variants(spec.task, *pair, split, setup.patterns, spec.names, group)
  return pd.DataFrame({"method": method, "baseline": best}, lines.index).join(lines)


def measure_contributions(
  setup: Setup, logits: dict, split: Split, group: np.ndarray | None
) -> pd.DataFrame:
  """What each modality is worth to every trained variant, see `evaluation.contribution`."""
  frames, constant = [pd.DataFrame()], constant_logits(setup)
  for name in [name for name in logits if name != CONSTANT_VARIANT]:
    worth = contribution.measure_contribution(
      setup.spec.task, logits[name], constant, split, setup.spec.names, group=group
    )
    frames.append(pd.DataFrame({"variant": name}, worth.index).join(worth))
  return pd.concat(frames, ignore_index=True)


def count_rows(setup: Setup, test_split: Split) -> dict:
  """The content of rows.json: how many `rows` and `groups` a split has, how many `labelled` train
  rows a seed; the fraction of train rows that lack each modality (`missing`) or all of them
  (`empty`), in the first epoch, averaged over seeds; that of rows of every split that lack each
  modality in the data (`unrecorded`); and `patterns.describe_samples`."""
  masks = first_masks(setup)
  splits = {"train": setup.train_data.split, "valid": setup.valid_data, "test": test_split}
  lacking = lambda masks: dict(
    zip(setup.spec.names, 1 - masks.reshape(-1, masks.shape[-1]).mean(axis=0), strict=True)
  )
  return {
    "rows": {name: len(split.id) for name, split in splits.items()},
    "groups": {name: len(np.unique(group)) for name, group in setup.dataset.groups.items()},
    "labelled": setup.train_data.labelled.sum(axis=1).tolist(),
    "missing": lacking(masks),
    "empty": (~masks.any(axis=2)).mean(),
    "unrecorded": {name: lacking(split.recorded) for name, split in splits.items()},
    "samples": patterns.describe_samples(len(setup.spec.modalities)),
  }


def render_console(run: html.Report) -> str:
  """The tables of a finished run as text, and its differences to the best baseline."""
  config, results = run.config["config"], run.results
  names, has_constant = list(results["method"].unique()), BEST_CONSTANT in results["method"].values
  metric = results.loc[results["pattern"].notna(), "metric"].iloc[0]
  found = [tables.pattern_table(results, metric, names)]
  if run.test_protocols:
    found += [tables.protocol_table(results, metric, names, run.test_protocols)]
  text = [render.to_text(table) for table in found]
  text += [comparison.means_text(results, names)] if has_constant else []
  if missing.parse_protocol(config["train_protocol"]).redraw:
    text.append("training masks were redrawn each epoch: augmentation, not missing data\n")
  for _, line in run.comparison[:2].iterrows():
    pair, difference = f"{line['method']} - {line['baseline']}", comparison.show_interval(line)
    text.append(f"{line['rows']}: {pair} = {difference}, {line['verdict']}")
  text += conclusion.describe_best(results, run.contribution)
  text += conclusion.describe_kinds(run.contribution)
  return "\n".join(text + comparison.describe_upper_levels(run.training))
