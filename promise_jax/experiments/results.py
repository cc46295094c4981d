"""From trained variants to the files and tables that tell of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from promise_jax import files, missing
from promise_jax.data import batches
from promise_jax.evaluation import (
  bootstrap,
  mask_files,
  metrics,
  predict,
  sentiment_metrics,
)
from promise_jax.experiments.config import CONSTANT_VARIANT
from promise_jax.experiments.setup import Setup
from promise_jax.experiments.train_variant import TrainedVariant
from promise_jax.reports import curves
from promise_jax.reports import html as reports_html
from promise_jax.reports import tables as reports_tables
from promise_jax.types import Split, Task

BEST_CONSTANT = "best constant"


def write_test_results(setup: Setup, variants: list[TrainedVariant], folder: Path) -> None:
  """Reads the test split, once, and writes every file that tells of it."""
  split = setup.dataset.split("test")
  logits = {t.name: np.asarray(t.predict(split)) for t in variants}
  conditions = predict.pattern_conditions(split, setup.patterns, setup.spec.names)
  protocols = predict.rate_protocols()
  protocols += [p for p in setup.experiment.test_protocols if p not in protocols]
  conditions += predict.protocol_conditions(split, protocols, "test")
  lines = []
  seeds = setup.experiment.seeds
  for trained in variants:
    name = trained.name
    values = logits[name]
    lines += measure_variant(setup, name, values, seeds, split, "test", conditions)
    lines += measure_pooled(setup, name, values, seeds, split)
    lines += validation_lines(setup, trained)
  lines += measure_best_constant(setup, split, "test", conditions)
  arrays = {f"logits/{name}": values for name, values in logits.items()}
  arrays |= {"pattern": np.array(setup.patterns), "id": split.id, "label": split.label}
  arrays |= {"recorded": split.recorded, "seed": np.array(setup.experiment.seeds)}
  group = setup.dataset.groups.get("test")
  arrays |= {} if group is None else {"group": group}
  files.write_npz(folder / "predictions.npz", arrays)
  files.write_json(folder / "rows.json", row_counts(setup, split))
  compared = compare_with_baseline(setup, variants, logits, split)
  files.write_json(folder / "comparison.json", compared)
  html = reports_html.render_page(reports_tables.read_run(folder)._replace(results=lines))
  files.write_text(folder / "report.html", html)
  files.write_jsonl(folder / "results.jsonl", lines)


def row_counts(setup: Setup, test_split: Split) -> dict:
  """How many `rows` every split has and, where they come in groups, how many `groups`;
  of how many train rows each seed sees the label (`labelled`); the part of the train
  rows that lack each modality (`missing`) and those that lack all (`empty`), means over
  the seeds, in the first epoch."""
  names, rows = setup.spec.names, setup.train_data
  masks = np.stack([rows.split.recorded & batches.train_mask(rows, s) for s in rows.seeds])
  lacks = 1 - masks.mean(axis=(0, 1))
  splits = {"train": setup.train_data.split, "valid": setup.valid_data, "test": test_split}
  groups = setup.dataset.groups.items()
  return {
    "rows": {name: len(split.id) for name, split in splits.items()},
    "groups": {name: len(np.unique(group)) for name, group in groups},
    "labelled": setup.train_data.labelled.sum(axis=1).tolist(),
    "missing": dict(zip(names, lacks.tolist(), strict=True)),
    "empty": float((~masks.any(axis=2)).mean()),
  }


def add_evaluation(
  setup: Setup,
  variants: list[TrainedVariant],
  folder: Path,
  protocol: missing.Protocol,
  split_name: str,
  masks: Path | None,
) -> str:
  """Adds the lines of another protocol to results.jsonl; returns variants x metrics."""
  split = setup.dataset.split(split_name)
  conditions = predict.protocol_conditions(split, [protocol], split_name)
  if masks:
    kept = conditions[0].mask
    mask_files.export_masks(masks, kept, split.id, protocol, setup.spec.names)
  lines, seeds = [], setup.experiment.seeds
  for trained in variants:
    values, name = np.asarray(trained.predict(split)), trained.name
    lines += measure_variant(setup, name, values, seeds, split, split_name, conditions)
  lines += measure_best_constant(setup, split, split_name, conditions, pooled=False)
  path = folder / "results.jsonl"
  same = (str(protocol), split_name, None)
  before = [
    line
    for line in files.read_jsonl(path)
    if (line["protocol"], line["split"], line["pattern"]) != same
  ]
  files.write_jsonl(path, before + lines)
  return f"{reports_tables.metric_table(lines)}\n\n{len(lines)} lines in {path}"


def measure_variant(
  setup: Setup,
  name: str,
  logits: np.ndarray,
  seeds: Sequence[int],
  split: Split,
  split_name: str,
  conditions: Sequence[predict.Condition],
) -> list[dict]:
  """The lines of the variant `name` under `conditions`, from logits f[S, P, N, C]."""
  key = line_key(setup, name, split_name)
  measured = predict.result_lines(
    setup.spec.task, logits, split, conditions, seeds, setup.experiment.metrics
  )
  return [key | line for line in measured]


def measure_pooled(
  setup: Setup, name: str, logits: np.ndarray, seeds: Sequence[int], split: Split
) -> list[dict]:
  """The metrics of the test predictions under all patterns, and under the incomplete
  ones, as one set of rows each, from logits f[S, P, N, C]."""
  key = line_key(setup, name, "test")
  table = np.array(setup.patterns)
  chosen = (np.ones(len(table), bool), ~table.all(axis=1))
  lines = []
  for protocol, patterns in zip(reports_tables.POOLED, chosen, strict=True):
    if patterns.any():
      found = predict.pooled(
        setup.spec.task,
        logits[:, patterns],
        split,
        table[patterns],
        seeds,
        setup.experiment.metrics,
      )
      lines += [key | {"pattern": None, "protocol": protocol} | line for line in found]
  return lines


def measure_best_constant(
  setup: Setup,
  split: Split,
  split_name: str,
  conditions: Sequence[predict.Condition],
  pooled: bool = True,
) -> list[dict]:
  """What the best constant scores under `conditions` and, if `pooled`, on pooled
  patterns: lines as a variant has them, of sentiment tasks alone.

  It is chosen metric by metric on the labels of `split` themselves (of
  `sentiment_metrics.constants`), so it is no variant: what can be scored without reading
  anything. `majority`, fitted on train, falls below it where train leans another way.
  """
  task = setup.spec.task
  if not sentiment_metrics.sentiment_set(task):
    return []
  name, seeds, tried = BEST_CONSTANT, setup.experiment.seeds, []
  values = sentiment_metrics.constants(split.label, task.scale)
  # As many at once as there are seeds, in their place: the program of the variants fits.
  for some in np.resize(values, (-(-len(values) // len(seeds)), len(seeds))):
    shape = (len(seeds), len(setup.patterns), len(split.id), 1)
    logits = np.broadcast_to(some[:, None, None, None], shape)
    found = measure_variant(setup, name, logits, seeds, split, split_name, conditions)
    found += measure_pooled(setup, name, logits, seeds, split) if pooled else []
    tried.append(found)
  lines = []
  for start in range(0, len(tried[0]), len(seeds)):  # one condition and metric
    same = [found[start : start + len(seeds)] for found in tried]
    sign = metrics.metric_sign(same[0][0]["metric"])
    scores = [x["value"] for found in same for x in found if not np.isnan(x["value"])]
    best = max(scores, key=lambda value: sign * value, default=np.nan)
    lines += [line | {"value": best} for line in same[0]]
  return lines


def train_mask_hash(setup: Setup, seed: int) -> str:
  """Names what training may see of every row (in its first epoch)."""
  rows = setup.train_data
  mask = rows.split.recorded & batches.train_mask(rows, seed)
  return mask_files.mask_hash(mask, rows.split.id)


def line_key(setup: Setup, name: str, split: str) -> dict:
  """The fields that all lines of the variant `name` on one split share."""
  return {
    "method": name,
    "dataset": setup.dataset.name,
    "split": split,
    "label_rate": setup.experiment.label_rate,
    "train_protocol": str(setup.experiment.train_protocol),
  }


def validation_lines(setup: Setup, trained: TrainedVariant) -> list[dict]:
  """The score on validation by which the step of each seed was chosen."""
  name, sign = metrics.primary_metric(setup.spec.task)
  valid = setup.valid_data
  chosen = {"all": "mean over patterns", "full": "full pattern"}
  key = line_key(setup, trained.name, "valid") | {
    "protocol": chosen[setup.experiment.train.select_on],
    "mask_hash": mask_files.mask_hash(valid.recorded, valid.id),
    "pattern": None,
    "metric": name,
    "n": len(valid.id),
  }
  per_seed = zip(setup.experiment.seeds, trained.best_score, trained.best_step, strict=True)
  return [
    key
    | {
      "value": sign * float(score),
      "seed": seed,
      "step": int(at),
      "train_mask_hash": train_mask_hash(setup, seed),
    }
    for seed, score, at in per_seed
  ]


def compare_with_baseline(
  setup: Setup, variants: list[TrainedVariant], logits: dict[str, np.ndarray], split: Split
) -> list[dict]:
  """The method against its `best_control`, over the incomplete patterns, all patterns,
  and each one."""
  if len(variants) < 2:
    return []
  method, table = variants[0].name, np.array(setup.patterns)
  best = best_baseline(method, {t.name: float(np.mean(t.best_score)) for t in variants})
  means = {"incomplete": ~table.all(axis=1), "all": np.ones(len(table), bool)}
  for p, pattern in enumerate(setup.patterns):
    name = missing.pattern_name(pattern, setup.spec.names)
    means[name] = np.arange(len(table)) == p
  found = paired_difference_lines(
    setup.spec.task,
    (logits[method], logits[best]),
    (split.label, split.recorded, setup.dataset.groups.get("test")),
    table,
    means,
  )
  return [{"method": method, "control": best} | line for line in found]


def best_baseline(method: str, valid: dict[str, float]) -> str:
  """The variant with the best validation score in `valid` {variant: score}, larger is better,
  among variants of other methods; variants of the method itself, and then the constant
  predictor, only where there is nothing else."""
  others = [name for name in valid if name != method]
  trained = [name for name in others if name != CONSTANT_VARIANT]
  foreign = [n for n in trained if n.partition("(")[0] != method.partition("(")[0]]
  return max(foreign or trained or others, key=lambda name: valid[name])


def paired_difference_lines(
  task: Task,
  variants: tuple[np.ndarray, np.ndarray],
  rows: tuple[np.ndarray, np.ndarray, np.ndarray | None],
  table: np.ndarray,
  means: dict[str, np.ndarray],
) -> list[dict]:
  """The first metric of the task for the first of two `variants` f[S, P, N, C] less that of
  the second: a line for each of `means` {name: bool[P]} over the patterns `table`
  bool[P, M] that has rows. `rows` are (label, recorded, group), see `intervals`."""
  label, recorded, group = rows
  weight = np.array(predict.row_weights(recorded, np.ones(len(label), bool), table))
  some = weight.any(axis=1)
  means = {name: chosen & some for name, chosen in means.items()}
  means = {name: chosen[some] for name, chosen in means.items() if chosen.any()}
  name, sign = metrics.primary_metric(task)
  found = bootstrap.paired_differences(
    metrics.metrics_for(task)[name],
    sign,
    *(variant.swapaxes(0, 1)[some] for variant in variants),
    label,
    weight[some],
    list(means.values()),
    group=group,
  )
  return [
    {
      "rows": mean,
      "metric": name,
      "difference": d.mean,
      "low": d.low,
      "high": d.high,
      "verdict": d.verdict,
    }
    for mean, d in zip(means, found, strict=True)
  ]


def render_console(folder: Path) -> str:
  """The tables of a finished run, and how the method stands against its control."""
  run = reports_tables.read_run(folder)
  config = run.config["config"]
  names = [config["method"], *config["baselines"]]
  judged = any(x["method"] == BEST_CONSTANT for x in run.results)
  names += [BEST_CONSTANT] if judged else []
  metric = next(x["metric"] for x in run.results if x["pattern"])
  tables = [reports_tables.pattern_table(run.results, metric, names)]
  if tests := config["test_protocols"]:
    tables.append(reports_tables.protocol_table(run.results, metric, names, tests))
  text = [reports_tables.to_text(table) for table in tables]
  text += [reports_tables.means_text(run.results, names)] if judged else []
  if missing.parse_protocol(config["train_protocol"]).redraw:
    text.append("training masks were redrawn each epoch: augmentation, not holes\n")
  text += [reports_tables.describe_verdict(line) for line in run.comparison[:2]]
  text += curves.upper_levels(run.metrics)
  return "\n".join(text)
