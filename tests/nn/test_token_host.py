"""The host on tokens of any encoder: its layer and generators against slow loops, what it is at
the start, and what it must not read."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax.methods import mplmm
from promise_jax.nn import host, mplmm_prompts, token_host
from promise_jax.types import Modality

KINDS = example_batches.KINDS
SIZES = {"width": 8, "heads": 2, "max_steps": 4}
KEY = jax.random.key(0)


def softmax(x):
  x = np.exp(x - x.max())
  return x / x.sum()


def gelu(x):
  return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def slow_layer(p, x, real, scale):
  """One row: new tokens [M, T, H] and what is read [M, M, T, H], token by token."""
  count, length, width = x.shape
  size = width // 2
  query, key, value = np.split(x.reshape(-1, width) @ p["Dense_0"]["kernel"], 3, axis=1)
  read = np.zeros((count, count, length, width))
  for m in range(count):
    for t in range(length):
      for head in (slice(0, size), slice(size, width)):
        q = query[m * length + t, head]
        factor = [1.0 if n == m else scale[n] for n in range(count) for _ in range(length)]
        factor = np.array(factor) * real.reshape(-1)
        weight = factor * np.exp(key[:, head] @ q / math.sqrt(size))
        weight = (weight / weight.sum()).reshape(count, length, 1)
        read[m, :, t, head] = (weight * value.reshape(count, length, width)[..., head]).sum(1)
  out = np.zeros_like(x)
  for m in range(count):
    for t in range(length):
      y = x[m, t] + read[m, :, t].sum(0) @ p["Dense_1"]["kernel"] + p["Dense_1"]["bias"]
      wide = y @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"]
      wide = wide * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
      out[m, t] = y + wide @ p["Dense_3"]["kernel"] + p["Dense_3"]["bias"]
  return out, read


def test_a_layer_equals_a_slow_loop_and_reads_nothing_at_scale_0(rng):
  layer = token_host.Layer(2)
  x = rng.normal(size=(3, 2, 3, 8)).astype(np.float32)
  real = np.ones((3, 2, 3), bool)
  real[:, 1, 2], real[2, 0, 1:] = False, False
  scale = np.float32([[1, 1], [0.3, 1], [1, 0]])
  shapes = jax.eval_shape(layer.init, KEY, x, real, scale)
  params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) / 2, shapes)
  run = jax.jit(layer.apply)
  found, read = run(params, x, real, scale)
  p = jax.tree.map(lambda w: np.asarray(w, float), params["params"])
  for row in range(3):
    wanted = slow_layer(p, x[row].astype(float), real[row], scale[row])
    np.testing.assert_allclose(found[row], wanted[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(read[row], wanted[1], rtol=1e-4, atol=1e-4)
  assert np.all(read[2, 0, 1] == 0) and np.all(np.any(read[2, 1, 0], axis=-1))
  other = x.copy()
  other[2, 1] = 1e6
  np.testing.assert_array_equal(run(params, other, real, scale)[0][2, 0], found[2, 0])


@functools.cache
def started():
  """(host, its initial parameters, a batch with every kind of modality)."""
  net = token_host.TokenHost(KINDS, 3, **SIZES)
  spec = example_batches.spec("classes", KINDS)
  batch = example_batches.mixed_batch(spec)

  def touch(net, inputs, present):
    encoded = net.encode(inputs, present)
    steps, real = (host.pad_and_stack(list(x.values())) for x in encoded[2:0:-1])
    steps, _ = net.cross_attend(steps, real)
    return net.head(net.self_attend(steps, real))

  return (
    net,
    jax.jit(functools.partial(net.init, method=touch))(KEY, batch, batch.present),
    spec,
    batch,
  )


def test_at_the_start_layers_change_nothing_in_late_fusion_with_learned_tokens():
  net, params, _, batch = started()

  def all_three(net, present):
    encoded = net.encode(batch, present)
    tokens = encoded.projected
    steps, real = (host.pad_and_stack(list(x.values())) for x in (tokens, encoded.real))
    steps, _ = net.cross_attend(*net.mark_absent(steps, real, present))
    codes = jnp.stack([tokens[n][:, 0] for n in net.num_steps], axis=1)
    fused = jnp.where(present[..., None], codes, net.embedding_absent[None])
    return (
      net.readout(encoded, present),
      net.self_attend(steps, real),
      fused.reshape(len(present), -1),
    )

  found, after, wanted = jax.jit(lambda p: net.apply(p, batch.present, method=all_three))(params)
  np.testing.assert_allclose(after, wanted, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_what_is_absent_is_not_read():
  net, params, spec, batch = started()
  params = jax.tree.map(lambda x: x + 0.1, params)  # no weight is 0
  run = jax.jit(net.apply)
  wanted = run(params, batch, batch.present)
  found = run(params, example_batches.poison(batch, spec, batch.present), batch.present)
  np.testing.assert_array_equal(found, wanted)
  assert np.isfinite(found).all()


def test_a_modality_has_its_code_and_few_steps():
  assert started()[0].num_steps == {"photo": 5, "words": 5, "motion": 5, "numbers": 1}
  codes = token_host.TokenHost(KINDS, 3)
  assert set(codes.num_steps.values()) == {1}


def test_generated_tokens_equal_a_slow_loop(rng):
  names, steps, width = ("a", "b", "c"), (2, 1, 2), 4
  net = mplmm_prompts.TokenGenerators(dict(zip(names, steps, strict=True)), width, 3)
  raw = {
    n: rng.normal(size=(8, t, width)).astype(np.float32) for n, t in zip(names, steps, strict=True)
  }
  present = (np.arange(8)[:, None] >> np.arange(3)[None] & 1).astype(bool)
  raw = {n: x * present[:, i, None, None] for i, (n, x) in enumerate(raw.items())}
  shapes = jax.eval_shape(net.init, KEY, raw, present)
  params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
  found = jax.jit(net.apply)(params, raw, present)
  p = jax.tree.map(lambda w: np.asarray(w, float), params["params"])
  pairs = list(zip(*host.ordered_pairs(3), strict=True))
  for row in range(8):
    for m, name in enumerate(names):
      out = p["prompts"][m].T @ p["time_kernel"][m, :3] + p["time_bias"][m][None]
      for k, n in enumerate(n for target, n in pairs if target == m):
        if present[row, n]:
          pair = pairs.index((m, n))
          x = gelu(raw[names[n]][row] @ p["channel_kernel"][pair])
          first = 3 + 2 * k
          out = out + x.T @ p["time_kernel"][m, first : first + steps[n]]
      wanted = gelu(out.T)[: steps[m]] * present[row].any()
      np.testing.assert_allclose(found[name][row], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 8])
def test_one_and_eight_modalities_build(count):
  modalities = tuple(Modality(f"m{i}", "vector", (3,)) for i in range(count))
  spec = example_batches.spec("regression", modalities)
  method = mplmm.mplmm(mplmm.MplmmConfig(width=8, heads=2), spec)
  params, _ = jax.eval_shape(method.init, KEY)
  inputs = example_batches.to_inputs(example_batches.complete_batch(spec))
  found = jax.eval_shape(method.predict, params, {}, inputs)
  assert found["fused"].shape == (16, 8 * count)
  assert all(x.size for x in jax.tree.leaves(params))
