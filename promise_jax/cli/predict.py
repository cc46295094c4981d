"""Predict rows of your own with a trained model.

examples:
  promise-jax predict runs/robult-1a2b3c4d new.npz --out predictions.csv
  promise-jax predict runs/products new.csv --out predictions.parquet --coverage 0.9

A row may lack any modality, column or cell, and needs no label. The output has a line a row:
id, class, probability, the probability of every class, and which modalities were present.
"""

from pathlib import Path

from promise_jax.cli import startup


def add_arguments(parser) -> None:
  parser.add_argument("model", metavar="RUN", help="folder of a finished run or an exported model")
  parser.add_argument("data", metavar="DATA", help="csv, tsv, parquet, feather, arrow or npz file")
  add_file_arguments(parser)
  parser.add_argument("--out", required=True, metavar="FILE", help="*.csv or *.parquet to write")
  add_choice_arguments(parser)
  parser.add_argument(
    "--coverage",
    type=float,
    help="adds the classes (of a regression: the interval) that hold the truth this often, as 0.9",
  )


def add_file_arguments(parser) -> None:
  """Adds --root and --allow-missing-files, which say how files are found that new rows name."""
  root = "folder that paths in the data start from (default: that of their file)"
  parser.add_argument("--root", default="", metavar="DIR", help=root)
  lost = "more than a fifth of the files that the data name may be missing"
  parser.add_argument("--allow-missing-files", action="store_true", help=lost)


def add_choice_arguments(parser) -> None:
  """Adds --variant and --seeds, which choose the model of a run."""
  parser.add_argument("--variant", help="which method of the run (default: the best on validation)")
  parser.add_argument("--seeds", default="all", help="all: their mean, or the number of one seed")


def run(args) -> None:
  startup.enable_compilation_cache()
  import promise_jax
  from promise_jax.inference import predictions

  how = {"root": args.root, "allow_missing_files": args.allow_missing_files}
  predictor = promise_jax.load(args.model, args.variant, args.seeds, **how)
  data, out = Path(args.data).expanduser(), Path(args.out).expanduser()
  count = predictions.write_predictions(predictor, data, out, args.coverage)
  print(f"{count:,} rows by {predictor.variant} in {out}")
