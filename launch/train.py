"""Trains a method and its baselines, ends in a robustness table.

  python launch/train.py --config configs/robult.py
  python launch/train.py --config configs/robult.py:dataset=emoji,label_rate=0.2
  python launch/train.py --config configs/fusion.py --config.train.steps=800

The same command on the same folder resumes; a finished run is only shown. Several
processes that SLURM, Open MPI or a TPU pod has started train together; elsewhere start
each with --coordinator, --processes and --process (see launch/pod).
"""

from pathlib import Path

import cli
from promise_jax.devices import distributed
from promise_jax.experiments import run as experiment_run

CONFIG = cli.config_flag()
WORKDIR = cli.workdir_flag()
PROCESSES = cli.process_flags()


def body() -> None:
  if CONFIG.value is None:
    raise ValueError("--config is missing, for instance --config configs/robult.py")
  config = CONFIG.value.to_dict()
  if "method" not in config:
    raise ValueError("--config has no method; one with runs is for launch/compare.py")
  workdir = WORKDIR.value
  folder = Path(workdir) if workdir else cli.default_folder(config)
  cli.pretend(config["train"].get("seed_devices", 1))
  distributed.initialize(*(flag.value for flag in PROCESSES))
  table = experiment_run.run_experiment(config, folder)
  if distributed.is_primary():
    print(table)
    print(f"\nfiles: {folder}/  (report.html, results.jsonl, predictions.npz)")


if __name__ == "__main__":
  cli.main(body)
