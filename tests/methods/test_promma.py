"""ProMMA against MPLMM, its sizes and settings, and what ten steps of it change."""

import jax
import jax.numpy as jnp
import numpy as np
import promma_cases as cases
import pytest
from promma_cases import ALL_OFF, KEY, LABELS, NAMES, ROWS, SPEC, TINY

import example_batches
from promise_jax import methods
from promise_jax.method import TrainState
from promise_jax.methods import promma, prompt_stages
from promise_jax.methods.presets import PRESETS
from promise_jax.optim import param_paths

MULT = {k: TINY[k] for k in ("host", "width", "heads", "layers", "memory_layers", "prompts")}


@pytest.mark.parametrize("released_code", [False, True])
def test_with_all_parts_off_it_is_mplmm(released_code):
  values = MULT | {"released_code": released_code, "fit": 0.0}
  host = methods.build_method("mplmm", values, SPEC)
  this = methods.build_method("promma", values | ALL_OFF | {"generation_weight": 0.0}, SPEC)
  shapes = jax.eval_shape(this.init, KEY)[0]
  assert shapes == jax.eval_shape(host.init, KEY)[0]
  params = example_batches.random_params(this)

  @jax.jit
  def both(params, batch):
    losses = [x.stages[-1].loss(params, {}, batch, KEY, LABELS) for x in (this, host)]
    return [x.predict(params, {}, batch)["logits"] for x in (this, host)], losses

  logits, losses = both(params, cases.batch_of())
  cases.close(*logits)
  cases.close(losses[0][0], losses[1][0])
  assert np.ptp(logits[0]) > 0.1 and losses[0][1][1]["supervised"].count == 27


@pytest.mark.slow
@pytest.mark.parametrize("released_code", [False, True])
def test_with_all_parts_off_it_is_mplmm_at_full_size(released_code):
  """Five layers, 50 steps; every pattern and nothing."""
  spec = cases.spec_of(50, 5, rows=1284)
  values = PRESETS["clean"]["mplmm"] | {"released_code": released_code, "fit": 0.0}
  host = methods.build_method("mplmm", values, spec)
  this = methods.build_method("promma", values | ALL_OFF, spec)
  present = np.array([*cases.PATTERNS, (False,) * 3])
  batch = example_batches.to_inputs(
    example_batches.complete_batch(spec, 8).replace(present=present)
  )
  params = example_batches.random_params(this)
  run = jax.jit(lambda p, b: [x.predict(p, {}, b)["logits"] for x in (this, host)])
  ours, theirs = run(params, batch)
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
  assert np.ptp(ours) > 1e-2


def test_the_parts_have_their_planned_sizes():
  spec = cases.spec_of(50, 5)
  sizes = PRESETS["clean"]["mplmm"] | {"layers": 1}
  shapes = jax.eval_shape(methods.build_method("promma", sizes, spec).init, KEY)[0]["params"]
  size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  parts = {"private": 12720, "evaluator": 8257, "connections": 9915, "source_information": 481}
  assert {k: size(shapes[k]) for k in parts} == parts
  assert sum(size(shapes["signal"][f"{n}_off_prompts"]) for n in NAMES) == 4500


def test_a_source_that_is_off_tells_nothing():
  (params, model_state), batch = cases.params_and_state(), cases.batch_of()
  gates = cases.all_gates()
  found = cases.run_gates()(params, model_state, batch, gates)["out"]
  off = ~batch.present[None] & (gates == 0)
  for m, n in np.argwhere(~np.eye(3, dtype=bool)):
    information = np.asarray(found.information)[..., m, n]
    assert np.all(information[off[..., n]] == 0), (m, n)
    assert np.ptp(information[~off[..., n]]) > 0
  every = params["params"]
  moved = jax.tree.map(lambda x: x + 1, every["generators"])
  signal = {k: x + 1.0 * k.endswith("missing_prompts") for k, x in every["signal"].items()}
  other = {"params": every | {"signal": signal, "generators": moved}}
  other = cases.run_gates()(other, model_state, batch, gates)["out"]
  # All absent modalities are OFF under the first gates.
  np.testing.assert_array_equal(found.logits[0], other.logits[0])
  assert not np.array_equal(found.logits[-1], other.logits[-1])


def test_ten_steps_change_what_they_should():
  stage, method, batch = cases.method_of().stages[1], cases.method_of(), cases.batch_of()
  params, model_state = jax.jit(method.init)(KEY)
  changed = jax.tree.map(lambda x: x + 1, model_state["f0"])
  params, model_state = stage.on_start(KEY, params, model_state | {"f0": changed})
  before = cases.backbone()(params, batch, batch.recorded)
  start, update = cases.update_of(1)
  state = TrainState(params, model_state, start(params))
  for i in range(10):
    step_info = LABELS._replace(step=i)
    state, _ = update(state, cases.batch_of(i), KEY, step_info)
    if i < 2:
      gradients = param_paths.leaves_by_path(state.opt_state[0])
      still = {k for k, x in gradients.items() if not np.any(x)}
      late = {"private/query_kernel", "private/key_kernel", "connections/level_kernel"}
      assert still == ({f"params/{k}" for k in late} if i == 0 else set())
  first, last = param_paths.leaves_by_path(params), param_paths.leaves_by_path(state.params)
  unchanged = {k for k in first if np.array_equal(first[k], last[k])}
  parts = ("cross_encoders", "self_encoders", "inner", "outer")
  frozen = tuple(f"params/backbone/{part}/" for part in parts)
  assert unchanged == {k for k in first if k.startswith(frozen)}
  jax.tree.map(np.testing.assert_array_equal, state.model_state["f0"], model_state["f0"])
  now = cases.teacher_logits(state.params, state.model_state, batch, batch.recorded)
  np.testing.assert_array_equal(now, before)
  assert not np.allclose(cases.backbone()(state.params, batch, batch.recorded), before)


