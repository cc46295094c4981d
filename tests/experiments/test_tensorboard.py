"""Curves for TensorBoard: what its files hold, read record by record, and what a resume hides."""

import os
import shutil
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

import tiny_runs
from promise_jax import files
from promise_jax.cli.main import main
from promise_jax.experiments import run as experiment_run
from promise_jax.training import checkpoint, loop

pytestmark = pytest.mark.usefixtures("compile_once")
TINY = str(Path(tiny_runs.__file__))


def read_events(path: Path) -> list[event_pb2.Event]:
  """The records of an event file: length u64, its checksum u32, the event, its checksum u32."""
  content, events = path.read_bytes(), []
  while content:
    (length,) = struct.unpack("<Q", content[:8])
    events.append(event_pb2.Event.FromString(content[12 : 12 + length]))
    content = content[16 + length :]
  return events


def read_scalars(folder: Path) -> dict[tuple[str, int], float]:
  """{(name, step): value} as TensorBoard shows them; asserts that none is there twice."""
  found = {}
  for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
    for event in read_events(path):
      if event.session_log.status == event_pb2.SessionLog.START:
        found = {key: value for key, value in found.items() if key[1] < event.step}
      for value in event.summary.value:
        assert (value.tag, event.step) not in found
        found[value.tag, event.step] = value.simple_value
  return found


def run(folder: Path) -> None:
  config = tiny_runs.get_config("baselines=majority+fusion(fill=zeros)").to_dict()
  experiment_run.run_experiment(config, folder, show=lambda text: None, to_tensorboard=True)


def test_scalars_are_those_of_the_log_and_a_resume_doubles_none(tmp_path, monkeypatch):
  """The run is stopped after step 15 and its last checkpoint is lost, so that step 15 is run twice:
  as after a kill."""
  save = checkpoint.Checkpoints.save

  def save_and_stop(self, step, tree):
    save(self, step, tree)
    if step == 10:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, "save", save_and_stop)
    with pytest.raises(loop.TrainingInterrupted):
      run(tmp_path)
  curves = tmp_path / "tensorboard" / "fusion"
  assert {step for _, step in read_scalars(curves / "seed_0")} == {5, 10, 15}
  shutil.rmtree(tmp_path / "checkpoints" / "fusion" / "15")
  run(tmp_path)
  lines = files.read_jsonl(tmp_path / "metrics.jsonl")
  folders = {"fusion": "fusion", "fusion(fill=zeros)": "fusion_fill=zeros"}
  assert {path.name for path in curves.parent.iterdir()} == set(folders.values())
  for method, folder in folders.items():
    for seed in (0, 1):
      want = {
        (name, x["step"]): value
        for x in lines
        if (x["method"], x["seed"]) == (method, seed)
        for name, value in x.items()
        if name not in ("method", "seed", "stage", "step")
      }
      found = read_scalars(curves.parent / folder / f"seed_{seed}")
      assert {step for _, step in found} == {5, 10, 15, 20} and ("loss", 20) in found
      assert found == {key: np.float32(value) for key, value in want.items()}


def test_without_the_flag_there_are_no_curves(tmp_path):
  config = tiny_runs.get_config("method=majority,baselines=none").to_dict()
  experiment_run.run_experiment(config, tmp_path / "run", show=lambda text: None)
  assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.mark.parametrize(
  ("command", "sentence"),
  [
    (f"train --config {TINY} --log=tensorboard", 'pip install "promise-jax[track]"'),
    ("compare --config results/methods --log=tensorboard", 'pip install "promise-jax[track]"'),
    (f"train --config {TINY} --log=wandb", "invalid choice: 'wandb'"),
  ],
)
def test_a_writer_that_is_not_there_is_one_sentence(
  command, sentence, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  assert main(command.split()) == 2
  out, err = capsys.readouterr()
  assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and sentence in err
  assert not list(tmp_path.iterdir())
