"""Several runs into one table: choice on validation, merging, intervals, files."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest

import tiny_runs
from promise_jax import data, files
from promise_jax.evaluation import bootstrap, metrics
from promise_jax.experiments import compare, run_dir
from promise_jax.experiments import config as experiment_config
from promise_jax.reports import tables

pytestmark = pytest.mark.usefixtures("compile_once")


def config() -> dict:
  headline = tiny_runs.get_config("seeds=3,baselines=majority+{fusion}").to_dict()
  others = tiny_runs.get_config("seeds=2,baselines=fusion(fill=token)").to_dict()
  trials = ("fusion(fill=zeros)", "fusion(fill=zeros,dropout=false)")
  return {
    "title": "A test",
    "trials": {"fusion": trials},
    "trial_seeds": 2,
    "runs": {"headline": headline, "others": others},
  }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The folder, the text, and the splits that were read, in order."""
  folder, events = tmp_path_factory.mktemp("comparison"), []
  patch = pytest.MonkeyPatch()
  load = data.load

  def watched(*args, **options):
    source = load(*args, **options)
    read = source.read
    object.__setattr__(source, "read", lambda name: events.append(name) or read(name))
    return source

  patch.setattr(data, "load", watched)
  with patch.context():
    text = compare.run_comparison(config(), folder, show=lambda line: None)
  patch.undo()
  return folder, text, events


def test_trials_are_scored_on_validation_and_the_best_is_used(finished):
  folder, _, events = finished
  trials = files.read_jsonl(folder / "trials" / "trials.jsonl")
  assert [t["variant"] for t in trials] == list(config()["trials"]["fusion"])
  best = max(trials, key=lambda t: t["valid"])["variant"]
  variants = json.loads((folder / "headline" / "config.json").read_text())["config"]
  assert variants["baselines"] == ["majority", best]
  # Two runs read the test split, once each; the trials before them did not.
  assert events.count("test") == 2
  assert not list((folder / "trials").rglob("results.jsonl"))


def test_trials_are_in_groups_that_divide_their_seeds(tmp_path, monkeypatch):
  """Those of a run of 12 seeds in four groups, with six seeds, are in two."""
  one = tiny_runs.get_config().to_dict()
  one["train"]["seed_devices"], found = 4, []

  class Enough(Exception):
    pass

  def prepare(config):
    found.append((config["train"]["seed_devices"], config["seeds"]))
    raise Enough

  monkeypatch.setattr(compare.variants, "prepare", prepare)
  with pytest.raises(Enough):
    compare.choose(one, ("fusion", "distil"), 6, tmp_path, print)
  assert found == [(2, 6)] and one["train"]["seed_devices"] == 4


def test_arms_are_merged_with_the_run_of_most_seeds(finished):
  folder, _, _ = finished
  merged = compare.merge([folder / "others", folder / "headline"])
  seeds = {name: len(variant.seeds) for name, variant in merged.items()}
  assert seeds["fusion"] == 3 and seeds["fusion(fill=token)"] == 2
  assert {x["seed"] for x in merged["fusion"].lines} == {0, 1, 2}


def test_a_difference_is_that_of_plain_accuracies_on_common_seeds(finished):
  folder, _, _ = finished
  merged = compare.merge([folder / "headline", folder / "others"])
  lines = json.loads((folder / "comparison.json").read_text())
  with np.load(folder / "headline" / "predictions.npz") as file:
    label, table = file["label"], file["pattern"]
  incomplete = ~table.all(axis=1)
  assert {x["control"] for x in lines} == set(merged) - {"fusion"}
  for line in (x for x in lines if x["rows"] == "incomplete"):
    control = merged[line["control"]]
    common = len(control.seeds)
    means = [
      (m.logits[:common, incomplete].argmax(-1) == label).mean()
      for m in (merged["fusion"], control)
    ]
    assert line["seeds"] == common
    assert line["difference"] == pytest.approx(means[0] - means[1], abs=1e-6)
    assert line["low"] <= line["difference"] <= line["high"]


