"""List methods, data sets, protocols, metrics, configs or settings, a line each.

examples:
  promise-jax list methods
  promise-jax list settings
"""

import ast
import importlib
import re

from promise_jax.cli import configs


def add_arguments(parser) -> None:
  parser.add_argument("kind", choices=KINDS, help="what to list: " + ", ".join(KINDS))


def run(args) -> None:
  lines = KINDS[args.kind]()
  width = max(map(len, lines))
  for name, text in lines.items():
    print(f"{name:<{width}}  {text}".rstrip())


def list_methods() -> dict[str, str]:
  from promise_jax import methods
  from promise_jax.methods import constant

  modules = {n: importlib.import_module(f"promise_jax.methods.{n}") for n in methods.METHODS}
  modules["majority"] = constant
  return {name: first_line(module.__doc__) for name, module in modules.items()}


def list_datasets() -> dict[str, str]:
  """Built-in sets, by the heading of their card or the first line of their module."""
  from promise_jax.data import loading
  from promise_jax.data.builtin import builders, cdda, fashion, synthetic

  modules = {"synthetic": synthetic, loading.FASHION: fashion, loading.CDDA: cdda}
  lines = {name: first_line(module.__doc__) for name, module in modules.items()}
  for card in builders.EMBEDDED.glob("*.md"):
    lines[card.stem] = first_line(card.read_text("utf-8")).removeprefix(f"# {card.stem}: ")
  path = "a file or folder of your own; the documentation says how it is laid out"
  return dict(sorted(lines.items())) | {"PATH": path}


def list_protocols() -> dict[str, str]:
  from promise_jax import missing

  lines = {}
  for kind, (rates, keywords) in missing.PROTOCOLS.items():
    # The docstring of Protocol has a paragraph for each kind: take its first clause.
    clause = rf"^ +{kind}  +(.+?)(?= \(|[.;:]\s|\n *\n)"
    text = re.search(clause, missing.Protocol.__doc__, re.M | re.S)[1]
    lines[kind] = f"{' '.join(text.split())} [{rates}; {', '.join(keywords)}]"
  return lines


def list_metrics() -> dict[str, str]:
  from promise_jax.evaluation import measure

  known = {n: m for kind in measure.METRICS for n, m in measure.known_metrics(kind).items()}
  return {name: first_line(metric.__doc__) for name, metric in known.items()}


def list_configs() -> dict[str, str]:
  sources = {name: path.read_text("utf-8") for name, path in configs.config_names().items()}
  return {name: first_line(ast.get_docstring(ast.parse(x))) for name, x in sources.items()}


def list_settings() -> dict[str, str]:
  from promise_jax import files
  from promise_jax.experiments import config

  default = config.default_config(method="robult", dataset="mfeat", label_rate=0.05)
  return {f"--config.{k}": f"{v!r}" for k, v in files.flatten(default.to_dict()).items()}


def first_line(text: str | None) -> str:
  return (text or "").strip().partition("\n")[0]


KINDS = {
  "methods": list_methods,
  "datasets": list_datasets,
  "protocols": list_protocols,
  "metrics": list_metrics,
  "configs": list_configs,
  "settings": list_settings,
}
