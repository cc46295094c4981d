"""The LSTM encoder against a slow loop, and what it does not read."""

import functools

import jax
import numpy as np
import pytest

from promise_jax.nn import lstm
from promise_jax.types import Modality

ROWS, STEPS, HIDDEN = 3, 5, 4


@functools.cache
def make_encoder(steps: int = STEPS):
  net = lstm.Lstm(Modality("motion", "sequence", (steps, 3)), HIDDEN)
  return net, jax.jit(net.apply)


def make_inputs(rng, steps=STEPS):
  """A full row, one of three steps, one that is not there."""
  x = rng.normal(size=(ROWS, steps, 3)).astype(np.float32)
  return x, np.array([True, True, False]), np.array([steps, 3, 2], np.int32)


@pytest.fixture
def params(rng):
  """Every number drawn, so that no bias is 0."""
  net, _ = make_encoder()
  shapes = jax.eval_shape(net.init, jax.random.key(0), *make_inputs(rng))
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def slow(p, x):
  """The maximum of h over the steps of one row [T, D], from the equations of an LSTM:

  i, f, o = sigmoid(W x + U h + b) each, g = tanh(the same); c = f c + i g, h = o tanh(c).
  """
  sigmoid = lambda z: 1 / (1 + np.exp(-z))
  h = c = np.zeros(HIDDEN)
  every = []
  for step in x:
    z = {
      g: step @ p[f"i{g}"]["kernel"] + h @ p[f"h{g}"]["kernel"] + p[f"h{g}"]["bias"] for g in "ifgo"
    }
    c = sigmoid(z["f"]) * c + sigmoid(z["i"]) * np.tanh(z["g"])
    h = sigmoid(z["o"]) * np.tanh(c)
    every.append(h)
  return np.max(every, axis=0)


def test_the_lstm_equals_a_slow_loop(rng, params):
  _, apply = make_encoder()
  x, present, length = make_inputs(rng)
  found = np.asarray(apply(params, x, present, length))
  (cell,) = params["params"].values()
  cell = jax.tree.map(lambda leaf: np.asarray(leaf, float), cell)
  for n in range(2):
    np.testing.assert_allclose(found[n], slow(cell, x[n, : length[n]]), 1e-5, 1e-6)
  assert not found[2].any()


def test_padding_and_absent_rows_are_not_read(rng, params):
  _, apply = make_encoder()
  _, longer = make_encoder(STEPS + 3)
  x, present, length = make_inputs(rng)
  before = np.asarray(apply(params, x, present, length))
  more = np.full((ROWS, STEPS + 3, 3), np.nan, np.float32)
  more[0, :STEPS], more[1, :3] = x[0], x[1, :3]
  after = np.asarray(longer(params, more, present, length))
  np.testing.assert_allclose(after, before, 1e-6, 1e-6)

  def total(params, x):
    return apply(params, x, present, length).sum()

  grads = jax.jit(jax.grad(total))
  ours = grads(params, np.where(np.isnan(more[:, :STEPS]), np.nan, x))
  for a, b in zip(*map(jax.tree.leaves, (ours, grads(params, x))), strict=True):
    assert np.isfinite(a).all()
    np.testing.assert_array_equal(a, b)


def test_the_order_of_the_steps_matters(rng, params):
  _, apply = make_encoder()
  x, present, length = make_inputs(rng)
  found = apply(params, x, present, length)
  turned = apply(params, x[:, ::-1], present, length)
  assert (np.abs(found - turned)[0] > 1e-3).any()


def test_a_row_without_steps_is_zeros(rng, params):
  _, apply = make_encoder()
  x, _, _ = make_inputs(rng)
  found = apply(params, x, np.ones(ROWS, bool), np.array([0, 1, 5], np.int32))
  assert not found[0].any() and np.asarray(found[1:]).any(axis=1).all()


def test_dropout_is_on_while_there_is_a_key(rng, params):
  net, _ = make_encoder()
  x, _, _ = make_inputs(rng)
  present, length = np.ones(ROWS, bool), np.full(ROWS, STEPS, np.int32)
  drop = jax.jit(lambda key: net.apply(params, x, present, length, rngs={"dropout": key}))
  every = [np.asarray(drop(jax.random.key(k))) for k in range(20)]
  zero = np.mean([(e == 0).mean() for e in every])
  assert 0.02 < zero < 0.25  # a rate of 0.1


def test_the_initial_weights_need_no_factorisation(rng):
  """On two cores two QR factorisations can wait for each other for ever."""
  net, _ = make_encoder()
  given = jax.random.key(0), *make_inputs(rng)
  assert "lapack" not in jax.jit(net.init).lower(*given).as_text()
  (cell,) = jax.jit(net.init)(*given)["params"].values()
  spread = np.std([np.asarray(cell[f"h{g}"]["kernel"]) for g in "ifgo"])
  assert 0.5 < spread * HIDDEN**0.5 < 1.5
