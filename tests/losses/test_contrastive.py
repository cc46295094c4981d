"""The contrast against slow loops, its special cases by name, and the diagnostics."""

import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promise_jax.losses import contrastive, soft_pu

TAU = 0.2
KINDS = typing.get_args(soft_pu.ContrastKind)


def unit(rng, *shape):
  x = rng.normal(size=shape)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def call(function, *args, **options):
  """Jitted, as in training."""
  return jax.jit(functools.partial(function, **options))(*args)


def contrast(a, b, affinity, positive, where=None, tau=TAU):
  where = np.ones(len(a), bool) if where is None else where
  args = (a, b, np.float32(affinity), np.float32(positive), where)
  return call(contrastive.affinity_contrast, *args, temperature=tau)


def slow_contrast(a, b, affinity, positive, where, n, tau=TAU):
  """l_n, one candidate at a time and in double precision."""
  a, b, rows = a.astype(float), b.astype(float), range(len(a))
  rows = [k for k in rows if where[k]]
  e = {k: math.exp(sum(a[n] * b[k]) / tau) for k in rows}
  total, weight = 0.0, 0.0
  for k in rows:
    below = e[k]
    for other in rows:
      if other not in (n, k):
        below += (1 - affinity[n, other]) * e[other]
    total -= positive[n, k] * math.log(e[k] / below)
    weight += positive[n, k]
  return total / weight


def random_weights(rng, rows):
  """Any A and P in [0, 1] with ones on the diagonal."""
  affinity, positive = rng.random((2, rows, rows))
  for x in (affinity, positive):
    x[rng.random((rows, rows)) < 0.3] = 0
    np.fill_diagonal(x, 1)
  return affinity, positive


def paired_weights(kind, members, labelled, ramp=1.0):
  members, labelled = np.float32(members), np.array(labelled)
  same = np.eye(len(members), dtype=bool)
  pairs = soft_pu.pair_affinity(members, labelled, same, np.float32(ramp))
  return soft_pu.contrast_weights(kind, pairs, labelled, same)


def test_the_contrast_equals_a_slow_loop(rng):
  a, b = unit(rng, 7, 4), unit(rng, 7, 4)
  affinity, positive = random_weights(rng, 7)
  where = np.array([1, 1, 0, 1, 1, 0, 1], bool)
  for tau in (0.1, 0.2, 1.0):
    found = contrast(a, b, affinity, positive, where, tau)
    for n in np.flatnonzero(where):
      expected = slow_contrast(a, b, affinity, positive, where, n, tau)
      np.testing.assert_allclose(found[n], expected, 1e-5, 1e-5)


def test_without_labels_it_is_symmetric_infonce(rng):
  s, z = unit(rng, 6, 4), unit(rng, 6, 4)
  none = np.zeros(6, bool)
  eye = np.eye(6, dtype=bool)
  weights = soft_pu.contrast_weights("softpu", jnp.eye(6), none, eye)
  found = (contrast(s, z, *weights) + contrast(z, s, *weights)) / 2
  for n in range(6):
    ways = []
    for x, y in ((s, z), (z, s)):
      logits = [float(x[n] @ y[k]) / TAU for k in range(6)]
      ways.append(math.log(sum(map(math.exp, logits))) - logits[n])
    np.testing.assert_allclose(found[n], np.mean(ways), 1e-5)


def test_with_all_labels_it_is_supcon_without_the_other_positives(rng):
  s, z = unit(rng, 8, 4), unit(rng, 8, 4)
  label = [0, 0, 1, 2, 1, 0, 2, 2]
  found = contrast(s, z, *paired_weights("softpu", np.eye(3)[label], [True] * 8))
  for n in range(8):
    terms = []
    for k in (k for k in range(8) if label[k] == label[n]):
      others = [k, *(m for m in range(8) if label[m] != label[n])]
      below = sum(math.exp(float(s[n] @ z[m]) / TAU) for m in others)
      terms.append(math.log(below) - float(s[n] @ z[k]) / TAU)
    np.testing.assert_allclose(found[n], np.mean(terms), 1e-5)


