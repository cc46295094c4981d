"""ProMMA against MPLMM and slow loops over rows and gates.

Three sequences of 6 steps; the tests share their programs, the slow part. Data with a
known answer are in test_promma_synthetic.py.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import example_batches
from promise_jax import methods, missing
from promise_jax.method import StepInfo, TrainState
from promise_jax.methods import mplmm, promma
from promise_jax.nn import mult
from promise_jax.optim import optimizer, param_paths, update_rules
from promise_jax.types import Modality, Spec

NAMES, STEPS, ROWS, EVERY = ("text", "audio", "vision"), 6, 32, 2
TINY = {"width": 12, "heads": 2, "layers": 1, "memory_layers": 1, "prompts": 4}
TINY |= {"rank": 4, "codes": 4, "noisy": "", "fit": 0.0, "judge_every": EVERY}
OFF = {"gate": "on", "private": "none", "weigh": "none", "connect": "none"}
OFF |= {"skip": False}
PATTERNS = missing.all_patterns(3)
GATES = np.array(list(itertools.product((0.0, 1.0), repeat=3)), np.float32)
START, LATE, OTHER = StepInfo(0, 0.1), StepInfo(2, 0.5), StepInfo(3, 0.5)
KEY = jax.random.key(3)


def spec_of(steps: int = STEPS, features: int = 3) -> Spec:
  form = "sequence", (steps, features)
  every = tuple(Modality(name, *form) for name in NAMES)
  return Spec(every, example_batches.TASKS["regression"], {}, num_labelled=ROWS)


SPEC = spec_of()


def network(**values) -> promma.PrommaNet:
  config = promma.PrommaConfig(**TINY | values)
  return promma.PrommaNet(SPEC.modalities, SPEC.task.outputs, config)


def method_of(**values):
  return promma.promma(promma.PrommaConfig(**TINY | values), SPEC)


def rows(seed: int = 0, complete: bool = False, hidden: float = 0.7) -> dict:
  """Rows whose label is in the text; every pattern is there, one row has nothing, one
  lacks a recording, some have no label. `hidden`: the part that is incomplete."""
  rng = np.random.default_rng(seed)
  text = rng.normal(size=(ROWS, STEPS, 3)).astype(np.float32)
  draw = lambda: rng.normal(size=text.shape).astype(np.float32)
  inputs = {"text": text, "audio": draw(), "vision": text + 0.3 * draw()}
  wave = text.mean(1) @ np.float32([1.5, -1.5, 0.75])
  present, recorded = np.ones((2, ROWS, 3), bool)
  if not complete:
    present = np.array(PATTERNS)[rng.integers(0, 6, ROWS)]
    present |= rng.random((ROWS, 1)) > hidden
    present[:7], present[7], present[8] = PATTERNS, False, [True, False, True]
    recorded[8, 1] = False
  return {
    "inputs": inputs,
    "length": {name: np.full(ROWS, STEPS, np.int32) for name in NAMES},
    "recorded": recorded,
    "present": present,
    "label": (3 * np.tanh(wave)).astype(np.float32),
    "labelled": np.arange(ROWS) % 8 != 3,
    "valid": np.ones(ROWS, bool),
    "id": rng.permutation(1000)[:ROWS].astype(np.int32),
    "slot": np.arange(ROWS, dtype=np.int32),
  }


@functools.cache
def started(seed: int = 0):
  """(params, model_state) as `init` starts them, but drawn on the host."""
  rng = np.random.default_rng(seed)
  fixed = {"scale": 1, "bias": 0, "log_temperature": np.log(0.1), "value_kernel": 0}
  fixed |= {"gate_kernel": 0, "gate_bias": 0, "packed_bias": 0}

  def draw(path, leaf):
    name = str(path[-1].key)
    if name in fixed:
      return np.full(leaf.shape, fixed[name], np.float32)
    if name == "level_kernel":
      return np.tile(np.eye(12, dtype=np.float32), (1, 1, 2)) / np.float32(2**0.5)
    small = name.endswith(("prompts", "bias"))
    scale = 0.02 if small else leaf.shape[-2] ** -0.5
    return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

  shapes, _ = jax.eval_shape(method_of().init, KEY)
  params = jax.tree_util.tree_map_with_path(draw, shapes)
  return params, {"f0": mplmm.ends(params), **promma.empty(SPEC)}


@functools.cache
def ready():
  """(params, model_state) without zeros; f0 has other ends than the backbone."""
  params = example_batches.parameters(method_of())
  other = example_batches.parameters(method_of(), seed=1)
  return params, {"f0": mplmm.ends(other), **promma.empty(SPEC)}


@functools.cache
def updated(stage: int):
  """A step of a stage, whose state keeps the gradient: opt[0]."""
  stage = method_of().stages[stage]
  last = optax.GradientTransformation(lambda x: x, lambda x, *_: (x, x))
  config = optimizer.OptimConfig(weight_decay=0.0, schedule="constant")
  tx = optax.chain(last, optimizer.make_optimizer(config, 100, stage.trainable))
  return jax.jit(tx.init), jax.jit(update_rules.gradient_update(stage, tx))


def step_of(params, model_state, batch, clock):
  """(gradient by path, model_state, terms) of one step of stage tune."""
  start, update = updated(1)
  state, terms = update(TrainState(params, model_state, start(params)), batch, KEY, clock)
  return param_paths.leaves_by_path(state.opt_state[0]), state.model_state, terms


@functools.cache
def seen_by(weigh: str = "codes"):
  """What the network does with given gates, without noise."""
  net = network(weigh=weigh)

  def see(params, model_state, batch, g):
    present = batch.present
    seen, made = net.apply(params, batch, present, method="take")
    f0 = promma.teach(net, params, model_state, batch, jnp.stack([present, batch.recorded]))
    judged = net.apply(params, seen, made, present, f0[0], method="evaluate")
    one = lambda g: net.apply(params, seen, made, present, g, method="answer")
    logits, told = jax.lax.map(one, g)
    out = {"real": seen.real, "steps": seen.steps, "made": made, "f0": f0}
    return out | {"judged": judged, "logits": logits, **told}

  return jax.jit(see)


@functools.cache
def plain():
  net = network()
  return jax.jit(lambda p, b, there: net.apply(p, b, there, method="plain"))


def teacher(params, model_state, batch, there):
  """f0, put together by hand."""
  backbone = params["params"]["backbone"] | model_state["f0"]
  return plain()({"params": params["params"] | {"backbone": backbone}}, batch, there)


def broadcast(gates=GATES):
  return np.broadcast_to(gates[:, None], (len(gates), ROWS, 3))


def errors_of(params, model_state, batch, target) -> np.ndarray:
  """f[8, B] under each of GATES."""
  logits = np.asarray(seen_by()(params, model_state, batch, broadcast())["logits"])
  return np.abs(logits[..., 0] - target[None])


def loop_benefit(errors, present) -> np.ndarray:
  """By how much ON is better than OFF, row by row."""
  found = np.zeros(present.shape)
  for r, there in enumerate(present):
    for m in np.flatnonzero(~there) if there.any() else []:
      gain = []
      for others in itertools.product((0, 1), repeat=3):
        gates = [1 if there[i] else others[i] for i in range(3)]
        on, off = ([*gates[:m], x, *gates[m + 1 :]] for x in (1, 0))
        place = [int(np.flatnonzero((GATES == g).all(1))[0]) for g in (off, on)]
        gain.append(errors[place[0], r] - errors[place[1], r])
      found[r, m] = np.mean(gain)
  return found


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def close(found, wanted, atol=1e-5):
  np.testing.assert_allclose(found, wanted, 1e-4, atol)


@pytest.mark.parametrize("preset", mult.PRESETS)
def test_with_all_parts_off_it_is_mplmm(preset):
  values = mult.PRESETS[preset] | {k: TINY[k] for k in ("width", "heads", "prompts")}
  values |= {"layers": 1, "memory_layers": 1, "noisy": "text"}
  host = methods.build_method("mplmm", values, SPEC)
  this = methods.build_method("promma", values | OFF | {"generator": 0.0}, SPEC)
  shapes = jax.eval_shape(this.init, KEY)[0]
  assert shapes == jax.eval_shape(host.init, KEY)[0]
  params, model_state = example_batches.parameters(this), promma.empty(SPEC)

  @jax.jit
  def both(params, batch):
    noise = jax.random.split(KEY)[0]  # what the loss of promma gives to its network
    ours = this.stages[-1].loss(params, model_state, batch, KEY, LATE)[1][1]["sup"]
    theirs = host.stages[-1].loss(params, model_state, batch, noise, LATE)[1][1]["sup"]
    predicted = [x.predict(params, model_state, batch)["logits"] for x in (this, host)]
    return predicted, (ours, theirs)

  logits, sup = both(params, rows())
  close(*logits)
  close(*sup)
  assert np.ptp(logits[0]) > 0.1 and sup[0].count == 27


@pytest.mark.slow
@pytest.mark.parametrize("preset", mult.PRESETS)
def test_with_all_parts_off_it_is_mplmm_at_full_size(preset):
  """Five layers, 50 steps, 1,284 rows to learn from; every pattern and nothing."""
  spec = spec_of(50, 5)._replace(num_labelled=1284)
  values = mult.PRESETS[preset] | {"width": 30, "heads": 5, "layers": 5, "prompts": 16}
  host = methods.build_method("mplmm", values | {"memory_layers": 5}, spec)
  this = methods.build_method("promma", values | {"memory_layers": 5} | OFF, spec)
  batch = example_batches.complete(spec, 8).replace(present=np.array([*PATTERNS, (False,) * 3]))
  params = jax.jit(this.init)(KEY)[0]
  model_state, batch = promma.empty(spec), example_batches.readable(batch)
  ours, theirs = jax.jit(
    lambda p, b: [x.predict(p, model_state, b)["logits"] for x in (this, host)]
  )(params, batch)
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
  assert np.ptp(ours) > 1e-2


def test_the_parts_have_the_sizes_that_were_planned():
  spec = spec_of(50, 5)
  sizes = {"width": 30, "heads": 5, "layers": 1, "memory_layers": 5, "prompts": 16}
  shapes = jax.eval_shape(methods.build_method("promma", sizes, spec).init, KEY)[0]
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  found = {k: size(x) for k, x in shapes["params"].items()}
  parts = {"private": 12720, "judge": 8257, "connect": 9915, "weights": 481}
  assert {k: found[k] for k in parts} == parts
  assert sum(found[f"{n}_off_prompts"] for n in NAMES) == 4500


@pytest.mark.parametrize("weigh", ["codes", "attention"])
def test_nothing_comes_from_a_source_that_is_off(weigh):
  (params, model_state), batch = ready(), rows()
  run = functools.partial(seen_by(weigh), model_state=model_state, batch=batch, g=broadcast())
  found = run(params)
  off = ~batch.present[None] & (broadcast() == 0)
  for (target, source), said in found["information"].items():
    silent = off[..., NAMES.index(source)]
    assert np.all(np.asarray(said)[silent] == 0), (target, source)
    assert np.ptp(np.asarray(said)[~silent]) > 0
  every = params["params"]
  shaken = jax.tree.map(lambda x: x + 1, every["generators"])
  other = {f"{n}_missing_prompts": every[f"{n}_missing_prompts"] + 1 for n in NAMES}
  other = run({"params": every | other | {"generators": shaken}})["logits"]
  same = np.array_equal(found["logits"][0], other[0])  # all that is absent is OFF
  assert same and not np.array_equal(found["logits"][-1], other[-1])


def test_the_gates_are_those_of_a_perceptron_of_what_is_there():
  (params, model_state), batch = ready(), rows()
  found = jax.device_get(seen_by()(params, model_state, batch, broadcast()))
  close(found["f0"][0], teacher(params, model_state, batch, batch.present))
  weights = params["params"]["judge"]
  last, first = ((w["kernel"], w["bias"]) for w in weights.values())
  for r, there in enumerate(batch.present):
    parts = [np.zeros(12, np.float32)] * 3
    for i in np.flatnonzero(there):
      steps, real = found["steps"][NAMES[i]][r], found["real"][NAMES[i]][r]
      parts[i] = steps[real].mean(0)
    for m, name in enumerate(NAMES):
      made = found["made"][name][r].mean(0)
      x = np.concatenate([*parts, there, found["f0"][0, r], np.eye(3)[m], made])
      hidden = np.maximum(x @ first[0] + first[1], 0)
      close(found["judged"][r, m], (hidden @ last[0] + last[1])[0], 1e-4)


@functools.cache
def labelled_by(gate: str):
  net = network(gate=gate)

  def run(p, model_state, b):
    masks = jnp.stack(promma.asked(net.config, b["recorded"]))
    said = promma.teach(net, p, model_state, b, masks)
    rows = b["present"], b["recorded"]
    return promma.labels(net, SPEC.task, p, model_state, b, *rows, said)

  return jax.jit(run)


def mixed_target(params, model_state, batch):
  """y* and which rows have a label that counts."""
  pseudo = np.asarray(teacher(params, model_state, batch, batch.recorded))[:, 0]
  where = batch.labelled & batch.present.any(1)
  return np.where(where, 0.5 * batch.label / 3 + 0.5 * pseudo, pseudo), where


def test_labels_are_those_of_a_slow_loop():
  params, model_state = ready()
  seen = []
  for seed in (0, 1):  # the deviation is that of all targets so far
    batch = rows(seed)
    target, where = mixed_target(params, model_state, batch)
    seen = [*seen, *(batch.label[where] / 3)]
    benefit = loop_benefit(errors_of(params, model_state, batch, target), batch.present)
    q, model_state = labelled_by("learned")(params, model_state, batch)
    close(q, sigmoid(benefit / (0.1 * np.std(seen))), 1e-3)
    assert np.ptp(q) > 0.1


def test_of_what_f0_is_asked_the_first_are_answered():
  (params, model_state), batch = ready(), rows()
  masks = jnp.stack([batch.present, batch.recorded, batch.recorded])
  run = jax.jit(lambda n: promma.teach(network(), params, model_state, batch, masks, n))
  wanted = [teacher(params, model_state, batch, mask) for mask in masks]
  for count in (1, 3):
    found = np.asarray(run(count))
    close(found[:count], np.stack(wanted[:count]))
    assert not found[count:].any()


def test_importance_is_above_the_running_median():
  params, model_state = ready()
  for seed, share in ((0, 1.0), (1, 0.05)):
    batch = rows(seed)
    every = batch.recorded
    whole = teacher(params, model_state, batch, every)
    wanted = []
    for m in range(3):
      out = teacher(params, model_state, batch, every & (np.arange(3) != m)[None])
      moved = np.abs(whole - out)[:, 0]
      counted = np.sort(moved[every[:, m] & batch.present.any(1)])
      middle = counted[(len(counted) - 1) // 2]
      tau = (1 - share) * model_state["tau"][m] + share * middle
      wanted.append((moved > tau, tau))
    q, model_state = labelled_by("importance")(params, model_state, batch)
    q_wanted, tau = map(np.stack, zip(*wanted, strict=True))
    close(model_state["tau"], tau)
    assert 0.2 < q.mean() < 0.8 and np.mean(q != q_wanted.T) < 0.02


def test_the_importance_of_what_was_never_recorded_is_not_learnt():
  (params, model_state), batch = ready(), rows()
  loss = jax.jit(method_of(gate="importance").stages[-1].loss)
  _, (_, terms) = loss(params, model_state, batch, KEY, LATE)
  known = batch.recorded & batch.present.any(1)[:, None]
  assert terms["gate"].count == (~batch.present & known).sum()
  never = batch.replace(recorded=batch.present)
  assert loss(params, model_state, never, KEY, LATE)[1][1]["gate"].count == 0


def test_fresh_ends_are_those_of_mplmm_and_f0_keeps_the_trained():
  values = {k: TINY[k] for k in ("width", "heads", "prompts", "layers")}
  values |= {"memory_layers": 1, "noisy": "", "fit": 0.0, "fresh": True}
  host = methods.build_method("mplmm", values, SPEC)
  this = methods.build_method("promma", values | OFF, SPEC)
  params, model_state = (
    example_batches.parameters(this),
    promma.empty(SPEC) | {"f0": {}},
  )
  wanted, _ = jax.jit(host.stages[-1].on_start)(KEY, params, {})
  found, model_state = jax.jit(this.stages[-1].on_start)(KEY, params, model_state)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  jax.tree.map(np.testing.assert_array_equal, model_state["f0"], mplmm.ends(params))
  assert not np.allclose(found["params"]["backbone"]["output"]["kernel"], 0.0)


def test_the_gates_of_a_prediction():
  (params, model_state), batch = ready(), rows()
  model_state = model_state | {"on": (np.float32([20, 50, 0]), np.full(3, 100, np.float32))}
  present, readable = batch.present, example_batches.readable(batch, noisy=True)
  kinds = ("oracle", "free", "random")
  nets = {kind: network(gate=kind) for kind in kinds}

  @jax.jit
  def run(batch, model_state=model_state):
    there = batch.present
    taken = nets["free"].apply(params, batch, there, method="take")
    args = params, model_state, batch, there, taken, None
    return {k: promma.decide(net, SPEC.task, *args) for k, net in nets.items()}

  found = jax.device_get(run(readable | {"label": batch.label}))
  where = ~present & present.any(1, keepdims=True)
  place = lambda g: [int(np.flatnonzero((GATES == row).all(1))[0]) for row in g]
  errors = errors_of(params, model_state, batch, batch.label / 3)
  chosen = errors[place(np.where(present, 1, found["oracle"])), np.arange(ROWS)]
  assert np.all(chosen <= errors.min(0) + 1e-6) and np.ptp(found["oracle"][where]) == 1
  alone = present[None] & np.eye(3, dtype=bool)[:, None]
  said = np.stack([teacher(params, model_state, batch, one)[:, 0] for one in alone])
  pseudo = (said * present.T).sum(0) / np.maximum(present.sum(1), 1)
  gain = loop_benefit(errors_of(params, model_state, batch, pseudo), present)
  sure = where & (np.abs(gain) > 1e-6)
  assert np.array_equal((gain > 0)[sure], found["free"][sure]) and sure.sum() > 30
  turned = jax.tree.map(lambda x: x[::-1], readable | {"label": batch.label})
  assert np.array_equal(run(turned)["random"], found["random"][::-1])
  many = promma.coins(jax.random.key(0), jnp.arange(4000), 3, jnp.float32([0.2, 0.5, 0]))
  close(many.mean(0), [0.2, 0.5, 0], 0.03)
  with pytest.raises(ValueError, match="oracle, which reads labels; the batch has none"):
    jax.eval_shape(method_of(gate="oracle").predict, params, model_state, readable)
  predict = jax.jit(method_of().predict)
  learned = predict(params, model_state, readable)
  unjudged = model_state | promma.empty(SPEC)
  assert np.all(predict(params, unjudged, readable)["gate"] == 1)
  assert np.all(run(readable | {"label": batch.label}, unjudged)["random"] == 1)
  seen = seen_by()(params, model_state, batch, broadcast())
  hard = np.where(present, 1, seen["judged"] >= 0)
  assert np.array_equal(learned["gate"], hard) and np.ptp(hard[where]) == 1
  close(learned["logits"], np.asarray(seen["logits"])[place(hard), np.arange(ROWS)])


def test_before_the_warm_up_is_done_everything_is_generated():
  (params, model_state), batch = ready(), rows()
  early, _, terms = step_of(params, model_state, batch, START)
  for path, x in early.items():
    if "judge" in path or "off_prompts" in path:
      assert not np.any(x), path
  assert terms["gate"].count == 0
  late, moved, terms = step_of(params, model_state, batch, LATE)
  assert all(np.any(x) for path, x in late.items() if "judge" in path)
  assert terms["gate"].count == (~batch.present & batch.present.any(1)[:, None]).sum()
  assert moved["moments"][0] > 0


def test_the_evaluator_learns_from_its_labels_and_through_the_soft_gate():
  """In a step that is not judged only through the gate, and that is no 0."""
  (params, model_state), batch = ready(), rows()
  judged, _, _ = step_of(params, model_state, batch, LATE)
  other, kept, _ = step_of(params, model_state, batch, OTHER)
  assert kept["moments"][0] == 0
  q, _ = labelled_by("learned")(params, model_state, batch)
  said = seen_by()(params, model_state, batch, broadcast())["judged"]
  where = ~batch.present & batch.present.any(1)[:, None]
  slope = 0.1 * EVERY * np.mean((sigmoid(np.asarray(said)) - q)[where])
  bias = "params/judge/Dense_0/bias"
  close(judged[bias] - other[bias], [slope])
  assert np.any(other[bias])
  for path in judged:
    # What it reads of the steps that are there is not detached, all else is.
    if "judge" not in path and "projection" not in path:
      close(judged[path], other[path])
  shown = rows(complete=True)
  nothing, _, _ = step_of(params, model_state, shown, LATE)
  assert not any(np.any(x) for path, x in nothing.items() if "judge" in path)


def test_ten_steps_move_what_they_should():
  params, model_state = started()
  stage, batch = method_of().stages[1], rows()
  changed = jax.tree.map(lambda x: x + 1, model_state["f0"])
  params, model_state = stage.on_start(KEY, params, model_state | {"f0": changed})
  before = plain()(params, batch, batch.recorded)
  start, update = updated(1)
  state = TrainState(params, model_state, start(params))
  for i in range(10):
    state, _ = update(state, rows(i), KEY, StepInfo(i, 0.5))
    if i < 2:
      still = {
        k for k, x in param_paths.leaves_by_path(state.opt_state[0]).items() if not np.any(x)
      }
      late = {"private/query_kernel", "private/key_kernel", "connect/level_kernel"}
      assert still == ({f"params/{k}" for k in late} if i == 0 else set())
  first, last = param_paths.leaves_by_path(params), param_paths.leaves_by_path(state.params)
  frozen = {k for k in first if np.array_equal(first[k], last[k])}
  parts = ("crossing", "memory", "inner", "outer")
  held = tuple(f"params/backbone/{part}/" for part in parts)
  assert frozen == {k for k in first if k.startswith(held)}
  jax.tree.map(np.testing.assert_array_equal, state.model_state["f0"], model_state["f0"])
  now = teacher(state.params, state.model_state, batch, batch.recorded)
  np.testing.assert_array_equal(now, before)
  assert not np.allclose(plain()(state.params, batch, batch.recorded), before)


def test_what_is_generated_can_be_pulled_to_what_enters_the_encoders(rng):
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  own = {f"a_{kind}_prompts": draw(4, 2) for kind in ("missing", "present")}
  made, steps = {"a": draw(3, 4, 2)}, {"a": draw(3, 4, 2)}
  one, other = promma.aimed({"params": own}, made, steps)
  np.testing.assert_allclose(one["a"], made["a"] + own["a_missing_prompts"])
  np.testing.assert_allclose(other["a"], steps["a"] + own["a_present_prompts"])


def test_what_comes_back_needs_no_private_prompts():
  """The shared prompt, as long as the gates are open: at first they are not."""
  method, batch = method_of(private="none", gate="on", weigh="none"), rows()
  params, model_state = jax.jit(method.init)(KEY)
  run = jax.jit(lambda p: method.predict(p, model_state, example_batches.readable(batch))["logits"])

  def told(bias, shared):
    own = params["params"]
    connect = own["connect"] | {"gate_bias": own["connect"]["gate_bias"] + bias}
    more = {"connect": connect, "shared_prompts": own["shared_prompts"] * shared}
    return run({"params": own | more})

  other = np.float32([[1], [-1], [2], [0]])  # of each of the four rows of the prompt
  np.testing.assert_array_equal(told(0.0, 1.0), told(0.0, other))
  assert np.abs(told(1.0, np.ones_like(other)) - told(1.0, other)).min() > 1e-4


SWITCHES = (
  {
    "gate": "importance",
    "private": "static",
    "weigh": "attention",
    "apply": "features",
  },
  {
    "gate": "free",
    "private": "none",
    "weigh": "random",
    "connect": "none",
    "aim": "streams",
  },
  {"gate": "random", "connect": "last", "weigh": "none", "signal": False},
  {"gate": "oracle", "connect": "static", "apply": "both", "generate": False},
  {"gate": "off", "private": "none", "connect": "none", "types": False},
  {"private": "none"},
)


@pytest.mark.parametrize("values", SWITCHES)
def test_every_value_of_every_switch_builds(values):
  method, batch = method_of(**values), rows()
  params, model_state = jax.eval_shape(method.init, KEY)
  run = jax.value_and_grad(method.stages[-1].loss, has_aux=True)
  (loss, (after, _)), grads = jax.eval_shape(run, params, model_state, batch, KEY, LATE)
  assert loss.shape == () and grads == params
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, model_state)
  readable = example_batches.readable(batch, noisy=True).replace(label=batch.label)
  found = jax.eval_shape(method.predict, params, model_state, readable)
  assert found["logits"].shape == (ROWS, 1) and found["gate"].shape == (ROWS, 3)


@pytest.mark.parametrize(
  ("values", "sentence"),
  [
    ({"gate": "maybe"}, "promma.gate is 'maybe', known are learned, importance, free"),
    ({"private": "all"}, "promma.private is 'all', known are local, static, none"),
    ({"weigh": "mine"}, "promma.weigh is 'mine', known are codes, attention, random"),
    ({"apply": "steps"}, "promma.apply is 'steps', known are prompts, features, both"),
    ({"connect": "first"}, "promma.connect is 'first', known are all, last, static"),
    ({"rank": 0}, "promma.rank is 0, it must be at least 1"),
    ({"judge_every": 0}, "promma.judge_every is 0, it must be at least 1"),
    ({"evaluator": -1}, "promma.evaluator is -1, it must be at least 0"),
    ({"beta": 2}, r"promma.beta is 2, it must lie in \[0, 1\]"),
    ({"types": False}, "promma.types is False, private local and connect all"),
    ({"width": 7, "heads": 7}, "promma.width is 7, it must be even"),
    ({"margin": -1}, "promma.margin is -1, it must be at least 0"),
    ({"aim": "labels"}, "promma.aim is 'labels', known are steps, streams"),
    ({"aim": "streams", "signal": False}, "promma.aim is streams and signal False"),
  ],
)
def test_settings_that_mean_nothing_are_refused(values, sentence):
  with pytest.raises(ValueError, match=sentence):
    promma.PrommaConfig(**TINY | values)
