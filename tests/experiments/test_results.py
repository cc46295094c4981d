"""The results of a run: the best constant, and results.jsonl there and back."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from promise_jax import files, missing
from promise_jax.evaluation import calibration, sentiment_metrics
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import predictions, result_files, results, run


@pytest.fixture(scope="module")
def sentiment_run(tmp_path_factory):
  """The folder and the text of a run of the constant predictor on sentiment labels."""
  folder, rng = tmp_path_factory.mktemp("sentiment"), np.random.default_rng(0)
  split = np.repeat(["train", "valid", "test"], (30, 11, 19))
  x = {f"x_m{i}": rng.normal(size=(60, 2)) for i in range(2)}
  np.savez(folder / "mine.npz", y=rng.uniform(-3, 3, 60).round(1), split=split, scale=3.0, **x)
  given = tiny_runs.get_config("method=majority,baselines=none").to_dict()
  given |= {"dataset": str(folder / "mine.npz"), "test_protocols": ()}
  given["data"] = experiment_config.default_config("fusion", "mfeat", 0.5).data.to_dict()
  return folder / "run", run.run_experiment(given, folder / "run", show=lambda text: None)


def test_the_best_constant_stands_beside_the_variants_of_a_sentiment_run(sentiment_run):
  folder, text = sentiment_run
  found = result_files.read_results(folder / "results.jsonl")
  key = ["seed", "metric", "protocol", "mask_hash", "split", "pattern", "n"]
  where = lambda frame: sorted(map(str, frame[key].to_numpy().tolist()))
  test = found[found["split"] == "test"]
  best = test[test["method"] == results.BEST_CONSTANT]
  assert where(best) == where(test[test["method"] == "majority"])
  names = ["mae", "corr", *(m.__name__ for m in sentiment_metrics.SENTIMENT)]
  for head in ("mean, incomplete", "mean, all"):
    block = re.search(rf"\n{head} +majority +best constant\n(.+?)(?:\n\n|\n?$)", text, re.S)[1]
    assert [line.split(" ")[0] for line in block.split("\n")] == names
  assert results.BEST_CONSTANT in (folder / "report.html").read_text()


def test_results_are_read_as_they_were_written(sentiment_run, tmp_path):
  path = sentiment_run[0] / "results.jsonl"
  result_files.write_results(tmp_path / "again.jsonl", result_files.read_results(path))
  assert (tmp_path / "again.jsonl").read_text() == path.read_text()
  lines = files.read_jsonl(path)
  assert {str(x["pattern"]) for x in lines} == {"None", "['m0']", "['m1']", "['m0', 'm1']"}
  # A field without a value is not there.
  assert {x["split"] for x in lines if "step" in x} == {"valid"}
  assert {x["protocol"][:9] for x in lines if "rate" in x} == {"bernoulli"}


def test_calibrations_are_fitted_to_validation_rows_alone(monkeypatch):
  rows = tiny_runs.dataset()
  valid, test = rows.split("valid"), rows.split("test")
  given = SimpleNamespace(
    experiment=SimpleNamespace(test_protocols=()),
    dataset=rows,
    valid_data=valid,
    spec=rows.spec,
    patterns=missing.all_patterns(2),
  )

  def predict(method, params, model_state, split, patterns=(), **options):
    logits = [4 * split.inputs[name][:, :2] for name in ("m0", "m1", "m1")]
    return np.array(logits)[None]

  own = "method", "params", "model_state"
  variants = [SimpleNamespace(name="a", **dict(zip(own, own, strict=True)))]
  monkeypatch.setattr(predictions.predict, "predict_split", predict)
  spoilt = test._replace(
    inputs={name: np.full_like(x, np.nan) for name, x in test.inputs.items()}, label=1 - test.label
  )
  fitted = []
  for split in (test, spoilt):
    predicted = predictions.predict_variants(given, variants, split)
    np.testing.assert_array_equal(predicted["test"]["a"], predict(*own, split))
    np.testing.assert_array_equal(predicted["valid"]["a"], predict(*own, valid))
    fitted.append(predictions.fit_calibrations(given, predicted["valid"]))
  assert fitted[0] == fitted[1] and fitted[0]["a"].num_rows == (0, 20, 20)


def test_gains_are_of_calibrated_probabilities():
  rows, patterns = tiny_runs.dataset(), missing.all_patterns(2)
  valid = rows.split("valid")
  given = SimpleNamespace(dataset=rows, valid_data=valid, spec=rows.spec, patterns=patterns)
  logits = 3 * np.random.default_rng(0).normal(size=(2, 3, 20, 2))
  fitted = predictions.fit_calibrations(given, {"a": logits})
  found = predictions.fit_gains(given, {"a": logits}, fitted)["a"]
  entropy = []
  for p in (0, 2):
    num_present = np.full(20, sum(patterns[p]))
    probability = calibration.calibrate(fitted["a"], logits[:, p], num_present)
    entropy.append(-(probability * np.log(probability)).sum(axis=-1))
  # 20 rows are too few for thirds of them.
  np.testing.assert_allclose(found.mean[0, 1], np.mean(entropy[0] - entropy[1]), atol=1e-9)


def test_a_run_measures_the_calibration_of_every_variant(sentiment_run):
  folder, _ = sentiment_run
  found = result_files.read_run(folder).calibration
  assert set(found["variant"]) == {"majority"} and set(found["n"]) == {19}
  assert set(found["metric"]) == {"coverage", "width"} and len(found) == 6
  # 11 validation rows are enough for 90 % intervals; all of them have the same one.
  assert found.groupby("metric")["after"].nunique().to_dict() == {"coverage": 1, "width": 1}
  assert np.isfinite(found["after"]).all() and found["before"].isna().all()


def test_numbers_that_are_null_in_a_file_are_undefined():
  lines = [{"metric": "mae", "low": None, "high": None}]
  frame = result_files.make_frame(lines, "difference", "low", "high")
  assert frame[["low", "high"]].isna().all(axis=None) and set(frame.dtypes[1:]) == {np.dtype(float)}


def test_contributions_share_what_a_variant_is_better_than_the_constant():
  rows = tiny_runs.dataset()
  train, test = tiny_runs.train_data(rows), rows.split("test")
  given = SimpleNamespace(train_data=train, spec=rows.spec)
  logits = np.random.default_rng(0).normal(size=(2, 3, 20, 2)).astype(np.float32)
  found = results.measure_contributions(given, {"a": logits, "majority": logits}, test, None)
  assert set(found["variant"]) == {"a"}
  right = logits[:, -1].argmax(axis=-1) == test.label
  majority = [np.bincount(train.split.label[known]).argmax() for known in train.labelled]
  better = right.mean() - np.mean([(test.label == c).mean() for c in majority])
  values = found[(found["rows"] == "all") & (found["kind"] == "shapley")]["value"]
  np.testing.assert_allclose(values.sum(), better, atol=1e-9)
  nothing = results.measure_contributions(given, {"majority": logits}, test, None)
  assert not len(nothing)