def test_oracle_memberships_are_as_good_as_labels(rng):
  s, z = unit(rng, 8, 4), unit(rng, 8, 4)
  members, labelled = np.eye(3)[[0, 0, 1, 2, 1, 0, 2, 2]], np.arange(8) % 3 == 0
  soft = contrast(s, z, *paired_weights("softpu", members, labelled))
  known = contrast(s, z, *paired_weights("softpu", members, [True] * 8))
  np.testing.assert_allclose(soft[labelled], known[labelled], 1e-5)
  assert np.abs(soft - known)[~labelled].max() > 0.1


def test_before_the_ramp_it_is_pucl(rng):
  s, z = unit(rng, 8, 4), unit(rng, 8, 4)
  label, labelled = [0, 0, 1, 2, 1, 0, 2, 2], np.arange(8) < 5
  members = np.where(labelled[:, None], np.eye(3)[label], rng.random((8, 3)))
  found = contrast(s, z, *paired_weights("softpu", members, labelled, ramp=0.0))
  np.testing.assert_array_equal(found, contrast(s, z, *paired_weights("pucl", members, labelled)))
  for n in range(8):
    friends = {n} | {k for k in range(5) if labelled[n] and label[k] == label[n]}
    terms = []
    for k in friends:
      below = [k, *(m for m in range(8) if m not in friends)]
      below = sum(math.exp(float(s[n] @ z[m]) / TAU) for m in below)
      terms.append(math.log(below) - float(s[n] @ z[k]) / TAU)
    np.testing.assert_allclose(found[n], np.mean(terms), 1e-5)


@pytest.mark.parametrize("known", [0, 2, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite(rng, kind, known):
  labelled = np.arange(8) < known
  members = np.where(labelled[:, None], np.eye(3)[[0] * 8], rng.random((8, 3)))
  weights = paired_weights(kind, members, labelled)
  where = np.ones(8, bool)

  def total(s, z):
    return contrastive.affinity_contrast(s, z, *weights, where, TAU).sum()

  # Two rows are equal: the peak of the softmax is a tie.
  s = unit(rng, 8, 4)
  s[1] = s[0]
  for g in call(jax.grad(total, (0, 1)), s, s[::-1].copy()):
    assert np.isfinite(g).all() and np.abs(g).max() > 0


def test_candidates_outside_do_not_matter_and_may_be_nan(rng):
  a, b = unit(rng, 6, 4), unit(rng, 6, 4)
  affinity, positive = random_weights(rng, 6)
  where = np.arange(6) < 4
  found = contrast(a, b, affinity, positive, where)[:4]
  b[4:] = np.nan
  np.testing.assert_array_equal(contrast(a, b, affinity, positive, where)[:4], found)
  small = contrast(a[:4], b[:4], affinity[:4, :4], positive[:4, :4])
  np.testing.assert_allclose(small, found, 1e-5)


def test_without_candidates_the_contrast_is_zero(rng):
  x = unit(rng, 3, 4)
  grad = jax.grad(lambda x: contrastive.affinity_contrast(x, x, *args).sum())
  args = (np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), np.zeros(3, bool))
  args = (*args, TAU)
  assert (contrastive.affinity_contrast(x, x, *args) == 0).all()
  assert (call(grad, x) == 0).all()


def test_normalise_gives_unit_vectors(rng):
  x = rng.normal(size=(5, 3)).astype(np.float32) * 40
  found = call(contrastive.normalise, x)
  for row, y in zip(x, found, strict=True):
    np.testing.assert_allclose(y, row / math.hypot(*row), 1e-6)


def test_normalise_keeps_zero_with_a_finite_gradient():
  zero = jnp.zeros((2, 3))
  assert (contrastive.normalise(zero) == 0).all()
  grad = jax.grad(lambda x: contrastive.normalise(x).sum())(zero)
  assert np.isfinite(grad).all()


def test_alignment_and_uniformity_by_hand():
  # A square on the circle: each point has two neighbours at distance^2 2, one at 4.
  square = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
  np.testing.assert_allclose(
    call(contrastive.alignment, square, np.roll(square, 1, axis=0)), [2] * 4
  )
  expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)
  np.testing.assert_allclose(call(contrastive.uniformity, square), expected, 1e-5)
  same = np.tile(square[:1], (3, 1))
  np.testing.assert_allclose(call(contrastive.uniformity, same), 0, atol=1e-6)
