"""MulT against a slow loop over the steps that exist; its sizes, and what it must not read."""

import functools
import math

import jax
import mult_oracle
import numpy as np
import pytest

import example_batches
from promise_jax import types
from promise_jax.nn import host, mult, tokens
from promise_jax.types import Modality

# Of three different lengths, so that all steps but those of audio are padded.
TINY = (
  Modality("text", "sequence", (3, 2)),
  Modality("audio", "sequence", (5, 4)),
  Modality("vision", "sequence", (4, 3)),
)
PAIR = TINY[:2]  # smaller programs


def net_of(modalities=TINY, **changed):
  sizes = {"width": 4, "heads": 2, "layers": 2, "memory_layers": 3}
  return mult.MulT(modalities, 2, **(sizes | changed))


def batch_of(modalities=TINY, rows=4):
  """Rows of lengths from 1 on; the last has nothing, others lack something."""
  spec = types.Spec(modalities, example_batches.TASKS["multilabel"], {})
  batch = example_batches.complete_batch(spec, rows)
  present = np.ones((rows, len(modalities)), bool)
  present[1, 0], present[2, 1:], present[-1] = len(modalities) == 1, False, False
  inputs = {}
  for name, x in batch.inputs.items():
    past = np.arange(x.shape[1])[None] >= batch.length[name][:, None]
    inputs[name] = np.where(past[..., None], np.nan, x)
  batch = batch.replace(inputs=inputs, present=present)
  return example_batches.poison(batch, spec, present)


@pytest.mark.parametrize("released_code, count", [(True, 3), (False, 3), (False, 1)])
def test_the_forward_pass_equals_a_slow_loop(released_code, count):
  net = net_of(TINY[:count], released_code=released_code)
  batch = batch_of(TINY[:count])
  params = mult_oracle.draw_params(net.init, batch, batch.present)
  found = jax.jit(net.apply)(params, batch, batch.present)
  expected = [mult_oracle.predict(net, params, batch, row) for row in range(len(found))]
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("released_code", [False, True])
def test_the_forward_pass_equals_a_slow_loop_at_full_size(released_code):
  net, example = full_size((50, 50, 50), (300, 5, 20), released_code=released_code)
  batch = batch_of(net.modalities)
  params = jax.jit(net.init)(jax.random.key(0), example, example.present)
  found = jax.jit(net.apply)(params, batch, batch.present)
  for row in (0, 2):  # complete, and text alone
    expected = mult_oracle.predict(net, params, batch, row)
    np.testing.assert_allclose(found[row], expected, 1e-4, 1e-5)
  assert np.ptp(found) > 1e-2


# Sizes.


def count_params(tree):
  return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def full_size(steps, features, **sizes):
  named = zip(("text", "audio", "vision"), steps, features, strict=False)
  net = mult.MulT(tuple(Modality(n, "sequence", (t, d)) for n, t, d in named), 1, **sizes)
  spec = types.Spec(net.modalities, example_batches.TASKS["regression"], {})
  return net, types.example_batch(spec)


@pytest.mark.parametrize(
  "steps, features, expected",
  [
    ((50, 50, 50), (300, 5, 20), 1_071_211),
    ((50, 50, 50), (768, 5, 20), 1_085_251),
    ((50, 50, 50), (768, 74, 35), 1_087_771),
    ((39, 400, 55), (768, 33, 709), 1_106_761),
  ],
)
def test_parameter_counts_are_those_of_the_released_code(steps, features, expected):
  net, example = full_size(steps, features)
  shapes = jax.eval_shape(net.init, jax.random.key(0), example, example.present)["params"]
  assert count_params(shapes) == expected
  assert count_params(shapes["cross_encoders"]) == 6 * 56_010
  assert count_params(shapes["self_encoders"]) == 3 * 220_020
  assert count_params(shapes["inner"]) == count_params(shapes["outer"]) == 32_580


def count_equations(jaxpr):
  total = len(jaxpr.eqns)
  for eqn in jaxpr.eqns:
    for value in eqn.params.values():
      for inner in value if isinstance(value, tuple | list) else [value]:
        inner = getattr(inner, "jaxpr", inner)
        total += count_equations(inner) if hasattr(inner, "eqns") else 0
  return total


def test_the_program_grows_neither_with_the_layers_nor_with_the_modalities():
  def size(layers, count):
    shapes = ((4,) * count, (2,) * count)
    net, example = full_size(*shapes, layers=layers, memory_layers=layers)
    net = net.clone(modalities=net.modalities[:count])
    params = jax.eval_shape(net.init, jax.random.key(0), example, example.present)
    loss = lambda p: net.apply(p, example, example.present).sum()
    return count_equations(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)

  assert size(2, 2) == size(6, 2) > 100
  assert size(2, 3) < 1.2 * size(2, 2)  # what remains: reading and projecting


