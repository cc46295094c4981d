"""Train a method and its baselines, and print a robustness table.

examples:
  promise-jax train --config robult
  promise-jax train --config robult:dataset=emoji,label_rate=0.2
  promise-jax train --config configs/fusion.py --config.train.steps=800

The same command on the same folder resumes; a finished run is only shown. Processes that
SLURM, Open MPI or a TPU pod has started train together; elsewhere start each with
--coordinator, --processes and --process.
"""

from pathlib import Path

from promise_jax.cli import configs, startup

EXAMPLE = "robult"


def add_arguments(parser) -> None:
  configs.add_config_arguments(parser, EXAMPLE)
  parser.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
  parser.add_argument("--processes", type=int, metavar="N", help="how many train together")
  parser.add_argument("--process", type=int, metavar="I", help="number of this one, from 0")
  heartbeat = "seconds after which a silent process ends all others"
  parser.add_argument("--heartbeat", type=int, default=100, metavar="S", help=heartbeat)


def run_with_config(args, overrides) -> None:
  config, name = configs.load_config(args.config, overrides, EXAMPLE)
  if "method" not in config:
    raise ValueError("--config has no method; one with runs is for `promise-jax compare`")
  startup.enable_compilation_cache()
  from promise_jax.devices import distributed
  from promise_jax.experiments import run, run_dir

  folder = Path(args.workdir or f"runs/{name}-{run_dir.config_hash(config)}")
  distributed.initialize(args.coordinator, args.processes, args.process, args.heartbeat)
  table = run.run_experiment(config, folder)
  if distributed.is_primary():
    print(table)
    print(f"\nfiles: {folder}/  (report.html, results.jsonl, predictions.npz)")
