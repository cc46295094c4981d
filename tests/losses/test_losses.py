"""The losses against slow loops from their definitions, and hand-worked cases."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from example_batches import TASKS
from promise_jax.losses import contrastive, reconstruction, soft_pu, supervised
from promise_jax.types import Average

TAU = 0.2
PAIRED_CONTRASTS = [c for c in soft_pu.CONTRASTS if c != "none"]


def unit(rng, *shape):
  x = rng.normal(size=shape)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def call(function, *args, **options):
  """Jitted, as in training, with numpy in and out."""
  return jax.tree.map(np.asarray, program(function, **options)(*args))


@functools.cache
def program(function, **options):
  return jax.jit(functools.partial(function, **options))


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


class TestContrast:
  def test_equals_a_slow_loop(self, rng):
    a, b = unit(rng, 7, 4), unit(rng, 7, 4)
    affinity, positive = random_weights(rng, 7)
    where = np.array([1, 1, 0, 1, 1, 0, 1], bool)
    for tau in (0.1, 0.2, 1.0):
      found = contrast(a, b, affinity, positive, where, tau)
      for n in np.flatnonzero(where):
        expected = slow_contrast(a, b, affinity, positive, where, n, tau)
        np.testing.assert_allclose(found[n], expected, 1e-5, 1e-5)

  def test_without_labels_it_is_symmetric_infonce(self, rng):
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

  def test_with_all_labels_it_is_supcon_without_the_other_positives(self, rng):
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

  def test_oracle_memberships_are_as_good_as_labels(self, rng):
    s, z = unit(rng, 8, 4), unit(rng, 8, 4)
    members, labelled = np.eye(3)[[0, 0, 1, 2, 1, 0, 2, 2]], np.arange(8) % 3 == 0
    soft = contrast(s, z, *paired_weights("softpu", members, labelled))
    known = contrast(s, z, *paired_weights("softpu", members, [True] * 8))
    np.testing.assert_allclose(soft[labelled], known[labelled], 1e-5)
    assert np.abs(soft - known)[~labelled].max() > 0.1

  def test_before_the_ramp_it_is_pucl(self, rng):
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
  @pytest.mark.parametrize("kind", PAIRED_CONTRASTS)
  def test_gradients_are_finite(self, rng, kind, known):
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

  def test_candidates_outside_do_not_matter_and_may_be_nan(self, rng):
    a, b = unit(rng, 6, 4), unit(rng, 6, 4)
    affinity, positive = random_weights(rng, 6)
    where = np.arange(6) < 4
    found = contrast(a, b, affinity, positive, where)[:4]
    b[4:] = np.nan
    np.testing.assert_array_equal(contrast(a, b, affinity, positive, where)[:4], found)
    small = contrast(a[:4], b[:4], affinity[:4, :4], positive[:4, :4])
    np.testing.assert_allclose(small, found, 1e-5)

  def test_nobody_to_contrast_with_is_zero(self, rng):
    x = unit(rng, 3, 4)
    grad = jax.grad(lambda x: contrastive.affinity_contrast(x, x, *args).sum())
    args = (np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), np.zeros(3, bool))
    args = (*args, TAU)
    assert (contrastive.affinity_contrast(x, x, *args) == 0).all()
    assert (call(grad, x) == 0).all()


def paired_weights(kind, members, labelled, ramp=1.0):
  members, labelled = np.float32(members), np.array(labelled)
  same = np.eye(len(members), dtype=bool)
  pairs = soft_pu.pair_affinity(members, labelled, same, np.float32(ramp))
  return soft_pu.contrast_weights(kind, pairs, labelled, same)


class TestNormalise:
  def test_gives_unit_vectors(self, rng):
    x = rng.normal(size=(5, 3)).astype(np.float32) * 40
    found = call(contrastive.normalise, x)
    for row, y in zip(x, found, strict=True):
      np.testing.assert_allclose(y, row / math.hypot(*row), 1e-6)

  def test_zero_stays_zero_with_finite_gradient(self):
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

  def proximity(self, c, y, sigma2, calibrate=True):
    if not self.of(y):
      return 0.0
    value = self.kappa(c, y, sigma2)
    if not calibrate:
      return value
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


class TestProximity:
  @pytest.mark.parametrize("calibrate", [True, False])
  @pytest.mark.parametrize("classes", BANKS.values(), ids=BANKS)
  def test_equals_a_slow_loop(self, rng, classes, calibrate):
    slow, code = Reference(rng, classes), unit(rng, 5, 4)
    where = np.array([1, 1, 0, 1, 1], bool)
    sigma2 = slow.bandwidth(code[where])
    np.testing.assert_allclose(call(soft_pu.bandwidth, code, slow.bank, where), sigma2, 1e-5)
    found = call(soft_pu.bank_proximity, code, slow.bank, where, calibrate=calibrate)
    expected = [[slow.proximity(c, y, sigma2, calibrate) for y in range(slow.count)] for c in code]
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)
    assert found.shape == (5, slow.count)

  def test_a_typical_member_gets_one(self, rng):
    middle = unit(rng, 2, 4)
    cloud = np.repeat(middle, 6, axis=0) + 0.1 * rng.normal(size=(12, 4))
    cloud /= np.linalg.norm(cloud, axis=-1, keepdims=True)
    member = np.repeat(np.eye(2), 6, axis=0)
    bank = soft_pu.Bank(*map(np.float32, (cloud, member)), np.ones(12, bool))
    close = call(soft_pu.bank_proximity, np.float32(middle), bank, np.ones(2, bool))
    np.testing.assert_allclose(np.diag(close), 1)
    raw = call(
      soft_pu.bank_proximity,
      np.float32(middle),
      bank,
      np.ones(2, bool),
      calibrate=False,
    )
    assert (np.diag(raw) < 1).all() and (np.diag(raw) > raw.T.diagonal(1)).all()

  def test_the_fallback_keeps_weights_alive(self, rng):
    slow = Reference(rng, BANKS["one sample a class"])
    close = call(soft_pu.bank_proximity, slow.code[:3], slow.bank, np.ones(3, bool))
    assert (close[:, :3] > 0.01).all() and np.allclose(np.diag(close), 1)

  def test_references_in_one_point_are_finite(self):
    code = np.tile(np.float32([1, 0]), (3, 1))
    bank = soft_pu.Bank(code, np.ones((3, 1), np.float32), np.ones(3, bool))
    near, far = np.float32([[1, 0]]), np.float32([[0, 1]])
    one = np.ones(1, bool)
    np.testing.assert_allclose(call(soft_pu.bank_proximity, near, bank, one), 1, 1e-3)
    np.testing.assert_allclose(call(soft_pu.bank_proximity, far, bank, one), 0, atol=1e-6)


class TestMembership:
  P = np.float32([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.1, 0.3]])
  CLOSE = np.float32([[0.4, 1.0, 0.0], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]])
  KNOWN = np.float32([[0, 0, 0], [0, 0, 0], [0, 1, 0]])
  LABELLED = np.array([False, False, True])

  @pytest.mark.parametrize(
    ("gate", "exclusive", "expected"),
    [
      ("hard", True, [[0.4, 0, 0], [0, 0, 0.5], [0, 1, 0]]),
      ("hard", False, [[0, 0, 0], [0, 0, 0.5], [0, 1, 0]]),
      ("soft", True, [[0.2, 0.3, 0], [0.05, 0.1, 0.35], [0, 1, 0]]),
      ("no_rbf", True, [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0, 1, 0]]),
    ],
  )
  def test_by_hand(self, gate, exclusive, expected):
    found = call(
      soft_pu.class_membership,
      self.P,
      self.CLOSE,
      self.KNOWN,
      self.LABELLED,
      gate=gate,
      exclusive=exclusive,
    )
    np.testing.assert_allclose(found, expected, 1e-6)

  @pytest.mark.parametrize("gate", soft_pu.GATES)
  @pytest.mark.parametrize("classes", BANKS.values(), ids=BANKS)
  def test_lies_in_the_unit_interval_and_adds_up_to_at_most_one(self, rng, gate, classes):
    slow, code = Reference(rng, classes), unit(rng, 6, 4)
    close = soft_pu.bank_proximity(code, slow.bank, np.ones(6, bool))
    p = np.float32(rng.dirichlet(np.ones(slow.count), 6))
    member, labelled = np.eye(slow.count, dtype=np.float32)[[0] * 6], np.arange(6) < 2
    found = call(soft_pu.class_membership, p, close, member, labelled, gate=gate)
    assert (found >= 0).all() and (found <= 1).all()
    assert (found.sum(axis=1) <= 1 + 1e-6).all()

  def test_an_unknown_gate_is_named(self):
    args = (self.P, self.CLOSE, self.KNOWN, self.LABELLED)
    with pytest.raises(ValueError, match="'open'.*hard, soft, no_rbf"):
      soft_pu.class_membership(*args, gate="open")


class TestAffinity:
  LABELLED = np.array([True, True, False, False])

  def test_of_classes_by_loop(self, rng):
    m = np.float32([[1, 0, 0], [1, 0, 0], *rng.dirichlet(np.ones(3), 2)])
    found = call(soft_pu.pair_affinity, m, self.LABELLED, np.eye(4, dtype=bool), np.float32(0.5))
    for n, k in itertools.product(range(4), repeat=2):
      expected = sum(float(m[n, c]) * float(m[k, c]) for c in range(3))
      if n != k and not (self.LABELLED[n] and self.LABELLED[k]):
        expected *= 0.5
      np.testing.assert_allclose(found[n, k], 1 if n == k else expected, 1e-6)
    assert found[0, 1] == 1

  def test_of_many_labels_is_the_soft_jaccard_index(self, rng):
    m = np.float32([[1, 0, 1], [1, 1, 0], *rng.random((2, 3))])
    none = np.zeros((1, 3), np.float32)
    m, labelled = np.concatenate([m, none, none]), np.append(self.LABELLED, [True] * 2)
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

  def test_of_numbers_is_gaussian(self):
    value, eye = np.float32([0, 0.5, 1.0, 0]), np.eye(4, dtype=bool)
    found = call(soft_pu.gaussian_affinity, value, self.LABELLED, eye, np.float32(0.25))
    half, two = math.exp(-0.5), math.exp(-2)
    expected = np.array([[1, half, two, 1], [half, 1, half, half]])
    expected[:, 2:] *= 0.25
    np.testing.assert_allclose(found[:2], expected, 1e-6)
    np.testing.assert_allclose(found[2:, :2], expected[:, 2:].T, 1e-6)
    assert found[2, 2] == found[3, 3] == 1

  def test_copies_of_one_example_are_the_same(self):
    same = np.eye(4, dtype=bool)
    same[2, 3] = same[3, 2] = True
    m = np.zeros((4, 3), np.float32)
    found = call(soft_pu.pair_affinity, m, self.LABELLED, same, np.float32(0))
    np.testing.assert_array_equal(found, same.astype(np.float32))

  @pytest.mark.parametrize("kind", PAIRED_CONTRASTS)
  def test_contrast_weights_by_loop(self, rng, kind):
    pairs = rng.random((4, 4)).astype(np.float32)
    pairs = (pairs + pairs.T) / 2
    same = np.eye(4, dtype=bool)
    pairs[same] = 1
    labelled = self.LABELLED
    affinity, positive = call(
      lambda *args: soft_pu.contrast_weights(kind, *args), pairs, labelled, same
    )
    for n, k in itertools.product(range(4), repeat=2):
      own, known = n == k, labelled[n] and labelled[k]
      soft_row = labelled[n] or kind == "softpu_allpos"
      below = {"infonce": own, "pucl": own or known, "softpu_keepneg": own or known}
      above = {"infonce": own, "pucl": own or known}
      expected = pairs[n, k] if below.get(kind, True) else 0
      assert affinity[n, k] == expected, (n, k)
      expected = pairs[n, k] if above.get(kind, soft_row or own) else 0
      assert positive[n, k] == expected, (n, k)

  def test_an_unknown_contrast_is_named(self):
    with pytest.raises(ValueError, match="'nce'.*none, infonce, pucl, softpu"):
      soft_pu.contrast_weights("nce", jnp.eye(2), np.ones(2, bool), np.eye(2, dtype=bool))


class TestBank:
  def test_later_rows_win_and_slots_wrap_round(self, rng):
    bank = soft_pu.init_bank(4, 3, 2)
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

  def test_what_is_not_written_stays(self, rng):
    first = soft_pu.Bank(unit(rng, 3, 2), np.eye(3, dtype=np.float32), np.ones(3, bool))
    code, member = unit(rng, 2, 2), np.zeros((2, 3), np.float32)
    slot, where = np.array([-1, 2], np.int32), np.array([False, True])
    found = call(soft_pu.update_bank, first, slot, code, member, where)
    np.testing.assert_array_equal(found.code, [*first.code[:2], code[1]])
    np.testing.assert_array_equal(found.member[2], 0)
    nothing = call(soft_pu.update_bank, first, slot, code, member, np.zeros(2, bool))
    jax.tree.map(np.testing.assert_array_equal, nothing, first)


def test_ramp_by_hand():
  progress = np.float32([0, 0.1, 0.2, 0.25, 0.3, 0.99])
  np.testing.assert_allclose(
    call(soft_pu.linear_ramp, progress), [0, 0, 0.5, 0.75, 1, 1], atol=1e-6
  )
  step = call(soft_pu.linear_ramp, progress, start=0.2, end=0.2)
  np.testing.assert_allclose(step, [0, 0, 0, 1, 1, 1], atol=1e-6)


class TestReconstruction:
  def test_equals_a_slow_loop(self, rng):
    decoded, latent = rng.normal(size=(2, 6, 3)).astype(np.float32)
    latent += np.float32([5, 0, -2])
    where = np.array([1, 0, 1, 1, 0, 1], bool)
    rows = np.flatnonzero(where)
    error, spread = 0.0, 0.0
    for d in range(3):
      mean = sum(float(latent[n, d]) for n in rows) / len(rows)
      for n in rows:
        error += (float(decoded[n, d]) - float(latent[n, d])) ** 2
        spread += (float(latent[n, d]) - mean) ** 2
    size = 3 * len(rows)
    expected = (error / size) / (spread / size + 1e-3)
    latent[1] = decoded[4] = np.nan
    found = call(reconstruction.latent_reconstruction, decoded, latent, where)
    np.testing.assert_allclose(found, expected, 1e-5)

  def test_the_mean_as_a_guess_costs_one(self, rng):
    latent = 100 * rng.normal(size=(50, 4)).astype(np.float32)
    guess = np.broadcast_to(latent.mean(axis=0, keepdims=True), latent.shape)
    every = np.ones(50, bool)
    found = call(reconstruction.latent_reconstruction, guess, latent, every)
    np.testing.assert_allclose(found, 1, 1e-4)

  def test_the_target_gets_no_gradient_and_the_rest_is_finite(self, rng):
    decoded, latent = rng.normal(size=(2, 5, 3)).astype(np.float32)
    decoded[0] = latent[0] = np.nan
    grad = jax.grad(reconstruction.latent_reconstruction, (0, 1))
    where = np.arange(5) > 0
    to_decoded, to_latent = call(grad, decoded, latent, where)
    assert (to_latent == 0).all() and (to_decoded[0] == 0).all()
    assert np.isfinite(to_decoded).all() and (to_decoded[1:] != 0).all()
    none = call(grad, decoded, latent, np.zeros(5, bool))
    assert (none[0] == 0).all()

  def test_cross_covariance_equals_numpy(self, rng):
    a, b = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    where = np.arange(9) < 7
    expected = 0.0
    for i, j in itertools.product(range(3), range(2)):
      expected += np.cov(a[:7, i], b[:7, j], bias=True)[0, 1] ** 2
    a[8] = np.nan
    found = call(reconstruction.cross_covariance, np.float32(a), np.float32(b), where)
    np.testing.assert_allclose(found, expected, 1e-5)
    nothing = np.zeros(9, bool)
    found = call(reconstruction.cross_covariance, np.float32(a), np.float32(b), nothing)
    assert found == 0


class TestTask:
  LOGITS = np.float32([[0, 0, math.log(2)], [5, -5, 0]])

  def test_cross_entropy_by_hand(self):
    found = call(
      supervised.task_loss,
      self.LOGITS,
      np.array([2, 0], np.int32),
      task=TASKS["classes"],
    )
    # Probabilities (1/4, 1/4, 1/2); then 1 / (1 + e^-10 + e^-5).
    expected = [math.log(2), math.log(1 + math.exp(-10) + math.exp(-5))]
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)

  @pytest.mark.parametrize("kind", TASKS)
  def test_labels_of_another_shape_are_refused(self, kind):
    """[B, 1] less [B] would be B x B errors."""
    shape = (2,) if kind == "multilabel" else (2, 1)
    dtype = np.int32 if kind == "classes" else np.float32
    with pytest.raises(AssertionError, match="shape"):
      call(
        supervised.task_loss,
        self.LOGITS,
        np.zeros(shape, dtype),
        task=TASKS[kind],
      )
    with pytest.raises(AssertionError, match="shape"):
      Average.of(jnp.ones((2, 2)), jnp.ones(2, bool))

  def test_binary_cross_entropy_by_loop(self, rng):
    logits = rng.normal(size=(5, 4)).astype(np.float32)
    label = np.float32(rng.random((5, 4)) < 0.5)
    found = call(supervised.task_loss, logits, label, task=TASKS["multilabel"])
    for n in range(5):
      total = 0.0
      for c in range(4):
        p = 1 / (1 + math.exp(-logits[n, c]))
        total -= math.log(p if label[n, c] else 1 - p)
      np.testing.assert_allclose(found[n], total / 4, 1e-5)

  def test_absolute_error_is_in_units_of_the_scale(self):
    logits, label = np.float32([[0.5], [-1]]), np.float32([3, -1.5])
    task = TASKS["regression"]
    np.testing.assert_allclose(call(supervised.task_loss, logits, label, task=task), 0.5)
    np.testing.assert_allclose(call(supervised.predict_value, logits, task=task), [1.5, -3])
    np.testing.assert_array_equal(call(supervised.predict_probability, logits, task=task), logits)

  def test_probabilities_by_hand(self):
    classes = call(supervised.predict_probability, self.LOGITS, task=TASKS["classes"])
    np.testing.assert_allclose(classes[0], [0.25, 0.25, 0.5], 1e-6)
    labels = call(supervised.predict_probability, self.LOGITS, task=TASKS["multilabel"])
    np.testing.assert_allclose(labels[0], [0.5, 0.5, 2 / 3], 1e-6)

  def test_distillation_of_classes_is_the_divergence(self):
    student, teacher = self.LOGITS[:1], np.float32([[0, 0, 0]])
    found = call(supervised.distillation_loss, student, teacher, task=TASKS["classes"])
    p, q = [1 / 3] * 3, [1 / 4, 1 / 4, 1 / 2]
    expected = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
    np.testing.assert_allclose(found, [expected], 1e-5)

  def test_distillation_of_labels_is_the_mean_divergence(self, rng):
    student, teacher = rng.normal(size=(2, 3, 4)).astype(np.float32)
    found = call(supervised.distillation_loss, student, teacher, task=TASKS["multilabel"])
    for n in range(3):
      total = 0.0
      for c in range(4):
        p, q = (1 / (1 + math.exp(-x[n, c])) for x in (teacher, student))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
      np.testing.assert_allclose(found[n], total / 4, 1e-5, 1e-6)

  @pytest.mark.parametrize("kind", TASKS)
  def test_distillation_is_zero_where_both_agree_and_never_moves_the_teacher(self, kind, rng):
    task = TASKS[kind]
    student, teacher = rng.normal(size=(2, 3, task.outputs)).astype(np.float32)
    agree = call(supervised.distillation_loss, student, student, task=task)
    np.testing.assert_allclose(agree, 0, atol=1e-6)
    total = lambda *x: supervised.distillation_loss(*x, task).sum()
    to_student, to_teacher = call(jax.grad(total, (0, 1)), student, teacher)
    assert (to_teacher == 0).all() and (to_student != 0).any()

  def test_means_skip_rows_and_survive_none(self):
    values, where = np.float32([1, np.nan, 4]), np.array([True, False, True])
    mean = Average.of(values, where)
    assert (mean.total, mean.count, mean.value) == (5, 2, 2.5)
    empty = Average.of(values, np.zeros(3, bool))
    assert (empty.total, empty.count, empty.value) == (0, 0, 0)
    grad = jax.grad(lambda x: Average.of(x, where).value)(values)
    np.testing.assert_array_equal(grad, [0.5, 0, 0.5])

  def test_unknown_labels_become_zero(self):
    labelled = np.array([True, False])
    ids = supervised.known_label(np.array([3, 10**6], np.int32), labelled)
    assert ids.tolist() == [3, 0] and ids.dtype == jnp.int32
    many = supervised.known_label(np.float32([[1, 0], [np.nan, np.inf]]), labelled)
    assert many.tolist() == [[1, 0], [0, 0]]
