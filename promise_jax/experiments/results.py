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
  class_scores,
  conditions,
  contribution,
  mask_files,
  measure,
  metrics,
  reliability,
  verdicts,
)
from promise_jax.experiments import result_files, save_model, validation_fits
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
  num_patterns, group = len(setup.patterns), setup.dataset.groups.get("test")
  logits = {name: values[:, :num_patterns] for name, values in predicted["test"].items()}
  calibrations = validation_fits.fit_calibrations(setup, predicted["valid"])
  gains = validation_fits.fit_gains(setup, predicted["valid"], calibrations)
  measured = reliability.measure_calibration(
    calibrations, logits, split, setup.patterns, setup.spec.names
  )
  files.write_json(folder / "calibration.json", measured.to_dict("records"))
  experiment, spec, name = setup.experiment, setup.spec, setup.dataset.name
  cases = make_conditions(spec, experiment.test_protocols, split)
  frame = measure_variants(experiment, spec.task, predicted["test"], split, cases)
  results = [add_run_columns(frame, experiment, name, "test")]
  results += [validation_scores(setup, v) for v in variants]
  valid_scores = {v.name: float(np.mean(v.best_score)) for v in variants}
  differences = compare_with_baseline(setup, valid_scores, logits, split, group)
  arrays = {f"logits/{name}": values for name, values in logits.items()}
  ids = setup.dataset.keys.get("test", split.id)  # as they are written
  arrays |= {"pattern": np.array(setup.patterns), "id": ids, "label": split.label}
  arrays |= {"recorded": split.recorded, "seed": np.array(setup.experiment.seeds)}
  files.write_npz(folder / "predictions.npz", arrays | ({} if group is None else {"group": group}))
  files.write_json(folder / "rows.json", count_rows(setup, split))
  scores = score_best_variant(setup, save_model.find_best(variants), logits, split)
  files.write_json(folder / "classes.json", scores.to_dict("records"))
  files.write_json(folder / "comparison.json", differences.to_dict("records"))
  worth = measure_contributions(setup, logits, split, group)
  files.write_json(folder / "contribution.json", worth.to_dict("records"))
  run = result_files.make_report(folder, pd.concat(results, ignore_index=True), differences)
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
  shared = {
    "method": frame["method"],
    "dataset": dataset,
    "split": split_name,
    "label_rate": experiment.label_rate,
    "train_protocol": str(experiment.train_protocol),
  }
  shared = pd.DataFrame(shared, frame.index)
  return pd.concat([shared, frame.drop(columns="method")], axis=1)


def validation_scores(setup: Setup, trained: TrainedVariant) -> pd.DataFrame:
  """The validation score of the selected step of each seed, as rows of `results`."""
  name, sign = metrics.primary_metric(setup.spec.task)
  on_patterns = {"all": "mean over patterns", "full": "full pattern"}
  ids = setup.train_data.split.id
  columns = {
    "method": trained.name,
    "pattern": None,
    "protocol": on_patterns[setup.experiment.train.select_on],
    "mask_hash": mask_files.mask_hash(setup.valid_data.recorded, setup.valid_data.id),
    "metric": name,
    "value": sign * np.asarray(trained.best_score, float),
    "n": len(setup.valid_data.id),
    "seed": setup.experiment.seeds,
    "step": trained.best_step,
    "train_mask_hash": [mask_files.mask_hash(mask, ids) for mask in first_masks(setup)],
  }
  frame = pd.DataFrame(columns)
  return add_run_columns(frame, setup.experiment, setup.dataset.name, "valid")


def first_masks(setup: Setup) -> Bool[np.ndarray, "S N M"]:
  """What training may read of every train row, in its first epoch."""
  rows = setup.train_data
  every = np.arange(len(rows.split.id))
  masks = [batches.draw_kept(rows, seed, 0, every).mask for seed in rows.seeds]
  return rows.split.recorded & np.stack(masks)


def compare_with_baseline(
  setup: Setup, valid_scores: dict, logits: dict, split: Split, group: np.ndarray | None
) -> pd.DataFrame:
  """The method, the first in `logits`, minus the baseline with the best validation score."""
  if len(logits) < 2:
    return pd.DataFrame()
  method = next(iter(logits))
  best = verdicts.best_baseline(method, valid_scores, CONSTANT_VARIANT)
  spec, pair = setup.spec, (logits[method], logits[best])
  frame = verdicts.compare_variants(spec.task, *pair, split, setup.patterns, spec.names, group)
  frame.insert(0, "method", method)
  frame.insert(1, "baseline", best)
  return frame


def score_best_variant(setup: Setup, best: str, logits: dict, split: Split) -> pd.DataFrame:
  """The content of classes.json: the variant best on validation, every modality present."""
  rows = split.recorded.any(axis=1)
  complete, seeds = logits[best][:, -1, rows], setup.experiment.seeds
  scores = class_scores.score_classes(setup.spec.task, complete, split.label[rows], seeds)
  return pd.concat([pd.DataFrame({"variant": best}, scores.index), scores], axis=1)


def measure_contributions(
  setup: Setup, logits: dict, split: Split, group: np.ndarray | None
) -> pd.DataFrame:
  """What each modality is worth to every trained variant, see `evaluation.contribution`."""
  frames, constant = [pd.DataFrame()], constant_logits(setup)
  for name in [name for name in logits if name != CONSTANT_VARIANT]:
    frame = contribution.measure_contribution(
      setup.spec.task, logits[name], constant, split, setup.spec.names, group=group
    )
    frame.insert(0, "variant", name)
    frames.append(frame)
  return pd.concat(frames, ignore_index=True)


def count_rows(setup: Setup, test_split: Split) -> dict:
  """The content of rows.json.

  Of every split the number of `rows` and, if they come in groups, of `groups`; of each seed that
  of `labelled` train rows; and, in the first epoch, averaged over seeds, the fraction of train
  rows that lack each modality (`missing`) or all of them (`empty`). `unrecorded` is the fraction
  of rows of every split that lack each modality in the data. `samples` says where not all patterns
  of modalities are used.
  """
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
  names = [config["method"], *config["baselines"]]
  has_constant = (results["method"] == BEST_CONSTANT).any()
  names += [BEST_CONSTANT] if has_constant else []
  metric = results.loc[results["pattern"].notna(), "metric"].iloc[0]
  found = [tables.pattern_table(results, metric, names)]
  if run.test_protocols:
    found += [tables.protocol_table(results, metric, names, run.test_protocols)]
  text = [render.to_text(table) for table in found]
  text += [comparison.means_text(results, names)] if has_constant else []
  if missing.parse_protocol(config["train_protocol"]).redraw:
    text.append("training masks were redrawn each epoch: augmentation, not missing data\n")
  text += [comparison.describe_verdict(line) for _, line in run.comparison[:2].iterrows()]
  text += conclusion.describe_best(results, run.contribution)
  text += conclusion.describe_kinds(run.contribution)
  return "\n".join(text + comparison.describe_upper_levels(run.training))
