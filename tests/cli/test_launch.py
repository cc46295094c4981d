"""The command line itself, as processes: what it refuses, and that it can be killed."""

import json
import os
import platform
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
from promise_jax.training import checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TINY = str(Path(tiny_runs.__file__))
ROBULT = str(ROOT / "configs" / "robult.py")
# name: (flags of train.py, a part of the sentence)
REFUSED = {
  "unknown flag": (["--colour=red"], "Unknown command line flag 'colour'"),
  "no flag": (["rubbish"], "'rubbish' is not a flag"),
  "no config": ([], "--config is missing"),
  "no such config": (["--config=nowhere.py"], "nowhere.py"),
  "a comparison": (
    [f"--config={ROOT / 'configs' / 'results' / 'robult.py'}"], "is for launch/compare"
  ),
  "no comparison": (["compare.py", f"--config={ROBULT}"], "is for launch/train.py"),
  "no such argument": ([f"--config={TINY}:stepz=3"], "'stepz' is unknown, known are"),
  "no value": ([f"--config={TINY}:seeds"], "'seeds' is not of the form key=value"),
  "no such preset": ([f"--config={TINY}:preset=huge"], "preset is 'huge', known are"),
  "no number": ([f"--config={TINY}:seeds=many"], "seeds is 'many', expected a whole"),
  "no such field": ([f"--config={TINY}", "--config.train.stepz=3"], "'stepz' is no"),
  "wrong type": ([f"--config={TINY}", "--config.train.steps=few"], "few"),
  "typo": ([f"--config={ROBULT}:dataset=synthetic", "--config.robult.contrast=typo"],
           "robult.contrast is 'typo', known are"),
  "no such data": ([f"--config={ROBULT}:dataset=minst"], "'minst'"),
  "kinds of no file": (
    [f"--config={ROBULT}:dataset=mfeat", "--config.kinds.fou=image"],
    "has no kinds, the option is for npz files",
  ),
  "no such modality": (
    [f"--config={ROBULT}:dataset=own.npz", "--config.kinds.sound=sequence"],
    "kinds names 'sound', the modalities are a, b.",
  ),
  "no such kind": (
    [f"--config={ROBULT}:dataset=own.npz", "--config.kinds.a=vector",
     "--config.kinds.b=audio"],
    "kinds.b is 'audio', known are image, tokens, sequence, vector",
  ),
  "no such protocol": ([f"--config={TINY}:train_protocol=often"], "known: none"),
  "bad protocol": ([f"--config={TINY}:train_protocol=bernoulli(2)"], "[0, 1]"),
  "no labels": ([f"--config={TINY}:label_rate=0"], "label_rate is 0.0, it must lie in"),
  "no seeds": ([f"--config={TINY}:seeds=0"], "seeds is 0"),
  "no such control": ([f"--config={TINY}:baselines=nonsense"], "'nonsense' is not a"),
  "variant twice": ([f"--config={TINY}:baselines=fusion"], "repeat"),
  "no such method": ([f"--config={TINY}:method=robust"], "known are robult, redcore"),
  "odd steps": ([f"--config={TINY}", "--config.train.steps=21"], "steps is 21"),
  "rate": ([f"--config={TINY}", "--config.train.optim.lr=-1.0"], "lr is -1.0"),
  "warm-up": ([f"--config={TINY}", "--config.train.optim.warmup=1.0"], "warmup is 1.0"),
  "a file": ([f"--config={TINY}", "--workdir=file"], "file is a file"),
  "not this run": (
    [f"--config={TINY}", "--workdir=ours"], "label_rate was 0.25, is 0.5"
  ),
  "not ours": ([f"--config={TINY}", "--workdir=full"], "full is not empty"),
  "no workdir": (["evaluate.py", "--protocol=none"], "--workdir is missing"),
  "not a run": (["evaluate.py", "--protocol=none", "--workdir=full"], "is not a run"),
}  # fmt: skip


