"""What tests of runs leave out because other tests have it."""

import contextlib

import jax
import pytest

from promise_jax.devices import mesh as devices_mesh
from promise_jax.reports import plots
from promise_jax.training import loop


@contextlib.contextmanager
def short_runs(mesh):
  """Inside, runs use `mesh` in place of all devices and draw no plots, a third of a tiny run:
  tests/devices has devices, tests/reports plots."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(devices_mesh, "make_mesh", lambda *_, **__: mesh)
    for draw in ("dots", "lines", "heat_map"):
      patch.setattr(plots, draw, lambda *_, **__: b"<svg/>")
    yield


@contextlib.contextmanager
def trace_once(programs: dict):
  """Inside, `fit` traces and compiles one program for a stage and shapes, and keeps it in
  `programs`: for runs of one method that differ in their rows, seeds or end, and in no setting."""
  compile_program = loop.compile_program

  def find_or_compile(program, args, speed, once=False):
    key = speed["stage"], once, str(jax.tree.map(lambda x: (x.shape, x.dtype), args))
    if key not in programs:
      programs[key] = compile_program(program, args, speed, once)
    return programs[key]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "compile_program", find_or_compile)
    yield
