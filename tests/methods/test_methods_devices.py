"""Every method on many devices: the same numbers, and little is sent between them."""

import collections
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import example_batches
import tiny_runs
from method_cases import FIRST, assert_close, built, differentiate
from promise_jax import methods
from promise_jax.devices import mesh as devices_mesh
from promise_jax.devices import placement
from promise_jax.training import loop

# Shapes that a method may gather where rows meet other rows: for a contrast codes [D, B] or
# elements [M V, D], and labels [C, B]; for mixed rows codes [K, B, M, D] and targets [B, C].
# Inputs [B, D] and parameters are never gathered.
GATHERED = {
  "robult": {(4, 16), (3, 16)},
  "promise": {(96, 4), (3, 32, 4)},
  "share": {(4, 16, 3, 8), (4, 16, 3, 4), (16, 3)},
}


# On two devices the methods in which rows meet; the others add up rows, no matter where they are.
CASES = [*((name, 8) for name in FIRST), *((name, 2) for name in GATHERED)]


@pytest.mark.parametrize(("name", "devices"), CASES)
def test_many_devices_give_what_one_gives_and_exchange_little(name, devices):
  p = built(name, dropout=True)
  batch, mesh = example_batches.mixed_batch(p.spec), devices_mesh.make_mesh(jax.devices()[:devices])
  everywhere = devices_mesh.replicated(mesh)
  here = placement.place((p.params, p.model_state), everywhere)
  spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
  loss = p.method.stages[0].loss
  step = jax.jit(jax.value_and_grad(loss, has_aux=True), out_shardings=everywhere)
  args = *here, spread, jax.random.key(1), example_batches.step_info(0.9)
  program = step.lower(*args).compile()
  assert mesh.devices.size == devices
  assert_close(program(*args), differentiate(p, batch))
  moved = exchanged(program.as_text())
  gathered = {x.shape for kind, x in moved if kind != "all-reduce" and x.dtype == "f4"}
  assert devices == 2 or gathered <= GATHERED.get(name, set())
  assert any(kind == "all-reduce" for kind, _ in moved)
  # Once the gradient, that of tokens for each subset of modalities, and about a kilobyte for each
  # row; with `share`, whose four members have codes twice as wide, less than two.
  gradient = sum(x.nbytes for x in jax.tree.leaves(p.params))
  bytes_per_row = 2000 if name == "share" else 1250
  assert sum(x.nbytes for _, x in moved) < gradient + bytes_per_row * example_batches.ROWS


@pytest.fixture
def texts(monkeypatch):
  """The programs of `fit`, as XLA compiled them."""
  found, compiled = [], loop.compile_program

  def keep(program, args, speed, once=False):
    call = compiled(program, args, speed, once)
    found.extend([] if once else [call.as_text()])
    return call

  monkeypatch.setattr(loop, "compile_program", keep)
  return found


@pytest.mark.parametrize("name", ["fusion", "robult", "redcore"])
def test_training_gathers_no_inputs_and_no_parameters(name, eight_devices, texts):
  """Data, optimiser, validation and all; inputs alone are 6 numbers wide."""
  source = tiny_runs.dataset(dim=6)
  method = methods.build_method(name, tiny_runs.VALUES[name], source.spec)
  given = tiny_runs.train_data(source), source.split("valid"), tiny_runs.train_config(steps=5)
  fit = loop.fit(method, source.spec, *given, mesh=eight_devices)
  (text,) = texts
  moved = exchanged(text)
  gathered = [x.shape for kind, x in moved if kind != "all-reduce"]
  parameters = {x.shape[1:] for x in jax.tree.leaves(fit.params)}
  assert not parameters & set(gathered)
  assert not any(6 in shape for shape in gathered)
  assert any(kind == "all-reduce" for kind, _ in moved)


STAGED = "promma", "mplmm"  # their stage fit has the loss of the last one


@pytest.mark.slow
@pytest.mark.parametrize("name", list(tiny_runs.VALUES))
def test_eight_seeds_on_eight_devices_send_each_other_nothing(name, one_device, texts):
  """One step of eight seeds. All that is sent are metrics, a number for each seed."""
  source = tiny_runs.dataset(dim=6)
  values = tiny_runs.VALUES[name] | ({"fit": 0.0} if name in STAGED else {})
  method = methods.build_method(name, values, source.spec)
  stages = len(method.stages)
  rows = tiny_runs.train_data(source, seeds=range(8))
  config = tiny_runs.train_config(steps=stages, eval_every=1)
  given = method, source.spec, rows, source.split("valid"), config
  alone = loop.fit(*given, mesh=one_device)
  texts.clear()
  fit = loop.fit(*given, mesh=devices_mesh.make_mesh(seed_devices=8))
  tiny_runs.assert_close(fit[:4], alone[:4], rtol=1e-3, atol=1e-4)
  assert len(texts) == stages
  for text in texts:
    sizes = [x.size for _, x in exchanged(text)]
    assert sizes and max(sizes) == 8


