"""Robult: what trains what, its inference against a slow loop, its settings."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax import missing
from promise_jax.losses import soft_pu
from promise_jax.methods import robult

SIZES = {"hidden": 8, "shared": 4, "private": 3, "head_hidden": 5}
CLASSES, MULTILABEL, REGRESSION = (example_batches.spec(task) for task in example_batches.TASKS)
TERMS = ("supervised", "labelled", "unlabelled", "reconstruction")
CONTRAST = ("labelled", "unlabelled")


def network(spec=CLASSES, **values):
  config = robult.RobultConfig(**SIZES | values)
  return robult.RobultNet(spec.modalities, spec.task.outputs, config)


def start(spec=CLASSES, **values):
  """The network, random parameters, and a bank with the labels of other rows."""
  method = robult.robult(robult.RobultConfig(**SIZES | values), spec)
  net, params = network(spec, **values), example_batches.random_params(method)
  code = np.random.default_rng(3).normal(size=(example_batches.ROWS, SIZES["shared"]))
  code = np.float32(code / np.linalg.norm(code, axis=1, keepdims=True))
  label = example_batches.complete_batch(spec, seed=9).label
  member = soft_pu.label_membership(jnp.asarray(label), spec.task)
  return net, params, soft_pu.Bank(code, member, np.ones(example_batches.ROWS, bool))


def values(net, params, bank, batch, spec=CLASSES, progress=1.0):
  """The terms of the loss without dropout. Not jitted: settings compile nothing."""
  progress = jnp.float32(progress)
  terms, _ = robult.robult_terms(net, spec.task, params, bank, batch, None, progress)
  return {k: float(v.value) for k, v in terms.items()}


@functools.cache
def gradient_program(net):
  def total(params, weights, bank, batch):
    args = net, CLASSES.task, params, bank, batch, None, jnp.float32(1)
    found = {k: v.value for k, v in robult.robult_terms(*args)[0].items()}
    return sum(w * found[k] for k, w in weights.items()), found

  return jax.jit(jax.grad(total, has_aux=True))


def gradient(net, params, bank, batch, names):
  """The gradient of the sum of the terms `names`, and the values of all terms."""
  weights = {k: np.float32(k in names) for k in TERMS}
  grads, found = gradient_program(net)(params, weights, bank, batch)
  return grads["params"], found


def is_trained(grads, prefix):
  """Whether a gradient other than 0 reaches the modules of that name."""
  chosen = [v for k, v in grads.items() if k == prefix or k.startswith(prefix + "_")]
  assert chosen, f"{prefix} is not among {sorted(grads)}"
  return any((np.asarray(x) != 0).any() for x in jax.tree.leaves(chosen))


def partly_labelled(spec=CLASSES):
  batch = example_batches.complete_batch(spec)
  labelled = np.arange(example_batches.ROWS) % 8 < 5
  return batch.replace(labelled=labelled, bank_index=np.where(labelled, batch.bank_index, -1))


@pytest.mark.parametrize("own_encoders", [True, False])
def test_the_contrast_does_not_train_the_fused_branch(own_encoders):
  net, params, bank = start(own_encoders=own_encoders)
  grads, _ = gradient(net, params, bank, partly_labelled(), CONTRAST)
  assert not is_trained(grads, "fuse")
  assert not own_encoders or not is_trained(grads, "fused_encoders")
  assert is_trained(grads, "shared_head") and is_trained(grads, "encoders")


def test_without_detach_shared_the_contrast_trains_the_fused_branch():
  net, params, bank = start(detach_shared=False)
  grads, _ = gradient(net, params, bank, partly_labelled(), CONTRAST)
  assert all(is_trained(grads, name) for name in ("fuse", "fused_encoders", "shared_head"))


def test_reconstruction_trains_neither_the_shared_code_nor_its_target():
  net, params, bank = start()
  batch = example_batches.complete_batch(CLASSES)
  grads, _ = gradient(net, params, bank, batch, ("reconstruction",))
  assert not is_trained(grads, "shared_head") and not is_trained(grads, "fuse")
  assert all(is_trained(grads, name) for name in ("encoders", "private_heads", "decoders"))
  # Decoders that ignore the private code leave a way through the target alone.
  deaf = dict(params["params"])
  for name in ("decoders_0", "decoders_1", "decoders_2"):
    first = deaf[name]["Dense_0"]
    deaf[name] = deaf[name] | {"Dense_0": first | {"kernel": np.zeros_like(first["kernel"])}}
  grads, _ = gradient(net, {"params": deaf}, bank, batch, ("reconstruction",))
  assert (
    is_trained(grads, "decoders")
    and not is_trained(grads, "encoders")
    and not is_trained(grads, "private_heads")
  )


def test_a_batch_without_labels_trains_without_them():
  net, params, bank = start()
  batch = example_batches.complete_batch(CLASSES).replace(
    labelled=np.zeros(example_batches.ROWS, bool)
  )
  grads, found = gradient(net, params, bank, batch, TERMS)
  assert found["supervised"] == found["labelled"] == 0
  assert found["unlabelled"] > 0 and found["reconstruction"] > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_batch_with_every_label_has_no_unlabelled_term():
  found = values(*start(), example_batches.complete_batch(CLASSES))
  assert found["unlabelled"] == 0
  assert found["supervised"] > 0 and found["labelled"] > 0


@pytest.mark.parametrize("classes", [[], [1], [1, 1, 1, 1], [0, 1, 2], [0]])
def test_any_bank_gives_finite_losses(classes, rng):
  net, params, _ = start()
  code = rng.normal(size=(16, 4)).astype(np.float32)
  code /= np.linalg.norm(code, axis=1, keepdims=True)
  member = np.eye(3, dtype=np.float32)[np.resize(classes or [0], 16)]
  bank = soft_pu.Bank(code, member, np.arange(16) < len(classes))
  grads, found = gradient(net, params, bank, partly_labelled(), CONTRAST)
  assert all(math.isfinite(v) for v in found.values()) and found["unlabelled"] > 0
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("spec", [CLASSES, MULTILABEL, REGRESSION])
def test_the_order_of_the_rows_changes_no_term(spec, rng):
  net, params, bank = start(spec)
  batch, order = example_batches.mixed_batch(spec), rng.permutation(example_batches.ROWS)
  before = values(net, params, bank, batch, spec)
  after = values(net, params, bank, example_batches.take_rows(batch, order), spec)
  assert before == pytest.approx(after, rel=1e-5)
  assert before["labelled"] > 0


@pytest.mark.parametrize("own_encoders", [True, False])
def test_parameter_shapes(own_encoders):
  method = robult.robult(robult.RobultConfig(**SIZES, own_encoders=own_encoders), MULTILABEL)
  params, model_state = jax.eval_shape(method.init, jax.random.key(0))
  params = params["params"]
  kernels = lambda name: {x["kernel"].shape for x in params[name].values()}
  assert "encoders" in params and ("fused_encoders" in params) == own_encoders
  assert kernels("fuse") == {(3 * 8, 8), (8, 8)}
  assert kernels("shared_head") == {(8, 8), (8, 4)}
  assert kernels("classifier") == {(4 + 3 * 3, 5), (5, 4)}
  for i in range(3):
    assert kernels(f"private_heads_{i}") == {(8, 8), (8, 3)}
    assert kernels(f"decoders_{i}") == {(4 + 3, 8), (8, 8)}
  assert model_state["bank"].code.shape == model_state["bank"].member.shape == (16, 4)


def test_one_modality_is_enough():
  spec = example_batches.spec(modalities=example_batches.VECTORS[:1])
  found = values(*start(spec), partly_labelled(spec), spec)
  assert all(math.isfinite(v) for v in found.values())


def slow_logits(params, codes, n, visible):
  """Logits of row n of the codes that shows the modalities `visible`."""
  unit = lambda x: x / math.sqrt(sum(float(v) ** 2 for v in x))
  z, u = np.asarray(codes.shared)[n], np.asarray(codes.private)[n]
  shared = np.asarray(codes.fused)[n]
  if not all(visible):
    shared = unit(sum(z[i] for i in range(3) if visible[i]) / sum(visible))
  private = [unit(u[i]) if visible[i] else 0 * u[i] for i in range(3)]
  x = np.concatenate([shared, *private]).astype(float)
  first, second = (params["params"]["classifier"][f"Dense_{k}"] for k in (0, 1))
  x = np.maximum(x @ first["kernel"] + first["bias"], 0)
  return x @ second["kernel"] + second["bias"]


@pytest.mark.parametrize("own_encoders", [True, False])
def test_inference_equals_a_slow_loop_for_every_subset(own_encoders):
  net, params, _ = start(own_encoders=own_encoders)
  method, batch = robult.robult(net.config, CLASSES), example_batches.complete_batch(CLASSES)
  codes = net.apply(params, batch, method=robult.RobultNet.encode)
  for unit in (codes.shared, codes.fused):
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, 1e-5)
  predict = jax.jit(method.predict, static_argnames="pattern")
  for pattern in missing.all_patterns(3):
    expected = [slow_logits(params, codes, n, pattern) for n in range(16)]
    ways = [predict(params, {}, batch.replace(present=np.tile(pattern, (16, 1))))]
    if own_encoders:
      ways.append(predict(params, {}, batch, pattern=pattern))
    for found in ways:
      np.testing.assert_allclose(found["logits"], expected, 1e-4, 1e-5)
      kept = np.array(pattern)[None, :, None]
      np.testing.assert_allclose(found["shared"], kept * codes.shared, 1e-5, 1e-6)
      np.testing.assert_allclose(found["private"], kept * codes.private, 1e-5, 1e-6)


def test_a_static_pattern_costs_what_its_modalities_cost():
  _, params, _ = start()
  method, batch = robult.robult(robult.RobultConfig(**SIZES), CLASSES), partly_labelled()

  def products(pattern):
    run = lambda *args: method.predict(*args, pattern=pattern)["logits"]
    return str(jax.make_jaxpr(run)(params, {}, batch)).count("dot_general")

  head = 2
  one = products((True, False, False)) - head
  assert products((True, False, True)) == head + 2 * one
  # With everything present the fused branch runs too.
  assert products((True, True, True)) > head + 3 * one


@pytest.mark.parametrize("kind", ["full", "singles", "all"])
def test_the_supervised_term_equals_a_slow_loop(kind):
  net, params, bank = start(supervised_patterns=kind)
  method, batch = robult.robult(net.config, CLASSES), example_batches.mixed_batch(CLASSES)
  predict, full = jax.jit(method.predict), (True,) * 3
  patterns = {
    "full": [full],
    "singles": [full, *np.eye(3, dtype=bool)],
    "all": [p for p in itertools.product((False, True), repeat=3) if any(p)],
  }[kind]
  means = []
  for pattern in patterns:
    visible = batch.present & np.array([pattern])
    logits = np.asarray(predict(params, {}, batch.replace(present=visible))["logits"])
    errors = [
      math.log(sum(map(math.exp, logits[n]))) - logits[n, batch.label[n]]
      for n in range(example_batches.ROWS)
      if batch.labelled[n] and visible[n].any()
    ]
    means.append(np.mean(errors))
  found = values(net, params, bank, batch)["supervised"]
  assert found == pytest.approx(np.mean(means), rel=1e-5)
  assert robult.make_supervised_masks(kind, 1).tolist() == [[True]]