def test_the_table_names_every_variant_and_the_files_are_there(finished):
  folder, text, _ = finished
  assert text == (folder / "comparison.md").read_text()
  for name in compare.merge([folder / "headline", folder / "others"]):
    assert f"`{name}`" in text
  assert text.count("best on validation") == 1 and "among 2 trials" in text
  assert "A test" in (folder / "report.html").read_text()


def test_the_test_protocols_of_the_arms_with_most_seeds_follow_the_patterns(finished):
  folder, text, _ = finished
  lines = files.read_jsonl(folder / "headline" / "results.jsonl")
  variants = tables.order_methods(x["method"] for x in lines)
  tests = config()["runs"]["headline"]["test_protocols"]
  table = tables.protocol_table(lines, "accuracy", variants, tests)
  assert text.endswith("|\n\n" + tables.to_markdown(table))
  assert text.index("mean, all") < text.index("| protocol | n | fusion | majority |")
  assert text.count("map(0.5,both=1.0)") == text.count("bernoulli(0.3)") == 1


def test_two_runs_of_one_base():
  base = tiny_runs.get_config("label_rate=0.25")
  before = base.to_dict()
  fixed = {"title": "T", "headline": ("majority", "{a}"), "others": ("distil", "b")}
  found = compare.make_two_runs("label_rate=0.25", base, **fixed).to_dict()
  assert found == {
    "title": "T",
    "trials": {},
    "trial_seeds": 5,
    "runs": {
      "headline": before | {"seeds": 20, "baselines": ("majority", "{a}")},
      "others": before | {"seeds": 5, "method": "distil", "baselines": ("b",)},
    },
  }
  more = {"trials": {"a": ("fusion", "distil")}, "variants": ("distil",)}
  assert compare.make_two_runs("", base, **fixed, **more).to_dict() == found | more
  assert base.to_dict() == before
  for field in ("seeds", "baselines"):
    with pytest.raises(ValueError, match=f"{field} is fixed"):
      compare.make_two_runs(f"fold=1,{field}=3", base, **fixed)


@pytest.mark.parametrize("name", ["redcore", "robult"])
def test_the_comparisons_of_the_results_fit(name):
  path = Path(__file__).parents[2] / "configs" / "results" / f"{name}.py"
  scope = runpy.run_path(str(path))
  for arguments in ("", "dataset=watch", "dataset=emoji,label_rate=0.5"):
    given = scope["get_config"](arguments).to_dict()
    compare.check_comparison(given)
    for one in given["runs"].values():
      fields = ("seeds", "method", "baselines", "train_protocol")
      own = {field: one[field] for field in fields}
      plain = experiment_config.default_config(name, one["dataset"], one["label_rate"]).to_dict()
      assert one == plain | own
    assert [one["seeds"] for one in given["runs"].values()] == [20, 5]
    named = [[one["method"], *one["baselines"]] for one in given["runs"].values()]
    assert named[0][0] == name and not set(named[0]) & set(named[1])


def test_the_rows_that_were_used_are_told(finished, tmp_path):
  # 48, 20 and 20 rows; 24 labelled.
  _, text, _ = finished
  assert (
    "Train has 48 rows, 24 of them labelled (mean over seeds); validation has 20 rows, "
    "all labelled; test has 20 rows.\n"
  ) in text
  assert compare.describe_rows(tmp_path) == ""
  grouped = {
    "rows": {"train": 1774, "valid": 213, "test": 272},
    "groups": {"train": 50, "valid": 7, "test": 9},
    "labelled": [77, 78, 78],
  }
  files.write_json(tmp_path / "rows.json", grouped)
  assert compare.describe_rows(tmp_path) == (
    "\nTrain has 1,774 rows in 50 groups, 77.7 of them labelled (mean over seeds); "
    "validation has 213 rows in 7 groups, all labelled; test has 272 rows in 9 "
    "groups.\n"
  )


