"""What a config file is made of: the default of every setting, presets, short arguments.

A config file calls `default_config`, assigns what differs, and ends in `apply_arguments`, which
reads the `key=value,...` after the colon of `--config robult:...`.
"""

import ast
import contextlib
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from promise_jax import methods
from promise_jax.checks import check_choice
from promise_jax.data import prefetch
from promise_jax.evaluation import conditions
from promise_jax.files import flatten
from promise_jax.methods.constant import CONSTANT_VARIANT
from promise_jax.methods.presets import METHOD_PRESETS, PRESET_TRAINING, PRESETS
from promise_jax.training.config import TrainConfig

# How a data set is read; the docstring of `data.load` explains each option.
DATA_OPTIONS = {
  "nonfinite": "auto",
  "zeros": "auto",
  "vocabulary": 8192,
  "scale": 0.0,  # 0: the unit of a regression label is the one of the data set
  "tags": False,
  "fold": 0,
  "whole": False,
  "strengths": "",  # of the modalities of synthetic, as "3+1+0"
  "kinds": "",  # of the modalities of an npz file, as "audio=sequence,page=image"
  "split_seed": 0,
  "classes": False,
  "modalities": "",  # to keep, as "image+text"; empty: all
  "encoders": "",  # as "text=bert:FOLDER,photo=efficientnet_lite0,sound=package.module:function"
  "stream": False,
  "task": "",  # where the guess from the labels is wrong
  "label": "",  # these three are for tables
  "columns": "",  # roles, as "photo=image,notes=ignore"
  "image_size": 48,
  "features": "",  # folders of <id>.npy, as "audio=features/audio"
  "root": "",  # the folder that paths start from
  "allow_missing_files": False,
}
PREFETCH_OPTIONS = dataclasses.asdict(prefetch.PrefetchConfig())


def default_config(method: str, dataset: str, label_rate: float):
  """The ConfigDict of an experiment with `method` on `dataset`, with every setting in it."""
  from ml_collections import config_dict

  config = config_dict.ConfigDict(
    {"method": method, "dataset": dataset, "label_rate": label_rate, "class_weight": "none"}
  )
  config.train_protocol = "none"
  config.test_protocols = ()
  config.seeds = 5
  config.metrics = ()
  config.baselines = tuple(c for c in (CONSTANT_VARIANT, "fusion", "distil") if c != method)
  config.init_from = ""
  config.init_filter = (".*",)
  config.data = {"data_dir": "", **DATA_OPTIONS, **PREFETCH_OPTIONS}
  config.precision = "float32"
  config.train = dataclasses.asdict(TrainConfig())
  for name, (settings, _) in methods.METHODS.items():
    config[name] = dataclasses.asdict(settings())
  return config


def default_map_config(method: str, arguments: str):
  """`default_config` with `arguments` under the protocol of MAP: 70 % of the train rows are
  incomplete, and the tests are its grid. The default data are emoji with image and text."""
  given = parse_pairs(arguments)
  config = default_config(method, given.get("dataset", "emoji"), label_rate=1.0)
  if config.dataset == "emoji":
    config.data.modalities = "image+text"
  config.train_protocol = "map(0.7)"
  config = apply_arguments(config, arguments)
  if "test_protocols" not in given:
    two = config.dataset == "watch" or config.data.modalities.count("+") == 1
    config.test_protocols = conditions.map_protocols(2 if two else 3)
  return config


def apply_arguments(config, text: str):
  """Sets top-level fields and those of `data` from `key=value,...`.

  `preset=NAME` is applied first. Commas inside parentheses belong to a value; the parts of a tuple
  are joined by + (`baselines=majority+fusion(dropout=false)`), "none" is the empty one.
  ValueError for an unknown key, with the field that was probably meant, or a wrong value.
  """
  given = parse_pairs(text)
  method = given.get("method", config.method).partition("(")[0]
  owner = dict.fromkeys(config.data, config.data)
  owner |= {key: config for key, value in config.items() if not hasattr(value, "items")}
  for key, value in given.items():
    if key not in owner and key != "preset":
      near = [f for f in flatten(config.to_dict()) if f.endswith(f".{key}")]
      near = [f for f in near if f.startswith(("train.", f"{method}."))]
      hint = " or ".join(f"--config.{field}={value}" for field in near)
      known = f"known are {', '.join((*owner, 'preset'))}"
      if any("/" in text for text in given.values()):
        known += "; a path with a comma in it is given by --config.dataset=PATH"
      raise ValueError(f"config argument {key!r} is unknown, {hint and f'write {hint}; '}{known}")
  preset = check_preset(given.pop("preset", "default"), method)
  config.update(PRESETS[preset])
  config.train.update(PRESET_TRAINING.get((preset, method), {}))
  for key, value in given.items():
    owner[key][key] = convert_value(key, value, owner[key][key])
  return config


def check_preset(name: str, method: str) -> str:
  """Returns `name`. ValueError unless it is a preset that has settings for `method`."""
  check_choice("preset", name, tuple(PRESETS))
  if name in METHOD_PRESETS and method not in PRESETS[name]:
    known = ", ".join(m for m in methods.METHODS if m in PRESETS[name])
    raise ValueError(f"preset {name} is for {known}, the method is {method}")
  return name


def parse_pairs(text: str) -> dict[str, str]:
  """{"a": "1", "b": "f(x=2,y)"} of the text "a=1,b=f(x=2,y)"."""
  pairs = {}
  for part in re.split(r",(?![^(]*\))", text or ""):
    key, equals, value = map(str.strip, part.partition("="))
    if not part.strip():
      continue
    if not equals:
      last, old = next(reversed(pairs.items()), ("key", "value"))
      raise ValueError(
        f"config argument {key!r} is not of the form key=value; several values of one key are "
        f"joined by +, as {last}={old}+{key}"
      )
    if key in pairs:
      raise ValueError(f"config argument {key!r} is given twice")
    pairs[key] = value
  return pairs


def convert_value(key: str, text: str, default: Any) -> Any:
  """`text` as a value of the type of `default`. ValueError, with `key`, if it is none."""
  if isinstance(default, tuple) and text.startswith(("(", "[")):
    with contextlib.suppress(SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
      if isinstance(value := ast.literal_eval(text), tuple | list):
        return tuple(value)
    raise ValueError(f"{key} is {text!r}, expected values joined by +, or none")
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


def check_types(config: Mapping[str, Any]) -> None:
  """Raises ValueError for an unknown field, or a value of another type than its default."""
  defaults = flatten(default_config("fusion", "", 1.0).to_dict())
  words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
  empty = {field: value for field, value in config.items() if value == {}}
  for field, value in (flatten(config) | empty).items():
    if field.startswith("data."):  # `data.load` has options of its own for each source
      continue
    if field not in defaults:
      raise ValueError(f"the config has an unknown field {field!r}")
    kind = type(defaults[field])
    good = isinstance(value, int | float if kind is float else kind)
    good &= kind is bool or not isinstance(value, bool)
    if not good or (kind is list and not all(isinstance(x, str) for x in value)):
      raise ValueError(f"{field} is {value!r}, expected {words.get(kind, 'a list of texts')}")
