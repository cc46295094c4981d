"""RedCore's transformer encoder against a slow loop."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from promise_jax.nn import tokens, transformer
from promise_jax.optim import optimizer
from promise_jax.types import Modality

ROWS, STEPS = 3, 5
SEQUENCE = Modality("motion", "sequence", (STEPS, 3))


def dense(p, x):
  return x @ np.asarray(p["kernel"], float) + np.asarray(p["bias"], float)


def draw_params(module, *args, seed=0, **options):
  """{"params": parameters} of a module with no zeros, drawn on the host."""
  init = functools.partial(module.init, **options)
  shapes = jax.eval_shape(init, jax.random.key(0), *args)["params"]
  rng = np.random.default_rng(seed)

  def draw(leaf):
    scale = 1 / math.sqrt(leaf.shape[-2]) if len(leaf.shape) > 1 else 1.0
    return (scale * rng.normal(size=leaf.shape)).astype(np.float32)

  return {"params": jax.tree.map(draw, shapes)}


def layer_norm(p, x):
  mean = x.mean(-1, keepdims=True)
  return (x - mean) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def slow_attention(packed, out, h, heads, real):
  """Of one row h [T, D]: a head is softmax(q k / sqrt(D / heads)) v over real steps."""
  part = h.shape[1] // heads
  x = dense(packed, h).reshape(len(h), heads, 3, part)
  found = np.zeros((len(h), heads, part))
  for head, t in itertools.product(range(heads), range(len(h))):
    q = x[t, head, 0]
    weight = [math.exp(q @ x[s, head, 1] / math.sqrt(part)) * real[s] for s in range(len(h))]
    for s, w in enumerate(weight):
      found[t, head] += w / sum(weight) * x[s, head, 2]
  return dense(out, found.reshape(h.shape))


def slow_block(p, h, heads, real):
  """h + LN(MHA(LN(h))), then h + LN(FFN(LN(h))), of one row [T, D]."""
  # Modules are numbered as they are made: the outer norm before the one inside it.
  attended = slow_attention(
    p["Dense_0"], p["Dense_1"], layer_norm(p["LayerNorm_1"], h), heads, real
  )
  h = h + layer_norm(p["LayerNorm_0"], attended)
  fed = np.maximum(dense(p["Dense_2"], layer_norm(p["LayerNorm_2"], h)), 0)
  return h + layer_norm(p["LayerNorm_3"], dense(p["Dense_3"], fed))


@functools.cache
def make_encoder(mask_padding: bool, steps: int = STEPS):
  modality = SEQUENCE._replace(shape=(steps, 3))
  net = transformer.Transformer(modality, 4, 2, 2, mask_padding)
  return net, jax.jit(net.apply)


def make_inputs(rng, steps=STEPS):
  x = rng.normal(size=(ROWS, steps, 3)).astype(np.float32)
  return x, np.array([True, True, False]), np.array([steps, 3, 2], np.int32)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_the_encoder_equals_a_slow_loop(rng, mask_padding):
  net, apply = make_encoder(mask_padding)
  x, present, length = make_inputs(rng)
  params = draw_params(net, x, present, length)
  found = np.asarray(apply(params, x, present, length))
  p = jax.tree.map(lambda leaf: np.asarray(leaf, float), params["params"])
  for n in range(2):
    real = np.arange(STEPS) < length[n]
    h = dense(p["Dense_0"], np.where(real[:, None], x[n], 0))
    real = real if mask_padding else np.ones(STEPS, bool)
    for block in range(2):
      layers = jax.tree.map(lambda leaf, k=block: leaf[k], p["ScanBlock_0"])
      h = slow_block(layers, h, 2, real)
    expected = 1 / (1 + np.exp(-h[real].mean(0)))
    np.testing.assert_allclose(found[n], expected, 1e-4, 1e-5)


def test_the_order_of_the_steps_does_not_matter(rng):
  net, apply = make_encoder(True)
  x, present, length = make_inputs(rng)
  length = np.full_like(length, STEPS)
  params = draw_params(net, x, present, length)
  before = apply(params, x, present, length)
  after = apply(params, x[:, rng.permutation(STEPS)], present, length)
  np.testing.assert_allclose(after, before, 1e-5, 1e-6)


@pytest.mark.parametrize("mask_padding", [True, False])
def test_padding_matters_only_without_mask_padding(rng, mask_padding):
  net, apply = make_encoder(mask_padding)
  _, longer = make_encoder(mask_padding, STEPS + 3)
  x, present, length = make_inputs(rng)
  params = draw_params(net, x, present, length)
  padded = np.concatenate([x, np.zeros((ROWS, 3, 3), np.float32)], axis=1)
  before, after = (
    apply(params, x, present, length)[:2],
    longer(params, padded, present, length)[:2],
  )
  gap = np.abs(np.asarray(before) - np.asarray(after)).max(axis=1)
  assert (gap < 1e-6).all() if mask_padding else (gap > 1e-3).all()


@pytest.mark.parametrize("mask_padding", [True, False])
def test_absent_rows_have_one_code_whatever_they_hold(rng, mask_padding):
  net, apply = make_encoder(mask_padding)
  x, _, length = make_inputs(rng)
  x[1], length = np.nan, np.array([5, 10**6, 0], np.int32)
  params = draw_params(net, x, np.zeros(ROWS, bool), length)
  found = np.asarray(apply(params, x, np.zeros(ROWS, bool), length))
  assert np.isfinite(found).all() and (found == found[:1]).all()
  zeros = np.zeros_like(x)
  real = np.full(ROWS, STEPS, np.int32)
  if not mask_padding:
    here = apply(params, zeros, np.ones(ROWS, bool), real)
    np.testing.assert_array_equal(found, here)


def test_dropout_is_on_while_there_is_a_key(rng):
  net, apply = make_encoder(True)
  x, _, _ = make_inputs(rng)
  present, length = np.ones(ROWS, bool), np.full(ROWS, STEPS, np.int32)
  params = draw_params(net, x, present, length)
  clean = np.asarray(apply(params, x, present, length))
  noisy = np.asarray(apply(params, x, present, length, rngs={"dropout": jax.random.key(0)}))
  assert (np.abs(noisy - clean).max(axis=1) > 1e-4).all()


def test_to_steps_reads_every_kind(rng):
  photo = rng.random((2, 16, 16, 3), np.float32)
  cells, real = tokens.to_steps(Modality("p", "image", (16, 16, 3)), photo, None)
  assert cells.shape == (2, 64, 3 + 8) and real.all()
  corner = 2 * photo[0, :2, 2:4].mean((0, 1)) - 1
  np.testing.assert_allclose(cells[0, 1, :3], corner, 1e-5, 1e-6)
  vector = rng.normal(size=(2, 4)).astype(np.float32)
  step, real = tokens.to_steps(Modality("v", "vector", (4,)), vector, None)
  assert step.shape == (2, 1, 4) and real.all()
  x, length = np.full((2, STEPS, 3), np.nan, np.float32), np.array([0, 2], np.int32)
  x[1, :2] = 1
  steps, real = tokens.to_steps(SEQUENCE, jnp.asarray(x), length)
  assert real.sum(1).tolist() == [0, 2]
  np.testing.assert_array_equal(np.asarray(steps).sum((1, 2)), [0, 6])


def test_the_gradient_of_a_zero_input_explodes_at_the_start():
  """E(0) has no activations at first, and every layer norm multiplies their gradient by
  about 300. Clipped by the module's own norm it is finite."""
  net = transformer.Transformer(Modality("v", "vector", (4,)), 64, 8, 3, False)
  clip = optimizer.clip_by_module(optax.identity(), 1.0)
  x, nobody = np.ones((2, 4), np.float32), np.zeros(2, bool)

  def run(key):
    params = net.init(key, x, nobody)["params"]
    of = lambda p: jnp.sum(net.apply({"params": p}, x, nobody))
    grads = {"params": {"encode": jax.grad(of)(params)}}
    return grads, clip.update(grads, optax.EmptyState())[0]

  grads, clipped = jax.jit(run)(jax.random.key(0))

  def norm(tree):
    leaves = [np.asarray(x, float) for x in jax.tree.leaves(tree)]
    return math.sqrt(sum(np.vdot(x, x) for x in leaves))

  assert 1e6 < norm(grads) < math.inf
  assert norm(clipped) == pytest.approx(1, rel=1e-3)
