"""Evaluates a finished run under another protocol of missing modalities.

  python launch/evaluate.py --workdir runs/robult-1a2b3c4d --protocol "exact(0.5)"
  python launch/evaluate.py --workdir DIR --protocol "map(0.7)" --masks masks.npz

Prints every variant and metric, and adds the lines to results.jsonl of the run.
"""

from pathlib import Path

from absl import flags

import cli
from promise_jax.experiments import run as experiment_run

WORKDIR = cli.workdir_flag()
PROTOCOL = flags.DEFINE_string("protocol", None, 'for instance "bernoulli(0.3)"')
SPLIT = flags.DEFINE_string("split", "test", "the split to evaluate on")
MASKS = flags.DEFINE_string("masks", None, "npz file to write the mask table to")


def body() -> None:
  for flag in (WORKDIR, PROTOCOL):
    if not flag.value:
      raise ValueError(f"--{flag.name} is missing")
  masks = Path(MASKS.value) if MASKS.value else None
  if masks and not masks.parent.is_dir():
    raise ValueError(f"--masks: the folder {masks.parent} does not exist")
  folder = Path(WORKDIR.value)
  print(experiment_run.evaluate_run(folder, PROTOCOL.value, SPLIT.value, masks))


if __name__ == "__main__":
  cli.main(body)
