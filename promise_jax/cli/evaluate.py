"""Evaluate a finished run again: another protocol, another split, other data.

examples:
  promise-jax evaluate --workdir runs/robult-1a2b3c4d --protocol "exact(0.5)"
  promise-jax evaluate --workdir DIR --protocol "map(0.7)" --masks masks.npz
  promise-jax evaluate --workdir DIR --data other.npz

Prints a table of all variants, and adds the lines to results.jsonl of the run. Without --protocol
every pattern of present modalities is tested.
"""

from pathlib import Path

from promise_jax.cli import predict, startup


def add_arguments(parser) -> None:
  parser.add_argument(
    "--workdir", metavar="DIR", help="folder of the finished run (default: none, it is needed)"
  )
  parser.add_argument(
    "--protocol",
    help='how modalities go missing, as "bernoulli(0.3)"; `promise-jax list protocols` has all '
    "(default: every pattern of present modalities)",
  )
  parser.add_argument("--split", help="a split of the data of the run (default: test)")
  data = "other rows with labels, in place of a split of the run: npz, CSV or Parquet"
  parser.add_argument("--data", metavar="FILE", help=data)
  predict.add_file_arguments(parser)
  parser.add_argument("--masks", metavar="FILE.npz", help="file to write the mask table to")


def run(args) -> None:
  if not args.workdir:
    raise ValueError("--workdir is missing, the folder of a finished run")
  if args.data and args.split:
    raise ValueError("--split is one of the data of the run, --data another file: give one of them")
  if args.masks and not args.protocol:
    raise ValueError("--masks writes the mask of --protocol, which is missing")
  masks = Path(args.masks) if args.masks else None
  if masks and not masks.parent.is_dir():
    raise ValueError(f"--masks: the folder {masks.parent} does not exist")
  startup.enable_compilation_cache()
  from promise_jax.data.readers.lost_files import FileOptions
  from promise_jax.experiments.evaluate import evaluate_run

  data = Path(args.data).expanduser() if args.data else None
  rows = args.split or "test", masks, data, FileOptions(args.root, args.allow_missing_files)
  print(evaluate_run(Path(args.workdir), args.protocol or "", *rows))
