"""The pages of the API reference: every module of a package, from its docstrings."""

import pkgutil
from pathlib import Path

import promise_jax

PACKAGES = {
  "": "Data types, methods, missingness",
  "losses": "Losses",
  "methods": "Methods",
  "nn": "Networks",
  "optim": "Optimisation",
  "data": "Data",
  "training": "Training",
  "evaluation": "Evaluation",
  "inference": "Trained models",
  "experiments": "Experiments",
}
TOP_MODULES = ("types", "method", "missing", "frames", "patterns", "counter_rng", "checks")


def make_page(package: str, title: str) -> str:
  """A page with every module of a package, from its docstrings."""
  out = [title, "=" * len(title), ""]
  for module in modules_of(package):
    out += [module, "-" * len(module), "", f".. automodule:: {module}", ""]
  return "\n".join(out)


def modules_of(package: str) -> list[str]:
  """The modules of a subpackage of promise_jax, without those that begin with _."""
  if not package:
    return [f"promise_jax.{name}" for name in TOP_MODULES]
  root = Path(promise_jax.__file__).parent / package
  found = pkgutil.walk_packages([str(root)], f"promise_jax.{package}.")
  modules = [m.name for m in found if not m.ispkg and "._" not in m.name]
  return [f"promise_jax.{package}", *modules]