def command(*flags: str) -> list[str]:
  """A launch script (train.py unless another is named first) with flags."""
  named = flags and flags[0] in ("evaluate.py", "compare.py")
  name, *rest = flags if named else ("train.py", *flags)
  return [sys.executable, str(ROOT / "launch" / name), *rest]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """One device, and programs compiled once for all processes."""
  folder = tmp_path_factory.mktemp("compiled")
  return tiny_runs.short() | {"JAX_COMPILATION_CACHE_DIR": str(folder)}


# Imports once and forks a process for every [folder, script and flags] it is given.
DRIVER = """
import json, os, runpy, sys, traceback
from promise_jax import experiment

for folder, call in json.load(sys.stdin):
  child = os.fork()
  if child:
    status = os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)  # a child would repeat it
    continue
  code = 1
  try:
    for number, name in ((1, ".out"), (2, ".err")):
      os.dup2(os.open(folder + name, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    sys.argv, sys.path[0] = call, os.path.dirname(call[0])
    runpy.run_path(call[0], run_name="__main__")
    code = 0
  except SystemExit as end:
    code = end.code
  except BaseException:
    traceback.print_exc()
  finally:
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory, environment):
  """{name: (code, stdout, stderr, folder)} of all REFUSED. Each has a folder of its own
  that holds a file, a folder with something in it, and a run of another config."""
  folders = {}
  for name in REFUSED:
    folders[name] = folder = tmp_path_factory.mktemp("refused")
    (folder / "file").write_text("x")
    np.savez(folder / "own.npz", x_a=np.eye(9), x_b=np.eye(9), y=np.arange(9) % 3)
    (folder / "full").mkdir()
    (folder / "full" / "thesis.txt").write_text("x")
    other = {"config": tiny_runs.get_config("label_rate=0.25").to_dict()}
    (folder / "ours").mkdir()
    (folder / "ours" / "config.json").write_text(json.dumps(other))
  calls = [(str(folders[name]), command(*REFUSED[name][0])[1:]) for name in REFUSED]
  more = {"capture_output": True, "text": True, "timeout": 200, "env": environment}
  more |= {"input": json.dumps(calls), "check": True}
  told = subprocess.run([sys.executable, "-c", DRIVER], **more).stdout
  codes = dict(zip(REFUSED, map(int, told.split()), strict=True))
  return {
    name: (
      codes[name],
      Path(f"{folder}.out").read_text(),
      Path(f"{folder}.err").read_text(),
      folder,
    )
    for name, folder in folders.items()
  }


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_sentence_and_writes_nothing(refusals, name):
  code, out, err, folder = refusals[name]
  assert code == 2, err
  lines = err.strip().splitlines()
  assert len(lines) == 1 and lines[0].startswith("error: "), err
  assert REFUSED[name][1] in lines[0]
  assert out == ""
  there = sorted(p.name for p in folder.rglob("*"))
  known = ["config.json", "file", "full", "ours", "own.npz", "thesis.txt"]
  assert there == known


def test_bad_input_to_a_process_of_its_own(tmp_path, environment):
  more = {"capture_output": True, "text": True, "timeout": 120, "env": environment}
  call = command(f"--config={ROBULT}:stepz=3")
  process = subprocess.run(call, cwd=tmp_path, **more)
  assert process.returncode == 2 and process.stdout == ""
  assert process.stderr.startswith("error: config argument 'stepz' is unknown, known")
  assert process.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_programs_are_kept_in_the_cache_folder(tmp_path):
  """Where the user does not say otherwise: a second process compiles nothing new."""
  unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
  own = {k: v for k, v in os.environ.items() if k not in unset}
  own |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_NUM_CPU_DEVICES": "1"}
  code = "import cli, jax; cli.keep_programs(); print(jax.jit(lambda x: x + 1)(1))"
  kept = []
  for _ in range(2):
    call = [sys.executable, "-c", code]
    subprocess.run(call, cwd=ROOT / "launch", env=own, check=True, timeout=120)
    folder = tmp_path / "promise_jax" / "programs"
    kept.append(sorted(x.name for x in folder.iterdir() if x.name.endswith("-cache")))
  assert kept[0] == kept[1] and len(kept[0]) > 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
@pytest.mark.parametrize("found", [None, "", "glibc.malloc.check=0"])
def test_python_starts_once_more_for_large_pages(found):
  """In the same process, with the same words; what the user has set is left alone."""
  name = "GLIBC_TUNABLES"
  own = {k: v for k, v in os.environ.items() if k != name}
  own |= {} if found is None else {name: found}
  told = f"print(os.getpid(), os.environ[{name!r}], sys.argv)"
  code = f"import cli, os, sys; print('start'); cli.main(lambda: {told})"
  call = [sys.executable, "-u", "-c", code, "--logtostderr"]
  pipe = {"stdout": subprocess.PIPE, "text": True}
  process = subprocess.Popen(call, cwd=ROOT / "launch", env=own, **pipe)
  out = process.communicate(timeout=120)[0].splitlines()
  assert process.returncode == 0
  expected = "glibc.malloc.hugetlb=1" if found is None else found
  assert out[:-1] == ["start"] * (2 if found is None else 1)
  assert out[-1] == f"{process.pid} {expected} ['-c', '--logtostderr']"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_a_process_that_does_other_things_is_not_started_anew():
  """A notebook's %run names the script in sys.argv, which did not start the process."""
  own = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
  code = "import cli, sys; print('start'); sys.argv = ['train.py']; cli.main(lambda: 0)"
  call, pipe = [sys.executable, "-c", code], {"stdout": subprocess.PIPE, "text": True}
  done = subprocess.run(call, cwd=ROOT / "launch", env=own, timeout=120, **pipe)
  assert done.returncode == 0 and done.stdout == "start\n"


