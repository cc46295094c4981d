"""Multimodal learning with missing modalities and few labels, in JAX and Flax.

Start here:

  data.load(name)                     a data set, built in or your own
  methods.build_method(...)           a method: init, loss and predict as pure functions
  losses, missing, nn                 the parts, to use in code of your own
  experiments.run.run_experiment(...) a whole comparison from a config
  load(run)                           a trained model, to predict rows of your own

The command line is `promise-jax`; `promise-jax --help` says more.
"""

import importlib

__version__ = "0.3.0"

_MODULES = (
  *("checks", "cli", "counter_rng", "data", "devices", "evaluation", "experiments", "files"),
  *("frames", "inference", "losses", "method", "methods", "missing", "nn", "optim", "patterns"),
  *("reports", "training", "types"),
)


def __getattr__(name: str):
  # Modules load on first use: `promise-jax --help` then starts without JAX, in 0.1 s.
  if name in _MODULES:
    return importlib.import_module(f"promise_jax.{name}")
  if name == "load":
    return importlib.import_module("promise_jax.inference.loading").load
  raise AttributeError(f"module 'promise_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted((*globals(), *_MODULES, "load"))
