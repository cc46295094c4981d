"""Soft positive-unlabelled weights of pairs, by loop and by hand."""

import functools
import itertools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from example_batches import TASKS
from promise_jax.losses import soft_pu

LABELLED = np.array([True, True, False, False])


def call(function, *args, **options):
  """Jitted, as in training."""
  return jax.jit(functools.partial(function, **options))(*args)


def test_affinity_of_classes_by_loop(rng):
  m = np.float32([[1, 0, 0], [1, 0, 0], *rng.dirichlet(np.ones(3), 2)])
  found = call(soft_pu.pair_affinity, m, LABELLED, np.eye(4, dtype=bool), np.float32(0.5))
  for n, k in itertools.product(range(4), repeat=2):
    expected = sum(float(m[n, c]) * float(m[k, c]) for c in range(3))
    if n != k and not (LABELLED[n] and LABELLED[k]):
      expected *= 0.5
    np.testing.assert_allclose(found[n, k], 1 if n == k else expected, 1e-6)
  assert found[0, 1] == 1


def test_affinity_of_many_labels_is_the_soft_jaccard_index(rng):
  m = np.float32([[1, 0, 1], [1, 1, 0], *rng.random((2, 3))])
  none = np.zeros((1, 3), np.float32)
  m, labelled = np.concatenate([m, none, none]), np.append(LABELLED, [True] * 2)
  eye = np.eye(6, dtype=bool)
  found = call(soft_pu.pair_affinity, m, labelled, eye, np.float32(0.5), exclusive=False)
  for n, k in itertools.product(range(6), repeat=2):
    both = sum(min(x, y) for x, y in zip(m[n], m[k], strict=True))
    either = sum(max(x, y) for x, y in zip(m[n], m[k], strict=True))
    expected = both / either if either else 0
    if not (labelled[n] and labelled[k]):
      expected *= 0.5
    np.testing.assert_allclose(found[n, k], 1 if n == k else expected, 1e-6)
  np.testing.assert_allclose(found[0, 1], 1 / 3, 1e-6)
  assert found[4, 5] == 0


def test_affinity_of_numbers_is_gaussian():
  value, eye = np.float32([0, 0.5, 1.0, 0]), np.eye(4, dtype=bool)
  found = call(soft_pu.gaussian_affinity, value, LABELLED, eye, np.float32(0.25))
  half, two = math.exp(-0.5), math.exp(-2)
  expected = np.array([[1, half, two, 1], [half, 1, half, half]])
  expected[:, 2:] *= 0.25
  np.testing.assert_allclose(found[:2], expected, 1e-6)
  np.testing.assert_allclose(found[2:, :2], expected[:, 2:].T, 1e-6)
  assert found[2, 2] == found[3, 3] == 1


def test_copies_of_one_example_are_the_same():
  same = np.eye(4, dtype=bool)
  same[2, 3] = same[3, 2] = True
  m = np.zeros((4, 3), np.float32)
  found = call(soft_pu.pair_affinity, m, LABELLED, same, np.float32(0))
  np.testing.assert_array_equal(found, same.astype(np.float32))


@pytest.mark.parametrize("kind", typing.get_args(soft_pu.ContrastKind))
def test_contrast_weights_by_loop(rng, kind):
  pairs = rng.random((4, 4)).astype(np.float32)
  pairs = (pairs + pairs.T) / 2
  same = np.eye(4, dtype=bool)
  pairs[same] = 1
  weights = functools.partial(soft_pu.contrast_weights, kind)
  affinity, positive = call(weights, pairs, LABELLED, same)
  for n, k in itertools.product(range(4), repeat=2):
    itself, known = n == k, LABELLED[n] and LABELLED[k]
    counts = {"infonce": itself, "pucl": itself or known, "softpu": True}[kind]
    assert affinity[n, k] == (pairs[n, k] if counts else 0), (n, k)
    counts = counts and (itself or LABELLED[n])
    assert positive[n, k] == (pairs[n, k] if counts else 0), (n, k)


def weights_of(task, label, labelled, logits, **options):
  """The affinity of rows that share one code, with all that is known in the bank."""
  num_rows = len(label)
  code, ids = np.tile(np.float32([[1, 0, 0, 0]]), (num_rows, 1)), np.arange(num_rows)
  labelled, everywhere = np.array(labelled), np.ones(num_rows, bool)
  bank = soft_pu.init_bank(16, 4, task)
  member = soft_pu.label_membership(label, task)
  bank = soft_pu.update_bank(bank, ids, code, member, labelled)
  args = code, np.float32(logits), label, labelled, ids, bank
  options |= {"task": task, "where": everywhere, "ramp": np.float32(1)}
  return np.asarray(soft_pu.pair_weights(*args, **options)[0])


def test_pair_weights_of_many_labels():
  label = np.float32([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
  logits = np.where(label > 0, 9.0, -9.0)
  found = weights_of(TASKS["multilabel"], label, [True] * 4, logits)
  np.testing.assert_allclose(found[0], [1, 0.5, 0, 0], 1e-6)
  # Row 1 becomes unlabelled; the classifier still says its label.
  found = weights_of(TASKS["multilabel"], label, [True, False, True, True], logits)
  np.testing.assert_allclose(found[0], [1, 0.5, 0, 0], 1e-2)


def test_pair_weights_of_numbers():
  label, labelled = np.float32([-2, -1.5, 0.2, 3]), [True, True, True, False]
  args = TASKS["regression"], label, labelled, label[:, None] / 3
  sign = weights_of(*args, regression="sign")
  np.testing.assert_allclose(sign[0, :3], [1, 1, 0])
  np.testing.assert_allclose(sign[2, 2:], [1, 1], 1e-3)
  # Distances .5 and 2.2 with width .5; the prediction for row 3 is 3.
  expected = [1, math.exp(-0.5), math.exp(-2 * 2.2**2), math.exp(-2 * 25)]
  gaussian = weights_of(*args, regression="gaussian")
  np.testing.assert_allclose(gaussian[0], expected, 1e-4, 1e-9)


def test_the_membership_of_labels_by_hand():
  number = jnp.float32([-3.0, -0.4, 0.0, 9.0])
  signs = soft_pu.label_membership(number, TASKS["regression"])
  assert signs.argmax(1).tolist() == [0, 0, 1, 1] and signs.shape == (4, 2)
  many = jnp.float32([[1, 0, 1, 0]])
  assert (soft_pu.label_membership(many, TASKS["multilabel"]) == many).all()
  classes = soft_pu.label_membership(jnp.int32([2, 0]), TASKS["classes"])
  assert classes.tolist() == [[0, 0, 1], [1, 0, 0]]
