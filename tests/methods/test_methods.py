"""The contract that every method keeps. A new method adds its rows to CASES."""

import collections
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import example_batches
import tiny_runs
from promise_jax import methods, missing
from promise_jax.devices import mesh as devices_mesh
from promise_jax.methods.presets import PRESETS
from promise_jax.training import loop

SMALL = {"hidden": 8, "head_hidden": 8}
ROBULT = SMALL | {"shared": 4, "private": 4}
MOVING = {"regression": "gaussian", "stop_s": False, "sup": "all", "cov": 0.1}
SHARING = {"gate": "soft", "own_encoders": False}
STILL = {"dropout": False}
OPEN = {"gated": False, "decay": 0.0}
REDCORE = SMALL | {"imputer": 8, "links": 2, "subsets": 1}
TINY = {"encoder": "transformer", "heads": 2, "blocks": 1}
MPLMM_AUTHORS = PRESETS["authors"]["mplmm"]
AUTHORS = REDCORE | PRESETS["authors"]["redcore"] | {"links": 2} | TINY
# Contrasts do not go to 0, however good the codes are: small weights.
PROMISE = {"hidden": 8, "prompts": 2, "heads": 2, "code": 4, "views": 2}
PROMISE |= {"fncl": 0.1, "cccl": 0.1}
BARE = {"generate": "none", "fncl": 0.0, "hide": False}
STEPS = {"encoder": "steps", "cross_layers": 1, "strength": 0.5, "hide": False}
STEPS |= {"positives": "fig_edges", "project": "shared", "generate": "mix"}
STEPS |= {"fncl": 0.02}
TUNE = {"pretrain": 0.0, "fit": 0.0, "noisy": "a"}
MPLMM = {"width": 8, "heads": 2, "layers": 1, "memory_layers": 1, "prompts": 2} | TUNE
QUIET = {"noisy": ""}
PROMMA = MPLMM | {"width": 4, "rank": 2, "codes": 3}
OTHER = {"gate": "importance", "weigh": "attention", "connect": "static"}
OTHER |= {"apply": "both", "private": "static"}
PAIR = example_batches.VECTORS[:2]


class Case(NamedTuple):
  """A method with settings, on a task, with vectors or with all four kinds. `empty`:
  rows with nothing present count in its loss, on purpose; `steps` it may take to learn
  16 of them: dropout on a backbone of width 8 makes it slow."""

  method: str
  values: dict
  task: str = "classes"
  modalities: tuple = example_batches.VECTORS
  empty: bool = False
  steps: int = 60

  @property
  def noisy(self) -> bool:
    """Whether predictions have noise, which follows the ids of the rows."""
    return self.values.get("eval_sample", False)


# The first case of a method also runs the tests that compile more programs, and
# "-kinds" have other kinds than vectors, most of them all four.
CASES = {
  "robult": Case("robult", ROBULT),
  "robult-sign": Case("robult", ROBULT | {"calibrate": False}, "regression", PAIR),
  "robult-gaussian": Case("robult", ROBULT | MOVING, "regression", PAIR),
  "robult-kinds": Case("robult", ROBULT | SHARING, "multilabel", example_batches.KINDS),
  "redcore": Case("redcore", REDCORE),
  "redcore-regression": Case("redcore", REDCORE | {"vib": False, "subsets": 1}, "regression", PAIR),
  "redcore-kinds": Case(
    "redcore",
    REDCORE | TINY,
    "multilabel",
    example_batches.KINDS,
  ),
  "redcore-lstm-kinds": Case(
    "redcore", REDCORE | {"encoder": "lstm"}, "multilabel", example_batches.KINDS
  ),
  "redcore-authors": Case("redcore", AUTHORS, modalities=PAIR, empty=True),
  "promise": Case("promise", PROMISE),
  "promise-bare": Case("promise", PROMISE | BARE, "regression", PAIR),
  "promise-kinds": Case("promise", PROMISE | STEPS, "multilabel", example_batches.KINDS),
  "promma": Case("promma", PROMMA, steps=120),
  "promma-kinds": Case(
    "promma", PROMMA | OTHER | QUIET, "multilabel", example_batches.KINDS[:2], steps=300
  ),
  "mplmm": Case("mplmm", MPLMM, steps=120),
  "mplmm-authors": Case(
    "mplmm", PRESETS["authors"]["mplmm"] | MPLMM, "regression", PAIR, steps=300
  ),
  "mplmm-kinds": Case("mplmm", MPLMM | QUIET, "multilabel", example_batches.KINDS[2:], steps=300),
  "fusion": Case("fusion", SMALL),
  "fusion-mean": Case("fusion", SMALL | STILL, modalities=PAIR),
  "fusion-zeros": Case("fusion", SMALL | STILL | {"fill": "zeros"}, modalities=PAIR),
  "fusion-token": Case("fusion", SMALL | STILL | {"fill": "token"}, modalities=PAIR),
  "fusion-zeros-dropout": Case("fusion", SMALL | {"fill": "zeros"}, "regression", PAIR),
  "fusion-kinds": Case("fusion", SMALL | {"fill": "token"}, "multilabel", example_batches.KINDS),
  "distil": Case("distil", SMALL),
  "distil-regression": Case("distil", SMALL, "regression", PAIR),
  "distil-kinds": Case("distil", SMALL, "multilabel", example_batches.KINDS),
  "share": Case("share", SMALL),
  "share-open": Case("share", SMALL | OPEN, "regression", PAIR),
  "share-kinds": Case("share", SMALL, "multilabel", example_batches.KINDS),
}
FIRST = [name for name in CASES if name == CASES[name].method]
every_case = pytest.mark.parametrize("name", CASES)
every_method = pytest.mark.parametrize("name", FIRST)


