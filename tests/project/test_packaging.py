"""What a newcomer meets before any code runs: what is declared, pinned and made."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [Requirement(r) for r in PROJECT["dependencies"]]
DEV = [Requirement(r) for r in EXTRAS["dev"]]
BENCHMARK = [Requirement(r) for r in EXTRAS["benchmark"]]
PINS = [
  Requirement(line)
  for line in (ROOT / "constraints.txt").read_text().splitlines()
  if not line.startswith("#")
]
PYTHONS = ("3.11", "3.12", "3.13")


def names(requirements: list[Requirement]) -> set[str]:
  return {canonicalize_name(r.name) for r in requirements}


def pins(python: str) -> list[Requirement]:
  environment = default_environment() | {"python_version": python}
  return [p for p in PINS if p.marker is None or p.marker.evaluate(environment)]


# What is declared.


def imported(folder: Path) -> set[str]:
  """Top-level names that the files under `folder` import, but for Python's and ours."""
  found, ours = set(), {"promise_jax", "configs"}
  for file in folder.rglob("*.py"):
    ours |= {file.stem, file.parent.name}
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Import):
        found |= {alias.name.split(".")[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom) and not node.level:
        found.add(node.module.split(".")[0])
  return found - ours - sys.stdlib_module_names


@pytest.mark.parametrize(
  "folder, declared",
  [
    ("promise_jax", NEEDED),
    ("configs", NEEDED),
    ("launch", NEEDED + BENCHMARK),
    ("tests", NEEDED + DEV),
  ],
)
def test_every_import_is_declared(folder, declared):
  providers = importlib.metadata.packages_distributions()
  for module in imported(ROOT / folder):
    # What an extra brings need not be here; none brings a module of another name.
    by = {canonicalize_name(name) for name in providers.get(module, [module])}
    assert by & names(declared), f"{folder} imports {module} of {by}, undeclared"


@pytest.mark.parametrize("python", PYTHONS)
def test_constraints_pin_what_is_declared_within_its_bounds(python):
  pinned = {canonicalize_name(p.name): p.specifier for p in pins(python)}
  assert len(pinned) == len(pins(python)), "a package is pinned twice"
  assert pinned.keys() == names(PINS), "a package is not pinned for every Python"
  for requirement in NEEDED + DEV:
    (pin,) = pinned[canonicalize_name(requirement.name)]
    assert pin.operator == "=="
    assert requirement.specifier.contains(pin.version), f"{requirement}: {pin}"


def test_constraints_pin_all_that_is_installed_with_us():
  seen, queue = set(), NEEDED + DEV
  while queue:
    requirement = queue.pop()
    key = canonicalize_name(requirement.name), *sorted(requirement.extras)
    if key in seen:
      continue
    seen.add(key)
    for line in importlib.metadata.requires(requirement.name) or ():
      inner = Requirement(line)
      extras = {"", *requirement.extras}
      if not inner.marker or any(inner.marker.evaluate({"extra": e}) for e in extras):
        queue.append(inner)
  pinned = names(pins(".".join(map(str, sys.version_info[:2]))))
  assert {name for name, *_ in seen} <= pinned


def test_classifiers_name_the_pythons_that_are_pinned():
  prefix = "Programming Language :: Python :: 3."
  versions = [c for c in PROJECT["classifiers"] if c.startswith(prefix)]
  assert [v.split(" :: ")[-1] for v in versions] == list(PYTHONS)
  assert PROJECT["requires-python"] == f">={PYTHONS[0]}"


def test_citation_is_yaml_with_the_keys_that_readers_need():
  cff = yaml.safe_load((ROOT / "CITATION.cff").read_text())
  assert {"cff-version", "message", "title", "authors"} <= cff.keys()
  assert cff["version"] == PROJECT["version"]
  assert cff["license"] == PROJECT["license"]


# What no file may name. The words are cut in two so that this file may have them.

HOSTS = ("pypi" + ".org", "python" + "hosted", "registry.npm" + "js", "deb." + "debian")
PLACES = "|".join(("wor" + "k", "roo" + "t", "hom" + "e", "User" + "s", "far" + "m"))
MADE = {"runs", "build", "dist", "__pycache__", "shared"}


def texts():
  for folder, inner, files in os.walk(ROOT):
    inner[:] = [
      name
      for name in inner
      if name not in MADE
      and not name.endswith(".egg-info")
      and (name == ".ci" or not name.startswith("."))
    ]
    for file in (Path(folder) / name for name in files):
      content = file.read_bytes()
      if b"\0" not in content:
        yield file.relative_to(ROOT), content.decode()


def test_no_file_names_a_registry_or_a_place_on_a_machine():
  place = re.compile(rf"(?<![\w.~)}}}}/])/(?:{PLACES})/")
  bad = [
    f"{file}: {found}"
    for file, text in texts()
    for found in [*(h for h in HOSTS if h in text), *place.findall(text)]
  ]
  assert not bad
  assert place.search(" /" + "hom" + "e/ada/x") and not place.search("a/hom" + "e/x")


# What make makes: the real .ci/venv in a folder of its own, with Pythons that are fake.

FAKE = """#!/bin/sh
case "$1 $2" in
"- ")
  FAKE="$0" exec {real} -IS -c '
import os, sys
sys.version_info, sys._base_executable = {version}, os.environ["FAKE"]
sys.modules.update(dict.fromkeys("{hidden}".split()))
exec(sys.stdin.read())' ;;
"-m venv")
  mkdir -p .venv/bin
  cp "$0" .venv/bin/python
  echo "$PWD/.venv" >.venv/bin/activate ;;
"-m pip")
  echo "$*" >>pip.log
  [ ! -e broken-pip ] && [ ! -e .venv/no-pip ] ;;
esac
"""
OURS = "constraints.txt -e ."
COPIED = ("Makefile", "pyproject.toml", "constraints.txt", ".ci/venv", ".ci/run")
TOOLS = "sh bash cat cksum cp date dirname echo grep make mkdir rm tee".split()


class Fresh:
  """A clone on a machine that has the tools, and the Pythons that a test gives it."""

  def __init__(self, folder: Path):
    self.tree, self.bin = folder / "tree", folder / "bin"
    self.bin.mkdir()
    for tool in TOOLS:
      (self.bin / tool).symlink_to(shutil.which(tool))
    (self.tree / ".ci").mkdir(parents=True)
    for file in COPIED:
      shutil.copy(ROOT / file, self.tree / file)

  def python(self, version, name="python3", hidden="", folder=None):
    text = FAKE.format(real=sys.executable, version=version, hidden=hidden)
    file = (folder or self.bin) / name
    file.unlink(missing_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file

  def run(self, *command, **env):
    env = {"PATH": str(self.bin)} | env
    return subprocess.run(
      command, cwd=self.tree, env=env, capture_output=True, text=True, timeout=60
    )

  def venv(self, *extra, code=0, **env) -> str:
    done = self.run("sh", ".ci/venv", *extra, **env)
    assert done.returncode == code, done
    return done.stdout + done.stderr

  def installs(self) -> list[str]:
    log = self.tree / "pip.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split(" -c ")[-1] for line in lines if " install " in line]


@pytest.fixture
def fresh(tmp_path):
  return Fresh(tmp_path)


def test_make_alone_names_every_target(fresh):
  phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
  told = fresh.run("make").stdout
  assert all(f"make {target} " in told for target in phony if target != "help")


def test_an_old_python_is_refused_in_one_sentence(fresh):
  fresh.python((3, 9, 18))
  done = fresh.run("make", "train")
  (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
  assert done.returncode and not (fresh.tree / ".venv").exists()
  assert "3.11 or newer" in error and "python3 is 3.9.18" in error


def test_no_python_at_all_is_said(fresh):
  assert "found: none" in fresh.venv(code=1)


def test_a_newer_python_beside_an_old_one_is_found(fresh):
  fresh.python((3, 9, 18))
  fresh.python((3, 12, 4), "python3.12")
  assert "with Python 3.12.4" in fresh.venv()


def test_a_named_python_is_not_replaced_by_another(fresh):
  fresh.python((3, 12, 4))
  old = fresh.python((3, 8, 1), "my python")
  assert "3.8.1" in fresh.venv(code=1, PYTHON=str(old))


def test_without_ensurepip_pip_stands_in_or_the_package_is_named(fresh):
  fresh.python((3, 11, 2), hidden="ensurepip")
  fresh.venv()
  assert fresh.installs()[1:] == [OURS]
  shutil.rmtree(fresh.tree / ".venv")
  (fresh.tree / "broken-pip").touch()
  assert "python3-venv" in fresh.venv(code=1)


def test_what_is_fresh_is_left_alone_and_dev_holds_the_plain_one(fresh):
  fresh.python((3, 12, 4))
  fresh.venv()
  assert fresh.venv() == ""
  fresh.venv("dev")
  assert fresh.venv() == fresh.venv("dev") == ""
  assert fresh.installs() == [OURS, OURS + "[dev]"]


@pytest.mark.parametrize("file", ["pyproject.toml", "constraints.txt"])
def test_changed_requirements_are_installed_into_the_same_venv(fresh, file):
  fresh.python((3, 12, 4))
  fresh.venv()
  (fresh.tree / ".venv" / "kept").touch()
  with open(fresh.tree / file, "a") as out:
    out.write("# changed\n")
  assert "Installing" in fresh.venv()
  assert (fresh.tree / ".venv" / "kept").exists()
  assert fresh.installs() == [OURS, OURS]


def break_link(fresh):
  (fresh.tree / ".venv" / "bin" / "python").unlink()


def move(fresh):
  fresh.tree = fresh.tree.rename(fresh.tree.with_name("moved"))


def downgrade(fresh):
  fresh.python((3, 9, 18), "python", folder=fresh.tree / ".venv" / "bin")


def lose_pip(fresh):
  (fresh.tree / ".venv" / "no-pip").touch()


def cut_short(fresh):
  (fresh.tree / ".venv" / "unfinished").touch()


@pytest.mark.parametrize(
  "harm, reason",
  [
    (break_link, "does not run"),
    (move, "another folder"),
    (downgrade, "3.9.18"),
    (lose_pip, "no pip"),
    (cut_short, "cut short"),
  ],
)
def test_a_stale_venv_is_rebuilt_with_its_reason(fresh, harm, reason):
  fresh.python((3, 12, 4))
  fresh.venv()
  (fresh.tree / ".venv" / "old").touch()
  harm(fresh)
  told = fresh.venv()
  assert "Rebuilding" in told and reason in told
  assert not (fresh.tree / ".venv" / "old").exists()
  assert fresh.venv() == ""


def test_another_python_asked_for_rebuilds(fresh):
  fresh.python((3, 12, 4))
  other = fresh.python((3, 13, 0), "other")
  fresh.venv()
  told = fresh.venv(PYTHON=str(other))
  assert "Rebuilding" in told and "PYTHON is 3.13.0" in told
  assert fresh.venv() == ""


def test_a_failed_installation_is_no_venv(fresh):
  fresh.python((3, 12, 4))
  (fresh.tree / "broken-pip").touch()
  assert "installation failed" in fresh.venv(code=1)
  (fresh.tree / "broken-pip").unlink()
  assert "cut short" in fresh.venv()
  assert fresh.venv() == ""


@pytest.mark.parametrize("code", [0, 2])
def test_ci_ends_as_make_test_does(fresh, code):
  fresh.python((3, 12, 4))
  (fresh.bin / "make").unlink()
  (fresh.bin / "make").write_text(f'#!/bin/sh\necho "made $*"\nexit {code}\n')
  (fresh.bin / "make").chmod(0o755)
  done = fresh.run("bash", ".ci/run", CI="true")
  assert (done.stdout, done.returncode) == ("made test\n", code)
