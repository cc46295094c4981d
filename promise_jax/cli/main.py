"""The command `promise-jax`; the scripts in launch/ call the same code."""

import argparse
import io
import logging
import re
import sys
from collections.abc import Sequence

import promise_jax
from promise_jax.cli import benchmark, compare, evaluate, export, list_names, predict, table, train
from promise_jax.cli.errors import exit_code

COMMANDS = {
  "train": train,
  "evaluate": evaluate,
  "predict": predict,
  "export": export,
  "compare": compare,
  "table": table,
  "list": list_names,
  "benchmark": benchmark,
}


class Parser(argparse.ArgumentParser):
  """An argparse parser whose errors are exceptions, so that they are printed in one line."""

  def error(self, message: str):
    raise ValueError(f"{message}; {self.prog} --help lists what there is")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
  """Keeps the line breaks of a docstring and appends the default to the help of every flag."""

  def _get_help_string(self, action):
    is_flag = action.option_strings and not action.required and action.default != argparse.SUPPRESS
    if not is_flag or "default: " in action.help:
      return action.help
    default = "no" if action.default is False else action.default or "none"
    return f"{action.help} (default: {default})"


def make_parser() -> argparse.ArgumentParser:
  """The parser of all commands. It does not import JAX, so that --help is fast."""
  shared = {"formatter_class": HelpFormatter, "allow_abbrev": False}
  parser = Parser(
    prog="promise-jax",
    description="Multimodal learning with missing modalities and few labels.",
    epilog="example:\n  promise-jax train --config robult:preset=tiny\n\n"
    "promise-jax COMMAND --help describes one command.",
    **shared,
  )
  parser.add_argument("--version", action="version", version=f"%(prog)s {promise_jax.__version__}")
  commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
  for name, module in COMMANDS.items():
    summary = module.__doc__.partition("\n")[0]
    command = commands.add_parser(name, help=summary, description=module.__doc__, **shared)
    module.add_arguments(command)
  return parser


def run(words: Sequence[str]) -> None:
  """Parses the command line and runs its command."""
  # Flags may start with one dash, as absl allowed.
  words = [re.sub(r"^-(?=[a-z]{2})", "--", word) for word in words]
  words, overrides = split_overrides(words)
  args, unknown = make_parser().parse_known_args(words)
  if unknown:
    raise ValueError(
      f"{args.command} does not take {' '.join(unknown)}; promise-jax {args.command} --help lists "
      "what it takes, and promise-jax list settings what is set by --config.FIELD=VALUE"
    )
  if overrides and "config" not in args:
    raise ValueError(f"{args.command} takes no --config.{overrides[0][0]}")
  args.overrides = overrides
  COMMANDS[args.command].run(args)


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str | None]]]:
  """(the other words, (field, value) of the words --config.FIELD=VALUE, which argparse does not
  know); the value of a bare --config.FIELD is None."""
  rest, overrides, words = [], [], list(words)
  while words:
    word = words.pop(0)
    match = re.fullmatch(r"--(no)?config\.([^=]+)(?:=(.*))?", word, re.DOTALL)
    if not match:
      rest.append(word)
      continue
    value = "false" if match[1] else match[3]
    if value is None and words and not words[0].startswith("--"):
      value = words.pop(0)
    overrides.append((match[2], value))
  return rest, overrides


def main(words: Sequence[str] | None = None) -> int:
  """Runs the command line `words` (default: that of this process); returns the exit code.

  0: finished, or stopped by SIGTERM with everything saved. 1: training failed. 2: a mistake in
  the command line, a config or a file, which one sentence explains. 130: stopped by Ctrl-C.
  """
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # a letter that a terminal lacks is no error
      stream.reconfigure(errors="replace")
  # Before a library sets up logging of its own, with prefixes.
  logging.basicConfig(format="%(message)s")
  return exit_code(lambda: run(sys.argv[1:] if words is None else words))


if __name__ == "__main__":  # python -m promise_jax.cli.main
  sys.exit(main())
