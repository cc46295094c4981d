"""Export a trained model as one folder that is served without training code.

examples:
  promise-jax export runs/products --out model
  promise-jax export runs/products --out model --variant "fusion(dropout=false)" --seeds 0
  promise-jax export runs/products --out model --patterns static

The folder holds the arrays, the forward pass as StableHLO, the preprocessing, the calibration and a
model card. promise_jax.load reads it, and so does promise-jax predict.
"""

from pathlib import Path

from promise_jax.cli import predict


def add_arguments(parser) -> None:
  parser.add_argument("run", metavar="RUN", help="folder of a finished run")
  parser.add_argument("--out", required=True, metavar="FOLDER", help="new folder to write")
  predict.add_choice_arguments(parser)
  parser.add_argument(
    "--patterns",
    default="any",
    help="any: one program for all patterns of modalities; static: one for each, which leaves out "
    "the encoders of absent modalities",
  )


def run(args) -> None:
  from promise_jax.inference import export

  options = {"variant": args.variant, "seeds": args.seeds, "patterns": args.patterns}
  sizes = export.export_run(args.run, args.out, **options)
  for name, size in sizes.items():
    print(f"{size / 1e6:8.2f} MB  {Path(args.out, name)}")
  print(f'load it by promise_jax.load("{args.out}"), or')
  print(f"promise-jax predict {args.out} NEW.csv --out FILE.csv")