class Program(NamedTuple):
  """A case, built and compiled once: `grad` -> (loss, (model_state, terms)), gradient."""

  case: Case
  spec: object
  method: object
  params: object
  model_state: object
  grad: object
  predict: object


@functools.cache
def built(name: str) -> Program:
  case = CASES[name]
  spec = example_batches.spec(case.task, case.modalities)
  method = methods.build_method(case.method, case.values, spec)
  params = example_batches.parameters(method)
  model_state = jax.jit(lambda key: method.init(key)[1])(jax.random.key(0))
  grad = jax.jit(jax.value_and_grad(method.stages[0].loss, has_aux=True))
  predict = jax.jit(method.predict)
  program = Program(case, spec, method, params, model_state, grad, predict)
  # Banks and running means with something in them.
  (_, (model_state, _)), _ = differentiate(program, example_batches.complete(spec, seed=9))
  return program._replace(model_state=model_state)


def differentiate(program: Program, batch, key: int = 1, progress: float = 0.9):
  clock = example_batches.clock(progress)
  return program.grad(program.params, program.model_state, batch, jax.random.key(key), clock)


def logits(program: Program, batch):
  readable = example_batches.readable(batch, program.case.noisy)
  return np.asarray(program.predict(program.params, program.model_state, readable)["logits"])


def assert_same(a, b):
  """Bit by bit."""
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-5), a, b)


def assert_finite(tree):
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    assert np.isfinite(np.asarray(x, np.float64)).all(), jax.tree_util.keystr(path)


def test_every_method_has_a_case():
  assert set(FIRST) == set(methods.METHODS)


@every_method
def test_the_key_decides_the_parameters(name):
  case = CASES[name]
  spec = example_batches.spec(case.task, case.modalities[:1])  # an init is slow to compile
  start = jax.jit(methods.build_method(case.method, case.values, spec).init)
  first, again = start(jax.random.key(0)), start(jax.random.key(0))
  assert_same(first, again)
  assert_finite(first)
  other = start(jax.random.key(1))[0]
  weights = zip(jax.tree.leaves(first[0]), jax.tree.leaves(other), strict=True)
  # Some weights start at 0 or at the identity.
  assert all((x != y).any() for x, y in weights if len(np.unique(x[..., :2])) > 2)


@every_case
def test_what_was_not_recorded_cannot_matter_in_training(name):
  p = built(name)
  batch = example_batches.mixed(p.spec)
  there = batch.recorded
  assert not there.all()
  poisoned = differentiate(p, example_batches.poisoned(batch, p.spec, there))
  assert_finite(poisoned)
  assert_same(poisoned, differentiate(p, example_batches.zeroed(batch, p.spec, there)))


