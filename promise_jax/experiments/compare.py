"""Several runs merged into one table with intervals and verdicts.

A comparison is a list of experiments on the same data and label rate, each in a folder of its
own. Their variants are merged, and each is compared with one or a few of them on the seeds that
both have. Before that, `trials` may choose the settings of some variants: equally many
trials for each, on validation alone; the test split is never read.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from promise_jax import files, methods
from promise_jax.checks import check_choice
from promise_jax.evaluation import verdicts
from promise_jax.experiments import result_files, run_dir, tensorboard
from promise_jax.experiments.experiment import parse_experiment
from promise_jax.experiments.run import run_experiment
from promise_jax.experiments.setup import set_up
from promise_jax.experiments.train_variant import train_variant
from promise_jax.inference import saved_model
from promise_jax.reports import comparison, conclusion, html, render, tables
from promise_jax.types import Split

BY_PATTERN = "### By pattern"  # the heading of the tables of comparison.md


class MergedVariant(NamedTuple):
  """One variant, from the run that has the most seeds of it."""

  seeds: tuple[int, ...]
  logits: np.ndarray  # f32[S, P, N, C] on the test split
  results: pd.DataFrame


def run_comparison(
  config: dict, folder: Path, *, show: Callable[[str], None] = print, to_tensorboard: bool = False
) -> str:
  """Runs several experiments and compares their variants; returns the text of comparison.md.

  Writes comparison.md, comparison.json and report.html into `folder`. Finished runs in it are
  skipped, unfinished ones resumed. ValueError for settings that do not fit, before any training.

  Args:
    config: `title`; `runs` {name: config of an experiment}, in which "{name}" stands for a variant
      chosen by trials; `trials` {name: variants to choose from}; `trial_seeds`. Optional:
      `against`, the variants that all others are compared with, by default the method of the
      first run; `command`, which makes the comparison.
    folder: of the comparison; every run has a folder inside.
    show, to_tensorboard: see `run_experiment`; trials are not written for TensorBoard.
  """
  check_comparison(config)
  if to_tensorboard:
    tensorboard.import_writer()
  runs = config["runs"]
  first, seeds = next(iter(runs)), config["trial_seeds"]
  choice = {
    name: choose_variant(runs[first], trials, seeds, folder / "trials", show)
    for name, trials in config["trials"].items()
  }
  runs = {name: fill_choices(run, choice) for name, run in runs.items()}
  for name, run in runs.items():
    show(f"\n{name}:")
    show(run_experiment(run, folder / name, show=show, to_tensorboard=to_tensorboard))
  against = config.get("against") or (runs[first]["method"],)
  merged = merge_variants([folder / name for name in runs])
  differences = pd.concat([compare_all(name, merged, folder / first) for name in against])
  return write_comparison(config, choice, against, merged, differences, folder)


def choose_variant(
  config: dict, trials: list[str], seeds: int, folder: Path, show: Callable[[str], None]
) -> str:
  """The variant of `trials` with the best mean validation score; the test split is not read.

  Resumes in `folder`, where trials.jsonl has the scores. Only trials of the method itself, or of
  its family, start from `init_from`.
  """
  families = {methods.family(text.partition("(")[0]) for text in (config["method"], *trials)}
  if len(families) > 1:
    config = config | {"init_from": ""}
  config = config | {"method": trials[0], "baselines": tuple(trials[1:]), "seeds": seeds}
  config["train"] = config["train"] | {"seed_devices": 1}  # `seeds` may not divide
  path = folder / "trials.jsonl"
  lines = files.read_jsonl(path) if path.exists() else []
  key = run_dir.config_hash(config | {"method": "", "baselines": ()})
  valid = {line["variant"]: line["valid"] for line in lines if line["key"] == key}
  setup = set_up(parse_experiment(config), folder / key)
  rows = {"train": setup.train_data.split, "valid": setup.valid_data}
  run_dir.write_data(folder / key, setup.dataset, rows)
  for variant in setup.variants:
    if variant.name in valid:
      continue
    scores = train_variant(setup, variant, folder / key).best_score
    valid[variant.name] = mean = float(np.mean(scores))
    lines.append({"key": key, "variant": variant.name, "valid": mean, "seeds": scores.tolist()})
    files.write_jsonl(path, lines)
  best = max(trials, key=lambda text: valid[text])
  show(f"chosen of {len(trials)} on validation: {best} ({valid[best]:.4f})")
  return best


def merge_variants(folders: list[Path]) -> dict[str, MergedVariant]:
  """Every variant of the finished runs; of one that occurs twice, the run with more seeds."""
  merged = {}
  for folder in folders:
    results = result_files.read_results(folder / "results.jsonl")
    with np.load(folder / "predictions.npz") as file:
      seeds = tuple(file["seed"].tolist())
      for name in (n.removeprefix("logits/") for n in file.files if n.startswith("logits/")):
        if name not in merged or len(merged[name].seeds) < len(seeds):
          rows = results[results["method"] == name]
          merged[name] = MergedVariant(seeds, file[f"logits/{name}"], rows)
  return merged


def compare_all(baseline: str, merged: dict[str, MergedVariant], folder: Path) -> pd.DataFrame:
  """Every other variant against `baseline`; the test rows are those of the run in `folder`."""
  spec = saved_model.read_model(folder / "model").spec
  with np.load(folder / "predictions.npz") as file:
    split = Split({}, {}, file["recorded"], file["label"], file["id"])
    patterns, group = file["pattern"], file.get("group")
  other, frames = merged[baseline], [pd.DataFrame()]
  for name in [name for name in merged if name != baseline]:
    ours = merged[name]
    common = [seed for seed in ours.seeds if seed in other.seeds]
    pair = (v.logits[[v.seeds.index(seed) for seed in common]] for v in (ours, other))
    lines = verdicts.compare_variants(spec.task, *pair, split, patterns, spec.names, group)
    shared = {"method": name, "baseline": baseline, "seeds": len(common)}
    frames.append(pd.DataFrame(shared, lines.index).join(lines))
  return pd.concat(frames, ignore_index=True)


def write_comparison(
  config: dict, choice: dict, against: tuple, merged: dict, differences: pd.DataFrame, folder: Path
) -> str:
  """Writes the files of the comparison; returns the markdown: a table of all variants and how they
  differ from those in `against`, then tables of the variants with the most seeds."""
  first, one = next(iter(config["runs"].items()))
  results = pd.concat([variant.results for variant in merged.values()])
  metric = results.loc[results["pattern"].notna(), "metric"].iloc[0]
  blocks = [f"## {config['title']}\n"]
  if "command" in config:
    blocks.append(f"```bash\n{config['command']}\n```\n")
  blocks.append(comparison.variant_table(list(merged), against, results, differences, metric))
  rows = files.read_json(folder / first / "rows.json")
  blocks.append(conclusion.describe_rows(rows) + "\n")
  for name, text in choice.items():
    count = len(config["trials"][name])
    blocks.append(f"{name}: {text}, chosen on validation among {count} trials.\n")
  most = max(len(variant.seeds) for variant in merged.values())
  names = [name for name, variant in merged.items() if len(variant.seeds) == most]
  blocks.append(f"{BY_PATTERN}\n")
  blocks.append(render.to_markdown(tables.pattern_table(results, metric, names)))
  tests = result_files.canonical_protocols(one["test_protocols"])
  if tests:
    blocks.append(render.to_markdown(tables.protocol_table(results, metric, names, tests)))
  text = "\n".join(blocks)
  files.write_json(folder / "comparison.json", differences.to_dict("records"))
  files.write_text(folder / "comparison.md", text)
  made_by = files.read_json(folder / first / "config.json")
  run = html.Report(
    config["title"], made_by, results, comparison=differences, test_protocols=tests, rows=rows
  )
  files.write_text(folder / "report.html", html.render_page(run))
  return text


def check_comparison(config: dict) -> None:
  """ValueError unless the runs share data and protocols, and all lists of trials are as long."""
  if not config["runs"]:
    raise ValueError("runs is empty, at least one experiment is needed")
  counts = {name: len(trials) for name, trials in config["trials"].items()}
  if len(set(counts.values())) > 1:
    raise ValueError(f"trials must be equally many for every variant, found {counts}")
  for field in ("dataset", "data", "label_rate", "train_protocol", "test_protocols"):
    values = [one[field] for one in config["runs"].values()]
    if any(value != values[0] for value in values):
      raise ValueError(f"the runs of a comparison share {field}, found {values}")
  example = {name: trials[0] for name, trials in config["trials"].items()}
  runs = [fill_choices(one, example) for one in config["runs"].values()]
  for one in runs:
    parse_experiment(one)
  known = sorted({name for one in runs for name in (one["method"], *one["baselines"])})
  for name in config.get("against", ()):
    check_choice("against", name, known)


def fill_choices(config: dict, chosen: dict[str, str]) -> dict:
  """The config with every "{name}" in its variants replaced by the variant chosen."""
  names = [config["method"], *config["baselines"]]
  for name, text in chosen.items():
    names = [n.replace("{" + name + "}", text) for n in names]
  return config | {"method": names[0], "baselines": tuple(names[1:])}
