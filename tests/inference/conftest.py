"""A saved run that the tests of a module share."""

import pytest

import promise_jax
from inference import saved_runs


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
  """(folder, predictor, arrays of its npz file)."""
  folder = tmp_path_factory.mktemp("run") / "classes"
  arrays, *_ = saved_runs.save_run(folder)
  return folder, promise_jax.load(folder), arrays
