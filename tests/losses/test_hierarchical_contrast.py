"""FNCL and CCCL against slow loops and known values, in blocks and on devices."""

import functools
import itertools
import math

import jax
import numpy as np
import pytest

import example_batches
from promise_jax.devices import placement
from promise_jax.losses import hierarchical_contrast

TASKS = tuple(example_batches.TASKS)
KINDS = ("instance", *TASKS)  # FNCL, and CCCL of each kind of task
B, M, V, D = 8, 3, 2, 4


@functools.cache
def make_loss(kind, **options):
  """(code, where, ids, label, labelled) -> the loss and its gradient by the code."""

  def loss(code, where, ids, label, labelled):
    if kind == "instance":
      return hierarchical_contrast.instance_contrast(code, where, ids, **options).value
    labels = label, labelled, kind
    return hierarchical_contrast.class_contrast(code, where, ids, *labels, **options).value

  return jax.jit(jax.value_and_grad(loss))


def make_case(rng, kind="classes"):
  """Codes of any length; absent elements, unknown labels; one id twice."""
  code = rng.normal(size=(B, M, V, D)).astype(np.float32)
  where = rng.random((B, M, V)) < 0.8
  where[0], where[1] = True, False
  ids = np.array([7, 3, 11, 2, 900, 5, 11, 4], np.int32)
  task = example_batches.TASKS["classes" if kind == "instance" else kind]
  label = example_batches.random_labels(task, B, rng)
  label[6] = label[2]
  if kind == "multilabel":
    label[3] = label[4] = 0
  if kind == "regression":
    label /= 3
  return code, where, ids, label, rng.random(B) < 0.8


def slow_contrast(elements, weight, temperature):
  """Mean over anchors; elements [(vector, tag)], one pair at a time."""
  unit = [(np.float64(u) / np.linalg.norm(np.float64(u)), tag) for u, tag in elements]
  losses = []
  for n, (u, a) in enumerate(unit):
    others = [(u @ v / temperature, weight(a, b)) for k, (v, b) in enumerate(unit) if k != n]
    total = sum(w for _, w in others)
    if total > 0:
      log_sum = math.log(sum(math.exp(s) for s, _ in others))
      losses.append(sum(w * (log_sum - s) for s, w in others) / total)
  return np.mean(losses) if losses else None


def slow_weight(ids, label, kind):
  def weight(i, j):
    if ids[i] == ids[j]:
      return 1.0
    if kind == "multilabel":
      a, b = set(np.flatnonzero(label[i])), set(np.flatnonzero(label[j]))
      return len(a & b) / len(a | b) if a | b else 0.0
    if kind == "regression":
      weight = math.exp(-((float(label[i]) - float(label[j])) ** 2) / (2 * 0.5**2))
      return weight if weight >= 0.1 else 0.0
    return float(label[i] == label[j])

  return weight


def test_instance_contrast_equals_a_slow_loop(rng):
  code, where, ids, *labels = make_case(rng)
  elements = [(code[p], ids[p[0]]) for p in np.ndindex(code.shape[:3]) if where[p]]
  expected = slow_contrast(elements, lambda i, j: float(i == j), 0.3)
  loss, _ = make_loss("instance", temperature=0.3)(code, where, ids, *labels)
  np.testing.assert_allclose(loss, expected, 1e-5)


@pytest.mark.parametrize("kind", TASKS)
def test_class_contrast_equals_a_slow_loop(rng, kind):
  code, where, ids, label, labelled = make_case(rng, kind)
  means = []
  for m in range(M):
    pairs = itertools.product(range(B), range(V))
    elements = [(code[i, m, v], i) for i, v in pairs if where[i, m, v] and labelled[i]]
    means.append(slow_contrast(elements, slow_weight(ids, label, kind), 0.3))
  expected = np.mean([mean for mean in means if mean is not None])
  loss, _ = make_loss(kind, temperature=0.3)(code, where, ids, label, labelled)
  np.testing.assert_allclose(loss, expected, 1e-5)


def loss_in_double(kind, code, label=None, **options):
  """Of elements that are all present and labelled."""
  rows = len(code)
  label = np.zeros(rows, int) if label is None else label
  with jax.enable_x64(True):
    masks = np.ones(code.shape[:3], bool), np.arange(rows), label, np.ones(rows, bool)
    return float(make_loss(kind, **options)(code, *masks)[0])


def test_equal_codes_give_the_logarithm_of_the_number_of_others():
  code = np.ones((5, 2, 2, 3))
  assert loss_in_double("instance", code) == pytest.approx(math.log(5 * 2 * 2 - 1), abs=1e-12)
  loss = loss_in_double("classes", code, np.array([0, 0, 1, 1, 2]))
  assert loss == pytest.approx(math.log(5 * 2 - 1), abs=1e-12)


def test_orthogonal_codes_reach_the_floor():
  code = np.broadcast_to(np.eye(5)[:, None, None], (5, 2, 2, 5))
  floor = math.log(3 + 16 * math.exp(-1 / 0.07))
  assert loss_in_double("instance", code) == pytest.approx(floor, abs=1e-12)
  label = np.array([0, 0, 1, 1, 2])
  code = np.broadcast_to(np.eye(3)[label][:, None, None], (5, 2, 2, 3))
  assert loss_in_double("classes", code, label) == pytest.approx(0.8788918, abs=5e-8)


