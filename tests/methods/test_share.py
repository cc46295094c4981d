"""`share`: its logits and teacher against loops over rows, and what is off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import example_batches
from promise_jax import methods
from promise_jax.method import TrainState
from promise_jax.methods import share
from promise_jax.nn import precision

SIZES = {"hidden": 8, "head_hidden": 5}
SPEC = example_batches.spec("classes")


def start(**values):
  config = share.ShareConfig(**SIZES | values)
  method = share.share(config, SPEC)
  net = share.ShareNet(SPEC.modalities, 3, 8, 5, config=config)
  return net, method, example_batches.random_params(method)


def dense(x, layer):
  return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def network(x, layers):
  return dense(np.maximum(dense(x, layers["Dense_0"]), 0), layers["Dense_1"])


@pytest.mark.parametrize("gated", [True, False])
def test_logits_are_the_head_and_the_evidence_of_visible_modalities(rng, gated):
  net, _, params = start(gated=gated)
  codes = rng.normal(size=(4, 3, 8)).astype(np.float32)
  visible = rng.random((2, 4, 3)) < 0.5
  p = params["params"]
  found = net.apply(params, codes, visible, p["token"], method=share.ShareNet.classify).logits
  for k in range(2):
    for n in range(4):
      filled = np.where(visible[k, n][:, None], codes[n], p["token"])
      expected = network(filled.reshape(-1), p["head"])
      for i in np.flatnonzero(visible[k, n]):
        evidence = network(codes[n, i], p["common"])
        gate = 1 / (1 + np.exp(-dense(codes[n, i], p["gate"]))) if gated else 1
        expected = expected + gate * evidence
      np.testing.assert_allclose(found[k, n], expected, 1e-4, 1e-5)


def test_the_teacher_is_a_running_mean_that_starts_fast():
  mean, rate = np.float32(4.0), []
  for step in range(400):
    new = share.update_teacher(jnp.zeros(()), jnp.ones(()), jnp.int32(step), 0.9)
    rate.append(float(new))
    mean = share.update_teacher(mean, jnp.float32(1.0), jnp.int32(step), 0.9)
  assert rate[0] == pytest.approx(0.9)  # 1 - 1 / 10
  assert rate[10] == pytest.approx(1 - 11 / 20)
  assert rate[-1] == pytest.approx(0.1)
  assert mean == pytest.approx(1, abs=1e-4)


def test_a_step_moves_the_teacher_and_the_teacher_predicts():
  _, method, params = start()
  model_state = jax.jit(lambda key: method.init(key)[1])(jax.random.key(0))
  batch, step_info = example_batches.complete_batch(SPEC), example_batches.step_info(0.5)
  for kind in precision.PRECISIONS:  # the teacher is never made of rounded parameters
    (stage,) = precision.with_precision(method, kind).stages
    optimizer = optax.sgd(0.1)
    update = jax.jit(stage.update(stage, optimizer))
    state = TrainState(params, model_state, optimizer.init(params))
    state, _ = update(state, batch, jax.random.key(1), step_info)
    for old, now, mean in zip(
      *map(jax.tree.leaves, (model_state["teacher"], params, state.model_state["teacher"])),
      strict=True,
    ):
      assert mean.dtype == np.float32
      # Step 3 keeps (1 + 3) / (10 + 3).
      np.testing.assert_allclose(mean, (4 * old + 9 * now) / 13, 1e-5, 1e-6)
  predict = jax.jit(method.predict)
  inputs = example_batches.to_inputs(batch)
  logits = predict(params, model_state, inputs)["logits"]
  other = predict(model_state["teacher"], model_state, inputs)["logits"]
  np.testing.assert_array_equal(other, logits)
  assert (predict(params, {"teacher": params}, inputs)["logits"] != logits).any()


def test_without_evidence_and_teacher_it_is_distil():
  _, method, params = start(evidence=False, decay=0.0)
  baseline = methods.build_method("distil", SIZES, SPEC)
  assert jax.tree.structure(params) == jax.tree.structure(example_batches.random_params(baseline))
  batch = example_batches.mixed_batch(SPEC)
  args = (params, {}, batch, jax.random.key(2), example_batches.step_info(0.9))
  found, expected = (
    jax.jit(jax.value_and_grad(m.stages[0].loss, has_aux=True))(*args) for m in (method, baseline)
  )
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), found, expected)


@pytest.mark.parametrize("values", [{"decay": 1.0}, {"weight": -0.1}, {"ramp_end": 0.0}])
def test_settings_without_meaning_are_refused(values):
  with pytest.raises(ValueError, match=f"share.{next(iter(values))} is"):
    share.ShareConfig(**values)
