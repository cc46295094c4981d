"""What a newcomer meets before any code runs: what is declared, pinned and made."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Registries, and folders of a person's machine. The brackets keep this file from matching.
FORBIDDEN = re.compile(
  r"pypi[.]org|python[h]osted|registry[.]npmjs|deb[.]debian|(?<![\w.~)}/])/(?:[w]ork|[r]oot|[h]ome)/"
)


def names(lines: list[str]) -> set[str]:
  return {canonicalize_name(Requirement(line).name) for line in lines}


@pytest.mark.parametrize("folder", ["promise_jax", "configs", "launch", "docs", "tests"])
def test_every_import_is_declared(folder):
  extras = {
    "promise_jax": "track formats encoders sound",
    "launch": "benchmark",
    "docs": "dev",
    "tests": "dev",
  }
  optional = PROJECT["optional-dependencies"]
  chosen = [line for extra in extras.get(folder, "").split() for line in optional[extra]]
  declared = names(PROJECT["dependencies"] + chosen)
  paths = [*(ROOT / folder).rglob("*.py")]
  nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
  modules = {a.name.split(".")[0] for n in nodes if isinstance(n, ast.Import) for a in n.names}
  modules |= {n.module.split(".")[0] for n in nodes if isinstance(n, ast.ImportFrom)}
  ours = {"promise_jax", "bench", *(p.parent.name for p in paths)}
  ours |= {p.stem for p in (*paths, *(ROOT / "docs").glob("*.py"))}
  providers = importlib.metadata.packages_distributions()
  for module in modules - ours - sys.stdlib_module_names:
    by = {canonicalize_name(name) for name in providers.get(module, [module])}
    assert by & declared, f"{folder} imports {module} of {by}, undeclared"


def test_constraints_pin_every_installed_package():
  lines = (ROOT / "constraints.txt").read_text().splitlines()
  pinned = names([line for line in lines if not line.startswith("#")])
  installed = {canonicalize_name(d.name) for d in importlib.metadata.distributions()}
  assert installed - {"pip", "setuptools", "wheel", "promise-jax"} <= pinned


def test_citation_has_the_version_and_license_of_the_project():
  cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert {"cff-version", "message", "title", "authors"} <= cff.keys()
  assert [cff[key] for key in ("version", "license")] == [PROJECT["version"], PROJECT["license"]]


def test_no_file_names_a_registry_or_a_place_on_a_machine():
  made = {"runs", "build", "dist", "__pycache__", "shared", ".venv", ".git", ".pytest_cache"}
  for path in filter(Path.is_file, ROOT.rglob("*")):
    if not made & {*path.relative_to(ROOT).parts} and b"\0" not in path.read_bytes():
      assert not FORBIDDEN.findall(path.read_text("utf-8")), path


FAKE_PYTHON = """#!/bin/sh
case "$1 $2" in
"-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "$PWD/.venv" >.venv/bin/activate ;;
"-m pip") echo installed >>pip.log; [ ! -e broken-pip ] ;;
*) exit CODE ;;
esac
"""


@pytest.fixture
def venv(tmp_path):
  """Runs .ci/venv in a folder of its own, with an old python3 and a good python3.12."""
  (tmp_path / ".ci").mkdir()
  for name in (".ci/venv", "pyproject.toml", "constraints.txt", "setup.py"):
    shutil.copy(ROOT / name, tmp_path / name)
  for name, code in (("python3", 1), ("python3.12", 0)):
    (tmp_path / name).write_text(FAKE_PYTHON.replace("CODE", str(code)))
    (tmp_path / name).chmod(0o755)

  def run(**more) -> str:
    more |= {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    call = ["sh", ".ci/venv", "dev"]
    return subprocess.run(call, cwd=tmp_path, env=more, capture_output=True, text=True)

  return run


def test_the_environment_is_made_once_and_mended_when_needed(venv, tmp_path):
  assert venv(PYTHON=str(tmp_path / "python3")).stderr.startswith("error: Python 3.11 or newer")
  assert "Making .venv" in venv().stdout and venv().stdout == ""
  (tmp_path / "constraints.txt").write_text("# changed\n")
  assert "Installing" in venv().stdout and venv().stdout == ""
  (tmp_path / ".venv" / "unfinished").touch()
  assert "Making .venv" in venv().stdout
  (tmp_path / ".venv" / "bin" / "python").unlink()
  (tmp_path / "broken-pip").touch()
  assert "the installation failed" in venv().stderr
