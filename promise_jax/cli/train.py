"""Train a method and its baselines, and print a robustness table.

examples:
  promise-jax train products.csv --label=category
  promise-jax train --config robult
  promise-jax train --config robult:dataset=emoji,label_rate=0.2
  promise-jax train --config configs/fusion.py --config.train.steps=800

A table that is named without --config is learnt by robult, fusion, distil and share side by side,
as `--config table` says; how its columns are read is printed first.

The same command on the same folder resumes; a finished run is only shown. Processes that
SLURM, Open MPI or a TPU pod has started train together; elsewhere start each with
--coordinator, --processes and --process.
"""

from pathlib import Path

from promise_jax.cli import configs, startup

EXAMPLE = "robult"
TABLE_CONFIG = "table"  # where a table is given and no config
# {flag: setting, metavar, help}; the settings of a table that are typed most
TABLE_FLAGS = {
  "label": ("data.label", "COLUMN", "the column of the table to predict"),
  "columns": ("data.columns", "NAME=ROLE,...", "roles of columns (default: guessed, and printed)"),
  "modalities": ("data.modalities", "NAME=A+B,...", "columns of each modality, * for the others"),
  "features": ("data.features", "NAME=DIR,...", "modalities in folders of files <id>.npy"),
  "root": ("data.root", "DIR", "folder that paths start from (default: that of the table)"),
}


def add_arguments(parser) -> None:
  table = "a table *.csv, *.tsv, *.parquet, *.arrow or *.feather, or any data set"
  parser.add_argument("table", nargs="?", metavar="TABLE", help=table)
  configs.add_config_arguments(parser, EXAMPLE)
  for flag, (_, metavar, text) in TABLE_FLAGS.items():
    parser.add_argument(f"--{flag}", metavar=metavar, help=text)
  parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
  parser.add_argument("--processes", type=int, metavar="N", help="how many train together")
  parser.add_argument("--process", type=int, metavar="I", help="number of this one, from 0")
  heartbeat = "seconds after which a silent process ends all others"
  parser.add_argument("--heartbeat", type=int, default=100, metavar="S", help=heartbeat)


def run(args) -> None:
  given = {setting: getattr(args, flag) for flag, (setting, *_) in TABLE_FLAGS.items()}
  given = [(field, text) for field, text in {"dataset": args.table, **given}.items() if text]
  flag = args.config or (args.table and TABLE_CONFIG)
  config, name = configs.load_config(flag, [*given, *args.overrides], EXAMPLE)
  name = Path(args.table).stem if args.table else name
  if "method" not in config:
    raise ValueError("--config has no method; one with runs is for `promise-jax compare`")
  startup.enable_compilation_cache()
  from promise_jax.devices import distributed
  from promise_jax.experiments import run_dir
  from promise_jax.experiments.run import run_experiment

  folder = Path(args.workdir or f"runs/{name}-{run_dir.config_hash(config)}")
  distributed.initialize(args.coordinator, args.processes, args.process, args.heartbeat)
  table = run_experiment(config, folder, to_tensorboard=bool(args.log))
  if distributed.is_primary():
    print(table)
    print(f"\nfiles: {folder}/  (report.html, results.jsonl, predictions.npz, model/)")
    print(f"for new rows: promise-jax predict {folder} FILE --out predictions.csv")
