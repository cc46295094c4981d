"""The settings of an experiment: defaults, presets, short arguments, checks.

A config file calls `defaults`, assigns what is its own, and ends in `with_arguments`,
which reads the `key=value,key=value` after the colon of `--config file.py:...`. All
other fields are set by `--config.field=value`.
"""

import dataclasses
import re
from typing import Any, NamedTuple

from promise_jax import methods, missing
from promise_jax.checks import check_choice
from promise_jax.devices import mesh
from promise_jax.evaluation import predict
from promise_jax.experiments import run_dir
from promise_jax.methods.presets import METHOD_PRESETS, PRESET_TRAINING, PRESETS
from promise_jax.nn import precision
from promise_jax.optim import optimizer
from promise_jax.training import loop

CONSTANT_VARIANT = "majority"

# How a data set is read; `data.load` says what each is.
DATA_OPTIONS = {
  "nonfinite": "frame",
  "vocabulary": 8192,
  "scale": 0.0,  # 0: the unit of a regression label is what the data set says
  "tags": False,
  "fold": 0,
  "kinds": "",  # of npz modalities, as "audio=sequence,page=image"
  "split_seed": 0,
  "classes": False,
  "modalities": "",  # that are kept, as "image+text"; all where empty
  "frozen": "",  # encoders, as "image=package.module:function,text=features/text"
  "stream": False,
}


class Variant(NamedTuple):
  """One line of the comparison: `text` as given, a method and all its settings."""

  text: str
  method: str
  values: dict[str, Any]

  @property
  def folder(self) -> str:
    """Its text as the name of a folder."""
    return re.sub(r"[^\w.=,-]+", "_", self.text).strip("_")


def default_config(method: str, dataset: str, label_rate: float):
  """The ConfigDict of an experiment with `method` on `dataset`, everything explicit."""
  from ml_collections import config_dict

  config = config_dict.ConfigDict()
  config.method = method
  config.dataset = dataset
  config.label_rate = label_rate
  config.train_protocol = "none"
  config.test_protocols = ()  # what the test is under, beside patterns and rates
  config.seeds = 5
  config.metrics = ()  # more than the task's own, by name
  config.baselines = tuple(c for c in (CONSTANT_VARIANT, "fusion", "distil") if c != method)
  config.init_from = ""  # a finished run whose best parameters the method starts from
  config.init_filter = (".*",)  # regexes on the path, the parameters that are taken over
  config.data = {"data_dir": "", **DATA_OPTIONS, **run_dir.PREFETCH_OPTIONS}
  config.precision = "float32"  # or "bfloat16": of what networks multiply
  config.train = dataclasses.asdict(loop.TrainConfig())
  for name, (kind, _) in methods.METHODS.items():
    config[name] = dataclasses.asdict(kind())
  return config


def default_map_config(method: str, arguments: str):
  """`defaults`, then `arguments`, under the protocol of the MAP family: 70 % of the
  training rows incomplete, and its grid as the tests unless `arguments` say otherwise;
  emoji has image and text. Two modalities are known of watch and of `modalities`."""
  given = parse_pairs(arguments)
  config = default_config(method, given.get("dataset", "emoji"), label_rate=1.0)
  if config.dataset == "emoji":
    config.data.modalities = "image+text"
  config.train_protocol = "map(0.7)"
  config = apply_arguments(config, arguments)
  if "test_protocols" not in given:
    two = config.dataset == "watch" or config.data.modalities.count("+") == 1
    config.test_protocols = predict.map_protocols(2 if two else 3)
  return config


def apply_arguments(config, text: str):
  """Sets top-level fields and those of `data` from `key=value,key=value`;
  `preset=...` names a set of fields and is applied first.

  Commas inside parentheses belong to the value; tuples are joined by "+"
  (`baselines=majority+fusion(fill=zeros)`), "none" is the empty one. Raises ValueError
  that lists the known keys, or says what a field takes.
  """
  given = parse_pairs(text)
  owner = dict.fromkeys(config.data, config.data)
  owner |= {key: config for key, v in config.items() if not hasattr(v, "items")}
  for key in given:
    if key not in owner and key != "preset":
      raise ValueError(
        f"config argument {key!r} is unknown, known are {', '.join((*owner, 'preset'))}"
      )
  method = given.get("method", config.method).partition("(")[0]
  preset = check_preset(given.pop("preset", "default"), method)
  config.update(PRESETS[preset])
  config.train.update(PRESET_TRAINING.get((preset, method), {}))
  for key, value in given.items():
    owner[key][key] = convert_value(key, value, owner[key][key])
  return config


def check_preset(name: str, method: str) -> str:
  """`name`, if it is that of a preset for `method`; else ValueError."""
  check_choice("preset", name, tuple(PRESETS))
  if name in METHOD_PRESETS and method not in PRESETS[name]:
    of = ", ".join(m for m in methods.METHODS if m in PRESETS[name])
    raise ValueError(f"preset {name} is one of {of}, the method is {method}")
  return name


