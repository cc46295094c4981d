"""Writes what the pages take from the code: commands, settings, lists, API, notebooks.

Everything is read from the source when the documentation is built, so it cannot go stale.
"""

import argparse
import ast
import dataclasses
import inspect
import io
import json
import shutil
import tokenize
from pathlib import Path

import api_pages
from bench import report
from setting_texts import DATA, PRESET_TEXTS, TOP_LEVEL

from promise_jax import files, methods
from promise_jax.cli import list_names
from promise_jax.cli.main import make_parser
from promise_jax.data.prefetch import PrefetchConfig
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments.experiment import Experiment
from promise_jax.methods.presets import PRESETS
from promise_jax.optim.optimizer import OptimConfig
from promise_jax.training.config import TrainConfig


def write_pages(docs: Path) -> None:
  """Writes the fragments, the API pages and the copies of the notebooks under `docs`."""
  folder = docs / "_generated"
  write(folder / "commands.md", commands_page())
  write(folder / "settings.md", settings_page())
  write(folder / "presets.md", presets_table())
  for kind, make_lines in list_names.KINDS.items():
    if kind != "settings":
      rows = [(f"`{name}`", text) for name, text in make_lines().items()]
      write(folder / f"{kind}.md", table(("name", "what it is"), rows))
  records = json.loads((docs.parent / "SPEED.json").read_text("utf-8"))
  write(folder / "speed.md", report.write_details(records))
  for package, title in api_pages.PACKAGES.items():
    path = docs / "api" / "generated" / f"{package or 'top'}.rst"
    write(path, api_pages.make_page(package, title))
  for source in (docs.parent / "notebooks").glob("*.ipynb"):
    target = docs / "notebooks" / source.name
    target.parent.mkdir(exist_ok=True)
    if not target.exists() or target.read_bytes() != source.read_bytes():
      shutil.copy(source, target)