# What the losses of a method gather: codes [D, B] or elements [M V, D] of contrasts,
# and labels [C, B]; of inputs, [B, D], and parameters nothing.
GATHERED = {
  "robult": {(4, 16), (3, 16)},
  "promise": {(96, 4), (3, 32, 4)},
}


@every_method
@pytest.mark.parametrize("devices", [2, 8])
def test_many_devices_give_what_one_gives_and_exchange_little(name, devices):
  p = built(name)
  batch, mesh = (
    example_batches.mixed(p.spec),
    devices_mesh.make_mesh(jax.devices()[:devices]),
  )
  everywhere = devices_mesh.replicated(mesh)
  here = devices_mesh.place((p.params, p.model_state), everywhere)
  spread = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
  loss = p.method.stages[0].loss
  step = jax.jit(jax.value_and_grad(loss, has_aux=True), out_shardings=everywhere)
  args = *here, spread, jax.random.key(1), example_batches.clock(0.9)
  program = step.lower(*args).compile()
  assert mesh.devices.size == devices
  assert_close(program(*args), differentiate(p, batch))
  moved = exchanged(program.as_text())
  gathered = {x.shape for kind, x in moved if kind != "all-reduce" and x.dtype == "f4"}
  assert devices == 2 or gathered <= GATHERED.get(name, set())
  assert any(kind == "all-reduce" for kind, _ in moved)
  # Once the gradient, and under a kilobyte for each row.
  gradient = sum(x.nbytes for x in jax.tree.leaves(p.params))
  assert sum(x.nbytes for _, x in moved) < gradient + 1024 * example_batches.ROWS


@pytest.fixture
def texts(monkeypatch):
  """The programs of the calls that `train.fit` makes, as XLA compiled them."""
  found, compiled = [], loop.compiled

  def keep(program, args, speed, once=False):
    call = compiled(program, args, speed, once)
    found.extend([] if once else [call.as_text()])
    return call

  monkeypatch.setattr(loop, "compiled", keep)
  return found


@pytest.mark.parametrize("name", ["fusion", "robult", "redcore"])
def test_the_call_of_a_run_gathers_no_inputs_and_no_parameters(name, eight_devices, texts):
  """Data, optimiser, validation and all; inputs alone are 6 numbers wide."""
  source = tiny_runs.dataset(dim=6)
  method = methods.build_method(name, tiny_runs.VALUES[name], source.spec)
  given = tiny_runs.rows(source), source.split("valid"), tiny_runs.settings(steps=5)
  fit = loop.fit(method, source.spec, *given, mesh=eight_devices)
  (text,) = texts
  moved = exchanged(text)
  gathered = [x.shape for kind, x in moved if kind != "all-reduce"]
  parameters = {x.shape[1:] for x in jax.tree.leaves(fit.params)}
  assert not parameters & set(gathered)
  assert not any(6 in shape for shape in gathered)
  assert any(kind == "all-reduce" for kind, _ in moved)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(tiny_runs.VALUES))
def test_groups_train_what_one_device_does_and_send_each_other_nothing(name, one_device, texts):
  """One step of eight seeds in eight groups. What is sent is told: a number a seed."""
  source = tiny_runs.dataset(dim=6)
  method = methods.build_method(name, tiny_runs.VALUES[name], source.spec)
  stages = len(method.stages)
  rows, config = (
    tiny_runs.rows(source, seeds=range(8)),
    tiny_runs.settings(steps=stages, eval_every=1),
  )
  given = method, source.spec, rows, source.split("valid"), config
  alone = loop.fit(*given, mesh=one_device)
  texts.clear()
  fit = loop.fit(*given, mesh=devices_mesh.make_mesh(groups=8))
  tiny_runs.assert_close(fit[:4], alone[:4], rtol=1e-3, atol=1e-4)
  assert len(texts) == stages
  for text in texts:
    sizes = [x.size for _, x in exchanged(text)]
    assert sizes and max(sizes) == 8


LOWERED = """
import hashlib, jax
import example_batches
from promise_jax import methods
from test_methods import CASES, FIRST
for name in FIRST:
  spec = example_batches.spec("classes", example_batches.VECTORS)
  method = methods.build(name, CASES[name].values, spec)
  params, model_state = jax.eval_shape(method.init, jax.random.key(0))
  batch = example_batches.mixed(spec)
  rest = batch, jax.random.key(0), example_batches.clock(0.5)
  programs = [jax.jit(s.loss).lower(params, model_state, *rest) for s in method.stages]
  programs += [jax.jit(method.predict).lower(params, model_state, batch)]
  print(name, *(hashlib.sha256(p.as_text().encode()).hexdigest() for p in programs))
"""


