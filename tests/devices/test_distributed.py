"""Several processes: how they start, and that they train as one, whatever happens.

The runs are real ones, 2 processes with 2 virtual devices each.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import yaml

import tiny_runs
from promise_jax import files
from promise_jax.data import batches, device_data
from promise_jax.devices import distributed
from promise_jax.devices import mesh as devices_mesh
from promise_jax.experiments import run as experiment_run
from promise_jax.training import checkpoint

ROOT = Path(__file__).parents[2]
HEARTBEAT = 10  # seconds
STEPS = 50  # 10 calls
CONFIG = "method=fusion,baselines=none"


@pytest.mark.parametrize(
  ("given", "sentence"),
  [
    (("a:1", 2, None, 9), "processes is 2 and process is None, give both or none"),
    (("a:1", None, 0, 9), "processes is None and process is 0, give both or none"),
    (("a:1", 2, 2, 9), "process is 2 of 2 processes, allowed are 0 to"),
    (("a:1", 0, 0, 9), "process is 0 of 0 processes"),
    ((None, 2, 0, 9), "processes is 2, coordinator, HOST:PORT, is missing"),
    (("a", 2, 0, 9), "coordinator is 'a', HOST:PORT is expected"),
    (("a:1", 2, 0, 0), "heartbeat is 0, at least 1 second"),
    (("a:1", None, None, 9), "no cluster was found, processes and process are needed"),
  ],
)
def test_a_start_that_does_not_fit_is_refused(given, sentence):
  with pytest.raises(ValueError, match=sentence):
    distributed.initialize(*given)


def test_on_a_laptop_nothing_is_started():
  distributed.initialize()
  distributed.initialize("a:1", 1, 0)
  assert not distributed.is_multiprocess() and distributed.is_primary()
  assert not jax.distributed.is_initialized()
  assert distributed.all_processes_max(3) == 3
  assert distributed.run_on_all_processes(lambda: "x") == "x"


SLURM = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}
TPU = {"TPU_ML_PLATFORM": "JAX"}


@pytest.mark.parametrize(
  ("environ", "cluster"),
  [
    ({}, None),
    (SLURM, "slurm"),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    ({"SLURM_NTASKS": "2"}, None),  # a batch script, outside srun
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "ompi"),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    (TPU | {"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
    (TPU | {"TPU_WORKER_HOSTNAMES": "a"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, None),  # and no TPU
    (TPU | {"TPU_SKIP_MDS_QUERY": "1"}, None),
    (TPU | {"MEGASCALE_NUM_SLICES": "2", "TPU_WORKER_HOSTNAMES": "a"}, "tpu"),
  ],
)
def test_a_cluster_is_one_that_started_several_processes(environ, cluster):
  assert distributed.detect_cluster(environ) == cluster


@pytest.mark.parametrize(
  ("failure", "workers"),
  [
    (urllib.error.URLError(socket.gaierror(-2, "unknown")), 1),
    (urllib.error.HTTPError("", 404, "none", None, None), 1),
    (urllib.error.HTTPError("", 503, "busy", None, None), None),
    (urllib.error.URLError(TimeoutError("timed out")), None),
    (TimeoutError("timed out"), None),
  ],
)
def test_metadata_that_do_not_answer_are_not_taken_for_none(failure, workers, monkeypatch):
  def fail(*args, **options):
    raise failure

  monkeypatch.setattr(urllib.request, "urlopen", fail)
  if workers:
    assert distributed.tpu_workers({}) == workers
  else:
    with pytest.raises(ValueError, match="did not answer .* set TPU_WORKER_HOSTNAMES"):
      distributed.tpu_workers({})


def test_all_wait_until_they_see_what_the_first_does(monkeypatch):
  """A process to which the folder shows an older state; step 30 is the first's."""
  monkeypatch.setattr(distributed, "several", lambda: True)
  monkeypatch.setattr(distributed, "first", lambda: False)
  monkeypatch.setattr(distributed, "largest", lambda n: 30 if n == -1 else n)
  seen = iter([20, 20, 30])
  assert distributed.wait_until_equal(lambda: next(seen)) == 30
  with pytest.raises(ValueError, match="process 0 finds 20 .* process finds 30: all"):
    distributed.wait_until_equal(lambda: 20, patience=0.3)