LOWERED = """
import hashlib, jax
import example_batches
from promise_jax import methods
from method_cases import CASES, FIRST
for name in FIRST:
  spec = example_batches.spec("classes", example_batches.VECTORS)
  method = methods.build_method(name, CASES[name].values, spec)
  params, model_state = jax.eval_shape(method.init, jax.random.key(0))
  batch = example_batches.mixed_batch(spec)
  rest = batch, jax.random.key(0), example_batches.step_info(0.5)
  programs = [jax.jit(s.loss).lower(params, model_state, *rest) for s in method.stages]
  programs += [jax.jit(method.predict).lower(params, model_state, batch)]
  print(name, *(hashlib.sha256(p.as_text().encode()).hexdigest() for p in programs))
"""


@pytest.mark.slow
def test_every_process_compiles_the_same_programs():
  """Each process orders sets by a seed of its own. Programs that depend on it are not found
  in the cache, and processes that train together could differ."""
  folder = Path(__file__).parent.parent
  both = [
    subprocess.Popen(
      [sys.executable, "-c", LOWERED],
      env=tiny_runs.fast_environment() | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(folder)},
      stdout=subprocess.PIPE,
      text=True,
    )
    for seed in ("1", "2")
  ]
  one, other = (p.communicate(timeout=300)[0] for p in both)
  assert one == other and len(one.splitlines()) == len(FIRST)


def exchanged(text: str) -> list[tuple[str, np.ndarray]]:
  """(operation, array) of all that devices send each other in a program. What is in a loop
  counts as often as the loop runs, or once if the program does not say."""
  dtypes = {"f32": "f4", "s32": "i4", "u32": "u4", "pred": "?"}
  kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
  found, times = [], collections.Counter()
  # What is called is written before what calls it; the entry is the last.
  computation = re.compile(r"^(?:ENTRY )?%[^\n]*\{\n.*?^\}", re.MULTILINE | re.DOTALL)
  for whole in reversed(computation.findall(text)):
    often = max(times[re.search(r"%([\w.-]+)", whole)[1]], 1)
    for line in whole.splitlines()[1:]:
      trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
      called = re.findall(r"(?:body|calls|to_apply|computation)=%([\w.-]+)", line)
      branches = re.search(r"branch_computations=\{(.*?)\}", line)
      called += re.findall(r"%([\w.-]+)", branches[1]) if branches else []
      times.update(dict.fromkeys(called, often * int(trips[1] if trips else 1)))
      if sent := re.search(rf"= (.*?) ({kinds})(?:-start)?\(", line):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", sent[1]):
          shape = tuple(int(n) for n in shape.split(",") if n)
          found += [(sent[2], np.empty(shape, dtypes[dtype]))] * often
  return found


def test_exchanged_arrays_are_read_from_the_program():
  """A loop of three rounds, in which one of two branches sends a pair of arrays."""
  text = """HloModule jit_step
%sends.1 (x: f32[2]) -> f32[2] {
  ROOT %b = (pred[16]{0}, s32[2,3]{1,0}) all-gather-start(%y, %z), dimensions={0}
}
%rests (x: f32[2]) -> f32[2] {
  ROOT %c = f32[5]{0} add(%p, %q)
}
%body.2 (x: f32[2]) -> f32[2] {
  ROOT %e = f32[2]{0} conditional(%p, %x), branch_computations={%rests, %sends.1}
}
ENTRY %main (x: f32[2]) -> f32[2] {
  %a = f32[8,24]{1,0} all-reduce(%x), channel_id=1, to_apply=%add
  %w = f32[2] while(%a), body=%body.2, backend_config={"known_trip_count":{"n":"3"}}
}
"""
  found = [(kind, x.shape, x.nbytes) for kind, x in exchanged(text)]
  pair = [("all-gather", (16,), 16), ("all-gather", (2, 3), 24)]
  assert sorted(found) == sorted([("all-reduce", (8, 24), 768)] + pair * 3)