def test_groups_in_the_predictions_are_drawn_whole(tmp_path):
  """With the array `group`, with one group a row, and without, as older runs are."""
  rng, group = np.random.default_rng(0), np.arange(24) // 6
  label = rng.integers(0, 2, 24)
  rows = {"label": label, "recorded": np.ones((24, 2), bool)}
  rows["pattern"] = np.array([[True, False], [False, True], [True, True]])
  logits = rng.normal(size=(2, 2, 3, 24, 2)).astype(np.float32)
  merged = {
    name: compare.Merged((0, 1), values, 0.5, []) for name, values in zip("ab", logits, strict=True)
  }
  spec = run_dir.spec_to_json(tiny_runs.dataset().spec)
  files.write_json(tmp_path / "spec.json", spec)

  def found(**more):
    files.write_npz(tmp_path / "predictions.npz", rows | more)
    return compare.differences("a", merged, tmp_path)

  old, alone, together = found(), found(group=np.arange(24)), found(group=group)
  assert old == alone != together
  arguments = metrics.accuracy, 1, *logits.swapaxes(1, 2), label, np.ones((3, 24))
  want = bootstrap.paired_difference_over_patterns(*arguments, group=group)
  got = [together[1][key] for key in ("difference", "low", "high", "verdict")]
  assert together[1]["rows"] == "all" and tuple(got) == want


def test_a_finished_comparison_trains_nothing(finished, monkeypatch):
  folder, text, _ = finished
  monkeypatch.setattr(compare.variants.train, "fit", None)
  assert compare.run_comparison(config(), folder, show=lambda line: None) == text


def test_a_variant_is_compared_as_the_method_is(finished, tmp_path):
  folder, text, _ = finished
  copy, variant = tmp_path / "copy", "fusion(fill=token)"
  shutil.copytree(folder, copy)
  show = lambda line: None
  longer = compare.run_comparison(config() | {"variants": (variant,)}, copy, show=show)
  assert f"| {variant} minus it, incomplete |" in longer.replace("`", "")
  lines = json.loads((copy / "comparison.json").read_text())
  before = json.loads((folder / "comparison.json").read_text())
  assert [x for x in lines if x["method"] == "fusion"] == before
  swapped = {(x["method"], x["control"]): x["difference"] for x in lines if x["rows"] == "all"}
  there, back = swapped["fusion", variant], swapped[variant, "fusion"]
  assert there == pytest.approx(-back, abs=1e-6)


def test_runs_start_from_one_that_is_run_before(finished, tmp_path, monkeypatch):
  """The one before is finished already; it is not a line of the table."""
  folder, _, _ = finished
  shutil.copytree(folder / "headline", tmp_path / "backbone")
  before = json.loads((folder / "headline" / "config.json").read_text())["config"]
  main = tiny_runs.get_config("seeds=2,baselines=none").to_dict() | {"init_from": "backbone"}
  given = {"trials": {}, "before": {"backbone": before}, "runs": {"main": main}}
  seen, fit = [], compare.variants.train.fit
  watched = lambda *args, start, **more: seen.append(start) or fit(*args, start=start, **more)
  monkeypatch.setattr(compare.variants.train, "fit", watched)
  text = compare.run_comparison(config() | given, tmp_path, show=lambda line: None)
  assert "majority" not in text and len(seen) == 1 and len(seen[0]) > 3
  told = json.loads((tmp_path / "main" / "init.json").read_text())["fusion"]
  assert told["init_from"] == str(tmp_path / "backbone") and told["fresh"] == {}


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (lambda c: c.update(runs={}), "runs is empty"),
    (lambda c: c.update(variants=("distil",)), "variants is 'distil', known are"),
    (lambda c: c["trials"].update(more=("distil",)), "equally many"),
    (lambda c: c["runs"]["others"].update(label_rate=0.1), "share label_rate"),
    (lambda c: c["runs"]["others"].update(test_protocols=()), "share test_protocols"),
    (lambda c: c["trials"].update(fusion=("nonsense", "distil")), "not a method"),
  ],
)
def test_what_does_not_fit_is_refused_before_training(change, sentence, tmp_path):
  wrong = config()
  change(wrong)
  with pytest.raises(ValueError, match=sentence):
    compare.run_comparison(wrong, tmp_path / "new")
  assert not (tmp_path / "new").exists()
