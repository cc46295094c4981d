"""Attention that is made again for its gradient, against loops and differences."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from promise_jax.nn import attention

B, Q, T, N, D = 3, 4, 5, 2, 6


def inputs(rng, dtype=np.float32):
  """Queries, keys, values; row 0 has all keys, row 1 has some, row 2 none."""
  shapes = (B, Q, N, D), (B, T, N, D), (B, T, N, D)
  return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def seen(kind, rng):
  """None, or which keys are seen: by all queries alike, or by each its own."""
  if kind == "all":
    return None
  sees = np.arange(T)[None, None] < np.array([T, 2, 0])[:, None, None]
  if kind == "queries":
    sees = np.broadcast_to(sees, (B, Q, T)) & (rng.random((B, Q, T)) < 0.7)
  return sees


def slow(query, key, value, sees, factor):
  """softmax(q k / sqrt(D)) v, number by number; alike where nothing is seen."""
  out = np.zeros(query.shape)
  for b, i, h in np.ndindex(B, Q, N):
    row = None if sees is None else np.broadcast_to(sees, (B, Q, T))[b, i]
    open_to = range(T) if row is None or not row.any() else np.flatnonzero(row)
    blind = row is not None and not row.any()
    score = [0.0 if blind else query[b, i, h] @ key[b, j, h] for j in open_to]
    power = [math.exp(s / math.sqrt(D)) for s in score]
    for j, e in zip(open_to, power, strict=True):
      part = e / sum(power) * (1 if factor is None else factor[b, h, i, j])
      out[b, i, h] += part * value[b, j, h]
  return out


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("kind", ["all", "keys", "queries"])
def test_it_is_the_sum_of_a_slow_loop(rng, kind, dropped):
  args, sees = inputs(rng), seen(kind, rng)
  factor = rng.integers(0, 2, (B, N, Q, T)).astype(np.float32) / 0.5
  factor = factor if dropped else None
  found = jax.jit(attention.sparing)(*args, sees, factor)
  np.testing.assert_allclose(found, slow(*args, sees, factor), atol=2e-6)


def test_weights_that_all_queries_lose_are_those_of_lost_values(rng):
  (query, key, value), lost = inputs(rng), rng.integers(0, 2, (B, N, 1, T)) / 0.5
  factor = np.broadcast_to(lost, (B, N, Q, T))
  value_left = value * lost.transpose(0, 3, 1, 2).astype(np.float32)
  found = attention.sparing(query, key, value_left)
  wanted = slow(query, key, value, None, factor)
  np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize("kind", ["all", "keys", "queries"])
def test_its_gradient_is_that_of_differences_and_can_be_differentiated(rng, kind):
  with jax.enable_x64(True):
    args, sees = inputs(rng, np.float64), seen(kind, rng)
    factor = rng.integers(0, 2, (B, N, Q, T)) / 0.5
    run = lambda *args: jnp.sin(attention.sparing(*args, sees, factor))
    check_grads(run, args, order=2, modes=("rev",), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["keys", "queries"])
def test_a_row_that_sees_nothing_moves_its_values_alone(rng, kind):
  args, sees = inputs(rng), seen(kind, rng)
  blind = ~np.broadcast_to(sees, (B, Q, T)).any(2)
  assert blind[2].all()
  whole = lambda run: jax.grad(lambda *x: jnp.sum(jnp.sin(run(*x, sees))), (0, 1, 2))
  found, wanted = whole(attention.sparing)(*args), whole(attention.attend)(*args)
  for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, other, atol=2e-6)
  assert not np.any(np.asarray(found[0])[blind]) and not np.any(found[1][2])
  assert np.all(np.asarray(found[2])[2] != 0)


def test_no_weights_are_kept_for_the_gradient(rng):
  args = inputs(rng)
  pairs = lambda run: [
    x.shape for x in jax.tree.leaves(jax.vjp(run, *args)[1]) if x.shape[-2:] == (Q, T)
  ]
  assert pairs(attention.attend) and not pairs(attention.sparing)