def write(path: Path, text: str) -> None:
  """Writes `text` unless it stands there already: Sphinx then skips the page."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if not path.exists() or path.read_text("utf-8") != text:
    path.write_text(text, "utf-8")


def table(header, rows) -> str:
  """A Markdown table."""
  lines = [header, ["---"] * len(header), *rows]
  escape = lambda cell: " ".join(str(cell).split()).replace("|", "\\|").replace("<", "&lt;")
  return "\n".join("| " + " | ".join(map(escape, row)) + " |" for row in lines) + "\n"


# Commands.


def commands_page() -> str:
  """The help of every command, from argparse."""
  subparsers = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
  parts = []
  for name, parser in subparsers.choices.items():
    summary, _, rest = parser.description.partition("\n")
    parts.append(f"### {name}\n\n{summary}\n\n```text\n{rest.strip()}\n```\n")
    rows = [row for action in parser._actions if (row := flag_row(action))]
    if rows:
      parts.append(table(("flag", "default", "what it does"), rows))
  return "\n".join(parts)


def flag_row(action: argparse.Action):
  """(flag, default, help) of one argument; None for --help."""
  if isinstance(action, argparse._HelpAction):
    return None
  value = f" {action.metavar}" if action.metavar else ""
  name = ", ".join(action.option_strings) + value if action.option_strings else action.dest
  shown = action.default not in (None, "", False, argparse.SUPPRESS)
  return f"`{name}`", f"`{action.default}`" if shown else "", action.help or ""


# Settings.


def settings_page() -> str:
  """Every field of a config, by section."""
  default = experiment_config.default_config("robult", "mfeat", label_rate=0.05)
  top = {k: v for k, v in default.items() if not hasattr(v, "items")}
  known = {f.name for f in dataclasses.fields(Experiment)} | {"method", "dataset", "baselines"}
  check_described(set(top), set(TOP_LEVEL), "top level")
  assert set(top) <= known, set(top) - known
  reading = dataclasses.asdict(PrefetchConfig())
  check_described(set(default.data) - set(reading), set(DATA), "section data")
  header = ("setting", "default", "what it is")
  parts = ["### Top level\n", table(header, described_rows(top, TOP_LEVEL, ""))]
  data = {k: v for k, v in default.data.items() if k in DATA}
  parts += ["### data\n", table(header, described_rows(data, DATA, "data."))]
  parts.append(table(header, field_rows(PrefetchConfig, "data.")))
  parts += ["### train\n", table(header, field_rows(TrainConfig, "train.", skip=("optim",)))]
  parts += ["### train.optim\n", table(header, field_rows(OptimConfig, "train.optim."))]
  for name, (settings, _) in methods.METHODS.items():
    parts.append(f"### {name}\n")
    for base in settings.__mro__[1:]:
      if dataclasses.is_dataclass(base):
        parts.append(f"The settings of `{base.method}` as well, with the defaults given there.\n")
    parts.append(table(header, field_rows(settings, f"{name}.")))
  return "\n".join(parts)


def check_described(found: set, described: set, where: str) -> None:
  """Raises ValueError for settings without a description, and the reverse."""
  if found != described:
    raise ValueError(f"docs/setting_texts.py, {where}: describe {sorted(found ^ described)}")


def described_rows(values: dict, texts: dict, prefix: str):
  """(setting, default, text) where the texts stand in this file."""
  return [(f"`{prefix}{name}`", show(value), texts[name]) for name, value in values.items()]


def show(value) -> str:
  """A default as the command line takes it."""
  if isinstance(value, tuple):
    value = "+".join(map(str, value))
  if isinstance(value, bool):
    value = str(value).lower()
  return f"`{value}`" if value != "" else ""


def field_rows(cls, prefix: str, skip=()):
  """(setting, default, comment) of the fields of a class, read from its source."""
  node, comments = parse_class(cls)
  rows = []
  for field in node.body:
    if not isinstance(field, ast.AnnAssign) or field.target.id in skip:
      continue
    kind = ast.unparse(field.annotation)
    if kind.startswith("ClassVar"):
      continue
    default = getattr(cls, field.target.id, None)
    if default is None or inspect.ismemberdescriptor(default) or callable(default):
      default = ast.unparse(field.value) if field.value else ""
    text = comment_of(field, comments)
    choices = choices_of(cls, field.target.id)
    if choices:
      text = text.rstrip(".")
      text = f"{text + '; ' if text else ''}one of {', '.join(f'`{c}`' for c in choices)}"
    rows.append((f"`{prefix}{field.target.id}`", show(default), text))
  return rows


def choices_of(cls, name: str) -> tuple:
  """The values of a field with a Literal type."""
  import typing

  kind = typing.get_type_hints(cls)[name]
  return typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()


def parse_class(cls):
  """The AST of a class, and its comments {line: (text, stands alone)}."""
  text = inspect.getsource(inspect.getmodule(cls))
  node = next(
    n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef) and n.name == cls.__name__
  )
  lines, comments = text.splitlines(), {}
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.COMMENT:
      line = token.start[0]
      alone = lines[line - 1].lstrip().startswith("#")
      comments[line] = token.string.lstrip("# "), alone
  return node, comments


def comment_of(field: ast.AnnAssign, comments: dict) -> str:
  """The comment behind a field, or the lines of comment above it."""
  for line in range(field.lineno, field.end_lineno + 1):
    if line in comments and (line < field.end_lineno or not comments[line][1]):
      return comments[line][0]
  above, line = [], field.lineno - 1
  while comments.get(line, ("", False))[1]:
    above.insert(0, comments[line][0])
    line -= 1
  return " ".join(above)


def presets_table() -> str:
  """What each preset is for, and what it sets."""
  check_described(set(PRESETS), set(PRESET_TEXTS), "presets")
  rows = []
  for name, sections in PRESETS.items():
    flat = files.flatten(sections)
    fields = [f"`{k}={v}`" for k, v in flat.items()]
    more = f" and {len(fields) - 6} more" if len(fields) > 6 else ""
    rows.append((f"`{name}`", PRESET_TEXTS[name], ", ".join(fields[:6]) + more))
  return table(("preset", "what it is for", "what it sets"), rows)
