"""Measures how fast the library is on this machine, and writes SPEED.md.

  python launch/benchmark.py
  python launch/benchmark.py --only=twins,sequences_300
  python launch/benchmark.py --quick --out=mine.md

`--only` names parts (methods, dispatch, seeds, devices, patterns, faults, twins),
workloads (vectors, sequences_300, sequences_768, images_text) and methods. The twins
are networks in PyTorch (`pip install -e ".[benchmark]"`), checked for equal outputs
before they are timed; without PyTorch they are left out. Nothing else should run
meanwhile. The numbers are kept beside the page as json, machine by machine.
"""

import jax
from absl import flags
from bench import run

import cli

ONLY = flags.DEFINE_string("only", "", "parts, workloads, methods; default: all")
QUICK = flags.DEFINE_bool("quick", False, "tiny sizes; the numbers mean nothing")
OUT = flags.DEFINE_string("out", "SPEED.md", "the page to write; - prints the numbers")


def body() -> None:
  # A program that is read from a cache was not compiled; "-" reports no such time.
  jax.config.update("jax_enable_compilation_cache", OUT.value == "-")
  run.run(ONLY.value, QUICK.value, OUT.value)


if __name__ == "__main__":
  cli.main(body)
