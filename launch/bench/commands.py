"""What a user waits for: commands from start to end, each in a process of its own."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.cases import Plan
from promise_jax import files

ROOT = Path(__file__).parents[2]
START = "import sys; from promise_jax.cli.main import main; sys.exit(main())"
POLL = 0.02  # seconds
# (words, whether the programs of the command before are there). `synthetic` has 2,000 rows of
# three vectors; a config brings its baselines and five seeds.
COMMANDS = (
  ("--help", False),
  ("train --config robult", False),
  ("train --config robult", True),
  ("train --config promma:dataset=synthetic", False),
  ("train --config mplmm:dataset=synthetic", False),
)
QUICK = (("--help", False), ("train --config robult:preset=tiny,baselines=majority", False))


def measure_commands(plan: Plan) -> list[dict]:
  """Seconds to the first validation and to the end of every command, and what they were for."""
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for number, (words, is_cached) in enumerate(QUICK if plan.quick else COMMANDS):
      cache = Path(folder) / f"programs-{number - is_cached}"
      made = run_command(words.split(), Path(folder) / f"run-{number}", cache)
      rows.append({"command": words, "cached": is_cached} | made)
  return rows


def run_command(words: list[str], run: Path, cache: Path) -> dict[str, float]:
  """The seconds that a command took. RuntimeError if it failed."""
  paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
  environment = os.environ | {"PYTHONPATH": paths, "JAX_COMPILATION_CACHE_DIR": str(cache)}
  trains = words[0] == "train"
  words = [sys.executable, "-c", START, *words, *(["--workdir", str(run)] if trains else [])]
  with tempfile.TemporaryFile("w+") as output:
    begin, first, log = time.perf_counter(), None, run / "metrics.jsonl"
    process = subprocess.Popen(words, env=environment, stdout=output, stderr=output, cwd=ROOT)
    while process.poll() is None:
      if first is None and log.exists() and log.stat().st_size:
        first = time.perf_counter() - begin
      time.sleep(POLL)
    seconds = time.perf_counter() - begin
    output.seek(0)
    if process.returncode:
      raise RuntimeError(f"{' '.join(words[2:])} failed:\n{output.read()[-2000:]}")
  if not trains:
    return {"seconds": seconds}
  speed = files.read_jsonl(run / "speed.jsonl")
  total = {name: sum(x[name] for x in speed) for name in ("compile_s", "train_s")}
  peak = max(x["peak_memory_mb"] for x in speed)
  return {"seconds": seconds, "first_s": first, **total, "memory_mb": peak}
