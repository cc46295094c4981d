"""Losses of private prompts, against slow loops and cases worked by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from promise_jax.losses import prompt_disentanglement


def close(found, expected, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(found, expected, rtol, atol)


@functools.cache
def orthogonality():
  def total(private, shared):
    each = prompt_disentanglement.orthogonality_loss(private, shared)
    return jnp.sum(each), each

  return jax.jit(jax.grad(total, (0, 1), has_aux=True))


def test_orthogonality_equals_the_equation_of_three(rng):
  private = rng.normal(size=(4, 3, 2, 8)).astype(np.float32)
  shared = rng.normal(size=(2, 8)).astype(np.float32)
  bar = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  expected = []
  for row in bar(private):
    total = sum(np.linalg.norm(p @ bar(shared).T) ** 2 for p in row)
    for m, n in [(0, 1), (0, 2), (1, 2)]:
      total += np.linalg.norm(row[m] @ row[n].T) ** 2
    expected.append(total / (3 * 2**2))
  close(orthogonality()(private, shared)[1], expected)


def test_orthogonality_between_its_bounds():
  """Prompts that are orthogonal, empty, all one vector, or each a copy of the shared
  one, of two vectors: six pairs with an overlap of 2."""
  axes = np.eye(8, dtype=np.float32).reshape(4, 2, 8)
  copies = np.broadcast_to(axes[3], (3, 2, 8))
  one = np.broadcast_to(axes[3, :1], (3, 2, 8))
  grads, found = orthogonality()(np.stack([axes[:3], 0 * one, one, copies]), axes[3])
  close(found, [0, 0, (3 * 2 + 3 * 4) / 12, 6 * 2 / 12])
  same = np.ones((4, 3, 2, 8), np.float32)
  close(orthogonality()(same, same[0, 0])[1], [2] * 4)
  assert all(np.all(np.isfinite(grad)) for grad in grads)


def test_recovery_equals_a_slow_loop_and_leaves_the_shared_prompt_alone(rng):
  private = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
  shared = rng.normal(size=(4, 5)).astype(np.float32)
  kernel = rng.normal(size=(15, 5)).astype(np.float32)
  expected = np.zeros(2)
  for b, i in np.ndindex(2, 4):
    s = shared[i]
    norm = (s - s.mean()) / math.sqrt(s.var() + 1e-5)
    side = np.concatenate([private[b, m, i] for m in range(3)])
    expected[b] += np.mean((norm - side @ kernel) ** 2) / 4

  def loss(*args):
    each = prompt_disentanglement.recovery_loss(*args)
    return jnp.sum(each), each

  grads, found = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(private, shared, kernel)
  close(found, expected)
  assert np.any(grads[0]) and not np.any(grads[1]) and np.any(grads[2])
