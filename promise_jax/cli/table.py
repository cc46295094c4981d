"""Print or write tables of finished runs: console, CSV, LaTeX, Markdown, HTML.

examples:
  promise-jax table runs/mine
  promise-jax table runs/mine --rows patterns,rates --metric accuracy,macro_f1
  promise-jax table runs/mine --format latex --error interval --out table.tex
  promise-jax table runs/a runs/b --variants "robult+fusion(dropout=false)" --format csv

RUN is the folder of a run or of a comparison, which stands for every run inside. What
`promise-jax evaluate` has added is there too: --rows protocols, or another --split.
"""

from pathlib import Path


def add_arguments(parser) -> None:
  parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs")
  rows = "kinds of rows, as a,b: patterns, rates, protocols"
  parser.add_argument("--rows", default="patterns", metavar="KINDS", help=rows)
  metric = "metrics, as a,b; `promise-jax list metrics` has all (default: that of the task)"
  parser.add_argument("--metric", metavar="NAMES", help=metric)
  columns = "columns, joined by +, in this order (default: all variants)"
  parser.add_argument("--variants", metavar="NAMES", help=columns)
  split = "rows that were evaluated: test, or what `promise-jax evaluate` has added"
  parser.add_argument("--split", default="test", help=split)
  forms = ("console", "csv", "latex", "md", "html")
  parser.add_argument("--format", default="console", choices=forms, help=", ".join(forms))
  error = "behind ±: standard deviation over seeds (n-1), or half of the 95-percent t-interval"
  parser.add_argument("--error", default="std", choices=("std", "interval"), help=error)
  test_rows = "where data have holes, patterns are measured on the rows that have every modality "
  test_rows += "(same), or on every row that has something left (every)"
  parser.add_argument("--test-rows", default="same", choices=("same", "every"), help=test_rows)
  parser.add_argument("--out", metavar="FILE", help="file to write, in place of the console")


def run(args) -> None:
  from promise_jax import files
  from promise_jax.experiments import run_tables
  from promise_jax.reports import render

  if args.out and (Path(args.out).is_dir() or not Path(args.out).parent.is_dir()):
    raise ValueError(f"--out is {args.out}, expected is a file in a folder that exists")
  made = run_tables.make_tables(
    [Path(folder) for folder in args.runs],
    rows=args.rows.split(","),
    metrics=args.metric.split(",") if args.metric else (),
    variants=args.variants.split("+") if args.variants else (),
    split=args.split,
    error=args.error,
    same_rows=args.test_rows == "same",
  )
  text = render.render_tables(made, args.format)
  if not args.out:
    print(text, end="")
    return
  files.write_text(Path(args.out), text)
  print(f"files: {args.out}")
