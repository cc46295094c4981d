"""Encoders: absent inputs and padding change nothing; fixed parts against loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promise_jax import types
from promise_jax.nn import encoders, precision
from promise_jax.nn.dropout import Dropout

ROWS, HIDDEN = 4, 8
SHAPES = {"image": (11, 9, 3), "tokens": (6,), "sequence": (13, 3), "vector": (5,)}


def make(kind, rng):
  """A modality, inputs of ROWS rows, and an encoder with its parameters."""
  shape = SHAPES[kind]
  if kind == "image":
    x = rng.random((ROWS, *shape), dtype=np.float32)
  elif kind == "tokens":
    x = rng.integers(1, 20, (ROWS, *shape)).astype(np.int32)
  else:
    x = rng.normal(size=(ROWS, *shape)).astype(np.float32)
  encoder = encoders.Encoder(types.Modality(kind, kind, shape, 20), HIDDEN)
  return x, encoder, start(encoder, x)


@functools.partial(jax.jit, static_argnums=0)
def start(encoder, x):
  return encoder.init(jax.random.key(0), x, jnp.ones(len(x), bool))


@functools.partial(jax.jit, static_argnums=0)
def encode(encoder, params, x, present, length=None, key=None):
  rngs = {} if key is None else {"dropout": key}
  return encoder.apply(params, x, present, length, rngs=rngs)


@pytest.fixture(params=types.KINDS)
def kind(request):
  return request.param


def test_an_absent_row_reaches_neither_values_nor_gradients(kind, rng):
  x, encoder, params = make(kind, rng)
  present = np.array([True, False, True, False])
  poison = x.copy()
  poison[~present] = 7 if kind == "tokens" else np.nan

  @jax.jit
  def value_and_grad(params, x):
    def total(params):
      h = encoder.apply(params, x, present)
      return (h**2).sum() + h.sum(), h

    return jax.value_and_grad(total, has_aux=True)(params)

  (_, clean), g = value_and_grad(params, x)
  (_, dirty), h = value_and_grad(params, poison)
  np.testing.assert_array_equal(clean, dirty)
  assert clean.dtype == np.float32 and np.ptp(clean[present]) > 0
  np.testing.assert_array_equal(clean[1], clean[3])
  for a, b in zip(jax.tree.leaves(g), jax.tree.leaves(h), strict=True):
    assert np.isfinite(b).all()
    np.testing.assert_array_equal(a, b)


def test_gradient_of_the_input_is_zero_where_absent(rng):
  for kind in ("image", "sequence", "vector"):
    x, encoder, params = make(kind, rng)
    present = np.array([True, False, True, True])
    x[1] = np.nan
    total = lambda x, e=encoder, p=params, here=present: e.apply(p, x, here).sum()
    g = np.asarray(jax.jit(jax.grad(total))(x))
    assert np.isfinite(g).all() and (g[1] == 0).all() and (g[0] != 0).any()


def test_every_parameter_gets_a_gradient(kind, rng):
  x, encoder, params = make(kind, rng)
  total = lambda params: (encoder.apply(params, x, np.ones(ROWS, bool)) ** 2).sum()
  for path, g in jax.tree.leaves_with_path(jax.jit(jax.grad(total))(params)):
    assert (g != 0).any(), path


def test_dropout_is_on_while_there_is_a_key(kind, rng):
  x, encoder, params = make(kind, rng)
  present = np.ones(ROWS, bool)
  noisy = [encode(encoder, params, x, present, key=jax.random.key(seed)) for seed in (1, 1, 2)]
  np.testing.assert_array_equal(noisy[0], noisy[1])
  assert np.abs(noisy[2] - noisy[0]).max() > 1e-3
  quiet = encode(encoder, params, x, present)
  assert np.abs(quiet - noisy[0]).max() > 1e-3
  np.testing.assert_array_equal(quiet, encode(encoder, params, x, present))


def test_dropout_keeps_the_share_and_the_mean():
  dropout, x = Dropout(0.25), jnp.ones((50, 400))
  y = np.asarray(dropout.apply({}, x, rngs={"dropout": jax.random.key(0)}))
  assert set(np.unique(y)) == {0.0, np.float32(1 / 0.75)}
  assert abs(y.mean() - 1) < 0.02 and len({row.tobytes() for row in y}) == 50
  assert (dropout.apply({}, x) == x).all()
  tied = Dropout(0.25, (0,)).apply({}, x, rngs={"dropout": jax.random.key(0)})
  assert (tied == tied[:1]).all() and 0 < (tied == 0).mean() < 0.5


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
def test_coarse_dropout_keeps_the_share_and_the_mean(rate):
  dropout, x = Dropout(rate, coarse=True), jnp.ones((30, 20, 151))
  draw = lambda key: np.asarray(dropout.apply({}, x, rngs={"dropout": jax.random.key(key)}))
  y = draw(0)
  assert abs((y == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / y.size)
  kept = np.unique(y)
  np.testing.assert_allclose(kept, [0, 1 / (1 - rate)], 2**-15)
  assert len({row.tobytes() for row in y.reshape(-1, 151)}) == 600
  # The two halves of a draw, neighbours in a row, have nothing to do with each other.
  both = np.mean((y[..., :-1:2] == 0) & (y[..., 1::2] == 0))
  assert abs(both - rate**2) < 0.01
  np.testing.assert_array_equal(y, draw(0))
  assert np.any(y != draw(1))
  np.testing.assert_array_equal(dropout.apply({}, x), x)


def test_an_unknown_kind_is_an_error():
  audio = encoders.Encoder(types.Modality("mic", "audio", (5,)), HIDDEN)
  with pytest.raises(ValueError, match="'audio', known kinds are image, tokens"):
    audio.init(jax.random.key(0), np.ones((ROWS, 5), np.float32), np.ones(ROWS, bool))


def test_learned_layers_are_of_the_type_of_their_parameters(kind, rng):
  x, encoder, params = make(kind, rng)
  full = encode(encoder, params, x, np.ones(ROWS, bool))
  half = encode(encoder, precision.cast(params, jnp.bfloat16), x, np.ones(ROWS, bool))
  assert full.dtype == np.float32 and half.dtype == jnp.bfloat16
  assert 0 < np.abs(half.astype(np.float32) - full).max() < 0.1


def test_padding_and_order_of_tokens_do_not_matter(rng):
  x, encoder, params = make("tokens", rng)
  x[:, 4:] = 0
  present = np.ones(ROWS, bool)
  plain = encode(encoder, params, x, present)
  longer = np.pad(x, ((0, 0), (3, 5)))
  np.testing.assert_allclose(encode(encoder, params, longer, present), plain, atol=1e-6)
  turned = encode(encoder, params, x[:, ::-1], present)
  np.testing.assert_allclose(turned, plain, atol=1e-6)


def test_tokens_are_a_bag_over_the_root_of_its_size(rng):
  x, encoder, params = make("tokens", rng)
  x[1, 3:], x[2] = 0, 0
  (table,) = jax.tree.leaves(params)
  for row, h in zip(x, encode(encoder, params, x, np.ones(ROWS, bool)), strict=True):
    bag, real = np.zeros(HIDDEN), [t for t in row if t != 0]
    for token in real:
      bag += np.asarray(table[token]) / np.sqrt(len(real))
    np.testing.assert_allclose(h, jax.nn.gelu(bag), atol=1e-6)


def test_steps_from_length_on_do_not_matter(rng):
  x, encoder, params = make("sequence", rng)
  present, length = np.ones(ROWS, bool), np.array([13, 6, 1, 0], np.int32)
  plain = encode(encoder, params, x, present, length)
  poison = x.copy()
  for row, n in zip(poison, length, strict=True):
    row[n:] = np.nan
  np.testing.assert_array_equal(encode(encoder, params, poison, present, length), plain)
  longer = np.pad(poison, ((0, 0), (0, 10), (0, 0)), constant_values=np.nan)
  h = encode(encoder, params, longer, present, length)
  np.testing.assert_allclose(h, plain, atol=1e-6)
  short = encode(encoder, params, x[:, :6], present, np.full(ROWS, 6, np.int32))
  np.testing.assert_allclose(short[1], plain[1], atol=1e-6)
  total = lambda p: encoder.apply(p, poison, present, length).sum()
  for g in jax.tree.leaves(jax.jit(jax.grad(total))(params)):
    assert np.isfinite(g).all()


def test_the_last_real_step_matters_and_no_length_means_all(rng):
  x, encoder, params = make("sequence", rng)
  present, length = np.ones(ROWS, bool), np.full(ROWS, 7, np.int32)
  moved = x.copy()
  moved[:, 6] += 1
  a = encode(encoder, params, x, present, length)
  assert (np.abs(encode(encoder, params, moved, present, length) - a).max(1) > 1e-4).all()
  whole = encode(encoder, params, x, present, np.full(ROWS, 13, np.int32))
  np.testing.assert_allclose(encode(encoder, params, x, present), whole, atol=1e-6)


def test_a_sequence_is_not_a_bag(rng):
  x, encoder, params = make("sequence", rng)
  present = np.ones(ROWS, bool)
  a, b = (encode(encoder, params, y, present) for y in (x, x[:, ::-1]))
  assert (np.abs(a - b).max(1) > 1e-3).all()
  swapped = x.copy()
  swapped[:, [4, 5]] = swapped[:, [5, 4]]
  assert (np.abs(encode(encoder, params, swapped, present) - a).max(1) > 1e-4).all()


def test_summary_against_numpy_row_by_row(rng):
  x, length = rng.normal(size=(3, 6, 2)).astype(np.float32), np.array([6, 2, 0])
  found = encoders.summarise(jnp.asarray(x), jnp.asarray(length))
  for row, n, *parts in zip(x, length, *found, strict=True):
    steps = row[:n] if n else np.zeros((1, 2))
    for part, by in zip(parts, (np.mean, np.std, np.min, np.max), strict=True):
      np.testing.assert_allclose(part, by(steps, axis=0), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 5, 8])
def test_windows_against_a_loop(steps, rng):
  x = rng.normal(size=(2, steps, 3)).astype(np.float32)
  found = encoders.windows(x, width=4, stride=3)
  starts = range(0, steps, 3)
  assert found.shape == (2, len(starts), 12)
  for b in range(2):
    for i, start in enumerate(starts):
      want = [x[b, t] if t < steps else np.zeros(3) for t in range(start, start + 4)]
      np.testing.assert_array_equal(found[b, i], np.concatenate(want))


def test_bytes_and_floats_are_the_same_image(rng):
  _, encoder, params = make("image", rng)
  x = rng.integers(0, 256, (ROWS, *SHAPES["image"])).astype(np.uint8)
  present = np.ones(ROWS, bool)
  a = encode(encoder, params, x, present)
  b = encode(encoder, params, x.astype(np.float32) / 255, present)
  np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_sizes_and_channels(channels, rng):
  x = rng.random((2, 5, 20, channels), dtype=np.float32)
  encoder = encoders.Encoder(types.Modality("x", "image", x.shape[1:]), HIDDEN)
  h = encode(encoder, start(encoder, x), x, np.ones(2, bool))
  assert h.shape == (2, HIDDEN) and np.isfinite(h).all()
