"""Two processes with two devices each train as one, and stop, die and resume together.

Every run is a real one, over the loopback interface.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from process_pairs import (
  CONFIG,
  HEARTBEAT,
  ROOT,
  STEPS,
  Pair,
  find_free_port,
  last_step,
  saved_steps,
)

import tiny_runs
from promise_jax import files
from promise_jax.devices import mesh as devices_mesh
from promise_jax.experiments import run as experiment_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """Two devices a process, and programs compiled once for all runs."""
  folder = tmp_path_factory.mktemp("compiled")
  return tiny_runs.fast_environment(devices=2) | {"JAX_COMPILATION_CACHE_DIR": str(folder)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
  """A run that nobody disturbs."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  end = Pair(folder, environment, slurm=True).end()
  assert end.codes == [0, 0], end
  return SimpleNamespace(folder=folder, out=end.out)


@pytest.fixture(scope="module")
def story(tmp_path_factory, environment, whole):
  """One folder, the same command again and again: the second process is killed, SIGTERM comes
  to one, the first process is killed, which coordinates and writes; then to the end."""
  folder, ends, saved = tmp_path_factory.mktemp("story") / "run", {}, {}
  for name, number, process in (
    ("second killed", signal.SIGKILL, 1),
    ("stopped", signal.SIGTERM, 1),
    ("first killed", signal.SIGKILL, 0),
  ):
    pair = Pair(folder, environment)
    pair.wait_for(max(last_step(folder), 5))
    pair.processes[process].send_signal(number)
    ends[name], saved[name] = pair.end(), saved_steps(folder)
    if not saved[name] or saved[name][-1] == STEPS:
      break  # the machine was too fast; the tests below say so
    if name == "second killed":
      shutil.copytree(folder, folder.parent / "elastic")
  ends["end"] = Pair(folder, environment).end()
  return SimpleNamespace(folder=folder, ends=ends, saved=saved)


def test_one_process_writes_and_shows(whole):
  assert "accuracy" in whole.out[0] and "files:" in whole.out[0]
  # Threads of gloo may write into each other's lines, piece by piece: of each of its
  # sentences three numbers of one digit are left, and nothing else is there.
  pieces = r"\[Gloo\] Rank |is connected to|peer ranks\. |"
  pieces += r"Expected number of connected peer ranks is :|\s"
  left = re.sub(pieces, "", whole.out[1])
  assert re.fullmatch(r"\d*", left) and len(left) == 3 * whole.out[1].count("[Gloo]")
  config = json.loads((whole.folder / "config.json").read_text())
  assert config["processes"] == 2 and config["device"]["count"] == 4
  lines = files.read_jsonl(whole.folder / "metrics.jsonl")
  assert len(lines) == len({(x["step"], x["seed"]) for x in lines}) == 2 * STEPS // 5


def run_in_one_process(folder: Path, monkeypatch, devices: int) -> None:
  """The same run on some of the eight devices of this process."""
  mesh = devices_mesh.make_mesh(jax.devices()[:devices])
  monkeypatch.setattr(devices_mesh, "make_mesh", lambda *_, **__: mesh)
  config = tiny_runs.get_config(CONFIG).to_dict()
  config["train"]["steps"] = STEPS
  with tiny_runs.compile_once(folder.parent / "compiled"):
    experiment_run.run_experiment(config, folder, show=lambda text: None)


def assert_runs_close(a: Path, b: Path) -> None:
  """Two runs end in the same numbers to rounding, of the same rows."""
  with np.load(a / "predictions.npz") as ours, np.load(b / "predictions.npz") as theirs:
    tiny_runs.assert_close(dict(ours), dict(theirs), atol=1e-4)
  ours, theirs = (files.read_jsonl(x / "metrics.jsonl") for x in (a, b))
  assert [(x["step"], x["seed"]) for x in ours] == [(x["step"], x["seed"]) for x in theirs]
  losses = [[x["loss"] for x in lines] for lines in (ours, theirs)]
  np.testing.assert_allclose(*losses, atol=1e-5)


def test_two_processes_train_as_one_with_as_many_devices(whole, tmp_path, monkeypatch):
  run_in_one_process(tmp_path / "run", monkeypatch, 4)
  assert_runs_close(tmp_path / "run", whole.folder)
  hashes = [
    [(x["mask_hash"], x.get("train_mask_hash"), x["n"]) for x in files.read_jsonl(path)]
    for path in (tmp_path / "run/results.jsonl", whole.folder / "results.jsonl")
  ]
  assert hashes[0] == hashes[1]


