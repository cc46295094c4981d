"""Scores the models of a finished run again: other protocols, other splits, other data."""

import functools
import logging
from pathlib import Path

import jax
import numpy as np
import pandas as pd

from promise_jax import files, missing, patterns
from promise_jax.checks import check_choice, name_place_in_errors
from promise_jax.data import dataset as data_set
from promise_jax.data import new_rows, new_values
from promise_jax.data.readers.lost_files import DEFAULTS, FileOptions
from promise_jax.data.source import SPLITS
from promise_jax.evaluation import conditions, mask_files
from promise_jax.experiments import predictions, result_files, results, run_dir
from promise_jax.experiments.experiment import Experiment, parse_experiment
from promise_jax.experiments.setup import load_dataset
from promise_jax.inference import saved_model
from promise_jax.inference.saved_model import SavedModel
from promise_jax.reports import comparison, html, render, tables
from promise_jax.types import Split

logger = logging.getLogger(__name__)


def evaluate_run(
  folder: Path,
  protocol: str = "",
  split: str = "test",
  masks: Path | None = None,
  data: Path | None = None,
  file_options: FileOptions = DEFAULTS,
) -> str:
  """Evaluates every variant of a finished run; returns a table, which joins results and report.

  Lines of results.jsonl on the same split, protocol and pattern are replaced.

  Args:
    folder: of the run. Only its config, its model and the fingerprint of its data are read.
    protocol: what hides modalities; without it all patterns are tested, as after training.
    split: of the data of the run.
    masks: a file to write the mask of `protocol` to.
    data: a file with other labelled rows, in place of `split`. They are prepared as the train rows
      were; in the results their split is the name of the file.
    file_options: how files are found that `data` names.

  ValueError for no finished run, data that do not fit the model or have changed, unknown names.
  """
  parsed = [missing.parse_protocol(protocol)] if protocol else []
  experiment = parse_experiment(run_dir.read_finished(folder))
  model = saved_model.read_model(folder / "model")
  for sentence in run_dir.describe_versions(folder):
    logger.warning("%s.", sentence)
  rows = (
    read_other_rows(data, model, file_options) if data else read_own_rows(folder, experiment, split)
  )
  name, drawn_as = (data.name, "test") if data else (split, split)
  with name_place_in_errors("--protocol"):
    cases = conditions.protocol_conditions(rows, parsed, model.spec.names, drawn_as)
  if not protocol:
    cases = results.make_conditions(model.spec, experiment.test_protocols, rows, drawn_as)
  protocols = parsed or conditions.tested_protocols(experiment.test_protocols)
  alone = conditions.kept_alone(rows, protocols, model.spec.names, drawn_as)
  tested = () if alone and protocol else patterns.tested_patterns(len(model.spec.modalities))
  if masks:
    of_rows = rows.id, parsed[0], model.spec.names, cases[0].steps
    mask_files.export_masks(masks, cases[0].mask[0], *of_rows)
  with run_dir.open_run(folder, experiment):
    load = functools.partial(saved_model.load_variant, folder / "model", model)
    names = [variant.name for variant in model.variants]
    logits = predictions.predict_models(names, load, rows, tested, alone)
    added = results.measure_variants(experiment, model.spec.task, logits, rows, cases)
    added = results.add_run_columns(added, experiment, model.card["dataset"], name)
    path, keys = folder / "results.jsonl", ["split", "protocol", "pattern"]
    before = result_files.read_results(path)
    old, new = (pd.MultiIndex.from_frame(x[keys].fillna("")) for x in (before, added))
    result_files.write_results(path, pd.concat([before[~old.isin(new)], added]))
    files.write_text(folder / "report.html", html.render_page(result_files.read_run(folder)))
  text = comparison.metric_text(added)
  if not protocol:
    table = added.assign(split="test"), added["metric"].iloc[0], added["method"].unique()
    text = render.to_text(tables.pattern_table(*table))
  return f"{text}\n{len(added)} lines added to {path}"


def read_own_rows(folder: Path, experiment: Experiment, split: str) -> Split:
  """The rows of a split of the data that the run was trained on that have a label."""
  try:
    dataset = load_dataset(experiment.data)
  except (OSError, ValueError) as error:
    raise ValueError(
      f"the data of {folder} cannot be read ({error}); --data FILE evaluates rows of another file"
    ) from error
  check_choice("split", split, dataset.splits)
  run_dir.check_data(folder, dataset, {name: dataset.split(name) for name in SPLITS})
  rows = dataset.split(split)
  known = dataset.labelled if split == "train" else None
  if known is None:
    return rows
  check_labelled(f"{dataset.name}, {split}", known.sum(), len(known))
  return jax.tree.map(lambda x: x[known], rows)


def check_labelled(place: str, num_labelled: int, num_rows: int) -> None:
  """Says how many rows have no label. ValueError where none has one."""
  if not num_labelled:
    raise ValueError(f"{place} has no row with a label")
  if lacking := num_rows - num_labelled:
    logger.warning("%s: %d of %d rows have no label and are left out.", place, lacking, num_rows)


def read_other_rows(path: Path, model: SavedModel, file_options: FileOptions) -> Split:
  """The rows of a file that have a label, prepared as the train rows of the model were."""
  parts, num_rows = [], 0
  for new in new_rows.read_new_rows(path, model.preprocessing, file_options=file_options):
    with name_place_in_errors(str(path)):
      if new.label is None:
        names = " or ".join(new_values.label_names(model.preprocessing))
        raise ValueError(f"it has no label, a column {names} is needed")
      label, is_known = new_values.encode_labels(new.label, model.spec.task)
      rows, report = model.preprocessing.clean(new.rows)
    data_set.log_report(model.card["dataset"], path.name, report)
    parts.append(jax.tree.map(lambda x, k=is_known: x[k], rows._replace(label=label)))
    num_rows += len(is_known)
  rows = jax.tree.map(lambda *x: np.concatenate(x), *parts)
  check_labelled(str(path), len(rows.id), num_rows)
  return rows
