"""Layers of MulT: positions, masks, dropout, and what ProMMA asks of the encoders."""

import functools
import math

import jax
import jax.numpy as jnp
import mult_oracle
import numpy as np

from promise_jax.nn import mult, mult_layers
from promise_jax.types import Modality

LENGTHS = np.array([[3, 5], [2, 2], [1, 0], [0, 4]])  # of two modalities, in four rows
REAL = np.arange(5)[None, None] < LENGTHS[..., None]  # bool[B, M, T]


def test_positions_by_hand():
  x = jnp.array([[[1.0, 0, 0, 0], [0, 5, 5, 5], [2, 0, 0, 0]]] * 2)
  real = jnp.array([[True, True, True], [False, True, True]])
  at = lambda p: [math.sin(p), math.sin(p / 1e4), math.cos(p), math.cos(p / 1e4)]
  found = mult_layers.position_codes(x, real)
  np.testing.assert_allclose(found[0], [at(1), at(2), at(3)], atol=1e-6)
  np.testing.assert_allclose(found[1], [[0] * 4, at(1), at(2)], atol=1e-6)
  # Channel 0 of the second step is 0.
  found = mult_layers.position_codes(x[:1], real[:1], released_code=True)
  np.testing.assert_allclose(found[0], [at(1), [0] * 4, at(3)], atol=1e-6)
  found = mult_layers.embed_steps(x[:1], real[:1], released_code=True)
  np.testing.assert_allclose(found[0, 1], [0, 10, 10, 10])


def test_the_mask_of_the_released_code_by_hand():
  def text(queries, keys):
    mask = mult_layers.released_mask(queries, keys, jnp.array([abs(queries - keys)]))
    return ["".join(map(str, row)) for row in 1 * np.asarray(mask[0])]

  assert text(3, 3) == ["100", "110", "111"]
  assert text(2, 4) == ["1110", "1111"]
  assert text(4, 2) == ["11", "11", "11", "11"]


def test_tied_dropout_is_one_draw_for_all_steps_of_a_row():
  x = jnp.ones((400, 7, 12))
  for tied in (True, False):
    drop = mult_layers.step_dropout(0.25, tied)
    found = np.asarray(drop.apply({}, x, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(np.mean(found == 0) - 0.25) < 0.02
    assert np.all(found == found[:, :1]) == tied
    assert len(np.unique(found[:, 0], axis=0)) > 200
    np.testing.assert_array_equal(drop.apply({}, x), x)


def test_every_encoder_and_layer_draws_for_itself():
  """With equal weights and inputs, only the draws of dropout tell encoders apart."""
  encoder = mult.stacked_encoder(heads=2, layers=2)
  x, real = jnp.ones((3, 2, 4, 4)), jnp.ones((3, 2, 4), bool)
  params = mult_oracle.draw_params(encoder.init, x, real)
  params = jax.tree.map(lambda w: jnp.broadcast_to(w[:1, :1], w.shape) if w.ndim > 1 else w, params)

  @jax.jit
  def run(key):
    return encoder.apply(params, x, real, rngs={"dropout": key})[0]

  found = run(jax.random.key(0))
  assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-3
  assert np.abs(found[0] - found[1]).max() > 1e-3
  assert np.abs(found - run(jax.random.key(1))).max() > 1e-3


# What ProMMA asks of the encoders.


@functools.cache
def pair():
  """(net, its parameters) for two modalities of 3 and 5 steps, padded to 5."""
  form = (Modality("text", "sequence", (3, 2)), Modality("audio", "sequence", (5, 4)))
  net = mult.MulT(form, 2, width=4, heads=2, layers=2, memory_layers=2)

  def everything(net, steps):
    found, _ = net.cross_attend(steps, REAL)
    return net.self_attend(found, REAL)

  init = functools.partial(net.init, method=everything)
  return net, mult_oracle.draw_params(init, jnp.ones((4, 2, 5, 4)))


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def crossed():
  net, params = pair()
  return jax.jit(lambda steps, scale: net.apply(params, steps, REAL, scale, method="cross_attend"))


def test_scaled_cross_attention_equals_a_slow_loop():
  net, params = pair()
  steps = normal(4, 2, 5, 4)  # at random also in padding
  scale = np.float32([[0.5, 1], [2, 0.3], [1, 1], [1, 1]])
  found, attended = crossed()(steps, scale)
  encoders = mult_oracle.to_double(params)["cross_encoders"]
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  for pair_index, (target, source) in enumerate([(0, 1), (1, 0)]):
    own = mult_oracle.pick(encoders, pair_index)
    for row in range(4):
      x, s = (steps[row, i][REAL[row, i]] for i in (target, source))
      layers = []
      args = x, s, None, scale[row, source]
      close(found[row, target][: len(x)], mult_oracle.encode(net, own, *args, attended=layers))
      expected = np.mean(layers, 0) if layers else np.zeros(x.shape)
      close(attended[row, pair_index][: len(x)], expected)


def test_a_scale_of_one_changes_nothing_and_of_zero_hides_the_source():
  steps, ones = normal(4, 2, 5, 4), np.ones((4, 2), np.float32)
  plain, _ = crossed()(steps, None)
  found, _ = crossed()(steps, ones)
  np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)
  other = steps * np.float32([1, -1])[None, :, None, None]
  scale = np.float32([[1, 0], [1, 0], [1, 1], [1, 1]])
  (found, attended), (again, _) = crossed()(steps, scale), crossed()(other, scale)
  assert np.all(attended[:2, 0] == 0) and np.all(attended[0, 1] != 0)
  np.testing.assert_array_equal(again[:2, 0], found[:2, 0])
  change = np.abs(again[:, 0] - found[:, 0]).max((1, 2))
  assert change[2] == 0 and change[3] > 1e-2  # row 2 has no step of audio
  assert np.all(np.abs(again[:, 1] - found[:, 1]).max((1, 2)) > 1e-2)


def test_a_connection_equals_a_slow_loop():
  net, params = pair()
  real = np.pad(REAL, ((0, 0), (0, 0), (0, 2)), constant_values=True)
  steps = normal(4, 2, 7, 4, seed=1)
  run = jax.jit(lambda c: net.apply(params, steps, real, c, method="self_attend"))
  prior = normal(2, 2, 2, 4, seed=2)  # of layers, modalities, prompts
  connection = mult_layers.Connection(prior, normal(2, 2, 4, seed=3), normal(2, 2, seed=4))
  closed = connection._replace(weight=0 * connection.weight, bias=0 * connection.bias)
  encoders = mult_oracle.to_double(params)["self_encoders"]

  def slow(row, connection):
    out = []
    for i in range(2):
      own = None if connection is None else [part[:, i] for part in connection]
      x = steps[row, i][real[row, i]]
      args = mult_oracle.pick(encoders, i), x, None, None
      out.append(mult_oracle.encode(net, *args, connection=own)[-1])
    return np.concatenate(out)

  for given, same in ((connection, connection), (closed, None)):
    expected = [slow(row, same) for row in range(4)]
    np.testing.assert_allclose(run(given), expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_array_equal(run(closed), run(closed._replace(prior=prior + 1)))
  assert np.all(np.abs(run(connection) - run(closed)).max(1) > 0.03)
