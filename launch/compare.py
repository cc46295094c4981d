"""Runs the experiments of a comparison and ends in one table with verdicts.

  python launch/compare.py --config configs/results/robult.py

Finished runs are skipped, unfinished ones resumed. The table is printed and written to
comparison.md and report.html.
"""

import os
from pathlib import Path

import cli
from promise_jax.devices import distributed
from promise_jax.experiments import compare

CONFIG = cli.config_flag()
WORKDIR = cli.workdir_flag()


def body() -> None:
  if CONFIG.value is None:
    raise ValueError("--config is missing, for instance --config configs/results/robult.py")
  if cluster := distributed.detect_cluster(os.environ):
    raise ValueError(
      f"{cluster} has started several processes, compare.py is for one; train.py can "
      "make its runs, and this command then shows them"
    )
  config = CONFIG.value.to_dict()
  if "runs" not in config:
    raise ValueError("--config has no runs; one with a method is for launch/train.py")
  folder = Path(WORKDIR.value) if WORKDIR.value else cli.default_folder(config)
  print("\n" + compare.run_comparison(config, folder))
  print(f"files: {folder}/  (report.html, comparison.md)")


if __name__ == "__main__":
  cli.main(body)