STEPS = 120  # 24 calls a variant: time enough to be killed in one


class Run:
  """A training process in the background on one folder."""

  def __init__(self, folder: Path, environment: dict, *flags: str):
    variants = "method=robult,baselines=majority+distil"
    call = command(f"--config={TINY}:{variants}", f"--workdir={folder}", *flags)
    call += [f"--config.train.steps={STEPS}"]
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
    out, err = self.process.communicate(timeout=120)
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
  SIGINT and SIGKILL in the second, then to the end. While the first runs, another
  process tries the folder."""
  folder = tmp_path_factory.mktemp("story")
  first, second = "robult", "distil"
  chance, told, at = random.Random(0), {}, []
  run = Run(folder, environment)
  run.wait_for(first, 0)
  run.process.send_signal(signal.SIGSTOP)  # holds the lock, and time stands still
  try:
    told["locked"] = Run(folder, environment).end()
  finally:
    run.process.send_signal(signal.SIGCONT)
  told["SIGTERM"] = run.end(signal.SIGTERM)
  for name, variant in (
    ("SIGKILL", first),
    ("SIGINT", second),
    ("SIGKILL again", second),
  ):
    reached = Run.steps(run, variant)
    run = Run(folder, environment)
    run.wait_for(variant, reached)
    time.sleep(chance.uniform(0, 0.1))
    told[name] = run.end(getattr(signal, name.split()[0]))
    at.append((variant, Run.steps(run, variant)))
    assert not (folder / "results.jsonl").exists()
  told["end"] = Run(folder, environment).end()
  told["again"] = Run(folder, environment).end()
  return SimpleNamespace(folder=folder, at=at, told=told)


def test_the_signals_came_in_the_middle_of_a_variant(story):
  assert all(0 < step < STEPS for _, step in story.at), story.at
  steps = [step for _, step in story.at[1:]]
  assert steps == sorted(steps)


def test_sigterm_saves_says_so_and_is_no_failure(story):
  end = story.told["SIGTERM"]
  assert end.code == 0
  assert "stopped and saved after step" in end.out and "goes on" in end.out


def test_ctrl_c_saves_and_is_130(story):
  end = story.told["SIGINT"]
  assert end.code == 130 and "stopped and saved after step" in end.out
  assert "Traceback" not in end.err


def test_a_killed_process_is_killed(story):
  codes = [story.told[name].code for name in ("SIGKILL", "SIGKILL again")]
  assert codes == [-signal.SIGKILL] * 2


def test_a_folder_in_use_is_refused(story):
  end = story.told["locked"]
  assert end.code == 2 and "in use by another process" in end.err
  assert "Traceback" not in end.err


def test_what_was_stopped_four_times_ends_like_what_was_not(story, whole):
  assert story.told["end"].code == 0, story.told["end"].err
  table = lambda out: out[out.index("accuracy") : out.index("files:")]
  assert table(story.told["end"].out) == table(whole.out)
  for name in ("results.jsonl", "comparison.json", "spec.json"):
    assert (story.folder / name).read_text() == (whole.folder / name).read_text()
  logs = [files.read_jsonl(f / "metrics.jsonl") for f in (story.folder, whole.folder)]
  assert logs[0] == logs[1] and len(logs[0]) == 2 * 2 * STEPS // 5
  ours, theirs = (dict(np.load(f / "predictions.npz")) for f in (story.folder, whole.folder))
  assert ours.keys() == theirs.keys() and tiny_runs.same(ours, theirs)
  for variant in ("robult", "distil"):
    trees = []
    for folder in (story.folder, whole.folder):
      with checkpoint.open_manager(folder / "checkpoints" / variant) as manager:
        assert manager.latest_step() == STEPS
        trees.append(manager.restore(STEPS))
    assert tiny_runs.same(*trees)


def test_a_finished_run_is_not_trained_again(story, whole):
  again = story.told["again"]
  assert again.code == 0 and "nothing was trained" in again.out
  assert "compiled in" not in again.out
  start = again.out.index("accuracy")
  assert again.out[start:].split("files:")[0] in whole.out


def test_a_run_that_diverges_says_where_and_fails(tmp_path, environment):
  """The labels are fine, a rate of 1e30 is not: code 1, a sentence, no table."""
  end = Run(tmp_path, environment, "--config.train.optim.lr=1e30").end()
  assert end.code == 1 and "Traceback" not in end.err
  last = end.err.strip().splitlines()[-1]
  assert last.startswith("error: the loss is ") and " of seed " in last
  assert not (tmp_path / "results.jsonl").exists()


def test_a_cpu_pretends_to_be_a_device_for_each_group(whole, environment, tmp_path):
  """Where nothing says how many there are; the numbers are those of one device."""
  own = {k: v for k, v in environment.items() if k != "JAX_NUM_CPU_DEVICES"}
  end = Run(tmp_path, own, "--config.train.seed_devices=2").end()
  assert end.code == 0, end.err
  ours, theirs = (np.load(folder / "predictions.npz") for folder in (tmp_path, whole.folder))
  for name in ours.files:
    np.testing.assert_allclose(ours[name], theirs[name], atol=1e-3)
  again = Run(tmp_path, environment).end()  # with one device, and no groups
  assert again.code == 0 and "nothing was trained" in again.out


def test_evaluation_from_the_command_line(whole, environment):
  """--masks and --split arrive where they should; a table is printed."""
  masks = whole.folder.parent / "masks.npz"
  flags = [f"--workdir={whole.folder}", "--protocol=exact(0.5)", "--split=valid"]
  call = command("evaluate.py", *flags, f"--masks={masks}")
  more = {"capture_output": True, "text": True, "timeout": 120}
  before = (whole.folder / "results.jsonl").read_text()
  process = subprocess.run(call, env=environment, **more)
  assert process.returncode == 0, process.stderr
  for word in ("robult", "distil", "majority", "accuracy", "macro_f1"):
    assert word in process.stdout
  after = (whole.folder / "results.jsonl").read_text()
  assert after.startswith(before)
  added = [json.loads(line) for line in after[len(before) :].splitlines()]
  assert {(x["protocol"], x["split"]) for x in added} == {("exact(0.5)", "valid")}
  with np.load(masks) as file:
    np.testing.assert_array_equal((~file["mask"]).sum(axis=0), [10, 10])