def test_initial_weights_are_those_of_the_released_code():
  net, batch = net_of(PAIR, width=20, heads=5), batch_of(PAIR)
  params = jax.jit(net.init)(jax.random.key(0), batch, batch.present)["params"]
  layers = params["cross_encoders"]["layers"]
  attention = layers["Attention_0"]
  largest = {
    "packed": (attention["packed_kernel"], math.sqrt(6 / (20 + 60))),
    "out": (attention["Dense_0"]["kernel"], math.sqrt(6 / (20 + 20))),
    "wide": (layers["Dense_0"]["kernel"], math.sqrt(6 / (20 + 80))),
    "projection": (params["projection_audio"]["kernel"], 1 / math.sqrt(4)),
    "head": (params["inner"]["kernel"], 1 / math.sqrt(40)),
    "bias": (params["inner"]["bias"], 1 / math.sqrt(40)),
  }
  for name, (weight, bound) in largest.items():
    assert 0.9 * bound < np.abs(weight).max() <= bound, name
  biases = attention["packed_bias"], attention["Dense_0"]["bias"], layers["Dense_0"]["bias"]
  assert not any(np.any(x) for x in biases)
  # Each encoder and each layer has weights of its own.
  kernel = attention["packed_kernel"].reshape(4, -1)
  assert len(np.unique(kernel[:, 0])) == 4


# What must not matter.


def test_what_is_absent_or_padding_is_not_read():
  net, batch = net_of(PAIR), batch_of(PAIR)
  params = mult_oracle.draw_params(net.init, batch, batch.present)
  clean = batch.replace(inputs={n: np.nan_to_num(x) for n, x in batch.inputs.items()})

  @jax.jit
  def step(params, batch):
    loss = lambda p: (net.apply(p, batch, batch.present) ** 2).sum()
    return jax.value_and_grad(loss)(params)

  found, expected = step(params, batch), step(params, clean)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert all(np.any(x != 0) for x in jax.tree.leaves(found))


def test_more_padding_changes_nothing_also_before_other_steps():
  batch, prompt = batch_of(PAIR), np.ones((4, 2, 2, 4), np.float32)
  longer = tuple(m._replace(shape=(m.shape[0] + 2, m.shape[1])) for m in PAIR)
  pad = lambda x: np.pad(x, ((0, 0), (0, 2), (0, 0)), constant_values=np.nan)
  more = batch.replace(inputs={name: pad(x) for name, x in batch.inputs.items()})
  params = mult_oracle.draw_params(net_of(PAIR).init, batch, batch.present)

  def readout(net, batch):
    encoded = net.encode(batch, batch.present)
    real = host.pad_and_stack(list(encoded.real.values()))
    steps, _ = net.cross_attend(host.pad_and_stack(list(encoded.projected.values())), real)
    return net.self_attend(*host.append_steps(steps, real, prompt))

  def run(modalities, batch):
    return jax.jit(functools.partial(net_of(modalities).apply, method=readout))(params, batch)

  found = run(PAIR, batch)
  np.testing.assert_allclose(run(longer, more), found, rtol=1e-4, atol=1e-4)
  assert np.all(found[-1])  # a row that has nothing but prompts


def test_every_kind_of_modality_and_windows():
  kinds = (example_batches.KINDS[0], example_batches.KINDS[1], example_batches.KINDS[3])
  example = types.example_batch(example_batches.spec(modalities=kinds))
  for max_steps in (0, 2):
    net = net_of(kinds, max_steps=max_steps)
    init = lambda key, net=net: net.init_with_output(key, example, example.present)
    assert jax.eval_shape(init, jax.random.key(0))[0].shape == (2, 2)


def test_windows_have_the_statistics_of_their_real_steps(rng):
  x = rng.normal(size=(2, 5, 3)).astype(np.float32)
  real = np.array([[True] * 5, [True, True, True, False, False]])
  found, is_real = jax.jit(lambda *args: tokens.window_statistics(*args, 2))(x, real)
  parts = [[x[0, :3], x[0, 3:]], [x[1, :3]]]
  assert is_real.tolist() == [[True, True], [True, False]]
  for row, windows in enumerate(parts):
    for i, part in enumerate(windows):
      expected = np.concatenate([part.mean(0), part.std(0)])
      np.testing.assert_allclose(found[row, i], expected, atol=2e-3)
