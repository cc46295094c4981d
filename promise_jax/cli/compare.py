"""Run the experiments of a comparison, and print one table with verdicts.

example:
  promise-jax compare --config results/methods

Finished runs are skipped, unfinished ones resumed. The table is printed and written to
comparison.md and report.html.
"""

import shlex
from pathlib import Path

from promise_jax.cli import configs, startup

EXAMPLE = "results/methods"


def add_arguments(parser) -> None:
  configs.add_config_arguments(parser, EXAMPLE)


def run(args) -> None:
  config, name = configs.load_config(args.config, args.overrides, EXAMPLE)
  if "runs" not in config:
    raise ValueError("--config has no runs; one with a method is for `promise-jax train`")
  startup.enable_compilation_cache()
  from promise_jax.experiments import compare, run_dir

  folder = Path(args.workdir or f"runs/{name}-{run_dir.config_hash(config)}")
  flags = [f"--config.{field}={value}" for field, value in args.overrides]
  config["command"] = shlex.join(["promise-jax", "compare", "--config", args.config, *flags])
  print("\n" + compare.run_comparison(config, folder, to_tensorboard=bool(args.log)))
  print(f"files: {folder}/  (report.html, comparison.md)")
