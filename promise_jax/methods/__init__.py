"""The methods and the baselines, one file each: {name: (config, factory)}."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from promise_jax.method import Method
from promise_jax.methods import (
  distil,
  fusion,
  label_center,
  mplmm,
  promise,
  promma,
  prototypes,
  redcore,
  robult,
  share,
)
from promise_jax.types import Spec

METHODS = {
  "robult": (robult.RobultConfig, robult.robult),
  "redcore": (redcore.RedcoreConfig, redcore.redcore),
  "promise": (promise.PromiseConfig, promise.promise),
  "promma": (promma.PrommaConfig, promma.promma),
  "mplmm": (mplmm.MplmmConfig, mplmm.mplmm),
  "fusion": (fusion.FusionConfig, fusion.fusion),
  "distil": (distil.DistilConfig, distil.distil),
  "prototypes": (prototypes.PrototypesConfig, prototypes.prototypes),
  "share": (share.ShareConfig, share.share),
}

# A method that is built on the network of another: its runs may start from those of it.
BUILT_ON = {"promma": "mplmm"}


def family(name: str) -> str:
  """The method whose network `name` is built on, or `name` itself."""
  return BUILT_ON.get(name, name)


def make_config(name: str, values: Mapping[str, Any]) -> Any:
  """The config dataclass of a method, with `values` in place of defaults.

  Raises:
    ValueError: an unknown method or setting, a value of another type than the default's,
      or one that makes no sense; it says what is allowed.
  """
  if name not in METHODS:
    raise ValueError(f"method is {name!r}, known are {', '.join(METHODS)}")
  config, _ = METHODS[name]
  defaults = {f.name: f.default for f in dataclasses.fields(config)}
  for field, value in values.items():
    if field not in defaults:
      known = ", ".join(defaults)
      raise ValueError(f"{name}.{field} is not a setting of {name}, known are {known}")
    kind = type(defaults[field])
    if type(value) is not kind and not (kind is float and type(value) is int):
      raise ValueError(f"{name}.{field} is {value!r}, expected a {kind.__name__}")
  return config(**values)


def build_method(name: str, values: Mapping[str, Any], spec: Spec) -> Method:
  """The method `name` with the settings `values`, for data of the form `spec`."""
  config = make_config(name, values)
  _, factory = METHODS[name]
  return label_center.start_at_center(factory(config, spec), spec.task)
