"""The command line in this process: help, lists, configs by name, and what is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import tiny_runs
from promise_jax import methods, missing
from promise_jax.cli import configs
from promise_jax.cli.main import COMMANDS, HelpFormatter, main, make_parser, split_overrides
from promise_jax.data.readers.table import parse_pairs
from promise_jax.experiments.experiment import parse_experiment

ROOT = Path(__file__).parents[2]
TINY = str(Path(tiny_runs.__file__))
# (command line, a part of the sentence)
REFUSED = [
  ("", "arguments are required: COMMAND"),
  ("fly", "invalid choice: 'fly'"),
  ("train --colour=red", "train does not take --colour=red; promise-jax train --help"),
  ("train --steps 100", "promise-jax list settings what is set by --config.FIELD=VALUE"),
  ("train rubbish", "'rubbish' is no data set"),
  ("train full --label=y", "no option 'label' (a table *.csv, "),
  ("train rows.csv", "expected is the column to predict, one of a, y, or several, as"),
  ("train rows.csv --label=z", "label is 'z'"),
  ("train rows.csv --label=y --columns=a=date", "columns, a is 'date', known are number, "),
  ("train rows.csv --label=y --modalities=x=a+b", "a column of modality x is 'b', known are a"),
  ("train", "--config is missing, for instance --config robult"),
  ("train --config nowhere.py", "there is no config 'nowhere.py'; known are distil, "),
  ("train --config empty.py", "empty.py is no config: it has no function get_config"),
  ("train --config results/methods", "has no method; one with runs is for `promise-jax compare`"),
  ("compare --config robult", "has no runs; one with a method is for `promise-jax train`"),
  ("train --config robult:stepz=3", "'stepz' is unknown, known are"),
  ("train --config robult:steps=3", "'steps' is unknown, write --config.train.steps=3"),
  ("train --config robult:seeds", "'seeds' is not of the form key=value"),
  ("train --config robult:modalities=fou,zer", "joined by +, as modalities=fou+zer"),
  ("train --config robult:preset=huge", "preset is 'huge', known are"),
  ("train --config robult --config.train.lr=3", "did you mean --config.train.optim.lr?"),
  ("train --config robult --config.sseds=3", "did you mean --config.seeds?"),
  ("train --config robult --config.train.steps=few", "train.steps is 'few', expected a whole"),
  ("train --config robult --config.train=3", "train is a group of settings: batch_size,"),
  ("train --config robult --config.seeds", "--config.seeds needs a value"),
  ("train --config robult --config.robult.contrast=typo", "robult.contrast is 'typo', known are"),
  (
    "train --config robult --config.data.task=clases",
    "regression; did you mean classes?",
  ),
  ("train --config robult:dataset=minst", "'minst'"),
  ("train --config robult --config.kinds.fou=image", "kinds"),
  (
    "train --config robult:dataset=own.npz --config.kinds.sound=sequence",
    "a modality in kinds is 'sound'",
  ),
  ("train --config robult:dataset=own.npz --config.kinds.b=audio", "kinds.b is 'audio'"),
  ("train --config TINY:train_protocol=often", "known: none"),
  ("train --config TINY:train_protocol=bernoulli(2)", "[0, 1]"),
  ("train --config TINY:label_rate=0", "label_rate is 0.0, it must lie in"),
  ("train --config TINY:seeds=0", "seeds is 0"),
  ("train --config TINY:baselines=nonsense", "'nonsense' is not a method or a baseline"),
  ("train --config TINY:baselines=fusion", "repeat"),
  ("train --config TINY --config.train.steps=21", "steps is 21"),
  ("train --config TINY --config.train.optim.lr=-1.0", "lr is -1.0"),
  ("train --config TINY --workdir=file", "file is a file"),
  ("train --config TINY --workdir=file/new", "file/new: Not a directory"),
  ("predict none full --out=p.csv", "none/model does not exist: give the folder of an export"),
  ("predict file full --out=p.csv", "file/model has no model.json: give the folder of an export"),
  ("train --config TINY --workdir=ours", "label_rate was 0.25, is 0.5"),
  ("train --config TINY --workdir=full", "full is not empty"),
  ("train --config TINY --processes=2", "processes is 2 and process is None"),
  ("evaluate --protocol=none", "--workdir is missing"),
  ("table ours --out full", "--out is full, expected is a file in a folder that exists"),
  ("table ours --out none/t.csv", "--out is none/t.csv, expected is a file"),
  ("evaluate --protocol=none --workdir=full", "is not a run"),
  ("evaluate --workdir=full --masks=new.npz", "the mask of --protocol, which is missing"),
  ("evaluate --workdir=full --data=own.npz --split=valid", "give one of them"),
  ("evaluate --protocol=none --config.seeds=3", "evaluate takes no --config.seeds"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The working folder: a file, a folder with something in it, a run of another config."""

  def find_no_cluster(**given):
    raise ValueError("coordinator_address should be defined")

  # JAX itself refuses to look for a cluster in a process that has used it.
  monkeypatch.setattr(jax.distributed, "initialize", find_no_cluster)
  monkeypatch.chdir(tmp_path)
  (tmp_path / "file").write_text("x")
  (tmp_path / "empty.py").touch()
  (tmp_path / "rows.csv").write_text("a,y\n1.5,no\n2,yes\n4,no\n2,yes\n")
  np.savez(tmp_path / "own.npz", x_a=np.eye(9), x_b=np.eye(9), y=np.arange(9) % 3)
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "thesis.txt").write_text("x")
  other = {"config": tiny_runs.get_config("label_rate=0.25").to_dict()}
  (tmp_path / "ours").mkdir()
  (tmp_path / "ours" / "config.json").write_text(json.dumps(other))
  return tmp_path


