"""Evaluate a finished run under another protocol of missing modalities.

examples:
  promise-jax evaluate --workdir runs/robult-1a2b3c4d --protocol "exact(0.5)"
  promise-jax evaluate --workdir DIR --protocol "map(0.7)" --masks masks.npz

Prints every variant and metric, and adds the lines to results.jsonl of the run.
"""

from pathlib import Path

from promise_jax.cli import startup


def add_arguments(parser) -> None:
  parser.add_argument("--workdir", metavar="DIR", help="folder of the finished run")
  parser.add_argument(
    "--protocol",
    help='how modalities go missing, as "bernoulli(0.3)"; `promise-jax list protocols` has all',
  )
  parser.add_argument("--split", default="test", help="the split to evaluate on")
  parser.add_argument("--masks", metavar="FILE.npz", help="file to write the mask table to")


def run(args) -> None:
  for flag in ("workdir", "protocol"):
    if not getattr(args, flag):
      raise ValueError(f"--{flag} is missing")
  masks = Path(args.masks) if args.masks else None
  if masks and not masks.parent.is_dir():
    raise ValueError(f"--masks: the folder {masks.parent} does not exist")
  startup.enable_compilation_cache()
  from promise_jax.experiments import run as experiment_run

  print(experiment_run.evaluate_run(Path(args.workdir), args.protocol, args.split, masks))