def test_fresh_layers_are_those_of_mplmm_and_f0_keeps_the_trained_ones():
  values = MULT | {"released_code": True, "fit": 0.0}
  host = methods.build_method("mplmm", values, SPEC)
  this = methods.build_method("promma", values, SPEC)
  params = example_batches.random_params(this)
  expected, _ = jax.jit(host.stages[-1].on_start)(KEY, example_batches.random_params(host), {})
  found, model_state = jax.jit(this.stages[-1].on_start)(KEY, params, {"f0": {}})
  same = lambda *trees: jax.tree.map(np.testing.assert_array_equal, *trees)
  same(*(prompt_stages.data_layers(x) for x in (found, expected)))
  same(model_state["f0"], prompt_stages.data_layers(params))


def test_generated_steps_can_be_pulled_to_what_enters_the_encoders(rng):
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  signal = {f"a_{kind}_prompts": draw(4, 2) for kind in ("missing", "present")}
  config = promma.PrommaConfig(generation_target="streams")
  made, steps, real = {"a": draw(3, 4, 2)}, draw(3, 4, 2), np.ones((3, 4), bool)
  encoded = promma.host.Encoded({}, {"a": real}, {"a": steps})
  params = {"params": {"signal": signal}}
  found = promma.generation_gap(config, params, "a", encoded, made)
  gap = made["a"] + signal["a_missing_prompts"] - steps - signal["a_present_prompts"]
  huber = np.where(np.abs(gap) < 1, gap**2 / 2, np.abs(gap) - 0.5)
  np.testing.assert_allclose(found, huber.mean((1, 2)), rtol=1e-5)


def test_connections_without_private_prompts_bring_back_a_shared_prompt():
  """As long as the gates of the connections are open: at first they are not."""
  method = cases.method_of(private_prompts=False, gate="on", source_weights=False)
  params, model_state = jax.jit(method.init)(KEY)
  batch = example_batches.to_inputs(cases.batch_of())
  predict = jax.jit(lambda p: method.predict(p, model_state, batch)["logits"])

  def run(bias, factor):
    own = params["params"]
    connections = own["connections"] | {"gate_bias": own["connections"]["gate_bias"] + bias}
    more = {"connections": connections, "shared_prompts": own["shared_prompts"] * factor}
    return predict({"params": own | more})

  other = np.float32([[1], [-1], [2], [0]])  # of each of the four rows of the prompt
  np.testing.assert_array_equal(run(0.0, np.ones_like(other)), run(0.0, other))
  assert np.abs(run(1.0, np.ones_like(other)) - run(1.0, other)).min() > 1e-4


@pytest.mark.parametrize(
  "values",
  [
    {"gate": "off", "private_prompts": False, "generation_target": "streams"},
    {"gate": "on", "source_weights": False, "identity_skip": False},
    {"private_prompts": False, "connections": False, "frozen": False},
  ],
)
def test_every_setting_builds(values):
  method, batch = cases.method_of(**values), cases.batch_of()
  params, model_state = jax.eval_shape(method.init, KEY)
  run = jax.value_and_grad(method.stages[-1].loss, has_aux=True)
  (loss, (after, _)), grads = jax.eval_shape(run, params, model_state, batch, KEY, LABELS)
  assert loss.shape == () and grads == params
  assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, model_state)
  found = jax.eval_shape(method.predict, params, model_state, example_batches.to_inputs(batch))
  assert found["logits"].shape == (ROWS, 1) and found["gate"].shape == (ROWS, 3)


@pytest.mark.parametrize(
  ("values", "sentence"),
  [
    ({"gate": "maybe"}, "promma.gate is 'maybe', known are learned, on, off"),
    ({"gate_every": 0}, "promma.gate_every is 0, it must be at least 1"),
    ({"gate_weight": -1}, "promma.gate_weight is -1, it must be at least 0"),
    ({"type_prompts": False}, "promma needs generate, signal_prompts and type_prompts"),
    ({"width": 7, "heads": 7}, "promma.width is 7, it must be even"),
    ({"margin": -1}, "promma.margin is -1, it must be at least 0"),
    ({"generation_target": "labels"}, "promma.generation_target is 'labels', known are steps"),
  ],
)
def test_settings_without_meaning_are_refused(values, sentence):
  with pytest.raises(ValueError, match=sentence):
    promma.PrommaConfig(**TINY | values)
