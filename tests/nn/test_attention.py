"""Attention against a slow loop and finite differences; what it keeps for its gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from promise_jax.nn import attention

B, Q, T, N, D = 3, 4, 5, 2, 6


def make_inputs(rng, dtype=np.float32):
  """Queries, keys, values."""
  shapes = (B, Q, N, D), (B, T, N, D), (B, T, N, D)
  return tuple(rng.normal(size=shape).astype(dtype) for shape in shapes)


def make_mask(kind, rng):
  """None, or which keys are seen, by all queries alike or by each its own: row 0 has all keys,
  row 1 some, row 2 none."""
  if kind == "none":
    return None
  mask = np.arange(T)[None, None] < np.array([T, 2, 0])[:, None, None]
  if kind == "queries":
    mask = np.broadcast_to(mask, (B, Q, T)) & (rng.random((B, Q, T)) < 0.7)
  return mask


def slow_attend(query, key, value, mask, factor):
  """softmax(q k / sqrt(D)) v, number by number; all keys weigh alike where none is seen."""
  out = np.zeros(query.shape)
  for b, i, h in np.ndindex(B, Q, N):
    row = None if mask is None else np.broadcast_to(mask, (B, Q, T))[b, i]
    is_blind = row is not None and not row.any()
    seen = range(T) if row is None or is_blind else np.flatnonzero(row)
    score = [0.0 if is_blind else query[b, i, h] @ key[b, j, h] for j in seen]
    power = [math.exp(s / math.sqrt(D)) for s in score]
    for j, e in zip(seen, power, strict=True):
      weight = e / sum(power) * (1 if factor is None else factor[b, h, i, j])
      out[b, i, h] += weight * value[b, j, h]
  return out


@pytest.mark.parametrize("with_factor", [False, True])
@pytest.mark.parametrize("kind", ["none", "keys", "queries"])
def test_attend_equals_a_slow_loop(rng, kind, with_factor):
  args, mask = make_inputs(rng), make_mask(kind, rng)
  factor = rng.integers(0, 2, (B, N, Q, T)).astype(np.float32) / 0.5
  factor = factor if with_factor else None
  out = jax.jit(attention.attend)(*args, mask, factor)
  np.testing.assert_allclose(out, slow_attend(*args, mask, factor), atol=2e-6)


@pytest.mark.parametrize("kind", ["none", "queries"])
def test_the_gradient_agrees_with_differences_twice(rng, kind):
  """`bilevel` differentiates it a second time."""
  with jax.enable_x64(True):
    args, mask = make_inputs(rng, np.float64), make_mask(kind, rng)
    factor = rng.integers(0, 2, (B, N, Q, T)) / 0.5
    run = lambda *args: jnp.sin(attention.attend(*args, mask, factor))
    check_grads(run, args, order=2, modes=("rev",), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["keys", "queries"])
def test_a_query_that_sees_nothing_has_no_gradient(rng, kind):
  args, mask = make_inputs(rng), make_mask(kind, rng)
  is_blind = ~np.broadcast_to(mask, (B, Q, T)).any(2)
  assert is_blind[2].all()
  loss = lambda *args: jnp.sum(jnp.sin(attention.attend(*args, mask)))
  by_query, by_key, by_value = map(np.asarray, jax.grad(loss, (0, 1, 2))(*args))
  assert not by_query[is_blind].any() and not by_key[2].any() and by_value[2].all()


def test_no_weights_are_kept_for_the_gradient(rng):
  args = make_inputs(rng)
  kept = [x.shape for x in jax.tree.leaves(jax.vjp(attention.attend, *args)[1])]
  assert kept and all(shape[-2:] != (Q, T) for shape in kept)
