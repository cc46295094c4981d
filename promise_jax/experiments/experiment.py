"""`Experiment`: a config, checked and typed once. Nothing reads the dict after that."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Literal

from promise_jax import methods, missing
from promise_jax.checks import check_choice, suggest
from promise_jax.data import prefetch
from promise_jax.experiments.config import (
  DATA_OPTIONS,
  PREFETCH_OPTIONS,
  check_preset,
  check_types,
  convert_value,
  parse_pairs,
)
from promise_jax.losses import supervised
from promise_jax.methods.constant import CONSTANT_VARIANT
from promise_jax.methods.presets import PRESETS
from promise_jax.nn import precision
from promise_jax.optim import optimizer
from promise_jax.training.config import TrainConfig

MAX_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class VariantConfig:
  """A method with settings: one column of the table."""

  name: str  # as in the config, "fusion(dropout=false)"
  method: str
  settings: Mapping[str, Any]  # all settings of the method

  @property
  def folder(self) -> str:
    """The name as that of a folder."""
    return re.sub(r"[^\w.=,-]+", "_", self.name).strip("_")


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Which data are loaded, and how."""

  name: str  # a built-in data set, or a path
  options: Mapping[str, Any]  # keyword arguments of `data.load`
  prefetch: prefetch.PrefetchConfig  # how streamed rows are read ahead


@dataclasses.dataclass(frozen=True)
class Experiment:
  """All settings of an experiment."""

  variants: tuple[VariantConfig, ...]  # the method, then its baselines
  data: DataConfig
  label_rate: float  # part of the train rows that keep their label
  class_weight: Literal["none", "balanced"]  # of the supervised loss
  seeds: tuple[int, ...]
  train_protocol: missing.Protocol  # hides modalities while training
  test_protocols: tuple[missing.Protocol, ...]  # beside all patterns and the rates 0 to 0.9
  metrics: tuple[str, ...]  # beside those of the task
  train: TrainConfig
  init_from: str  # a finished run whose best parameters the method starts from, or ""
  init_filter: tuple[str, ...]  # regexes on the paths of the parameters to take over
  precision: Literal["float32", "bfloat16"]  # of the matrix products
  config: Mapping[str, Any]  # the dict, to be written to config.json and compared with it


def parse_experiment(config: Mapping[str, Any]) -> Experiment:
  """The typed form of a config; ValueError names the first field that is unknown or wrong."""
  fields = {f.name for f in dataclasses.fields(Experiment)} - {"variants", "config"}
  known = fields | {"method", "baselines", "dataset", *methods.METHODS}
  for field in sorted(config.keys() ^ known):
    what = "has no" if field in known else "has an unknown"
    hint = "" if field in known else suggest(field, known - config.keys())
    raise ValueError(f"the config {what} field {field!r}{hint}")
  check_types(config)
  variants = tuple(parse_variant(t, config) for t in (config["method"], *config["baselines"]))
  folders = [v.folder for v in variants]
  if len(set(folders)) < len(folders):
    raise ValueError(f"method and baselines repeat one of {', '.join(folders)}")
  if not 0 < config["label_rate"] <= 1:
    raise ValueError(f"label_rate is {config['label_rate']}, it must lie in (0, 1]")
  if not 1 <= config["seeds"] <= MAX_SEEDS:
    raise ValueError(f"seeds is {config['seeds']}, it must lie in 1 to {MAX_SEEDS}")
  check_choice("class_weight", config["class_weight"], supervised.CLASS_WEIGHTS)
  check_choice("precision", config["precision"], precision.PRECISIONS)
  for pattern in config["init_filter"]:
    try:
      re.compile(pattern)
    except re.error as error:
      raise ValueError(f"init_filter has {pattern!r}, no regex: {error}") from None
  init_from = config["init_from"]
  if init_from and config["method"] == CONSTANT_VARIANT:
    raise ValueError(f"init_from is {init_from!r}, {CONSTANT_VARIANT} has no parameters to start")
  protocols = tuple(missing.parse_protocol(text) for text in config["test_protocols"])
  for i, protocol in enumerate(protocols):  # whether they fit the data is checked in `setup`
    if protocol.redraw:
      raise ValueError(f"test_protocols has {protocol}, test masks are never redrawn")
    if protocol in protocols[:i]:
      raise ValueError(f"test_protocols repeats {protocol}, each is measured once")
  train = config["train"]
  return Experiment(
    variants=variants,
    data=parse_data(config["dataset"], config["data"]),
    label_rate=config["label_rate"],
    class_weight=config["class_weight"],
    seeds=tuple(range(config["seeds"])),
    train_protocol=missing.parse_protocol(config["train_protocol"]),
    test_protocols=protocols,
    metrics=tuple(config["metrics"]),
    train=TrainConfig(**(train | {"optim": optimizer.OptimConfig(**train.get("optim", {}))})),
    init_from=init_from,
    init_filter=tuple(config["init_filter"]),
    precision=config["precision"],
    config=config,
  )


def parse_variant(text: str, config: Mapping[str, Any]) -> VariantConfig:
  """The variant of "fusion(dropout=false,preset=large)"; its other settings are the config's."""
  match = re.fullmatch(r"(\w+)(?:\((.*)\))?", text.strip())
  name = match[1] if match else text
  if name == CONSTANT_VARIANT and match and not match[2]:
    return VariantConfig(name, CONSTANT_VARIANT, {})
  if not match or name not in methods.METHODS:
    known = ", ".join((*methods.METHODS, CONSTANT_VARIANT))
    raise ValueError(f"{text!r} is not a method or a baseline, known are {known}")
  settings, given = dict(config[name]), parse_pairs(match[2] or "")
  if "preset" in given:
    settings |= PRESETS[check_preset(given.pop("preset"), name)].get(name, {})
  for key, value in given.items():
    if key not in settings:
      raise ValueError(f"{key!r} is no setting of {name}, known are {', '.join(settings)}")
    settings[key] = convert_value(f"{name}.{key}", value, settings[key])
  methods.make_config(name, settings)  # raises for a wrong value
  return VariantConfig(text.strip(), name, settings)


def parse_data(name: str, values: Mapping[str, Any]) -> DataConfig:
  """The data set `name` with the options in section `data` of a config."""
  options = dict(values)
  reading = {k: options.pop(k) for k in PREFETCH_OPTIONS if k in options}
  # `data.load` refuses options that are not for its source, so only those that are set go.
  options = {k: v for k, v in options.items() if (k, v) not in DATA_OPTIONS.items()}
  options["data_dir"] = options.get("data_dir") or None
  for key in ("kinds", "encoders"):
    if key in options:
      options[key] = parse_pairs(options[key].removeprefix("(").removesuffix(")"))
  count = options.get("modalities", "")
  if name == "synthetic" and isinstance(count, str) and count.isdecimal():
    options["modalities"] = int(count)  # how many to make, not which to keep
  return DataConfig(name, options, prefetch.PrefetchConfig(**reading))