@pytest.mark.slow
def test_every_process_makes_the_same_programs():
  """Python orders sets by a seed of its own in each: programs would not be found in the
  cache, and processes that train together could differ."""
  folder = Path(__file__).parent
  both = [
    subprocess.Popen(
      [sys.executable, "-c", LOWERED],
      env=tiny_runs.short() | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(folder)},
      stdout=subprocess.PIPE,
      text=True,
    )
    for seed in ("1", "2")
  ]
  one, other = (p.communicate(timeout=300)[0] for p in both)
  assert one == other and len(one.splitlines()) == len(FIRST)


def exchanged(text: str) -> list[tuple[str, np.ndarray]]:
  """(operation, what it gives) of all that devices send each other in a program; in a
  loop as often as that runs, or once where the program does not say."""
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


def test_the_exchanged_bytes_are_read_from_the_program():
  """Three times round a loop, in which one of two branches sends a pair of arrays."""
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


@every_case
def test_what_is_not_present_cannot_matter_in_prediction(name):
  p = built(name)
  full = example_batches.mixed(p.spec)
  for pattern in missing.all_patterns(len(p.spec.modalities)):
    batch = full.replace(present=full.recorded & np.array([pattern]))
    poisoned = logits(p, example_batches.poisoned(batch, p.spec, batch.present))
    assert_finite(poisoned)
    assert_same(poisoned, logits(p, batch))


@every_case
def test_the_label_of_an_unlabelled_row_cannot_matter(name):
  p = built(name)
  batch = example_batches.mixed(p.spec)
  label = batch.label.copy()
  hidden = ~batch.labelled
  garbage = [10**6, -7, 99] if label.dtype == np.int32 else [np.nan, np.inf, -1e9]
  garbage = np.resize(garbage, hidden.sum()).astype(label.dtype)
  label[hidden] = garbage.reshape(-1, *(1,) * (label.ndim - 1))
  found = differentiate(p, batch.replace(label=label))
  assert_finite(found)
  assert_same(found, differentiate(p, batch))


@every_case
def test_the_order_of_the_rows_cannot_matter(name, rng):
  p = built(name)
  batch, order = example_batches.mixed(p.spec), rng.permutation(example_batches.ROWS)
  shuffled = example_batches.take(batch, order)
  (loss, (model_state, _)), grads = differentiate(p, batch)
  (other, (other_aux, _)), other_grads = differentiate(p, shuffled)
  np.testing.assert_allclose(other, loss, 1e-5)
  assert_close(other_grads, grads)
  assert_close(other_aux, model_state)
  np.testing.assert_allclose(logits(p, shuffled), logits(p, batch)[order], 1e-5, 1e-6)


@every_method
def test_rows_with_nothing_present_and_no_label_change_nothing(name):
  p = built(name)
  batch, rows = example_batches.mixed(p.spec), np.arange(example_batches.ROWS) < 12
  padded = example_batches.poisoned(batch, p.spec, np.tile(rows[:, None], 3)).replace(
    row_mask=rows,
    present=batch.present & rows[:, None],
    recorded=batch.recorded & rows[:, None],
    labelled=batch.labelled & rows,
    label=np.where(rows, batch.label, 10**6),
  )
  (loss, (model_state, terms)), grads = differentiate(p, example_batches.take(batch, rows))
  (other, (other_state, other_terms)), other_grads = differentiate(p, padded)
  np.testing.assert_allclose(other, loss, 1e-5)
  assert_close(other_grads, grads)
  assert_close(other_state, model_state)
  assert_close(other_terms, terms)


