"""Two processes that train one tiny experiment together, over the loopback interface."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import tiny_runs
from promise_jax.training import checkpoint

ROOT = Path(__file__).parents[2]
HEARTBEAT = 10  # seconds
STEPS = 50
CONFIG = "method=fusion,baselines=none"


def find_free_port() -> int:
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    return free.getsockname()[1]


class Pair:
  """Two processes that train together in `folder`, started as SLURM does or by flags; the
  second one has the flags `second` of its own."""

  def __init__(self, folder: Path, environment: dict, *, slurm=False, second=()):
    self.folder, port = folder, find_free_port()
    call = [sys.executable, str(ROOT / "launch" / "train.py"), f"--workdir={folder}"]
    call += [f"--config={tiny_runs.__file__}:{CONFIG}", f"--config.train.steps={STEPS}"]
    call += [f"--heartbeat={HEARTBEAT}"]
    flags = [f"--coordinator=127.0.0.1:{port}", "--processes=2"]
    node = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1"}
    node |= {"SLURM_NTASKS": "2", "JAX_COORDINATOR_PORT": str(port)}
    self.processes = []
    for i in ("0", "1"):
      own = node | {"SLURM_PROCID": i, "SLURM_LOCALID": i} if slurm else {}
      more = [] if slurm else [*flags, f"--process={i}"]
      self.processes.append(
        subprocess.Popen(
          [*call, *more, *(second if i == "1" else ())],
          env=environment | own,
          text=True,
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
        )
      )

  def wait_for(self, step: int) -> None:
    """Returns when a step after `step` is in the log."""
    end = time.monotonic() + 120
    while last_step(self.folder) <= step:
      assert all(p.poll() is None for p in self.processes), self.end()
      assert time.monotonic() < end, "no progress"
      time.sleep(0.01)

  def end(self) -> SimpleNamespace:
    """Waits: exit codes, what was printed, and after how many seconds."""
    since = time.monotonic()
    printed = [p.communicate(timeout=120) for p in self.processes]
    codes = [p.returncode for p in self.processes]
    out, err = zip(*printed, strict=True)
    return SimpleNamespace(codes=codes, out=out, err=err, s=time.monotonic() - since)


def last_step(folder: Path) -> int:
  """How far the log says that the run is."""
  path = folder / "metrics.jsonl"
  lines = path.read_text().split("\n")[:-1] if path.exists() else []
  return max((json.loads(line)["step"] for line in lines), default=0)


def saved_steps(folder: Path) -> list[int]:
  return checkpoint.saved_steps(folder / "checkpoints" / "fusion")