@pytest.mark.parametrize(("line", "sentence"), REFUSED, ids=[line for line, _ in REFUSED])
def test_a_mistake_is_one_sentence_and_nothing_is_written(line, sentence, folder, capsys):
  before = sorted(folder.rglob("*"))
  assert main(line.replace("TINY", TINY).split()) == 2
  out, err = capsys.readouterr()
  assert out == "" and err.startswith("error: ") and err.count("\n") == 1
  assert sentence in err
  assert sorted(folder.rglob("*")) == before


def test_a_bug_is_a_traceback(monkeypatch):
  def fail(args):
    np.zeros(3).reshape(2)

  monkeypatch.setattr(COMMANDS["evaluate"], "run", fail)
  with pytest.raises(ValueError, match="reshape"):
    main(["evaluate"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example_and_defaults(command, capsys):
  for flag in ("--help", "-h"):
    with pytest.raises(SystemExit) as end:
      main([command, flag])
    assert end.value.code == 0
  text = capsys.readouterr().out
  assert f"promise-jax {command}" in text and "example" in text
  flags = re.findall(r"^  --(\w+)", text, re.MULTILINE)
  assert command == "list" or flags
  (commands,) = make_parser()._subparsers._group_actions
  for option in commands.choices[command]._actions[1:]:  # the first is --help
    words = HelpFormatter("")._get_help_string(option)
    assert "default: " in words or option.required or not option.option_strings


def test_help_starts_without_jax():
  code = "import sys; from promise_jax.cli.main import make_parser; make_parser().format_help(); "
  code += "sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
  assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_lists_name_everything_with_a_line_each(capsys):
  names = {}
  for kind in ("methods", "datasets", "protocols", "metrics", "configs", "settings"):
    assert main(["list", kind]) == 0
    lines = [x.split(maxsplit=1) for x in capsys.readouterr().out.splitlines()]
    assert all(len(x) == 2 for x in lines), lines
    names[kind] = {x[0] for x in lines}
  assert names["methods"] == {*methods.METHODS, "majority"}
  assert names["protocols"] == set(missing.PROTOCOLS)
  assert {"mfeat", "emoji", "watch", "synthetic"} <= names["datasets"]
  assert {"accuracy", "macro_f1", "mae"} <= names["metrics"]
  assert {"robult", "results/methods"} <= names["configs"]
  assert {"--config.train.optim.lr", "--config.data.fold"} <= names["settings"]


def test_a_config_is_found_by_name_or_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = ROOT / "configs" / "results" / "methods.py"
  for name in ("results/methods", "configs/results/methods.py", str(path)):
    assert configs.find_config(name).resolve() == path
  Path("robult.py").write_text((ROOT / "configs" / "fusion.py").read_text())
  config, name = configs.load_config("robult.py", [], "robult")
  assert (config["method"], name) == ("fusion", "robult")


def test_a_table_is_trained_as_the_config_table_says(monkeypatch, capsys):
  found = []
  monkeypatch.setattr(
    "promise_jax.experiments.run.run_experiment",
    lambda config, folder, **more: found.append((config, folder)) or "the table",
  )
  words = ["train", "shop/products.csv", "--label=kind", "--columns=a=image,b=ignore"]
  words += ["--modalities", "x=a+c,y=*", "--root", "photos", "--config.seeds=2"]
  assert main(words) == 0
  colon = "table:dataset=shop/products.csv,label=kind,columns=(a=image,b=ignore),root=photos"
  assert main(["train", "--config", f"{colon},modalities=(x=a+c,y=*),seeds=2"]) == 0
  (flags, first), (colons, _) = found
  assert first.name.startswith("products-") and capsys.readouterr().out.count("the table") == 2
  assert flags["baselines"] == ("majority", "fusion", "distil", "share")
  options = parse_experiment(flags).data.options
  assert options["label"] == "kind" and options["root"] == "photos"
  for option in ("columns", "modalities"):
    assert parse_pairs(option, colons["data"].pop(option)) == parse_pairs(
      option, flags["data"].pop(option)
    )
  assert colons == flags


def test_settings_of_the_command_line_take_the_type_of_the_config():
  flags = ["--config.train.steps", "8", "--config.data.stream", "--noconfig.data.tags"]
  flags += ["--config.init_filter=('params/a.*',)", "--config.baselines=fusion(fill=zeros)+distil"]
  rest, overrides = split_overrides(["--workdir=x", *flags, "--config.kinds.fou=vector"])
  assert rest == ["--workdir=x"]
  config, _ = configs.load_config("robult:seeds=2", overrides, "robult")
  assert (config["seeds"], config["train"]["steps"]) == (2, 8)
  assert config["data"]["stream"] is True and config["data"]["tags"] is False
  assert config["init_filter"] == ("params/a.*",) and config["data"]["kinds"] == "fou=vector"
  assert config["baselines"] == ("fusion(fill=zeros)", "distil")


def test_the_scripts_in_launch_are_the_same_commands(tmp_path):
  for name in ("train", "evaluate", "compare", "benchmark"):
    call = [sys.executable, str(ROOT / "launch" / f"{name}.py"), "--help"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: promise-jax {name} ")


def test_compiled_programs_are_kept_in_the_cache_folder(tmp_path):
  """Unless the user says otherwise: a second process compiles nothing new."""
  unset = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
  own = {k: v for k, v in os.environ.items() if k not in unset}
  own |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_NUM_CPU_DEVICES": "1"}
  code = "from promise_jax.cli import startup; startup.enable_compilation_cache(); "
  code += "import jax; jax.jit(lambda x: x + 1)(1)"
  kept = []
  for _ in range(2):
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=own, check=True, timeout=120)
    folder = tmp_path / "promise_jax" / "programs"
    kept.append(sorted(x.name for x in folder.iterdir() if x.name.endswith("-cache")))
  assert kept[0] == kept[1] and len(kept[0]) > 0