def test_open_mpi_says_who_is_who_but_not_where():
  environ = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}
  environ |= {"OMPI_COMM_WORLD_LOCAL_RANK": "1"}
  with pytest.raises(ValueError, match="Open MPI does not say where process 0 runs"):
    distributed.open_mpi(None, environ)
  told = {"num_processes": 4, "process_id": 3, "local_device_ids": 1}
  assert distributed.open_mpi("a:1", environ) == told
  assert distributed.open_mpi(None, {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://a:2"}) == {}


def test_rows_read_on_the_host_are_those_gathered_on_the_device(eight_devices):
  source = tiny_runs.dataset()
  rows, method = (
    tiny_runs.rows(source, protocol="exact(0.5)"),
    tiny_runs.linear(source.spec),
  )
  (stage,) = method.stages
  ready = batches.draw_block(rows, tiny_runs.settings(), stage, (0, 20), 5)
  data = device_data.rows_of(rows.split)
  asked = batches.attach_rows(ready, data, eight_devices)["chosen"]
  x = asked["rows"]["inputs"]["m0"]
  assert x.shape == (2, 5, 16, 4)
  assert [part.data.shape for part in x.addressable_shards] == [(2, 5, 2, 4)] * 8
  at = lambda tree: jax.tree.map(lambda x: x[1, 3], tree)
  ours, theirs = (
    jax.jit(batches.make_batch, static_argnums=(2, 3))(d, at(c), False, eight_devices)
    for d, c in (({}, asked), (data, ready["chosen"]))
  )
  assert ours.keys() == theirs.keys() and tiny_runs.same(ours, theirs)
  index = ready["chosen"]["index"][1, 3]
  np.testing.assert_array_equal(ours["inputs"]["m1"], rows.split.inputs["m1"][index])


def test_the_start_scripts_are_whole():
  pod = ROOT / "launch" / "pod"
  for name in ("tpu.sh", "slurm.sh"):
    subprocess.run(["bash", "-n", str(pod / name)], check=True)
  service, job = yaml.safe_load_all((pod / "kubernetes.yaml").read_text())
  spec, name = job["spec"], job["metadata"]["name"]
  assert service["spec"]["selector"] == {"job-name": name}
  assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"]
  (text,) = spec["template"]["spec"]["containers"][0]["args"]
  subprocess.run(["sh", "-n", "-c", text], check=True)
  assert f"--processes={spec['completions']} " in text
  assert f"--coordinator={name}-0.{service['metadata']['name']}:" in text


def test_the_pod_of_kubernetes_is_done_when_the_run_is(tmp_path):
  """SIGTERM reaches the run, and its code 0 is not taken for success."""
  _, job = yaml.safe_load_all((ROOT / "launch/pod/kubernetes.yaml").read_text())
  (text,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
  train = tmp_path / "train"
  train.write_text(
    "#!/bin/sh\ntrap 'exit 0' TERM\ntouch up\nwhile ! [ -e done ]; do sleep .01; done\n"
    "touch results.jsonl\n"
  )
  train.chmod(0o755)
  text = text.replace(".venv/bin/python launch/train.py", str(train))
  text = text.replace("/runs/robult/", "")
  codes = []
  for number in (signal.SIGTERM, None):
    (tmp_path / "up").unlink(missing_ok=True)
    process = subprocess.Popen(["sh", "-c", text], cwd=tmp_path)
    while not (tmp_path / "up").exists():
      time.sleep(0.01)
    if number:
      process.send_signal(number)
    else:
      (tmp_path / "done").touch()
    codes.append(process.wait(timeout=20))
  assert codes == [1, 0]


@pytest.mark.parametrize(
  ("code", "done", "ended", "again"),
  [
    (0, False, 0, True),
    (143, False, 0, True),
    (2, False, 2, False),
    (0, True, 0, False),
  ],
)
def test_the_job_of_slurm_is_queued_again_until_it_is_done(code, done, ended, again, tmp_path):
  """Also if it was told to end before it trained; not after an error."""
  folder, calls = tmp_path / "run", tmp_path / "calls"
  folder.mkdir()
  for name, last in (("srun", f"exit {code}"), ("scontrol", "exit 0")):
    tool = tmp_path / name
    tool.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n{last}\n')
    tool.chmod(0o755)
  if done:
    (folder / "results.jsonl").touch()
  script = ROOT / "launch" / "pod" / "slurm.sh"
  own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}
  own |= {"SLURM_CPUS_PER_TASK": "8"}
  call = ["bash", str(script), str(folder), "--config=c.py"]
  assert subprocess.run(call, env=own, check=False).returncode == ended
  first, *more = calls.read_text().splitlines()
  assert "--cpus-per-task=8 " in first and first.endswith(f"{folder} --config=c.py")
  assert more == (["scontrol requeue 7"] if again else [])


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
  """Two devices a process, and programs compiled once for all tiny_runs."""
  folder = tmp_path_factory.mktemp("compiled")
  return tiny_runs.short(devices=2) | {"JAX_COMPILATION_CACHE_DIR": str(folder)}


def free_port() -> int:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


class Pair:
  """Two processes that train together in `folder`, as if started by `slurm` or with
  flags; no file of the first may be longer than `limit` bytes, if there is a limit, and
  the other has flags of its own as `second`."""

  def __init__(
    self,
    folder: Path,
    environment: dict,
    *,
    limit: int = 0,
    slurm: bool = False,
    second: tuple[str, ...] = (),
  ):
    self.folder, port = folder, free_port()
    call = [sys.executable, str(ROOT / "launch" / "train.py"), f"--workdir={folder}"]
    call += [f"--config={tiny_runs.__file__}:{CONFIG}", f"--config.train.steps={STEPS}"]
    call += [f"--heartbeat={HEARTBEAT}"]
    # sh counts blocks of 512 bytes
    full = ["sh", "-c", f'ulimit -f {limit // 512}; exec "$@"', "sh"]
    flags = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    node = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1"}
    node |= {"SLURM_NTASKS": "2", "JAX_COORDINATOR_PORT": str(port)}
    self.processes = []
    for i in map(str, range(2)):
      own = node | {"SLURM_PROCID": i, "SLURM_LOCALID": i}
      given = {"env": environment | (own if slurm else {}), "text": True}
      given |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
      whole = [*(full if limit and i == "0" else []), *call]
      whole += [] if slurm else [*flags, f"--process={i}"]
      whole += second if i == "1" else ()
      self.processes.append(subprocess.Popen(whole, **given))

  def wait_for(self, beyond: int) -> None:
    """Returns when a step after `beyond` is in the log."""
    end = time.monotonic() + 120
    while steps(self.folder) <= beyond:
      assert all(p.poll() is None for p in self.processes), self.end()
      assert time.monotonic() < end, "no progress"
      time.sleep(0.01)

  def end(self) -> SimpleNamespace:
    """Waits: codes, what was printed, and after how many seconds."""
    since = time.monotonic()
    told = [p.communicate(timeout=120) for p in self.processes]
    codes = [p.returncode for p in self.processes]
    out, err = zip(*told, strict=True)
    return SimpleNamespace(codes=codes, out=out, err=err, s=time.monotonic() - since)


def steps(folder: Path) -> int:
  """How far the log says that the run is."""
  path = folder / "metrics.jsonl"
  whole = path.read_text().split("\n")[:-1] if path.exists() else []
  return max((json.loads(line)["step"] for line in whole), default=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, environment):
  """A run that nobody disturbs."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  end = Pair(folder, environment, slurm=True).end()
  assert end.codes == [0, 0], end
  return SimpleNamespace(folder=folder, out=end.out)


@pytest.fixture(scope="module")
def story(tmp_path_factory, environment, whole):
  """One folder, the same command again and again: a process is killed, one is told to
  stop, the disk is full, the last checkpoint is torn; then to the end."""
  folder, told, at = tmp_path_factory.mktemp("story") / "run", {}, {}
  pair = Pair(folder, environment)
  pair.wait_for(5)
  pair.processes[1].kill()
  told["killed"] = pair.end()
  at["killed"] = checkpoint.saved_steps(folder / "checkpoints" / "fusion")
  shutil.copytree(folder, folder.parent / "elastic")
  pair = Pair(folder, environment)
  pair.wait_for(steps(folder))
  pair.processes[1].send_signal(signal.SIGTERM)
  told["stopped"] = pair.end()
  at["stopped"] = checkpoint.saved_steps(folder / "checkpoints" / "fusion")
  told["full"] = Pair(folder, environment, limit=4096).end()
  at["full"] = checkpoint.saved_steps(folder / "checkpoints" / "fusion")
  last = folder / "checkpoints" / "fusion" / str(at["full"][-1])
  big = max(last.glob("default/d/*"), key=lambda path: path.stat().st_size)
  big.write_bytes(big.read_bytes()[: big.stat().st_size // 2])
  told["end"] = Pair(folder, environment).end()
  return SimpleNamespace(folder=folder, told=told, at=at)


@pytest.mark.slow
def test_one_writes_and_shows(whole):
  assert "accuracy" in whole.out[0] and "files:" in whole.out[0]
  # Threads of gloo may write into each other's lines, piece by piece: of each of its
  # sentences three numbers of one digit are left, and nothing else is there.
  pieces = r"\[Gloo\] Rank |is connected to|peer ranks\. |"
  pieces += r"Expected number of connected peer ranks is :|\s"
  left = re.sub(pieces, "", whole.out[1])
  assert re.fullmatch(r"\d*", left) and len(left) == 3 * whole.out[1].count("[Gloo]")
  found = json.loads((whole.folder / "config.json").read_text())
  assert found["processes"] == 2 and found["device"]["count"] == 4
  lines = files.read_jsonl(whole.folder / "metrics.jsonl")
  assert len(lines) == len({(x["step"], x["seed"]) for x in lines}) == 2 * STEPS // 5


@pytest.mark.slow
def test_two_processes_are_one_with_as_many_devices(whole, tmp_path, monkeypatch):
  in_one_process(tmp_path / "run", monkeypatch, 4)
  assert_close(tmp_path / "run", whole.folder)
  hashes = [
    [(x["mask_hash"], x.get("train_mask_hash"), x["n"]) for x in files.read_jsonl(path)]
    for path in (tmp_path / "run/results.jsonl", whole.folder / "results.jsonl")
  ]
  assert hashes[0] == hashes[1]


def in_one_process(folder: Path, monkeypatch, devices: int) -> None:
  """The same run on some of the eight devices of this process."""
  mesh = devices_mesh.make_mesh(jax.devices()[:devices])
  monkeypatch.setattr(devices_mesh, "make_mesh", lambda **_: mesh)
  config = tiny_runs.get_config(CONFIG).to_dict()
  config["train"]["steps"] = STEPS
  with tiny_runs.compile_once(folder.parent / "compiled"):
    experiment_run.run_experiment(config, folder, show=lambda text: None)


def assert_close(a: Path, b: Path) -> None:
  """Two runs end in the same numbers to rounding, of the same rows."""
  with np.load(a / "predictions.npz") as ours, np.load(b / "predictions.npz") as theirs:
    tiny_runs.assert_close(dict(ours), dict(theirs), atol=1e-4)
  ours, theirs = (files.read_jsonl(x / "metrics.jsonl") for x in (a, b))
  assert [(x["step"], x["seed"]) for x in ours] == [(x["step"], x["seed"]) for x in theirs]
  loss = [[x["loss"] for x in lines] for lines in (ours, theirs)]
  np.testing.assert_allclose(*loss, atol=1e-5)


STREAMED = """
import pathlib, sys
from promise_jax import checkpoint, distributed, sharding, train
distributed.start(sys.argv[1], 2, int(sys.argv[2]), 20)
import tiny_runs, test_stream

source = tiny_runs.dataset()
rows = tiny_runs.rows(source, protocol="bernoulli(0.3)")
valid, mesh = source.split("valid"), sharding.make_mesh()
method, streamed = tiny_runs.linear(source.spec), test_stream.taken(rows)
given = [(method, source.spec, r, valid, tiny_runs.settings()) for r in (rows, streamed)]
logs = [], [], []
resident, other = (
  train.fit(*x, mesh=mesh, log=log.extend) for x, log in zip(given, logs)
)
assert tiny_runs.same(resident[:4], other[:4])
for x in streamed.split.inputs.values():
  assert x.asked == [2 * 8] * 20, x.asked  # of 16 rows the own ones, for both seeds
  x.asked.clear()
groups = sharding.make_mesh(groups=2)
for fit in (train.fit(*x, mesh=groups) for x in given):
  tiny_runs.assert_close(fit[:4], resident[:4], rtol=1e-4, atol=1e-5)
for x in streamed.split.inputs.values():
  assert x.asked == [16] * 20, x.asked  # all rows, for the own seed
for stop in tiny_runs.stopping(1), lambda: 0:  # after one step of a call of five; to the end
  with checkpoint.opened(pathlib.Path(sys.argv[3])) as manager:
    try:
      more = {"mesh": mesh, "log": logs[2].extend, "manager": manager, "stop": stop}
      again = train.fit(*given[0], **more)
    except train.Stopped as stopped:
      assert stopped.step == 1 and not logs[2]
assert tiny_runs.same(resident[:4], again[:4]) and logs[2] == logs[0]
"""


@pytest.mark.slow
def test_a_process_streams_the_rows_of_its_own_devices(environment, tmp_path):
  """And what both saved within a call goes on as if it had not been stopped."""
  address = f"127.0.0.1:{free_port()}"
  given = environment | {"PYTHONPATH": str(Path(__file__).parents[1])}
  both = [
    subprocess.Popen(
      [sys.executable, "-c", STREAMED, address, str(i), str(tmp_path)],
      env=given,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  said = [p.communicate(timeout=120)[1] for p in both]
  assert [p.returncode for p in both] == [0, 0], said


@pytest.mark.slow
def test_another_config_in_one_process_is_refused_by_all(environment, tmp_path):
  pair = Pair(tmp_path / "run", environment, second=("--config.train.optim.lr=0.5",))
  end = pair.end()
  assert end.codes == [2, 2], end
  for said in end.err:
    assert "belongs to another config: train.optim.lr was 0.003, is 0.5" in said
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_when_one_is_killed_the_others_end(story):
  end = story.told["killed"]
  assert end.codes[1] == -signal.SIGKILL and end.codes[0] != 0
  assert end.s < HEARTBEAT + 10
  assert story.at["killed"] and max(story.at["killed"]) < STEPS


@pytest.mark.slow
def test_when_the_first_is_killed_the_others_end_too(environment, whole, tmp_path):
  """The one that coordinates, writes and has the lock; then the run goes on."""
  pair = Pair(tmp_path / "run", environment)
  pair.wait_for(5)
  pair.processes[0].kill()
  end = pair.end()
  assert end.codes[0] == -signal.SIGKILL and end.codes[1] != 0
  assert end.s < HEARTBEAT + 10 and steps(tmp_path / "run") < STEPS
  assert Pair(tmp_path / "run", environment).end().codes == [0, 0]
  ours, theirs = (f / "results.jsonl" for f in (tmp_path / "run", whole.folder))
  assert ours.read_text() == theirs.read_text()


@pytest.mark.slow
def test_a_full_disk_is_told_and_the_last_good_checkpoint_stays(story):
  end = story.told["full"]
  assert end.codes[0] == 1 and end.codes[1] != 0 and end.s < 60
  last = story.at["stopped"][-1]
  sentence = "a checkpoint could not be saved (File too large); the last good one is of "
  (said,) = [x for x in end.err[0].splitlines() if sentence in x]
  assert said.startswith("error: ") and f"step {last};" in said
  assert story.at["full"] == story.at["stopped"]


@pytest.mark.slow
def test_sigterm_to_one_stops_and_saves_all(story):
  end = story.told["stopped"]
  assert end.codes == [0, 0], end
  assert story.at["killed"][-1] < story.at["stopped"][-1] < STEPS
  said = f"stopped and saved after step {story.at['stopped'][-1]}"
  assert said in end.out[0] and "stopped" not in end.out[1]


@pytest.mark.slow
def test_a_torn_checkpoint_is_told_and_the_one_before_taken(story):
  before, torn = story.at["full"][-2:]
  line = f"the checkpoint of step {torn} cannot be read"
  (said,) = [x for x in story.told["end"].out[0].splitlines() if line in x]
  assert said.endswith(f"going on from step {before}")
  assert (story.folder / "checkpoints" / "fusion" / f"torn-{torn}").is_dir()


@pytest.mark.slow
def test_what_was_disturbed_ends_like_what_was_not(story, whole):
  assert story.told["end"].codes == [0, 0], story.told["end"]
  for name in ("results.jsonl", "metrics.jsonl", "spec.json"):
    assert (story.folder / name).read_text() == (whole.folder / name).read_text()
  ours, theirs = (dict(np.load(f / "predictions.npz")) for f in (story.folder, whole.folder))
  assert ours.keys() == theirs.keys() and tiny_runs.same(ours, theirs)
  ours, theirs = (
    checkpoint.load_parameters(f / "checkpoints" / "fusion", STEPS, "state")
    for f in (story.folder, whole.folder)
  )
  assert tiny_runs.same(ours, theirs)


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices_and_processes(story, whole, monkeypatch):
  """Begun by two processes with four devices, ended by one with one."""
  folder = story.folder.parent / "elastic"
  begun = (folder / "metrics.jsonl").read_text().splitlines()
  in_one_process(folder, monkeypatch, 1)
  at = story.at["killed"][-1]
  kept = [x for x in begun if x.endswith("}") and json.loads(x)["step"] <= at]
  assert (folder / "metrics.jsonl").read_text().splitlines()[: len(kept)] == kept
  assert_close(folder, whole.folder)