@every_case
@pytest.mark.parametrize("absent", ["one for all", "all of some", "all", "labels"])
def test_emptiness_is_finite(name, absent):
  p = built(name)
  batch = example_batches.complete(p.spec)
  present, labelled = batch.present.copy(), batch.labelled.copy()
  if absent == "one for all":
    present[:, 1] = False
  elif absent == "all of some":
    present[::3] = False
  elif absent == "all":
    present[:] = False
  else:
    labelled[:] = False
  batch = batch.replace(present=present, recorded=present, labelled=labelled)
  batch = example_batches.poisoned(batch, p.spec, present)
  (loss, (model_state, terms)), grads = differentiate(p, batch)
  assert_finite((loss, model_state, terms, grads, logits(p, batch)))
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
  if absent == "all" and p.case.empty:
    assert loss > 0
  elif absent == "all":
    assert loss == 0
    assert_same(grads, jax.tree.map(jnp.zeros_like, grads))
  if absent == "labels":
    supervised = "supervised" if "supervised" in terms else "sup"
    assert terms[supervised].total == 0 and terms[supervised].count == 0


@pytest.mark.parametrize("name", [*FIRST, *(n for n in CASES if n.endswith("-kinds"))])
def test_a_static_pattern_gives_what_a_traced_mask_gives(name):
  p = built(name)
  batch = example_batches.readable(example_batches.mixed(p.spec))
  static = jax.jit(p.method.predict, static_argnames="pattern")
  patterns = missing.all_patterns(len(p.spec.modalities))
  sample = patterns[::2] if name in FIRST else patterns[len(patterns) // 2 :][:1]
  for pattern in sample:
    now = batch.replace(present=batch.present & np.array([pattern]))
    traced = p.predict(p.params, p.model_state, now)
    found = static(p.params, p.model_state, batch, pattern=pattern)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-5), found, traced)
    assert np.asarray(found["logits"]).shape == (
      example_batches.ROWS,
      p.spec.task.outputs,
    )


@every_method
def test_a_static_pattern_leaves_the_absent_encoders_out(name):
  p = built(name)
  batch = example_batches.readable(example_batches.mixed(p.spec))
  products = []
  for pattern in ((True, True, True), (True, False, True), (True, False, False)):
    run = functools.partial(p.method.predict, pattern=pattern)
    text = str(jax.make_jaxpr(run)(p.params, p.model_state, batch))
    products.append(text.count("dot_general"))
  assert products[0] > products[1] > products[2] > 0


@pytest.mark.parametrize("name", ["robult-kinds", "fusion-kinds"])
def test_prepared_inputs_give_what_raw_ones_give(name):
  p = built(name)
  batch = example_batches.mixed(p.spec)
  before = p.method.preprocess(batch.inputs)
  assert before["photo"].ndim == 2 and before["words"] is batch.inputs["words"]
  ready = batch.replace(inputs=before)
  np.testing.assert_allclose(logits(p, ready), logits(p, batch), 1e-5, 1e-5)
  found, raw = differentiate(p, ready), differentiate(p, batch)
  np.testing.assert_allclose(found[0][0], raw[0][0], 1e-5)
  assert_close(found[1], raw[1])


@every_method
def test_the_key_decides_the_noise(name):
  p = built(name)
  batch = example_batches.mixed(p.spec)
  assert_same(differentiate(p, batch, key=4), differentiate(p, batch, key=4))
  assert differentiate(p, batch, key=4)[0][0] != differentiate(p, batch, key=5)[0][0]


@every_method
def test_prediction_has_no_randomness(name):
  p = built(name)
  batch = example_batches.readable(example_batches.mixed(p.spec))
  text = str(jax.make_jaxpr(p.method.predict)(p.params, p.model_state, batch))
  assert "random" not in text and "threefry" not in text


@every_case
def test_sixteen_examples_can_be_learnt(name):
  p = built(name)
  batch, clock = example_batches.complete(p.spec), example_batches.clock(0)
  params, model_state, losses = p.params, p.model_state, []
  first = second = jax.tree.map(np.zeros_like, params)
  for i in range(1, p.case.steps + 1):
    (loss, (model_state, _)), grads = p.grad(params, model_state, batch, jax.random.key(i), clock)
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * np.asarray(g), first, grads)
    second = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * np.square(g), second, grads)
    params = jax.tree.map(adam_step, params, first, second)
    losses.append(float(loss))
  assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


def adam_step(x, first, second):
  """Adam on the host, where nothing is compiled. Both decays are 0.9, so what it lacks
  of a bias correction is a short warm-up."""
  return np.float32(x - 0.02 * first / (np.sqrt(second) + 1e-8))