def parse_pairs(text: str) -> dict[str, str]:
  """{"a": "1", "b": "f(x=2,y)"} of the text "a=1,b=f(x=2,y)"."""
  out = {}
  for part in re.split(r",(?![^(]*\))", text or ""):
    if not part.strip():
      continue
    key, equals, value = part.partition("=")
    if not equals:
      raise ValueError(f"config argument {part!r} is not of the form key=value")
    if key.strip() in out:
      raise ValueError(f"config argument {key.strip()!r} is given twice")
    out[key.strip()] = value.strip()
  return out


def convert_value(key: str, text: str, default: Any) -> Any:
  """`text` as a value of the type of `default`."""
  if isinstance(default, tuple):
    return () if text in ("", "none") else tuple(re.split(r"\+(?![^(]*\))", text))
  if isinstance(default, bool):
    if text.lower() not in ("true", "false"):
      raise ValueError(f"{key} is {text!r}, expected true or false")
    return text.lower() == "true"
  try:
    return type(default)(text)
  except ValueError:
    kind = {int: "a whole number", float: "a number"}[type(default)]
    raise ValueError(f"{key} is {text!r}, expected {kind}") from None


def parse_variant(text: str, config: dict) -> Variant:
  """The variant of "robult" or "fusion(fill=zeros,dropout=false)"; "preset=..." inside
  the parentheses takes what that preset says of the method."""
  match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text.strip())
  name = match[1] if match else text
  if name == CONSTANT_VARIANT and match and not match[2]:
    return Variant(text, CONSTANT_VARIANT, {})
  if not match or name not in methods.METHODS:
    known = ", ".join((*methods.METHODS, CONSTANT_VARIANT))
    raise ValueError(f"{text!r} is not a method or a baseline, known are {known}")
  base, given = dict(config[name]), parse_pairs(match[2] or "")
  if "preset" in given:
    base |= PRESETS[check_preset(given.pop("preset"), name)].get(name, {})
  values = {}
  for key, value in given.items():
    if key not in base:
      raise ValueError(f"{key!r} is no setting of {name}, known are {', '.join(base)}")
    values[key] = convert_value(f"{name}.{key}", value, base[key])
  return Variant(text.strip(), name, base | values)


class Experiment(NamedTuple):
  """The config as typed values: what `experiment.run` reads. `init_from` and
  `init_filter` hold for all variants of the run's method and of its family, `warmstart.py`
  says how."""

  variants: tuple[Variant, ...]
  seeds: tuple[int, ...]
  protocol: missing.Protocol
  tests: tuple[missing.Protocol, ...]
  train: loop.TrainConfig
  init_from: str
  init_filter: tuple[str, ...]
  precision: str


def parse_experiment(config: dict) -> Experiment:
  """Reads every field of the plain dict `config`; ValueError for the first that is
  wrong. Nothing is loaded or written."""
  variants = tuple(parse_variant(t, config) for t in (config["method"], *config["baselines"]))
  folders = [a.folder for a in variants]
  if len(set(folders)) < len(folders):
    raise ValueError(f"method and baselines repeat one of {', '.join(folders)}")
  for variant in variants:
    if variant.method != CONSTANT_VARIANT:
      methods.make_config(variant.method, variant.values)
  if not 0 < config["label_rate"] <= 1:
    raise ValueError(f"label_rate is {config['label_rate']}, it must lie in (0, 1]")
  if config["seeds"] < 1:
    raise ValueError(f"seeds is {config['seeds']}, at least 1 is needed")
  mesh.check_seeds(config["seeds"], config["train"].get("seed_devices", 1))
  values = dict(config["train"])
  values["optim"] = optimizer.OptimConfig(**values["optim"])
  return Experiment(
    variants,
    tuple(range(config["seeds"])),
    missing.parse_protocol(config["train_protocol"]),
    read_tests(config["test_protocols"]),
    loop.TrainConfig(**values),
    *read_start(config),
    read_precision(config),
  )


def read_start(config: dict) -> tuple[str, tuple[str, ...]]:
  """`init_from` and `init_filter`; ValueError for what is no regex, or nothing to start.
  The config of a run made before there were these fields has none."""
  folder, only = config.get("init_from", ""), config.get("init_filter", (".*",))
  for pattern in only:
    try:
      re.compile(pattern)
    except re.error as error:
      raise ValueError(f"init_filter has {pattern!r}, no regex: {error}") from None
  if folder and config["method"] == CONSTANT_VARIANT:
    raise ValueError(f"init_from is {folder!r}, {CONSTANT_VARIANT} has no parameters to start")
  return folder, tuple(only)


def read_precision(config: dict) -> str:
  """`precision`; ValueError for one that is not known. The config of a run made before
  there was this field has none."""
  found = config.get("precision", "float32")
  check_choice("precision", found, precision.PRECISIONS)
  return found


def read_tests(texts: tuple[str, ...]) -> tuple[missing.Protocol, ...]:
  """The protocols of `test_protocols`; ValueError for one that is unknown, redrawn or
  repeated. Whether they fit the data is seen when those are loaded."""
  found = tuple(missing.parse_protocol(text) for text in texts)
  for i, protocol in enumerate(found):
    if protocol.redraw:
      raise ValueError(f"test_protocols has {protocol}, test masks are never redrawn")
    if protocol in found[:i]:
      raise ValueError(f"test_protocols repeats {protocol}, each is measured once")
  return found
