"""Several runs into one table: choice on validation, merging, intervals, files."""

import json
import shutil

import numpy as np
import pytest

import saved_models
import tiny_runs
from promise_jax import data, files
from promise_jax.evaluation import bootstrap
from promise_jax.experiments import compare, result_files
from promise_jax.inference import saved_model
from promise_jax.reports import render, tables
from promise_jax.training import loop

pytestmark = pytest.mark.usefixtures("compile_once")
TRIALS = ("fusion(fill=zeros)", "fusion(fill=zeros,dropout=false)")


def config() -> dict:
  headline = tiny_runs.get_config("seeds=3,baselines=majority+{fusion}").to_dict()
  others = tiny_runs.get_config("seeds=2,baselines=fusion(fill=token)").to_dict()
  return {
    "title": "A test",
    "trials": {"fusion": TRIALS},
    "trial_seeds": 3,  # as of the run that uses the best: it compiles nothing
    "runs": {"headline": headline, "others": others},
  }


def quietly(given: dict, folder) -> str:
  return compare.run_comparison(given, folder, show=lambda line: None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The folder, the text, and the splits that were read, in order."""
  folder, reads = tmp_path_factory.mktemp("comparison"), []
  load = data.load

  def watched_load(*args, **options):
    dataset = load(*args, **options)
    read = dataset.read
    object.__setattr__(dataset, "read", lambda name: reads.append(name) or read(name))
    return dataset

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data, "load", watched_load)
    text = quietly(config(), folder)
  return folder, text, reads


def comparison_of(folder) -> list[dict]:
  return json.loads((folder / "comparison.json").read_text())


def merged_of(folder) -> dict[str, compare.MergedVariant]:
  return compare.merge_variants([folder / "others", folder / "headline"])


def test_trials_are_scored_on_validation_and_the_best_is_used(finished):
  folder, text, reads = finished
  trials = files.read_jsonl(folder / "trials" / "trials.jsonl")
  assert [t["variant"] for t in trials] == list(TRIALS)
  best = max(trials, key=lambda t: t["valid"])["variant"]
  headline = json.loads((folder / "headline" / "config.json").read_text())["config"]
  assert headline["baselines"] == ["majority", best]
  assert f"fusion: {best}, chosen on validation among 2 trials." in text
  # Two runs read the test split, once each; the trials before them did not.
  assert reads.count("test") == 2
  assert not list((folder / "trials").rglob("results.jsonl"))


def test_trials_train_all_their_seeds_on_all_devices(tmp_path, monkeypatch):
  given = tiny_runs.get_config().to_dict()
  given["train"]["seed_devices"] = 4

  class Enough(Exception):
    pass

  def set_up(experiment, folder):
    assert (experiment.train.seed_devices, len(experiment.seeds)) == (1, 6)
    raise Enough

  monkeypatch.setattr(compare, "set_up", set_up)
  with pytest.raises(Enough):
    compare.choose_variant(given, ("fusion", "distil"), 6, tmp_path, print)
  assert given["train"]["seed_devices"] == 4


def test_a_variant_is_merged_from_the_run_with_the_most_seeds(finished):
  merged = merged_of(finished[0])
  seeds = {name: len(variant.seeds) for name, variant in merged.items()}
  assert seeds["fusion"] == 3 and seeds["fusion(fill=token)"] == 2
  assert set(merged["fusion"].results["seed"]) == {0, 1, 2}


def test_a_difference_is_that_of_plain_accuracies_on_common_seeds(finished):
  folder, _, _ = finished
  merged, lines = merged_of(folder), comparison_of(folder)
  with np.load(folder / "headline" / "predictions.npz") as file:
    label, incomplete = file["label"], ~file["pattern"].all(axis=1)
  assert {x["method"] for x in lines} == set(merged) - {"fusion"}
  for line in (x for x in lines if x["rows"] == "incomplete"):
    variant = merged[line["method"]]
    common = len(variant.seeds)
    means = [
      (v.logits[:common, incomplete].argmax(-1) == label).mean()
      for v in (variant, merged["fusion"])
    ]
    assert line["seeds"] == common
    assert line["difference"] == pytest.approx(means[0] - means[1], abs=1e-6)
    assert line["low"] <= line["difference"] <= line["high"]


def test_the_report_names_every_variant_and_counts_the_rows(finished):
  folder, text, _ = finished
  assert text == (folder / "comparison.md").read_text()
  for name in merged_of(folder):
    assert f"`{name}`" in text
  assert text.count("**`") == 1  # the best on validation
  assert (
    "Train has 48 rows, 24 of them labelled (mean over seeds); validation has 20 rows, "
    "all labelled; test has 20 rows.\n"
  ) in text
  assert "A test" in (folder / "report.html").read_text()


def test_the_test_protocols_of_the_variants_with_most_seeds_follow_the_patterns(finished):
  folder, text, _ = finished
  lines = result_files.read_results(folder / "headline" / "results.jsonl")
  names = list(lines["method"].unique())
  table = tables.protocol_table(lines, "accuracy", names, ("map(0.5,both=1.0)", "bernoulli(0.3)"))
  assert text.endswith("|\n\n" + render.to_markdown(table))
  assert text.index("mean, all") < text.index("| protocol | n | fusion | majority |")


def test_groups_in_the_predictions_are_drawn_whole(tmp_path):
  rng, group = np.random.default_rng(0), np.arange(24) // 6
  spec = tiny_runs.dataset().spec
  arrays = {
    "label": rng.integers(0, 2, 24),
    "recorded": np.ones((24, 2), bool),
    "id": np.arange(24),
    "pattern": tiny_runs.PATTERNS,
  }
  logits = rng.normal(size=(2, 2, 3, 24, 2)).astype(np.float32)
  merged = {n: compare.MergedVariant((0, 1), x, None) for n, x in zip("ab", logits, strict=True)}
  saved_model.write_model(tmp_path / "model", saved_models.make_model(spec), {})

  def differences(**more):
    files.write_npz(tmp_path / "predictions.npz", arrays | more)
    return compare.compare_all("b", merged, tmp_path).set_index("rows")

  without, alone, together = (
    differences(),
    differences(group=np.arange(24)),
    differences(group=group),
  )
  assert without.equals(alone) and not without.equals(together)
  pair = logits.swapaxes(1, 2)
  every = [np.ones(3, bool)]
  (want,) = bootstrap.paired_intervals(
    spec.task, *pair, arrays["label"], np.ones((3, 24)), every, group=group
  )
  assert tuple(together.loc["all", ["difference", "low", "high"]]) == want


def test_a_finished_comparison_trains_nothing(finished, monkeypatch):
  folder, text, _ = finished
  monkeypatch.setattr(loop, "fit", None)
  assert quietly(config(), folder) == text


def test_variants_can_be_compared_with_several(finished, tmp_path):
  folder, _, _ = finished
  copy, other = tmp_path / "copy", "fusion(fill=token)"
  shutil.copytree(folder, copy)
  text = quietly(config() | {"against": ("fusion", other), "command": "make it"}, copy)
  assert f"| minus fusion, incomplete | minus {other}, incomplete |" in text
  assert "```bash\nmake it\n```" in text
  lines = comparison_of(copy)
  assert [x for x in lines if x["baseline"] == "fusion"] == comparison_of(folder)
  pairs = {(x["method"], x["baseline"]): x["difference"] for x in lines if x["rows"] == "all"}
  assert pairs["fusion", other] == pytest.approx(-pairs[other, "fusion"], abs=1e-6)


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (lambda c: c.update(runs={}), "runs is empty"),
    (lambda c: c.update(against=("distil",)), "against is 'distil', known are"),
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
