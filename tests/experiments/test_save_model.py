"""RUN/model/ of a real run, and the checkpoints that it makes needless."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import tiny_runs
from promise_jax.evaluation import gain, predict
from promise_jax.experiments import result_files, run_dir, save_model
from promise_jax.experiments import run as experiment_run
from promise_jax.inference import saved_model
from promise_jax.training import loop

VARIANTS = ["fusion", "majority", "fusion(fill=zeros)"]

pytestmark = pytest.mark.usefixtures("compile_once")


class Killed(BaseException):
  """As if the process had been killed."""


def run(folder, **train) -> str:
  given = tiny_runs.get_config("baselines=majority+fusion(fill=zeros)").to_dict()
  given["train"] |= train
  return experiment_run.run_experiment(given, folder, show=lambda text: None)


def killed(*args, **options):
  raise Killed


def files_of(folder) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A finished run: its folder, its table and what `fit` returned."""
  folder, fits, fit = tmp_path_factory.mktemp("save") / "run", [], loop.fit

  def fit_and_note(*args, **options):
    fits.append(fit(*args, **options))
    return fits[-1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "fit", fit_and_note)
    table = run(folder)
  return SimpleNamespace(folder=folder, table=table, fits=fits)


def test_the_model_has_the_best_parameters_and_predicts_as_the_run_did(finished):
  inside = finished.folder / "model"
  model, test = saved_model.read_model(inside), tiny_runs.dataset().split("test")
  assert [v.name for v in model.variants] == VARIANTS and model.seeds == (0, 1)
  with np.load(finished.folder / "predictions.npz") as file:
    for name in VARIANTS:
      method, *best = saved_model.load_variant(inside, model, name)
      if method:
        fitted = finished.fits[VARIANTS.index(name) // 2]
        assert tiny_runs.is_same(tuple(best), (fitted.params, fitted.model_state))
      logits = predict.predict_split(method, *best, test, tiny_runs.PATTERNS)
      np.testing.assert_allclose(logits, file[f"logits/{name}"], atol=1e-6)
    np.testing.assert_allclose(model.prior, file["logits/majority"][:, 0, 0].mean(axis=0))
    # Every present modality has no gain of asking, every absent one has.
    fitted = gain.Gain.from_json(model.gains[name])
    assert (np.isnan(fitted.mean).all(axis=-1) == tiny_runs.PATTERNS).all()
  assert tiny_runs.is_same(model.spec.standardise, tiny_runs.dataset().spec.standardise)


def test_the_best_variant_is_that_of_validation_and_the_card_has_the_test_scores(finished):
  model = saved_model.read_model(finished.folder / "model")
  results = result_files.read_results(finished.folder / "results.jsonl")
  valid = results[results["split"] == "valid"].groupby("method")["value"].mean()
  assert {v.name: v.valid_score for v in model.variants} == pytest.approx(valid.to_dict())
  assert model.best == valid.drop("majority").idxmax()
  own = results[(results["split"] == "test") & (results["pattern"] == "m0+m1")]
  own = own[(own["metric"] == "accuracy") & (own["method"] == "fusion")]
  found = model.card["metrics"]["fusion"]["m0+m1"]["accuracy"]
  assert found == pytest.approx(own["value"].mean()) and len(own) == 2
  assert model.card["rows"]["rows"] == {"train": 48, "valid": 20, "test": 20}


def test_the_constant_is_best_only_alone_and_ties_go_to_the_first():
  def best_of(**scores):
    variants = [
      SimpleNamespace(name=name, method=name != "majority" or None, best_score=np.array(score))
      for name, score in scores.items()
    ]
    return save_model.find_best(variants)

  assert best_of(majority=[9, 9], a=[1, 3], b=[2, 2], c=[0, 3]) == "a"
  assert best_of(majority=[0]) == "majority"


def test_metrics_are_averaged_over_seeds_by_pattern():
  lines = pd.DataFrame(
    [("a", "m0", "test", 1.0), ("a", "m0", "test", 2.0), ("a", None, "test", 9.0)]
    + [("a", "m0", "valid", 9.0), ("b", "m0+m1", "test", 4.0)],
    columns=["method", "pattern", "split", "value"],
  ).assign(metric="mae", protocol="none", n=9)
  want = {"a": {"m0": {"n": 9, "mae": 1.5}}, "b": {"m0+m1": {"n": 9, "mae": 4.0}}}
  assert save_model.average_metrics(lines) == want


def test_a_run_that_is_killed_while_it_ends_ends_the_same(finished, tmp_path, monkeypatch):
  """Between model/ and results.jsonl, and between two deletions of checkpoints."""
  folder, kept = tmp_path / "run", tmp_path / "run" / "checkpoints"
  assert not (finished.folder / "checkpoints").exists()
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(result_files, "write_results", killed)
    run(folder)
  assert (folder / "model" / "model.json").exists() and not run_dir.is_finished(folder)
  assert len(list(kept.iterdir())) == 2
  assert run(folder, keep_checkpoints=True) == finished.table
  assert len(list(kept.iterdir())) == 2
  ours, theirs = (files_of(f) for f in (folder, finished.folder))
  assert ours == theirs and len(ours) == 4

  def delete_some(path, **options):
    (path / "fusion").rename(tmp_path / "away")
    raise Killed

  monkeypatch.setattr(loop, "fit", None)
  with monkeypatch.context() as patch, pytest.raises(Killed):
    patch.setattr(shutil, "rmtree", delete_some)
    run(folder)
  assert run(folder) == finished.table and not kept.exists()


def test_the_checkpoints_of_a_run_without_a_model_stay(finished, tmp_path):
  """One of a version that did not write models: nothing else has its parameters."""
  shutil.copytree(finished.folder, tmp_path / "run")
  shutil.rmtree(tmp_path / "run" / "model")
  (tmp_path / "run" / "checkpoints" / "fusion").mkdir(parents=True)
  assert run(tmp_path / "run") == finished.table
  assert (tmp_path / "run" / "checkpoints" / "fusion").exists()
