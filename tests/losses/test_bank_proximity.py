"""The bank, proximities to its classes and memberships, one reference at a time."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest

from example_batches import TASKS
from promise_jax.losses import soft_pu


def unit(rng, *shape):
  x = rng.normal(size=shape)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def call(function, *args, **options):
  """Jitted, as in training."""
  return jax.jit(functools.partial(function, **options))(*args)


class Reference:
  """A bank and its definitions, one reference at a time."""

  def __init__(self, rng, classes, size=8, count=4, features=4):
    """`classes`: for each valid slot the set of its classes."""
    self.code, self.classes = unit(rng, size, features), classes
    member = np.zeros((size, count), np.float32)
    for k, cs in enumerate(classes):
      member[k, list(cs)] = 1
    # What stands in an unused slot must not matter.
    member[len(classes) :] = 1
    self.bank = soft_pu.Bank(self.code, member, np.arange(size) < len(classes))
    self.count = count

  def of(self, y):
    return [r for r, cs in enumerate(self.classes) if y in cs]

  def distance(self, a, b):
    return float(np.sum((a.astype(float) - b.astype(float)) ** 2))

  def bandwidth(self, code):
    pairs = [
      self.distance(self.code[r], self.code[t])
      for r, t in itertools.permutations(range(len(self.classes)), 2)
      if self.classes[r] & self.classes[t]
    ]
    if not pairs:
      pairs = [self.distance(c, self.code[r]) for c in code for r in self.every()]
    return float(np.mean(pairs)) if pairs else 1.0

  def every(self):
    return range(len(self.classes))

  def kernel(self, a, b, sigma2):
    return math.exp(-self.distance(a, b) / (2 * sigma2))

  def kappa(self, c, y, sigma2, without=None):
    refs = [r for r in self.of(y) if r != without]
    return np.mean([self.kernel(c, self.code[r], sigma2) for r in refs])

  def proximity(self, c, y, sigma2):
    if not self.of(y):
      return 0.0
    value = self.kappa(c, y, sigma2)
    usual = {
      k: np.mean([self.kappa(self.code[r], k, sigma2, without=r) for r in self.of(k)])
      for k in range(self.count)
      if len(self.of(k)) > 1
    }
    borrowed = np.mean(list(usual.values())) if usual else 1.0
    return min(1.0, value / max(usual.get(y, borrowed), 1e-3))


BANKS = {
  "classes": [{0}, {1}, {0}, {2}, {1}, {0}],
  "one reference of a class": [{0}, {0}, {1}, {0}],
  "a class with none": [{0}, {2}, {0}, {2}],
  "one class": [{1}, {1}, {1}],
  "one sample a class": [{0}, {1}, {2}],
  "one sample": [{1}],
  "many labels": [{0, 1}, {1, 2}, {2}, set(), {0, 3}],
  "empty": [],
}


@pytest.mark.parametrize("classes", BANKS.values(), ids=BANKS)
def test_proximity_equals_a_slow_loop(rng, classes):
  slow, code = Reference(rng, classes), unit(rng, 5, 4)
  where = np.array([1, 1, 0, 1, 1], bool)
  sigma2 = slow.bandwidth(code[where])
  kind = {"exclusive": all(len(cs) == 1 for cs in classes)}
  found = call(soft_pu.bandwidth, code, slow.bank, where, **kind)
  np.testing.assert_allclose(found, sigma2, 1e-5)
  found = call(soft_pu.bank_proximity, code, slow.bank, where, **kind)
  expected = [[slow.proximity(c, y, sigma2) for y in range(slow.count)] for c in code]
  np.testing.assert_allclose(found, expected, 1e-5, 1e-6)
  assert found.shape == (5, slow.count)


def test_the_proximity_of_a_typical_member_is_one(rng):
  middle = unit(rng, 2, 4)
  cloud = np.repeat(middle, 6, axis=0) + 0.1 * rng.normal(size=(12, 4))
  cloud /= np.linalg.norm(cloud, axis=-1, keepdims=True)
  member = np.repeat(np.eye(2), 6, axis=0)
  bank = soft_pu.Bank(*map(np.float32, (cloud, member)), np.ones(12, bool))
  close = call(soft_pu.bank_proximity, np.float32(middle), bank, np.ones(2, bool))
  np.testing.assert_allclose(np.diag(close), 1)
  assert close[0, 1] < 1 and close[1, 0] < 1


def test_with_one_sample_a_class_proximities_are_not_zero(rng):
  slow = Reference(rng, BANKS["one sample a class"])
  close = call(soft_pu.bank_proximity, slow.code[:3], slow.bank, np.ones(3, bool))
  assert (close[:, :3] > 0.01).all() and np.allclose(np.diag(close), 1)


def test_proximity_to_equal_references_is_finite():
  code = np.tile(np.float32([1, 0]), (3, 1))
  bank = soft_pu.Bank(code, np.ones((3, 1), np.float32), np.ones(3, bool))
  near, far = np.float32([[1, 0]]), np.float32([[0, 1]])
  one = np.ones(1, bool)
  np.testing.assert_allclose(call(soft_pu.bank_proximity, near, bank, one), 1, 1e-3)
  np.testing.assert_allclose(call(soft_pu.bank_proximity, far, bank, one), 0, atol=1e-6)


P = np.float32([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.1, 0.3]])
CLOSE = np.float32([[0.4, 1.0, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize(
  ("exclusive", "expected"),
  [
    (True, [[0.4, 0, 0], [0, 0, 0.5], [0, 1, 0]]),
    (False, [[0, 0, 0], [0, 0, 0.5], [0, 1, 0]]),
  ],
)
def test_membership_by_hand(exclusive, expected):
  known, labelled = np.float32([[0, 0, 0], [0, 0, 0], [0, 1, 0]]), np.arange(3) == 2
  args = P, CLOSE, known, labelled
  found = call(soft_pu.class_membership, *args, exclusive=exclusive)
  np.testing.assert_allclose(found, expected, 1e-6)


@pytest.mark.parametrize("classes", BANKS.values(), ids=BANKS)
def test_memberships_lie_in_the_unit_interval_and_add_up_to_at_most_one(rng, classes):
  slow, code = Reference(rng, classes), unit(rng, 6, 4)
  close = soft_pu.bank_proximity(code, slow.bank, np.ones(6, bool))
  p = np.float32(rng.dirichlet(np.ones(slow.count), 6))
  member, labelled = np.eye(slow.count, dtype=np.float32)[[0] * 6], np.arange(6) < 2
  found = call(soft_pu.class_membership, p, close, member, labelled)
  assert (found >= 0).all() and (found <= 1).all()
  assert (found.sum(axis=1) <= 1 + 1e-6).all()


def test_later_rows_win_and_slots_wrap_round(rng):
  bank = soft_pu.init_bank(4, 3, TASKS["regression"])
  slot = np.array([1, 6, 2, 1, 3, -1, 5], np.int32)
  where = np.array([1, 1, 1, 1, 0, 0, 0], bool)
  code, member = unit(rng, 7, 3), np.float32(rng.random((7, 2)))
  found = call(soft_pu.update_bank, bank, slot, code, member, where)
  expected = {}
  for n in range(7):
    if where[n]:
      expected[slot[n] % 4] = n
  assert expected == {1: 3, 2: 2}
  for k in range(4):
    n = expected.get(k)
    assert found.valid[k] == (n is not None)
    np.testing.assert_array_equal(found.code[k], 0 if n is None else code[n])
    np.testing.assert_array_equal(found.member[k], 0 if n is None else member[n])


def test_what_is_not_written_stays(rng):
  first = soft_pu.Bank(unit(rng, 3, 2), np.eye(3, dtype=np.float32), np.ones(3, bool))
  code, member = unit(rng, 2, 2), np.zeros((2, 3), np.float32)
  slot, where = np.array([-1, 2], np.int32), np.array([False, True])
  found = call(soft_pu.update_bank, first, slot, code, member, where)
  np.testing.assert_array_equal(found.code, [*first.code[:2], code[1]])
  np.testing.assert_array_equal(found.member[2], 0)
  nothing = call(soft_pu.update_bank, first, slot, code, member, np.zeros(2, bool))
  jax.tree.map(np.testing.assert_array_equal, nothing, first)
