"""`share`: its logits, gates and teacher against loops over rows, and what is off."""

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

SIZES = {"hidden": 8, "head_hidden": 5, "shared": 4, "pull": 0.1}
SPEC = example_batches.spec("classes")


def start(**values):
  config = share.ShareConfig(**SIZES | values)
  method = share.share(config, SPEC)
  net = share.ShareNet(SPEC.modalities, 3, 8, 5, config)
  return net, method, example_batches.parameters(method)


def aux_of(method):
  return jax.jit(lambda key: method.init(key)[1])(jax.random.key(0))


def dense(x, layer):
  return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def network(x, layers):
  return dense(np.maximum(dense(x, layers["Dense_0"]), 0), layers["Dense_1"])


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


@pytest.mark.parametrize("gated", [True, False])
def test_logits_are_the_head_and_the_evidence_of_what_is_shown(rng, gated):
  net, _, params = start(gated=gated)
  codes = rng.normal(size=(4, 3, 8)).astype(np.float32)
  shown = rng.random((2, 4, 3)) < 0.5
  found = net.apply(params, codes, shown, method="logits")
  p = params["params"]
  for k in range(2):
    for n in range(4):
      filled = np.where(shown[k, n][:, None], codes[n], p["token"])
      expected = network(filled.reshape(-1), p["head"])
      for i in np.flatnonzero(shown[k, n]):
        each = network(codes[n, i], p["common"])
        gate = 1 / (1 + np.exp(-dense(codes[n, i], p["gate"]))) if gated else 1
        expected = expected + gate * each
      np.testing.assert_allclose(found[k, n], expected, 1e-4, 1e-5)


def test_agreement_is_the_exponential_of_the_divergence(rng):
  single = rng.normal(size=(2, 5, 3)).astype(np.float32)
  teacher = rng.normal(size=(5, 3)).astype(np.float32)
  single[1, 0] = teacher[0] + 2  # the same probabilities
  found = share.agreement(single, teacher, SPEC.task)
  for i in range(2):
    for n in range(5):
      p, q = softmax(teacher[n]), softmax(single[i, n])
      expected = np.exp(-sum(p * np.log(p / q)))
      assert found[i, n] == pytest.approx(expected, rel=1e-5)
  assert found[1, 0] == pytest.approx(1, abs=1e-6)


def test_the_teacher_is_a_running_mean_that_starts_fast():
  mean, rate = np.float32(4.0), []
  for step in range(400):
    new = share.running_mean(jnp.zeros(()), jnp.ones(()), jnp.int32(step), 0.9)
    rate.append(float(new))
    mean = share.running_mean(mean, jnp.float32(1.0), jnp.int32(step), 0.9)
  assert rate[0] == pytest.approx(0.9)  # 1 - 1 / 10
  assert rate[10] == pytest.approx(1 - 11 / 20)
  assert rate[-1] == pytest.approx(0.1)
  assert mean == pytest.approx(1, abs=1e-4)


def test_a_step_moves_the_teacher_and_the_teacher_predicts():
  _, method, params = start()
  model_state, batch = aux_of(method), example_batches.complete(SPEC)
  clock = example_batches.clock(0.5)  # step 3: keeps (1 + 3) / (10 + 3)
  for kind in precision.PRECISIONS:  # it is never made of rounded parameters
    (stage,) = precision.with_precision(method, kind).stages
    tx = optax.sgd(0.1)
    update = jax.jit(stage.update(stage, tx))
    state = TrainState(params, model_state, tx.init(params))
    state, _ = update(state, batch, jax.random.key(1), clock)
    for old, now, mean in zip(
      *map(jax.tree.leaves, (model_state["teacher"], params, state.model_state["teacher"])),
      strict=True,
    ):
      assert mean.dtype == np.float32
      np.testing.assert_allclose(mean, (4 * old + 9 * now) / 13, 1e-5, 1e-6)
  predict = jax.jit(method.predict)
  seen = example_batches.readable(batch)
  taught = predict(params, model_state, seen)["logits"]
  np.testing.assert_array_equal(
    predict(model_state["teacher"], model_state, seen)["logits"], taught
  )
  assert (predict(params, model_state | {"teacher": params}, seen)["logits"] != taught).any()


def test_with_all_of_it_off_it_is_distil():
  _, method, params = start(evidence=False, decay=0.0, pull=0.0)
  control = methods.build_method("distil", {"hidden": 8, "head_hidden": 5}, SPEC)
  assert jax.tree.structure(params) == jax.tree.structure(example_batches.parameters(control))
  batch = example_batches.mixed(SPEC)
  args = (params, {}, batch, jax.random.key(2), example_batches.clock(0.9))
  found, expected = (
    jax.jit(jax.value_and_grad(m.stages[0].loss, has_aux=True))(*args) for m in (method, control)
  )
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), found, expected)


def test_the_gate_scales_the_contrast_of_its_row_and_modality(rng):
  net, method, params = start(decay=0.0, pull=1.0)
  batch = example_batches.complete(SPEC)
  batch = batch.replace(labelled=np.arange(example_batches.ROWS) % 2 == 0)
  codes = rng.normal(size=(example_batches.ROWS, 3, 8)).astype(np.float32)
  both = net.apply(params, codes, batch.present, method="shared")
  teacher = rng.normal(size=(example_batches.ROWS, 3)).astype(np.float32)

  def total(gate):
    terms, _ = share.contrast_terms(
      net.config, SPEC, aux_of(method), batch, both, teacher, gate, jnp.float32(1)
    )
    return {k: float(v.value) for k, v in terms.items()}

  each = np.zeros((3, example_batches.ROWS))
  for i in range(3):
    for n in range(example_batches.ROWS):
      one = np.zeros((3, example_batches.ROWS), np.float32)
      one[i, n] = 1
      found = total(one)
      each[i, n] = found["lb"] + found["ulb"]
      assert found["ulb" if batch.labelled[n] else "lb"] == 0 < each[i, n]
  gate = rng.random((3, example_batches.ROWS)).astype(np.float32)
  found = total(gate)
  # `each` is already over the pairs of its own kind, labelled or not.
  assert found["lb"] + found["ulb"] == pytest.approx((gate * each).sum(), rel=1e-4)
  assert found["gate"] == pytest.approx(gate.mean(), rel=1e-5)


def test_the_contrast_trains_encoders_and_projection_alone():
  net, _, params = start(pull=1.0)
  batch = example_batches.complete(SPEC)

  def fused(params):
    codes = net.apply(params, batch, batch.present, method="codes")
    return net.apply(params, codes, batch.present, method="shared")[0].sum()

  grads = jax.jit(jax.grad(fused))(params)["params"]
  reached = {k for k, v in grads.items() if any(x.any() for x in jax.tree.leaves(v))}
  assert reached == {"fuse", "project"}


@pytest.mark.parametrize(
  "values", [{"decay": 1.0}, {"pull": -0.1}, {"tau": 0.0}, {"ramp_end": 0.0}]
)
def test_settings_without_meaning_are_refused(values):
  with pytest.raises(ValueError, match=f"share.{next(iter(values))} is"):
    share.ShareConfig(**values)
