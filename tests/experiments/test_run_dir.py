"""The folder of a run: what it refuses, and what is refused before it is made."""

import dataclasses
import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from promise_jax import data, files, missing
from promise_jax.experiments import run as experiment_run
from promise_jax.experiments import run_dir
from promise_jax.experiments.config import DATA_OPTIONS, PREFETCH_OPTIONS
from promise_jax.experiments.experiment import parse_experiment
from promise_jax.experiments.setup import load_dataset
from promise_jax.training import loop


@pytest.fixture(scope="module", autouse=True)
def short_runs():
  """None here: settings are refused for the number of devices."""


def config(arguments: str = "") -> dict:
  return tiny_runs.get_config(f"method=robult,baselines=majority+distil,{arguments}").to_dict()


def run(folder, given=None) -> str:
  return experiment_run.run_experiment(given or config(), folder, show=lambda text: None)


def open_run(folder, given):
  return run_dir.open_run(folder, parse_experiment(given))


@pytest.fixture
def folder(tmp_path):
  """The folder of a run that has begun."""
  with open_run(tmp_path / "begun", config()):
    pass
  return tmp_path / "begun"


def test_another_config_is_refused_and_the_fields_named(folder):
  with pytest.raises(ValueError, match="label_rate was 0.5, is 0.25") as error:
    run(folder, config("label_rate=0.25,seeds=3"))
  assert "seeds was 2, is 3" in str(error.value) and "method" not in str(error.value)


def test_a_run_may_continue_with_other_readers_and_devices(folder):
  given = config()
  given["data"] |= {"threads": 3, "workers": 1}
  given["train"]["seed_devices"] = 2
  with open_run(folder, given):
    pass
  plain = config()
  plain["data"] |= PREFETCH_OPTIONS
  hashes = [run_dir.config_hash(one) for one in (given, plain)]
  assert hashes[0] == hashes[1] != run_dir.config_hash(given | {"seeds": 4})
  several = [run_dir.config_hash({"runs": {"headline": one}}) for one in (given, plain)]
  assert several[0] == several[1]
  with pytest.raises(ValueError, match="another config: seeds was 2, is 4; another --workdir"):
    open_run(folder, given | {"seeds": 4}).__enter__()


def test_a_folder_in_use_is_refused(folder):
  with open_run(folder, config()):
    with pytest.raises(ValueError, match="in use"):
      open_run(folder, config()).__enter__()
  with open_run(folder, config()):
    pass


@pytest.mark.parametrize(
  ("name", "text"),
  [("config.json", '{"model_type": "bert"}'), ("config.json", "[1]"), ("a.txt", "")],
)
def test_a_folder_of_something_else_is_refused(tmp_path, name, text):
  (tmp_path / name).write_text(text)
  with pytest.raises(ValueError, match="not a run|is not empty"):
    run(tmp_path)
  assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
  ("section", "changed", "sentence"),
  [
    ("train", {"steps": 23}, "steps is 23"),
    ("train", {"batch_size": 12}, "multiple of the 8 devices"),
    ("train", {"labelled_per_batch": 99}, "99 labelled"),
    ("train", {"seed_devices": 3}, "devices in use must be a multiple of it"),
    ("data", {"modalities": 0}, "modalities is 0"),
    ("data", {"modalities": 3}, "both is for exactly 2 modalities, found 3"),
    ("robult", {"contrast": "nothing"}, "robult.contrast is 'nothing'"),
  ],
)
def test_what_does_not_fit_is_refused_before_a_folder_is_made(tmp_path, section, changed, sentence):
  given = config()
  given[section] |= changed
  with pytest.raises(ValueError, match=sentence):
    run(tmp_path / "run", given)
  assert not (tmp_path / "run").exists()


def test_data_without_a_test_split_are_refused(tmp_path, monkeypatch):
  source = dataclasses.replace(tiny_runs.dataset(), splits=("train", "valid"))
  monkeypatch.setattr(data, "load", lambda *args, **options: source)
  with pytest.raises(ValueError, match="no test split"):
    run(tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_rows_in_groups_are_drawn_and_counted_whole(tmp_path):
  """rows.json has the rows and groups of every split, and what is missing in train."""
  rng, group = np.random.default_rng(0), np.arange(60) // 3
  x = {f"x_m{i}": rng.normal(size=(60, 4)) for i in range(2)}
  np.savez(tmp_path / "own.npz", y=group % 2, group=group, **x)
  given = tiny_runs.get_config("method=majority,baselines=none").to_dict()
  given |= {"dataset": str(tmp_path / "own.npz"), "train_protocol": "exact(0.5,0.25)"}
  given["data"] = {"data_dir": "", **DATA_OPTIONS}
  run(tmp_path / "run", given)
  source = load_dataset(parse_experiment(given).data)
  with np.load(tmp_path / "run" / "predictions.npz") as file:
    assert file["group"].tolist() == (file["id"] // 3).tolist()
    assert file["id"].tolist() == source.split("test").id.tolist()
  draw = {"split": "train", "ids": source.split("train").id, "modalities": 2}
  kept = [missing.draw_mask("exact(0.5,0.25)", seed=s, **draw) for s in (0, 1)]
  assert json.loads((tmp_path / "run" / "rows.json").read_text()) == {
    "rows": {"train": 36, "valid": 12, "test": 12},
    "groups": {"train": 12, "valid": 4, "test": 4},
    "labelled": [18, 18],
    "missing": {"m0": 0.5, "m1": 0.25},
    "empty": pytest.approx(np.mean([not row.any() for x in kept for row in x])),
    "unrecorded": {name: {"m0": 0, "m1": 0} for name in ("train", "valid", "test")},
    "samples": [],
  }


def test_a_step_chosen_on_the_complete_pattern_is_said_to_be(tmp_path):
  """The constant predictor is scored on what selects; its lines say what that is."""
  given = tiny_runs.get_config("method=majority,baselines=none").to_dict()
  given["train"]["select_on"] = "full"
  run(tmp_path / "run", given)
  lines = files.read_jsonl(tmp_path / "run" / "results.jsonl")
  (valid, *_) = [x for x in lines if x["split"] == "valid"]
  assert valid["protocol"] == "full pattern"
  source = tiny_runs.dataset()
  split, rows = source.split("valid"), tiny_runs.train_data(source)
  known = rows.split.label[rows.labelled[0]]
  right = split.label == np.bincount(known).argmax()
  assert valid["value"] == pytest.approx(right.mean())


def test_a_signal_between_two_variants_stops_there(tmp_path, monkeypatch):
  """One that comes when all are trained ends the process, as it does by default."""
  train = SimpleNamespace(steps=20)
  setup = SimpleNamespace(experiment=SimpleNamespace(train=train), variants=("a", "b"))
  trained, default = [], signal.getsignal(signal.SIGTERM)

  def train_one(setup, variant, folder, **options):
    trained.append(variant)
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(experiment_run, "train_variant", train_one)
  with pytest.raises(loop.TrainingInterrupted) as stopped:
    experiment_run.train_variants(setup, tmp_path, None, False)
  assert stopped.value.signal == signal.SIGTERM and len(trained) == 1
  assert signal.getsignal(signal.SIGTERM) is default
