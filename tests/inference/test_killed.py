"""What a killed command leaves: nothing under the name of the output, or something whole."""

import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import promise_jax
import tiny_runs
from inference import saved_runs
from promise_jax.cli import main

# Runs `promise-jax WORDS` and kills itself when it calls a function for the NUMBERth time.
COMMAND = """
import importlib, os, signal, sys
from promise_jax.cli import main

module, name, number, *words = sys.argv[1:]
module = importlib.import_module(module)
function, calls = getattr(module, name), []

def call(*args, **options):
  calls.append(name)
  if len(calls) == int(number):
    os.kill(os.getpid(), signal.SIGKILL)
  return function(*args, **options)

setattr(module, name, call)
main.main(words)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The folder of a run, with 5,000 rows to predict, which are two blocks."""
  folder = tmp_path_factory.mktemp("killed")
  saved_runs.save_run(folder)
  np.savez(folder / "new.npz", v=np.random.default_rng(0).normal(size=(5000, 3)))
  return folder


def kill(module, name, number, *words):
  """The command `words`, killed by SIGKILL at a call of a function of promise_jax."""
  words = [f"promise_jax.{module}", name, str(number), *words]
  environment = tiny_runs.fast_environment()
  found = subprocess.run([sys.executable, "-c", COMMAND, *words], env=environment, timeout=120)
  assert found.returncode == -signal.SIGKILL


def test_killed_predictions_are_no_file_and_the_next_are_whole(run, tmp_path):
  out = tmp_path / "out.csv"
  words = ["predict", str(run), str(run / "new.npz"), "--out", str(out)]
  kill("inference.predictions", "tabulate_block", 2, *words)
  assert [p.suffix[:6] for p in tmp_path.iterdir()] == [".part-"]
  assert main.main(words) == 0
  assert [p.name for p in tmp_path.iterdir()] == ["out.csv"]
  assert pd.read_csv(out)["id"].tolist() == list(range(5000))


def test_a_killed_export_leaves_the_one_before_and_none_that_loads(run, tmp_path):
  out = tmp_path / "model"
  words = ["export", str(run), "--out", str(out)]
  assert main.main([*words, "--seeds", "0"]) == 0
  kill("files", "write_bytes", 3, *words)
  assert promise_jax.load(out).seeds == (0,)
  (left,) = tmp_path.glob(".model.*")
  with pytest.raises(ValueError, match="has no model.json"):
    promise_jax.load(left / "new")
  assert main.main(words) == 0
  assert promise_jax.load(out).seeds == saved_runs.SEEDS
  assert [p.name for p in tmp_path.iterdir()] == ["model"]
