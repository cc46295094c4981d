"""Robult: its predictions against the authors' figure and a slow loop, its parameters."""

import jax
import numpy as np
import pytest

import example_batches
from promise_jax import missing
from promise_jax.methods import robult

SIZES = {"hidden": 8, "shared": 3, "head_hidden": 5}
CLASSES, MULTILABEL, REGRESSION = (example_batches.spec(task) for task in example_batches.TASKS)


def start(**values):
  """The settings and random parameters."""
  config = robult.RobultConfig(**SIZES | values)
  return config, example_batches.random_params(robult.robult(config, CLASSES))


def encode(config, params, batch):
  net = robult.make_network(config, CLASSES)
  return jax.device_get(net.apply(params, batch, method=robult.BranchNet.encode))


@pytest.mark.parametrize("own_encoders", [True, False])
def test_parameter_shapes(own_encoders):
  config = robult.RobultConfig(**SIZES, own_encoders=own_encoders)
  method = robult.robult(config, MULTILABEL)
  params, model_state = jax.eval_shape(method.init, jax.random.key(0))
  params = params["params"]
  kernels = lambda name: {x["kernel"].shape for x in params[name].values()}
  assert "encoders" in params and ("fused_encoders" in params) == own_encoders
  assert params["fuse"]["kernel"].shape == (3 * 8, 8)
  assert kernels("project_shared") == {(8, 8), (8, 3)}
  assert kernels("head") == {(8, 5), (5, 4)}
  for i in range(3):
    assert kernels(f"project_private_{i}") == {(8, 8), (8, 5)}
    assert kernels(f"decoders_{i}") == {(8, 8)}
  assert model_state["bank"].code.shape == (16, 3)
  assert model_state["bank"].member.shape == (16, 4)


def redraw(params, *prefixes):
  """Parameters of which those of the modules with these prefixes are other ones."""
  chosen = [k for k in params["params"] if k.startswith(prefixes)]
  assert chosen
  other = jax.tree.map(lambda x: x[::-1] + 1, {k: params["params"][k] for k in chosen})
  return {"params": params["params"] | other}


def test_the_two_panels_of_the_authors_figure():
  """With all modalities no g takes part in the prediction, with one alone f_0 does not."""
  config, params = start()
  predict = jax.jit(robult.robult(config, CLASSES).predict)
  batch = example_batches.complete_batch(CLASSES)
  one = batch.replace(present=np.tile(np.eye(3, dtype=bool)[1], (example_batches.ROWS, 1)))
  logits = lambda p, rows: predict(p, {}, rows)["logits"]
  g, f_0 = redraw(params, "project_"), redraw(params, "fuse")
  np.testing.assert_array_equal(logits(g, batch), logits(params, batch))
  np.testing.assert_array_equal(logits(f_0, one), logits(params, one))
  assert np.all(np.any(logits(g, one) != logits(params, one), axis=1))
  assert np.all(np.any(logits(f_0, batch) != logits(params, batch), axis=1))


def slow_mlp(params, x):
  first, second = (params[f"Dense_{k}"] for k in (0, 1))
  x = np.maximum(np.asarray(x, float) @ first["kernel"] + first["bias"], 0)
  return x @ second["kernel"] + second["bias"]


def slow_fused(params, codes, n, visible):
  """H_A of row n."""
  token = params["params"]["token"]
  filled = [codes.to_fuse[n, i] if visible[i] else token[i] for i in range(3)]
  f_0 = params["params"]["fuse"]
  return np.concatenate(filled).astype(float) @ f_0["kernel"] + f_0["bias"]


def slow_branch(codes, n, i):
  """[U_i; Z_i] of row n."""
  return np.concatenate([codes.private[n, i], codes.shared[n, i]])


@pytest.mark.parametrize("own_encoders", [True, False])
def test_inference_equals_a_slow_loop_for_every_subset(own_encoders):
  config, params = start(own_encoders=own_encoders)
  method, batch = robult.robult(config, CLASSES), example_batches.complete_batch(CLASSES)
  codes, head = encode(config, params, batch), params["params"]["head"]
  predict = jax.jit(method.predict, static_argnames="pattern")
  for pattern in missing.all_patterns(3):
    ways = [predict(params, {}, batch.replace(present=np.tile(pattern, (16, 1))))]
    ways.append(predict(params, {}, batch, pattern=pattern))
    shown = np.flatnonzero(pattern)
    read = [
      slow_fused(params, codes, n, pattern) if len(shown) > 1 else slow_branch(codes, n, shown[0])
      for n in range(16)
    ]
    for found in ways:
      np.testing.assert_allclose(found["fused"], read, 1e-4, 1e-5)
      np.testing.assert_allclose(found["logits"], slow_mlp(head, read), 1e-4, 1e-5)
      kept = np.array(pattern)[None, :, None]
      np.testing.assert_allclose(found["shared"], kept * codes.shared, 1e-5, 1e-6)
      np.testing.assert_allclose(found["private"], kept * codes.private, 1e-5, 1e-6)


def test_a_static_pattern_costs_what_its_modalities_cost():
  _, params = start()
  method, batch = (
    robult.robult(robult.RobultConfig(**SIZES), CLASSES),
    example_batches.complete_batch(CLASSES),
  )

  def products(pattern):
    run = lambda *args: method.predict(*args, pattern=pattern)["logits"]
    return str(jax.make_jaxpr(run)(params, {}, batch)).count("dot_general")

  head = shared = 2  # their two layers; those of g_0 run once for all modalities
  fuse = 3  # tokens, codes, and their sum by the mask
  one = products((True, False, False)) - head - shared
  assert one == 4  # encoder and g_i
  assert products((True, False, True)) == head + shared + 2 * one + fuse
  assert products((True, True, True)) == head + shared + 3 * one + fuse
