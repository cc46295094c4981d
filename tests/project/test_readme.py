"""What README.md tells a reader to type works as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_runs
from promise_jax import missing
from promise_jax.cli import configs
from promise_jax.cli.main import split_overrides
from promise_jax.experiments.compare_config import check_comparison
from promise_jax.experiments.experiment import parse_experiment

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.S)
SHELL = [
  line.split("  #")[0].strip()
  for block in re.findall(r"```(?:bash|sh)\n(.*?)```", TEXT, flags=re.S)
  for line in block.splitlines()
  if line.strip() and not line.startswith("#")
]


def test_readme_has_examples_of_both_kinds():
  assert PYTHON and any("launch/train.py" in line for line in SHELL)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_examples_run_from_a_clean_start(number, tmp_path):
  script = tmp_path / "example.py"
  script.write_text(PYTHON[number], "utf-8")
  command = [sys.executable, "-W", "error", str(script)]
  more = {"capture_output": True, "text": True, "timeout": 300, "cwd": tmp_path}
  done = subprocess.run(command, env=tiny_runs.short(), **more)
  assert done.returncode == 0, done.stderr


def test_every_training_command_is_understood(capsys):
  for line in (x for x in SHELL if "--config" in x):
    words, overrides = split_overrides(shlex.split(line))
    flag = words[words.index("--config") + 1]
    config, _ = configs.load_config(flag, overrides, "robult")
    (check_comparison if "runs" in config else parse_experiment)(config)
  assert capsys.readouterr().out == ""  # no note that a name is an old one


def test_protocols_in_the_text_parse():
  named = re.findall(r"`((?:bernoulli|exact|map|mplmm|patterns|none)\([^`]*\))`", TEXT)
  assert len(named) >= 3
  for text in named:
    missing.parse_protocol(text)


def test_make_targets_exist():
  makefile = (ROOT / "Makefile").read_text("utf-8")
  for line in (x for x in SHELL if x.startswith("make ")):
    for target in line.split()[1:]:
      assert re.search(rf"^{target}:", makefile, flags=re.M), line
