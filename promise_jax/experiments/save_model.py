"""Writes RUN/model/: the trained variants of a run, for those who use them later."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from promise_jax.evaluation.calibration import Calibration
from promise_jax.evaluation.gain import Gain
from promise_jax.experiments import run_dir
from promise_jax.experiments.setup import Setup
from promise_jax.experiments.train_variant import TrainedVariant, constant_logits
from promise_jax.inference import saved_model
from promise_jax.reports import html, tables


def save_model(
  setup: Setup,
  variants: list[TrainedVariant],
  folder: Path,
  run: html.Report,
  calibrations: Mapping[str, Calibration],
  gains: Mapping[str, Gain],
) -> None:
  """Writes the model of the run in `folder`, of which `run` has the test results."""
  experiment = setup.experiment
  saved = tuple(
    saved_model.SavedVariant(v.name, v.method, v.settings, v.folder, float(x.best_score.mean()))
    for v, x in zip(experiment.variants, variants, strict=True)
  )
  model = saved_model.SavedModel(
    name=run.title,
    spec=setup.spec,
    preprocessing=setup.dataset.preprocessing,
    variants=saved,
    best=find_best(variants),
    seeds=experiment.seeds,
    precision=experiment.precision,
    prior=constant_logits(setup).mean(axis=0),
    calibration={name: fitted.to_json() for name, fitted in calibrations.items()},
    gains={name: fitted.to_json() for name, fitted in gains.items()},
    card={
      "dataset": setup.dataset.name,
      "about": setup.dataset.card,
      "data": run_dir.read_fingerprint(folder),
      "versions": run.config["versions"],
      "rows": run.rows,
      "label_rate": experiment.label_rate,
      "train_protocol": str(experiment.train_protocol),
      "test_protocols": [str(protocol) for protocol in experiment.test_protocols],
      "samples": run.rows["samples"],
      "metrics": average_metrics(run.results),
    },
  )
  arrays = {v.name: (v.params, v.model_state) for v in variants}
  saved_model.write_model(folder / "model", model, arrays)


def find_best(variants: list[TrainedVariant]) -> str:
  """The variant with the best mean validation score, the first of equal ones; the constant
  predictor only if there is nothing else."""
  trained = [v for v in variants if v.method] or variants
  return max(trained, key=lambda v: np.mean(v.best_score)).name


def average_metrics(results: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
  """{variant: {pattern: {metric: mean over seeds}}} on the test rows, as in the pattern table; `n`
  of a pattern is how many rows."""
  by_pattern = results[(results["split"] == "test") & results["pattern"].notna()]
  metrics, (lines, _) = {}, tables.choose_rows(by_pattern)
  for (method, pattern, metric), part in lines.groupby(["method", "pattern", "metric"], sort=False):
    of_pattern = metrics.setdefault(method, {}).setdefault(pattern, {"n": int(part["n"].iloc[0])})
    of_pattern[metric] = part["value"].mean()
  return metrics
