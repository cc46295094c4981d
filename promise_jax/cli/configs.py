"""Config files by name or path, and the settings that the command line changes in them."""

import difflib
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import promise_jax

PACKAGE = Path(promise_jax.__file__).resolve().parent


def add_config_arguments(parser, example: str) -> None:
  """Adds --config, --workdir and --log, and explains --config.FIELD."""
  parser.add_argument(
    "--config",
    metavar="NAME[:key=value,...]",
    help=f"name or path of a config file, as {example}; settings may follow a colon",
  )
  parser.add_argument(
    "--config.FIELD",
    metavar="VALUE",
    help="changes any setting of the config, as --config.train.steps=800; "
    "`promise-jax list settings` shows all with their defaults",
  )
  parser.add_argument(
    "--workdir", metavar="DIR", help="folder of the run (default: runs/NAME-<hash of the config>)"
  )
  curves = "also write training curves for TensorBoard, to tensorboard/ in the folder of the run"
  parser.add_argument("--log", choices=("tensorboard",), help=curves)


def config_names() -> dict[str, Path]:
  """{"robult": path, "results/robult": path, ...} of the configs of this project."""
  inside = PACKAGE / "configs"  # in a wheel; in a checkout they are beside the package
  folder = inside if inside.is_dir() else PACKAGE.parent / "configs"
  paths = [p for p in folder.rglob("*.py") if "def get_config" in p.read_text("utf-8")]
  paths.sort(key=lambda p: (len(p.parts), p))
  return {p.relative_to(folder).with_suffix("").as_posix(): p for p in paths}


def find_config(name: str) -> Path:
  """The config file that `name` means. ValueError if there is none."""
  path = Path(name).expanduser()
  if path.suffix == ".py" and path.is_file():
    return path
  known, short = config_names(), name.removesuffix(".py").removeprefix("configs/")
  if short not in known:
    raise ValueError(f"there is no config {name!r}; known are {', '.join(known)}, or a path")
  return known[short]


def load_config(flag: str | None, overrides: Sequence[tuple[str, str | None]], example: str):
  """The config of `flag`, the value of --config, as a dict, and the name of its file.

  `overrides` are (field, value) of every --config.FIELD=VALUE; `example` is a config to name where
  `flag` is missing.
  """
  if not flag:
    raise ValueError(f"--config is missing, for instance --config {example}")
  name, _, arguments = flag.partition(":")
  path = find_config(name)
  spec = importlib.util.spec_from_file_location("promise_jax_config", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
      raise ValueError(f"{path} is no config: it has no function get_config")
    config = module.get_config(*([arguments] if arguments else []))
  except ValueError as error:
    raise ValueError(str(error)) from error
  kinds = []
  for field, value in overrides:
    if match := re.fullmatch(r"kinds\.(\w+)", field):  # no field: the data name the modalities
      kinds.append(f"{match[1]}={value}")
    else:
      set_field(config, field, value)
  if kinds:
    set_field(config, "data.kinds", ",".join(kinds))
  return config.to_dict(), path.stem


def set_field(config, field: str, text: str | None) -> None:
  """Sets `field`, as "train.optim.lr", of a ConfigDict to `text`, as its type reads it."""
  from promise_jax import files
  from promise_jax.experiments.config import convert_value

  *parents, last = field.split(".")
  section, is_section = config, lambda value: hasattr(value, "items")
  for name in parents:
    section = section[name] if is_section(section) and name in section else {}
  if last not in section:
    fields = {f: f.rpartition(".")[2] for f in files.flatten(config.to_dict())}
    near = difflib.get_close_matches(last, fields.values(), 1)
    meant = [f"--config.{f}" for f, end in fields.items() if end in near][:3]
    hint = f"; did you mean {' or '.join(meant)}?" if meant else ""
    raise ValueError(f"the config has no field {field!r}{hint}")
  default = section[last]
  if is_section(default):
    raise ValueError(f"{field} is a group of settings: {', '.join(default)}")
  if text is None and not isinstance(default, bool):
    raise ValueError(f"--config.{field} needs a value")
  section[last] = convert_value(field, "true" if text is None else text, default)
