"""The methods and the controls, one file each: name -> (settings, factory)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from promise_jax.method import Method
from promise_jax.methods import (
  distil,
  fusion,
  mplmm,
  promise,
  promma,
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
  "share": (share.ShareConfig, share.share),
}

# Built on the network of another method: a run of one may start from one of the other.
HOST = {"promma": "mplmm"}


def family(name: str) -> str:
  """The method whose network `name` is built on: its host, or itself."""
  return HOST.get(name, name)


def make_config(name: str, values: Mapping[str, Any]) -> Any:
  """The settings of method `name` with `values` in place of defaults.

  Raises ValueError, listing what is known, for an unknown method or field, or a value
  of another type than the default's.
  """
  if name not in METHODS:
    raise ValueError(f"method is {name!r}, known are {', '.join(METHODS)}")
  config = METHODS[name][0]
  fields = {f.name: f.default for f in dataclasses.fields(config)}
  for field, value in values.items():
    if field not in fields:
      known = ", ".join(fields)
      raise ValueError(f"{name}.{field} is not a setting of {name}, known are {known}")
    kind = type(fields[field])
    if type(value) is not kind and not (kind is float and type(value) is int):
      raise ValueError(f"{name}.{field} is {value!r}, expected a {kind.__name__}")
  return config(**values)


def build_method(name: str, values: Mapping[str, Any], spec: Spec) -> Method:
  """The method `name` with settings `values` for the data of `spec`."""
  config = make_config(name, values)
  return METHODS[name][1](config, spec)
