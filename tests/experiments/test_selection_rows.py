"""Of many validation rows a sample selects the step of each seed, and the run says so."""

from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from promise_jax import files
from promise_jax.data import loading
from promise_jax.experiments import run as experiment_run
from promise_jax.experiments import setup

pytestmark = pytest.mark.usefixtures("compile_once")
ROWS = {"rows": (32, 30, 16), "dim": 4, "modalities": 2, "classes": 2}


@pytest.mark.parametrize("most", [7, 12])
def test_a_sample_has_the_classes_of_the_split(most):
  rows = loading.load("synthetic", **ROWS).split("valid")
  chosen = setup.choose_rows(rows, "classes", most)
  assert len(chosen.id) == most
  place = {row_id: n for n, row_id in enumerate(rows.id.tolist())}
  where = [place[row_id] for row_id in chosen.id.tolist()]
  assert where == sorted(set(where))
  np.testing.assert_array_equal(chosen.inputs["m0"], rows.inputs["m0"][where])
  share = np.bincount(rows.label) / len(rows.label)
  assert np.all(np.abs(np.bincount(chosen.label) - most * share) <= 1)


@pytest.mark.parametrize("most", [0, 30, 31])
def test_a_small_split_is_read_as_it_is(most):
  rows = loading.load("synthetic", **ROWS).split("valid")
  assert setup.choose_rows(rows, "classes", most) is rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  folder, lines = tmp_path_factory.mktemp("sample") / "run", []
  given = tiny_runs.get_config("baselines=majority,test_protocols=none,seeds=2").to_dict()
  given["data"] = given["data"] | ROWS
  given["train"] = given["train"] | {"steps": 5, "valid_rows": 12}
  experiment_run.run_experiment(given, folder, show=lines.append)
  return SimpleNamespace(folder=folder, lines=lines)


def test_the_run_says_how_many_rows_select(finished):
  (line,) = [x for x in finished.lines if "train.valid_rows" in x]
  assert line.startswith("12 of the 30 validation rows")


def test_scores_are_those_of_the_sample(finished):
  lines = files.read_jsonl(finished.folder / "results.jsonl")
  lines = [x for x in lines if x["split"] == "valid"]
  assert {x["n"] for x in lines} == {12}
  rows = setup.choose_rows(loading.load("synthetic", **ROWS).split("valid"), "classes", 12)
  possible = [np.mean(rows.label == c) for c in (0, 1)]  # what a constant may score
  scores = [x["value"] for x in lines if x["method"] == "majority"]
  assert len(scores) == 2
  assert all(np.isclose(x, possible, atol=1e-6).any() for x in scores)
