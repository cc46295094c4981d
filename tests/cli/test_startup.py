"""How fast a command starts: what it imports, and how long that takes beside JAX alone."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Each is needed by some runs only, and takes 0.1 to 1 s to import.
HEAVY = {"matplotlib", "scipy", "tensorflow_datasets", "grain", "orbax", "onnxruntime"}
CODE = """
import json, sys, time
begin = time.process_time()
import jax
middle = time.process_time()
import promise_jax.experiments.run
ratio = (time.process_time() - begin) / (middle - begin)
print(json.dumps([ratio, sorted(sys.modules)]))
"""


def test_training_imports_little_and_starts_fast():
  ratios = []
  for _ in range(3):  # the least: another process may take the caches of the processor
    call = [sys.executable, "-c", CODE]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    ratio, modules = json.loads(done.stdout)
    assert not HEAVY & {*modules}
    ratios.append(ratio)
  assert min(ratios) < 4.8  # 3.7 when written; 6.3 with scipy.signal and matplotlib


def test_a_reader_that_goes_away_ends_a_command_quietly():
  command = [sys.executable, "-m", "promise_jax.cli.main", "list", "settings"]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
  with subprocess.Popen(command, **pipes, text=True) as process:
    process.stdout.close()
    assert process.stderr.read() == ""
  assert process.returncode == 141
