"""A run with nine modalities, whose patterns are too many to test all; and one that test lacks."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import tiny_runs
from promise_jax import files, load, missing, patterns
from promise_jax.data import loading
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import run as experiment_run
from promise_jax.experiments.evaluate import evaluate_run
from promise_jax.inference import saved_model
from promise_jax.types import Inputs

pytestmark = pytest.mark.usefixtures("compile_once")
ROWS = {"rows": (24, 16, 16), "dim": 4, "modalities": 9, "classes": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder, lines = tmp_path_factory.mktemp("nine") / "run", []
  given = tiny_runs.get_config("baselines=majority,test_protocols=exact(0.4),seeds=2").to_dict()
  given["data"] = given["data"] | ROWS
  given["train"] = given["train"] | {"steps": 5}
  text = experiment_run.run_experiment(given, folder, show=lines.append)
  return SimpleNamespace(folder=folder, text=text, lines=lines)


def find_hits(folder, mask) -> np.ndarray:
  """bool[S, N]: what the trained model gets right of the test rows, predicted under `mask`."""
  rows = loading.load("synthetic", **ROWS).split("test")
  inside = folder / "model"
  model = saved_model.read_model(inside)
  method, *arrays = saved_model.load_variant(inside, model, "fusion")
  inputs = Inputs(rows.inputs, {}, mask, rows.id)
  call = jax.jit(lambda *seed: method.predict(*seed, inputs)["logits"])
  logits = [call(*jax.tree.map(lambda x, s=s: x[s], arrays)) for s in range(2)]
  return np.array([x.argmax(axis=-1) == rows.label for x in logits])


@pytest.mark.parametrize("protocol", ["bernoulli(0.5)", "exact(0.4)", "exact(0.7)"])
def test_protocols_are_predicted_under_their_own_masks(protocol, finished):
  if protocol == "exact(0.7)":  # it was not among the tests of the run
    evaluate_run(finished.folder, protocol)
  rows = loading.load("synthetic", **ROWS).split("test")
  mask = missing.draw_mask(protocol, seed=0, split="test", ids=rows.id, modalities=9)
  hits, shown = find_hits(finished.folder, mask), mask.any(axis=1)
  lines = [
    x
    for x in files.read_jsonl(finished.folder / "results.jsonl")
    if (x["method"], x["protocol"], x["metric"]) == ("fusion", protocol, "accuracy")
  ]
  want = hits[:, shown].mean(axis=1).tolist()
  assert [x["value"] for x in lines] == pytest.approx(want, abs=1e-6)
  assert {x["n"] for x in lines} == {int(shown.sum())}


def test_a_pattern_of_the_sample_is_predicted_as_such(finished):
  (line,) = [
    x
    for x in files.read_jsonl(finished.folder / "results.jsonl")
    if (x["method"], x["metric"], x["seed"]) == ("fusion", "accuracy", 1)
    and x["pattern"] == [f"m{i}" for i in range(8)]
  ]
  mask = np.tile([True] * 8 + [False], (16, 1))
  assert line["value"] == pytest.approx(find_hits(finished.folder, mask)[1].mean())


def test_the_sample_is_told_everywhere(finished):
  tested, selecting = patterns.describe_samples(9)
  assert {tested, selecting} <= {*finished.lines}
  assert "a fixed sample of 249 of the 511 patterns" in finished.text
  assert "Shapley values are not computed for more than 8 modalities" in finished.text
  page = (finished.folder / "report.html").read_text("utf-8")
  assert tested in page and "Shapley values are not computed" in page
  stored = np.load(finished.folder / "predictions.npz")
  assert stored["pattern"].shape == (249, 9) and stored["logits/fusion"].shape[:2] == (2, 249)
  assert files.read_json(finished.folder / "model" / "model.json")["card"]["samples"][0] == tested
  with pytest.raises(ValueError, match="8 modalities at most; this model has 9"):
    load(finished.folder).contribution({"m0": np.zeros((2, 4))})


def test_evaluate_tests_the_same_sample(finished):
  before = (finished.folder / "results.jsonl").read_text()
  evaluate_run(finished.folder)
  ours, theirs = (
    {
      (x["method"], str(x["pattern"]), x["protocol"], x["metric"], x["seed"]): x["value"]
      for x in lines
    }
    for lines in (
      [x for x in map(files.json.loads, before.splitlines()) if x["split"] == "test"],
      [x for x in files.read_jsonl(finished.folder / "results.jsonl") if x["split"] == "test"],
    )
  )
  assert ours.keys() == theirs.keys()
  values = [(ours[key] or 0, theirs[key] or 0) for key in ours]
  np.testing.assert_allclose(*zip(*values, strict=True), atol=1e-6)


def test_a_modality_that_test_lacks_enters_no_mean_and_no_verdict(tmp_path):
  rng, split = np.random.default_rng(0), np.repeat(["train", "valid", "test"], (40, 20, 30))
  y = rng.integers(0, 2, 90)
  x = {f"x_m{i}": rng.normal(size=(90, 3)) + y[:, None] for i in range(2)}
  np.savez(tmp_path / "mine.npz", y=y, split=split, present_m1=split != "test", **x)
  given = tiny_runs.get_config("baselines=fusion(fill=zeros),test_protocols=none").to_dict()
  given |= {"dataset": str(tmp_path / "mine.npz")}
  given["data"] = experiment_config.default_config("fusion", "mfeat", 0.5).data.to_dict()
  folder = tmp_path / "run"
  text = experiment_run.run_experiment(given, folder, show=lambda line: None)
  assert "no row has m1, which is left out" in text and "undefined" not in text
  table = [line.split()[0] for line in text.splitlines() if line[:3] in ("m0 ", "m1 ")]
  assert table == ["m0", "m0"]  # alone and, with nothing of m1, as m0 + m1
  names = lambda file, key: {x[key] for x in files.read_json(folder / file)}
  assert names("comparison.json", "rows") == {"incomplete", "all", "m0", "m0+m1"}
  assert names("contribution.json", "modality") == {"m0"}
  assert names("calibration.json", "pattern") == {"m0"}
  card = files.read_json(folder / "model" / "model.json")["card"]
  assert card["metrics"]["fusion"].keys() == {"m0", "m0+m1"}
  shown = {x["difference"] for x in files.read_json(folder / "comparison.json")}
  assert all(np.isfinite(value) for value in shown)