STREAMED = """
import pathlib, sys
from promise_jax.devices import distributed
distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), 20)
import tiny_runs
from streams import stream
from promise_jax.devices import mesh as devices_mesh
from promise_jax.training import loop
from promise_jax.training.checkpoint import Checkpoints

source = tiny_runs.dataset()
rows = tiny_runs.train_data(source, protocol="bernoulli(0.3)")
method, streamed = tiny_runs.linear_method(source.spec), stream(rows)
inputs = streamed.split.inputs.values()

def fit(train_data, mesh, **more):
  valid = source.split("valid")
  config = tiny_runs.train_config()
  return loop.fit(method, source.spec, train_data, valid, config, mesh=mesh, **more)

mesh, logs = devices_mesh.make_mesh(), ([], [])
resident = fit(rows, mesh, log=logs[0].extend)
assert tiny_runs.is_same(resident[:4], fit(streamed, mesh)[:4])
for x in inputs:
  assert x.num_read == [2 * 5 * 8] * 4, x.num_read  # both seeds, its half of the 16 rows
  x.num_read.clear()
parts = devices_mesh.make_mesh(seed_devices=2)
for found in (fit(rows, parts), fit(streamed, parts)):
  tiny_runs.assert_close(found[:4], resident[:4], rtol=1e-4, atol=1e-5)
for x in inputs:
  assert x.num_read == [5 * 16] * 4, x.num_read  # all rows of its own seed
for stop in tiny_runs.stop_after(1), lambda: 0:
  with Checkpoints(pathlib.Path(sys.argv[3])) as checkpoints:
    try:
      again = fit(streamed, mesh, log=logs[1].extend, checkpoints=checkpoints, stop=stop)
    except loop.TrainingInterrupted as stopped:
      assert stopped.step == 5
assert tiny_runs.is_same(resident[:4], again[:4]) and logs[1] == logs[0]
"""


def test_each_process_streams_the_rows_of_its_own_devices(environment, tmp_path):
  """And what both saved goes on as if it had not been stopped."""
  address = f"127.0.0.1:{find_free_port()}"
  path = f"{Path(__file__).parents[1]}:{Path(__file__).parents[1] / 'data'}:{ROOT}"
  both = [
    subprocess.Popen(
      [sys.executable, "-c", STREAMED, address, str(i), str(tmp_path)],
      env=environment | {"PYTHONPATH": path},
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  errors = [p.communicate(timeout=120)[1] for p in both]
  assert [p.returncode for p in both] == [0, 0], errors


def test_another_config_in_one_process_is_refused_by_all(environment, tmp_path):
  pair = Pair(tmp_path / "run", environment, second=("--config.train.optim.lr=0.5",))
  end = pair.end()
  assert end.codes == [2, 2], end
  for text in end.err:
    assert "belongs to another config: train.optim.lr was 0.003, is 0.5" in text
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(("name", "killed"), [("second killed", 1), ("first killed", 0)])
def test_when_one_process_is_killed_the_other_ends(story, name, killed):
  end = story.ends[name]
  assert end.codes[killed] == -signal.SIGKILL and end.codes[1 - killed] != 0
  assert end.s < HEARTBEAT + 10
  assert story.saved[name] and max(story.saved[name]) < STEPS


def test_sigterm_to_one_process_saves_and_stops_both(story):
  end, last = story.ends["stopped"], story.saved["stopped"][-1]
  assert end.codes == [0, 0], end
  assert story.saved["second killed"][-1] < last < STEPS
  assert f"stopped and saved after step {last}" in end.out[0] and "stopped" not in end.out[1]
  assert f"resuming from step {story.saved['second killed'][-1]} of {STEPS}" in end.out[0]


def test_a_disturbed_run_ends_like_an_undisturbed_one(story, whole):
  assert story.ends["end"].codes == [0, 0], story.ends["end"]
  for name in ("results.jsonl", "metrics.jsonl"):
    assert (story.folder / name).read_text() == (whole.folder / name).read_text()
  ours, theirs = (dict(np.load(f / "predictions.npz")) for f in (story.folder, whole.folder))
  assert ours.keys() == theirs.keys() and tiny_runs.is_same(ours, theirs)
  ours, theirs = (f / "model" / "fusion.safetensors" for f in (story.folder, whole.folder))
  assert ours.read_bytes() == theirs.read_bytes()


def test_a_run_goes_on_with_other_devices_and_processes(story, whole, monkeypatch):
  """Begun by two processes with four devices, ended by one with one."""
  folder = story.folder.parent / "elastic"
  begun = (folder / "metrics.jsonl").read_text().splitlines()
  run_in_one_process(folder, monkeypatch, 1)
  saved = story.saved["second killed"][-1]
  kept = [x for x in begun if x.endswith("}") and json.loads(x)["step"] <= saved]
  assert (folder / "metrics.jsonl").read_text().splitlines()[: len(kept)] == kept
  assert_runs_close(folder, whole.folder)
