"""Mutual information of soft codes, against slow loops and cases worked by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promise_jax.losses import mutual_information

T, C = 12, 4


def close(found, expected, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(found, expected, rtol, atol)


@functools.cache
def information(grad=False):
  def total(alpha, beta, real):
    each = mutual_information.mutual_information(alpha, beta, real)
    return jnp.sum(each), each

  if grad:
    return jax.jit(jax.grad(total, (0, 1), has_aux=True))
  return jax.jit(lambda *args: total(*args)[1])


def slow_information(alpha, beta, real):
  joint = np.zeros((alpha.shape[1], beta.shape[1]))
  for t in np.flatnonzero(real):
    joint += np.outer(np.float64(alpha[t]), np.float64(beta[t])) / real.sum()
  found = 0.0
  for i, j in np.ndindex(joint.shape):
    if joint[i, j] > 0:
      found += joint[i, j] * math.log(joint[i, j] / joint[i].sum() / joint[:, j].sum())
  return found


def distributions(rng, rows, steps=T, codes=C, sharp=3.0):
  x = np.exp(sharp * rng.normal(size=(rows, steps, codes)))
  return (x / x.sum(-1, keepdims=True)).astype(np.float32)


def test_information_equals_a_slow_loop(rng):
  alpha, beta = distributions(rng, 8), distributions(rng, 8)
  real = rng.random((8, T)) < 0.6
  real[:, 3] = True
  expected = [slow_information(*args) for args in zip(alpha, beta, real, strict=True)]
  beta[~real] = np.nan
  found = information()(alpha, beta, real)
  close(found, expected)
  assert np.all(found > 0) and np.all(found < math.log(C))


def test_information_of_codes_by_hand():
  step = np.arange(16)
  a, b = np.eye(C, dtype=np.float32)[step % C], np.eye(C, dtype=np.float32)[step // C]
  two = np.eye(C, dtype=np.float32)[step % 2]
  constant = np.broadcast_to(distributions(np.random.default_rng(1), 1, 1)[0], a.shape)
  alpha = np.stack([a, a, a, a, constant, a, np.roll(a, 1, 1)])
  beta = np.stack([a, b, two, constant, a, a, a])
  real = np.ones((7, 16), bool)
  real[5] = False
  (of_alpha, of_beta), found = information(grad=True)(alpha, beta, real)
  close(found, [math.log(4), 0, math.log(2), 0, 0, 0, math.log(4)])
  assert not np.any(found[3:6])
  # Joint probabilities, whole codes and all steps that are 0: finite, and none to steps
  # that do not count.
  assert np.all(np.isfinite(of_alpha)) and np.all(np.isfinite(of_beta))
  assert not np.any(of_alpha[5]) and np.any(of_alpha[2])


def test_the_gradient_of_information_is_that_of_the_joint(rng):
  """In alpha_ti, up to what a distribution cannot follow: a constant over i."""
  alpha, beta = distributions(rng, 7, 16, sharp=1), distributions(rng, 7, 16, sharp=1)
  (found, _), _ = information(grad=True)(alpha, beta, np.ones((7, 16), bool))
  joint = np.einsum("bti,btj->bij", alpha, beta) / 16
  product = joint.sum(2, keepdims=True) * joint.sum(1, keepdims=True)
  expected = np.einsum("btj,bij->bti", beta, np.log(joint / product)) / 16
  centre = lambda x: x - x.mean(2, keepdims=True)
  close(centre(found), centre(expected), 1e-4, 1e-6)


@pytest.mark.parametrize("sharp", [10, 30, 100])
def test_tiny_probabilities_have_finite_gradients(rng, sharp):
  alpha, beta = (distributions(rng, 7, 16, sharp=sharp) for _ in range(2))
  grads, found = information(grad=True)(alpha, beta, np.ones((7, 16), bool))
  expected = [slow_information(a, b, np.ones(16)) for a, b in zip(alpha, beta, strict=True)]
  close(found, expected, 1e-5, 2e-6)
  assert all(np.abs(grad).max() < 10 for grad in grads)


@pytest.mark.parametrize("codes", [8, 30])
def test_information_ranks_identical_related_and_unrelated_streams(rng, codes):
  """50 steps: unrelated ones have some, the more the more codes there are."""
  x, y = rng.normal(size=(2, 40, 50, 30)).astype(np.float32)
  kernel = (rng.normal(size=(30, codes)) / np.sqrt(30)).astype(np.float32)
  of = jax.jit(
    lambda a, b: mutual_information.mutual_information(
      mutual_information.soft_codes(a, kernel, 0.5),
      mutual_information.soft_codes(b, kernel, 0.5),
      np.ones(a.shape[:2], bool),
    )
  )
  others = [x, 0.8 * x + 0.6 * y, y, np.zeros_like(x)]
  same, related, unrelated, nothing = (of(other, x).mean() for other in others)
  assert same > 1.3 * related > 1.3 * 1.3 * unrelated > 0
  assert nothing == 0
  assert unrelated < 0.06 if codes == 8 else unrelated > 0.08


def test_soft_codes_equal_numpy(rng):
  x = rng.normal(3, 2, (2, T, 6)).astype(np.float32)
  x[1, 4] = 0
  kernel = rng.normal(size=(6, C)).astype(np.float32)
  norm = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)

  def loss(x):
    codes = mutual_information.soft_codes(x, kernel, 0.5)
    return jnp.sum(jnp.square(codes)), codes

  grad, found = jax.jit(jax.grad(loss, has_aux=True))(x)
  expected = np.exp(norm @ kernel / 0.5)
  close(found, expected / expected.sum(-1, keepdims=True))
  close(found[1, 4], np.full(C, 1 / C))
  assert np.all(np.isfinite(grad))


def test_the_only_real_source_gets_the_largest_weight():
  """With two of three sources off, the first learns nothing and the others learn from it."""
  information = np.zeros((2, 3, 3), np.float32)
  information[:, 1, 0], information[:, 2, 0] = 0.034, 0.046
  score = mutual_information.source_scores(information)
  close(score, [[0.04, 0, 0]] * 2)
  weights = mutual_information.source_weights(score, 0.1)
  close(weights, [[1.28, 0.86, 0.86]] * 2, atol=5e-3)
  close(weights.sum(1), [3, 3])
