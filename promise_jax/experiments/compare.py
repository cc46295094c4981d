"""Many runs -> one table with intervals and verdicts: how every result is made.

A comparison is a list of experiments on the same data and label rate. Each runs in a
folder of its own (a finished one is skipped, an unfinished one resumed); their variants are
merged, and the method is compared with every other variant on the seeds that both have.
Before that, `trials` may choose the settings of some variants: the same number of trials
for each, on validation alone, with the test split never read.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from promise_jax import files, methods, missing
from promise_jax.checks import check_choice
from promise_jax.evaluation import metrics
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import results as experiment_results
from promise_jax.experiments import run as experiment_run
from promise_jax.experiments import run_dir
from promise_jax.experiments.experiment import parse_experiment
from promise_jax.experiments.setup import set_up
from promise_jax.experiments.train_variant import train_variant
from promise_jax.reports import html
from promise_jax.reports import tables as reports_tables


class Merged(NamedTuple):
  """One variant: `seeds` of the run with the most of them, its `logits` f[S, P, N, C], its
  mean `valid` score and its `lines` of results."""

  seeds: tuple[int, ...]
  logits: np.ndarray
  valid: float
  lines: list[dict]


def run_comparison(config: dict, folder: Path, *, show: Callable[[str], None] = print) -> str:
  """Chooses, runs, merges, compares; writes comparison.md, comparison.json and
  report.html into `folder` and returns the text of the first.

  `config` has `title`, `trials` {name: variants to choose from}, `trial_seeds` and `runs`
  {name: config of an experiment}, in which "{name}" stands for the variant chosen. It may
  have `before`, {name: config} of experiments that are run first and not compared, from
  which the others start whose `init_from` is that name, and `variants`, variants that are
  compared with all others as the method is. Raises ValueError for what does not fit,
  before anything is trained.
  """
  check(config)
  config = config | {"runs": place_runs(config, folder)}
  chosen = {}
  for name, one in config.get("before", {}).items():
    show(f"\n{name}:")
    show(experiment_run.run_experiment(one, folder / name, show=show))
  for name, trials in config["trials"].items():
    first = next(iter(config["runs"].values()))
    chosen[name] = choose(first, trials, config["trial_seeds"], folder / "trials", show)
  runs = {n: fill_choices(c, chosen) for n, c in config["runs"].items()}
  for name, one in runs.items():
    show(f"\n{name}:")
    show(experiment_run.run_experiment(one, folder / name, show=show))
  compared = (next(iter(runs.values()))["method"], *config.get("variants", ()))
  merged = merge([folder / name for name in runs])
  first = folder / next(iter(runs))
  lines = [x for name in compared for x in differences(name, merged, first)]
  return write(config, chosen, compared, merged, lines, folder)


def two_runs(
  arguments: str,
  base,
  *,
  title: str,
  headline: tuple[str, ...],
  others: tuple[str, ...],
  trials: dict[str, tuple[str, ...]] | None = None,
  variants: tuple[str, ...] = (),
  before: dict[str, dict] | None = None,
):
  """The ConfigDict of a comparison of two runs of `base`, a ConfigDict: `headline`
  are the baselines with 20 seeds, `others` the variants with 5, at least one, in a run of
  their own in which the method is not trained again; `trials` have 5 as well. Runs
  `before` have 20, no baselines, and the fields given in place of those of `base`.

  `base` follows the `arguments` of the config file already; ValueError if they set the
  seeds or the baselines.
  """
  from ml_collections import config_dict

  for field in ("seeds", "baselines"):
    if field in experiment_config.parse_pairs(arguments):
      raise ValueError(f"{field} is fixed in this comparison, it cannot be given")
  first, *rest = others
  runs = {
    "headline": {"seeds": 20, "baselines": headline},
    "others": {"seeds": 5, "method": first, "baselines": tuple(rest)},
  }
  runs = {name: base.to_dict() | given for name, given in runs.items()}
  config = {"title": title, "trials": trials or {}, "trial_seeds": 5, "runs": runs}
  if variants:
    config["variants"] = variants
  if before:
    alone = base.to_dict() | {"seeds": 20, "baselines": (), "init_from": ""}
    config["before"] = {name: alone | given for name, given in before.items()}
  return config_dict.ConfigDict(config)


def check(config: dict) -> None:
  """Raises ValueError unless the runs are about one data set, label rate and protocols,
  and every list of trials is as long. The method of the first is that of the table."""
  if not config["runs"]:
    raise ValueError("runs is empty, at least one experiment is needed")
  counts = {name: len(trials) for name, trials in config["trials"].items()}
  if len(set(counts.values())) > 1:
    raise ValueError(f"trials must be equally many for every variant, found {counts}")
  shared = ("dataset", "data", "label_rate")
  for field in (*shared, "train_protocol", "test_protocols"):
    values = [c[field] for c in config["runs"].values()]
    if any(v != values[0] for v in values):
      raise ValueError(f"the runs of a comparison share {field}, found {values}")
  for one in config.get("before", {}).values():
    parse_experiment(one)
  example = {name: trials[0] for name, trials in config["trials"].items()}
  runs = [fill_choices(one, example) for one in config["runs"].values()]
  for one in runs:
    parse_experiment(one)
  variants_of_runs = {variant for one in runs for variant in (one["method"], *one["baselines"])}
  for name in config.get("variants", ()):
    check_choice("variants", name, tuple(sorted(variants_of_runs)))


def place_runs(config: dict, folder: Path) -> dict[str, dict]:
  """The runs, starting from the folders of those that are run `before`."""
  before = {name: str(folder / name) for name in config.get("before", {})}
  return {
    name: one | {"init_from": before.get(one["init_from"], one["init_from"])}
    for name, one in config["runs"].items()
  }


def fill_choices(config: dict, chosen: dict[str, str]) -> dict:
  """The config with every "{name}" in its variants replaced by the variant chosen."""
  names = [config["method"], *config["baselines"]]
  for name, text in chosen.items():
    names = [n.replace("{" + name + "}", text) for n in names]
  return config | {"method": names[0], "baselines": tuple(names[1:])}


def choose(
  config: dict, trials: list[str], seeds: int, folder: Path, show: Callable[[str], None]
) -> str:
  """The variant of `trials` with the best mean validation score over `seeds` seeds.

  Trains on train and valid only, resumably, in `folder`; every score goes to
  trials.jsonl there. Only trials of the method itself, or of its family, start from
  `init_from`.
  """
  families = {methods.family(t.partition("(")[0]) for t in (config["method"], *trials)}
  if len(families) > 1:
    config = config | {"init_from": ""}
  config = config | {"method": trials[0], "baselines": tuple(trials[1:]), "seeds": seeds}
  groups = math.gcd(config["train"]["seed_devices"], seeds)
  config["train"] = config["train"] | {"seed_devices": groups}
  path = folder / "trials.jsonl"
  known = files.read_jsonl(path) if path.exists() else []
  key = run_dir.config_hash(config | {"method": "", "baselines": ()})
  done = {x["variant"]: x["valid"] for x in known if x["key"] == key}
  setup = set_up(parse_experiment(config), folder / key)
  folder.mkdir(parents=True, exist_ok=True)
  for variant in setup.variants:
    if variant.name in done:
      continue
    score = train_variant(setup, variant, folder / key).best_score
    done[variant.name] = float(np.mean(score))
    known.append(
      {"key": key, "variant": variant.name, "valid": done[variant.name], "seeds": score.tolist()}
    )
    files.write_jsonl(path, known)
  best = max(trials, key=lambda text: done[text])
  show(f"chosen of {len(trials)} on validation: {best} ({done[best]:.4f})")
  return best


def merge(folders: list[Path]) -> dict[str, Merged]:
  """Every variant of the finished runs; of a variant that occurs twice, the run with more
  seeds."""
  out = {}
  for folder in folders:
    lines = files.read_jsonl(folder / "results.jsonl")
    with np.load(folder / "predictions.npz") as file:
      seeds = tuple(file["seed"].tolist())
      names = [n.removeprefix("logits/") for n in file.files if n.startswith("logits/")]
      for name in names:
        if name in out and len(out[name].seeds) >= len(seeds):
          continue
        own = [x for x in lines if x["method"] == name]
        valid = np.mean([x["value"] for x in own if x["split"] == "valid"])
        out[name] = Merged(seeds, file[f"logits/{name}"], float(valid), own)
  return out


def differences(method: str, merged: dict[str, Merged], folder: Path) -> list[dict]:
  """The method against every other variant, on the incomplete ones, on all, and on each
  pattern."""
  spec = run_dir.spec_from_json(json.loads((folder / "spec.json").read_text("utf-8")))
  with np.load(folder / "predictions.npz") as file:
    # `group` is there where test rows come in groups (not before it was made use of).
    rows = file["label"], file["recorded"], file.get("group")
    table = file["pattern"]
  full = table.all(axis=1)
  means = {"incomplete": ~full, "all": full | True, "full": full}
  for p, pattern in enumerate(table[~full]):
    means[missing.pattern_name(pattern, spec.names)] = np.arange(len(table)) == p
  lines = []
  for other, variant in merged.items():
    if other == method:
      continue
    both = [s for s in merged[method].seeds if s in variant.seeds]
    pair = tuple(m.logits[[m.seeds.index(s) for s in both]] for m in (merged[method], variant))
    key = {"method": method, "control": other, "seeds": len(both)}
    found = experiment_results.paired_difference_lines(spec.task, pair, rows, table, means)
    lines += [key | line for line in found]
  return lines


def write(
  config: dict,
  chosen: dict[str, str],
  compared: tuple[str, ...],
  merged: dict[str, Merged],
  lines: list[dict],
  folder: Path,
) -> str:
  """The files of the comparison; returns the markdown: a table for each of the variants
  `compared` with all others, and those by pattern and test protocol of the variants with
  the most seeds."""
  results = [x for variant in merged.values() for x in variant.lines]
  metric = lines[0]["metric"] if lines else results[0]["metric"]
  first = folder / next(iter(config["runs"]))
  tables = (variant_table(name, merged, lines, metric, compared) for name in compared)
  text = f"## {config['title']}\n\n" + "\n".join(tables)
  text += describe_rows(first)
  for name, variant in chosen.items():
    count = len(config["trials"][name])
    text += f"\n{name}: {variant}, chosen on validation among {count} trials.\n"
  most = max(len(variant.seeds) for variant in merged.values())
  names = [name for name, variant in merged.items() if len(variant.seeds) == most]
  text += "\n" + reports_tables.to_markdown(reports_tables.pattern_table(results, metric, names))
  tests = next(iter(config["runs"].values()))["test_protocols"]
  if tests:
    table = reports_tables.protocol_table(results, metric, names, tests)
    text += "\n" + reports_tables.to_markdown(table)
  files.write_json(folder / "comparison.json", lines)
  files.write_text(folder / "comparison.md", text)
  made_by = json.loads((first / "config.json").read_text("utf-8"))
  told = reports_tables.Run(config["title"], made_by, results, comparison=lines)
  files.write_text(folder / "report.html", html.render_page(told))
  return text


def describe_rows(folder: Path) -> str:
  """A paragraph on the rows of each split and how many of them are labelled; nothing
  for a run that was finished before runs kept their counts."""
  path = folder / "rows.json"
  if not path.exists():
    return ""
  found = json.loads(path.read_text("utf-8"))
  train, valid, test = (
    f"{found['rows'][name]:,} rows"
    + (f" in {found['groups'][name]:,} groups" if name in found["groups"] else "")
    for name in ("train", "valid", "test")
  )
  labelled = f"{np.mean(found['labelled']):,.1f}".removesuffix(".0")
  return (
    f"\nTrain has {train}, {labelled} of them labelled (mean over seeds); validation "
    f"has {valid}, all labelled; test has {test}.\n"
  )


def variant_table(
  method: str,
  merged: dict[str, Merged],
  lines: list[dict],
  metric: str,
  compared: tuple[str, ...],
) -> str:
  """A row a variant: its means, and what the method has over it on incomplete patterns.

  A variant (the method is not the first of `compared`) is shown beside its own settings
  and the variants with as many seeds. The best control by validation is marked, see
  `outcome.best_control`: of the variants with as many seeds that are no setting of a method
  `compared`.
  """

  def base(name):
    return name.partition("(")[0]

  seeds = len(merged[method].seeds)
  full = [n for n in merged if len(merged[n].seeds) >= seeds]
  others = [n for n in merged if n != method]
  if method != compared[0]:
    others = [n for n in others if n in full or base(n) == base(method)]
  baselines = [n for n in full if base(n) not in map(base, compared)]
  sign = metrics.metric_sign(metric)
  valid = {n: sign * merged[n].valid for n in (method, *(baselines or others))}
  best = experiment_results.best_baseline(method, valid) if others else None
  lines = [x for x in lines if x["method"] == method and x["rows"] == "incomplete"]
  verdicts = {x["control"]: x for x in lines}
  header = ["variant", "seeds", "validation", "incomplete", "full"]
  out = [[*header, f"{method} minus it, incomplete", "verdict for " + method]]
  out.append(["---"] * len(out[0]))
  for name in (method, *others):
    variant = merged[name]
    rows = reports_tables.pattern_table(variant.lines, metric, [name]).rows
    cells = {r.name: reports_tables.show_cell(metric, r.cells[0]) for r in rows}
    full = next(r.name for r in reversed(rows) if not r.name.startswith("mean, "))
    mark = " (best on validation)" if name == best else ""
    line = verdicts.get(name)
    row = [f"`{name}`{mark}", str(len(variant.seeds))]
    row += [reports_tables.show_value(metric, variant.valid)]
    row += [cells.get("mean, incomplete", "-"), cells[full]]
    row += [reports_tables.interval(line), line["verdict"]] if line else ["", ""]
    out.append(row)
  return "\n".join("| " + " | ".join(row) + " |" for row in out) + "\n"
