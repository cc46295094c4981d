"""Processes of the command line: what a signal does, and what another process may do."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from promise_jax import files

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = str(Path(tiny_runs.__file__))


def command(script: str, *flags: str) -> list[str]:
  return [sys.executable, str(ROOT / "launch" / script), *flags]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """One device, and programs compiled once for all processes."""
  folder = tmp_path_factory.mktemp("compiled")
  return tiny_runs.fast_environment() | {"JAX_COMPILATION_CACHE_DIR": str(folder)}


STEPS = 80  # 16 calls a variant: time enough to be killed in one


class Run:
  """A training process in the background on one folder."""

  def __init__(self, folder: Path, environment: dict, *flags: str):
    variants = "method=fusion,baselines=majority+distil"
    call = command("train.py", f"--config={TINY}:{variants}", f"--workdir={folder}", *flags)
    call += [f"--config.train.steps={STEPS}", "--config.train.save_every=0"]
    self.folder = folder
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    self.process = subprocess.Popen(call, env=environment, **pipes)

  def steps(self, variant: str) -> int:
    """How far the log says that a variant is."""
    path = self.folder / "metrics.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    lines = [json.loads(line) for line in whole]
    return max((x["step"] for x in lines if x["method"] == variant), default=0)

  def wait_for(self, variant: str, beyond: int) -> None:
    """Returns when the variant has logged a step after `beyond`."""
    end = time.monotonic() + 300
    while self.steps(variant) <= beyond:
      assert self.process.poll() is None, self.process.communicate()
      assert time.monotonic() < end, "no progress"
      time.sleep(0.01)

  def end(self, number: int | None = None) -> SimpleNamespace:
    """Sends a signal, if any, and waits: the code and what was printed."""
    if number is not None:
      assert self.process.poll() is None
      self.process.send_signal(number)
    out, err = self.process.communicate(timeout=300)
    return SimpleNamespace(code=self.process.returncode, out=out, err=err)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
  """A run that nobody disturbs."""
  folder = tmp_path_factory.mktemp("whole")
  end = Run(folder, environment).end()
  assert end.code == 0, end.err
  return SimpleNamespace(folder=folder, out=end.out)


@pytest.fixture(scope="module")
def story(tmp_path_factory, environment, whole):
  """One folder, the same command again and again: SIGTERM and SIGKILL in the first variant,
  SIGINT in the second, then to the end. While the first runs, another process tries the
  folder."""
  folder = tmp_path_factory.mktemp("story")
  first, second = "fusion", "distil"
  chance, ended, at = random.Random(0), {}, []
  run = Run(folder, environment)
  run.wait_for(first, 0)
  run.process.send_signal(signal.SIGSTOP)  # holds the lock, and time stands still
  try:
    ended["locked"] = Run(folder, environment).end()
  finally:
    run.process.send_signal(signal.SIGCONT)
  ended["SIGTERM"] = run.end(signal.SIGTERM)
  for name, variant in (("SIGKILL", first), ("SIGINT", second)):
    reached = Run.steps(run, variant)
    run = Run(folder, environment)
    run.wait_for(variant, reached)
    time.sleep(chance.uniform(0, 0.1))
    ended[name] = run.end(getattr(signal, name))
    at.append((variant, Run.steps(run, variant)))
    assert not (folder / "results.jsonl").exists()
  ended["end"] = Run(folder, environment).end()
  return SimpleNamespace(folder=folder, at=at, ended=ended)


def test_the_signals_came_in_the_middle_of_a_variant(story):
  assert all(0 < step < STEPS for _, step in story.at), story.at


def test_sigterm_saves_says_so_and_is_no_failure(story):
  end = story.ended["SIGTERM"]
  assert end.code == 0
  assert "stopped and saved after step" in end.out and "goes on" in end.out


def test_ctrl_c_saves_and_is_130(story):
  end = story.ended["SIGINT"]
  assert end.code == 130 and "stopped and saved after step" in end.out
  assert "Traceback" not in end.err


def test_a_killed_process_is_killed(story):
  assert story.ended["SIGKILL"].code == -signal.SIGKILL


def test_a_folder_in_use_is_refused(story):
  end = story.ended["locked"]
  assert end.code == 2 and "in use by another process" in end.err
  assert "Traceback" not in end.err


def test_a_run_that_was_stopped_three_times_ends_like_one_that_was_not(story, whole):
  assert story.ended["end"].code == 0, story.ended["end"].err
  table = lambda out: out[out.index("accuracy (%)") : out.index("files:")]
  assert table(story.ended["end"].out) == table(whole.out)
  for name in ("results.jsonl", "comparison.json"):
    assert (story.folder / name).read_text() == (whole.folder / name).read_text()
  logs = [files.read_jsonl(f / "metrics.jsonl") for f in (story.folder, whole.folder)]
  assert logs[0] == logs[1] and len(logs[0]) == 2 * 2 * STEPS // 5
  ours, theirs = (dict(np.load(f / "predictions.npz")) for f in (story.folder, whole.folder))
  assert ours.keys() == theirs.keys() and tiny_runs.is_same(ours, theirs)
  for variant in ("fusion", "distil"):
    ours, theirs = (f / "model" / f"{variant}.safetensors" for f in (story.folder, whole.folder))
    assert ours.read_bytes() == theirs.read_bytes()


def test_a_run_that_diverges_says_where_and_fails(tmp_path, environment):
  """The labels are fine, a rate of 1e30 is not: code 1, a sentence, no table."""
  end = Run(tmp_path, environment, "--config.train.optim.lr=1e30").end()
  assert end.code == 1 and "Traceback" not in end.err
  last = end.err.strip().splitlines()[-1]
  assert last.startswith("error: the loss is ") and " of seed " in last
  assert not (tmp_path / "results.jsonl").exists()


def test_evaluation_from_the_command_line(whole, environment):
  """--masks and --split arrive where they should; a table is printed."""
  masks = whole.folder.parent / "masks.npz"
  flags = [f"--workdir={whole.folder}", "--protocol=exact(0.5)", "--split=valid"]
  call = command("evaluate.py", *flags, f"--masks={masks}")
  more = {"capture_output": True, "text": True, "timeout": 120}
  before = (whole.folder / "results.jsonl").read_text()
  process = subprocess.run(call, env=environment, **more)
  assert process.returncode == 0, process.stderr
  for word in ("fusion", "distil", "majority", "accuracy", "macro_f1"):
    assert word in process.stdout
  after = (whole.folder / "results.jsonl").read_text()
  assert after.startswith(before)
  added = [json.loads(line) for line in after[len(before) :].splitlines()]
  assert {(x["protocol"], x["split"]) for x in added} == {("exact(0.5)", "valid")}
  with np.load(masks) as file:
    np.testing.assert_array_equal((~file["mask"]).sum(axis=0), [10, 10])