def test_the_golden_number_of_twelve_vectors(rng):
  code = rng.standard_normal((12, 6))
  code /= np.linalg.norm(code, axis=1, keepdims=True)
  loss = loss_in_double("instance", code.reshape(3, 2, 2, 6), temperature=0.1)
  assert loss == pytest.approx(8.181267978, abs=5e-10)


def assert_same(a, b):
  """Value and gradient agree up to float32."""
  np.testing.assert_allclose(a[0], b[0], 1e-5)
  np.testing.assert_allclose(a[1], b[1], 1e-4, 1e-6)
  assert np.abs(a[1]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_equal_the_dense_loss(rng, kind):
  """48 elements in blocks of 7, 16 of a modality: neither divides; and in one block."""
  args = make_case(rng, kind)
  for block in (7, 48):
    assert_same(make_loss(kind, block=block)(*args), make_loss(kind)(*args))


@pytest.mark.parametrize("block", [8, 1024])
@pytest.mark.parametrize("kind", ["instance", "classes"])
def test_eight_devices_compute_what_one_does(rng, eight_devices, kind, block):
  args, loss = make_case(rng), make_loss(kind, block=block)
  by_row = jax.sharding.NamedSharding(eight_devices, jax.sharding.PartitionSpec("data"))
  spread = placement.place(args, by_row)
  assert len(spread[0].sharding.device_set) == 8
  assert_same(loss(*spread), loss(*args))


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("kind", KINDS)
def test_absent_elements_and_unknown_labels_may_be_nan(rng, kind, block):
  code, where, ids, label, labelled = make_case(rng, kind)
  loss = make_loss(kind, block=block)
  clean = loss(code, where, ids, label, labelled)
  is_read = where if kind == "instance" else where & labelled[:, None, None]
  poisoned, garbage = code.copy(), label.copy()
  poisoned[~is_read] = np.nan
  garbage[~labelled] = 10**6 if label.dtype == np.int32 else np.nan
  dirty = loss(poisoned, where, ids, garbage, labelled)
  for a, b in zip(clean, dirty, strict=True):
    np.testing.assert_array_equal(a, b)
  assert (np.asarray(dirty[1])[~is_read] == 0).all() and not is_read.all()


@pytest.mark.parametrize("kind", ["instance", "classes"])
def test_the_order_of_rows_views_and_modalities_does_not_matter(rng, kind):
  code, where, *rest = make_case(rng)
  rows = rng.permutation(B)
  value, gradient = make_loss(kind)(code, where, *rest)
  turn = lambda x: x[rows][:, ::-1, ::-1]
  other = make_loss(kind)(turn(code), turn(where), *(x[rows] for x in rest))
  assert_same((value, turn(np.asarray(gradient))), other)


@pytest.mark.parametrize("kind", ["instance", "classes"])
def test_gradients_equal_finite_differences(rng, kind):
  with jax.enable_x64(True):
    code, *rest = make_case(rng)
    code, step = np.float64(code), np.float64(rng.normal(size=code.shape)) * 1e-5
    loss = make_loss(kind, temperature=0.2)
    up, down = (loss(code + s, *rest)[0] for s in (step, -step))
    slope = np.sum(loss(code, *rest)[1] * step)
    np.testing.assert_allclose((up - down) / 2, slope, 1e-6)


@pytest.mark.parametrize("block", [7, 1024])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_positive_pair_loss_and_gradient_are_zero(rng, kind, block):
  code, where, ids, label, labelled = make_case(rng, kind)
  nothing, one_element, one_view = (np.zeros_like(where) for _ in range(3))
  one_element[4, 1, 0], one_view[:, 0, 0] = True, True
  everyone, different = np.ones(B, bool), np.arange(B, dtype=np.int32)
  cases = [(nothing, ids, label, everyone), (one_element, ids, label, everyone)]
  if kind == "instance":
    cases.append((one_view, different, label, everyone))
  else:
    cases.append((where, ids, label, np.zeros(B, bool)))
  if kind == "classes":  # no two rows of a class
    cases.append((one_view, different, different, everyone))
  for case in cases:
    value, gradient = make_loss(kind, block=block)(code, *case)
    assert value == 0 and not np.any(gradient)


def test_equal_and_zero_vectors_have_finite_gradients():
  code, ids = np.ones((4, 2, 2, 3), np.float32), np.arange(4, dtype=np.int32)
  code[0] = 0
  args = code, np.ones((4, 2, 2), bool), ids, ids // 2, np.ones(4, bool)
  for kind in ("instance", "classes"):
    assert all(np.isfinite(x).all() for x in make_loss(kind)(*args))


def test_a_modality_without_an_anchor_does_not_count(rng):
  code, _, *rest = make_case(rng)
  where = np.ones((B, M, V), bool)
  where[:, 1] = False
  kept, _ = make_loss("classes")(code, where, *rest)
  two, _ = make_loss("classes")(code[:, ::2], where[:, ::2], *rest)
  np.testing.assert_allclose(kept, two, 1e-6)


def test_an_impossible_option_is_an_error(rng):
  args = make_case(rng)
  with pytest.raises(ValueError, match="temperature is 0.0, it must be above 0"):
    make_loss("instance", temperature=0.0)(*args)
  with pytest.raises(ValueError, match="block is 0, it must be at least 1"):
    make_loss("instance", block=0)(*args)
  with pytest.raises(ValueError, match="kind is 'rank', known are classes"):
    make_loss("rank")(*args)
