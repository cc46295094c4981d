"""Measure how fast the library is on this machine, and write SPEED.md.

examples:
  promise-jax benchmark
  promise-jax benchmark --only=twins,vectors
  promise-jax benchmark --device
  promise-jax benchmark --quick --out=mine.md

Needs a source checkout. The twins in PyTorch need `pip install -e ".[benchmark]"`; without PyTorch
they are left out. Nothing else should run meanwhile.
"""

import sys

from promise_jax.cli import configs


def add_arguments(parser) -> None:
  parser.add_argument("--only", default="", help="parts, workloads, methods, as a,b; empty: all")
  parser.add_argument("--quick", action="store_true", help="tiny sizes; the numbers mean nothing")
  device = "what an accelerator is for, in at most 8 minutes, in place of the rest"
  parser.add_argument("--device", action="store_true", help=device)
  parser.add_argument("--out", default="SPEED.md", help="the page to write")


def run(args) -> None:
  folder = configs.PACKAGE.parent / "launch"
  if not (folder / "bench").is_dir():
    raise ValueError("benchmark needs a source checkout: its code is not in the installed package")
  sys.path.insert(0, str(folder))
  import jax
  from bench import run as benchmark

  # A program that comes from a cache was not compiled.
  jax.config.update("jax_enable_compilation_cache", False)
  benchmark.run(args.only, args.quick, args.out, args.device)
