"""FNCL and CCCL against slow loops and known values, in blocks and on devices."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import example_batches
from promise_jax.devices import placement
from promise_jax.losses import hierarchical_contrast

KINDS = tuple(example_batches.TASKS)
B, M, V, D = 8, 3, 2, 4


@functools.cache
def instance(grad=False, **options):
  def loss(code, where, ids):
    return hierarchical_contrast.instance_contrast(code, where, ids, **options).value

  return jax.jit(jax.value_and_grad(loss) if grad else loss)


@functools.cache
def by_class(kind, grad=False, **options):
  def loss(code, where, ids, label, labelled):
    return hierarchical_contrast.class_contrast(
      code, where, ids, label, labelled, kind, **options
    ).value

  return jax.jit(jax.value_and_grad(loss) if grad else loss)


def case(rng, kind="classes"):
  """Codes of any length; elements and labels that are not there; one id twice."""
  code = rng.normal(size=(B, M, V, D)).astype(np.float32)
  where = rng.random((B, M, V)) < 0.8
  where[0], where[1] = True, False
  ids = np.array([7, 3, 11, 2, 900, 5, 11, 4], np.int32)
  label = example_batches.labels(example_batches.TASKS[kind], B, rng)
  label[6] = label[2]
  if kind == "multilabel":
    label[3] = label[4] = 0
  if kind == "regression":
    label /= 3
  return code, where, ids, label, rng.random(B) < 0.8


def slow(elements, weight, tau):
  """Mean over anchors; elements [(vector, tag)], one pair at a time."""
  unit = [(np.float64(u) / np.linalg.norm(np.float64(u)), tag) for u, tag in elements]
  found = []
  for n, (u, a) in enumerate(unit):
    others = [(u @ v / tau, weight(a, b)) for k, (v, b) in enumerate(unit) if k != n]
    if sum(w for _, w in others) > 0:
      below = math.log(sum(math.exp(s) for s, _ in others))
      total = sum(w * (s - below) for s, w in others)
      found.append(-total / sum(w for _, w in others))
  return np.mean(found) if found else None


def slow_instance(code, where, ids, tau):
  places = [p for p in np.ndindex(code.shape[:3]) if where[p]]
  return slow([(code[p], ids[p[0]]) for p in places], lambda i, j: float(i == j), tau)


def slow_class(code, where, ids, label, labelled, kind, tau, width=0.5):
  def weight(i, j):
    if ids[i] == ids[j]:
      return 1.0
    if kind == "multilabel":
      a, b = set(np.flatnonzero(label[i])), set(np.flatnonzero(label[j]))
      return len(a & b) / len(a | b) if a | b else 0.0
    if kind == "regression":
      near = math.exp(-((float(label[i]) - float(label[j])) ** 2) / (2 * width**2))
      return near if near >= 0.1 else 0.0
    return float(label[i] == label[j])

  means = []
  for m in range(code.shape[1]):
    elements = [
      (code[i, m, v], i)
      for i, v in itertools.product(range(len(code)), range(code.shape[2]))
      if where[i, m, v] and labelled[i]
    ]
    means.append(slow(elements, weight, tau))
  return np.mean([mean for mean in means if mean is not None])


def test_instance_contrast_equals_a_slow_loop(rng):
  code, where, ids, *_ = case(rng)
  expected = slow_instance(code, where, ids, 0.3)
  np.testing.assert_allclose(instance(temperature=0.3)(code, where, ids), expected, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_class_contrast_equals_a_slow_loop(rng, kind):
  args = case(rng, kind)
  expected = slow_class(*args, kind, 0.3)
  np.testing.assert_allclose(by_class(kind, temperature=0.3)(*args), expected, 1e-5)


def in_double_precision(loss, *args):
  with jax.enable_x64(True):
    return float(loss(*args))


def all_present(code):
  return np.ones(code.shape[:3], bool), np.arange(len(code))


def test_equal_codes_give_the_logarithm_of_the_number_of_others():
  code = np.ones((5, 2, 2, 3))
  found = in_double_precision(instance(), code, *all_present(code))
  assert found == pytest.approx(math.log(5 * 2 * 2 - 1), abs=1e-12)
  label, known = np.array([0, 0, 1, 1, 2]), np.ones(5, bool)
  args = (code, *all_present(code), label, known)
  found = in_double_precision(by_class("classes"), *args)
  assert found == pytest.approx(math.log(5 * 2 - 1), abs=1e-12)


def test_orthogonal_instances_reach_the_floor():
  code = np.broadcast_to(np.eye(5)[:, None, None], (5, 2, 2, 5))
  found = in_double_precision(instance(), code, *all_present(code))
  assert found == pytest.approx(1.0986156, abs=5e-8)
  exact = math.log(3 + 16 * math.exp(-1 / 0.07))
  assert found == pytest.approx(exact, abs=1e-12) and found > math.log(3)


def test_orthogonal_classes_reach_the_floor():
  label = np.array([0, 0, 1, 1, 2])
  code = np.broadcast_to(np.eye(3)[label][:, None, None], (5, 2, 2, 3))
  args = (code, *all_present(code), label, np.ones(5, bool))
  found = in_double_precision(by_class("classes"), *args)
  assert found == pytest.approx(0.8788918, abs=5e-8)


def test_the_golden_number_of_twelve_vectors(rng):
  code = rng.standard_normal((12, 6))
  code /= np.linalg.norm(code, axis=1, keepdims=True)
  code = code.reshape(3, 2, 2, 6)
  found = in_double_precision(instance(temperature=0.1), code, *all_present(code))
  assert found == pytest.approx(8.181267978, abs=5e-10)


def assert_same(a, b):
  """Value and gradient, up to float32."""
  np.testing.assert_allclose(a[0], b[0], 1e-5)
  np.testing.assert_allclose(a[1], b[1], 1e-4, 1e-6)
  assert np.abs(a[1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["instance", *KINDS])
def test_blocks_equal_the_dense_loss(rng, kind):
  """48 elements in blocks of 7, 16 a modality: neither divides; and in one block."""
  args = case(rng, "classes" if kind == "instance" else kind)
  args = args[:3] if kind == "instance" else args
  build = instance if kind == "instance" else functools.partial(by_class, kind)
  dense = build(grad=True)(*args)
  for block in (7, 48):
    assert_same(build(grad=True, block=block)(*args), dense)


@pytest.mark.parametrize("block", [8, 1024])
@pytest.mark.parametrize("kind", ["instance", "classes"])
def test_eight_devices_compute_what_one_does(rng, eight_devices, kind, block):
  args = case(rng)
  args = args[:3] if kind == "instance" else args
  build = instance if kind == "instance" else functools.partial(by_class, kind)
  loss = build(grad=True, block=block)
  spread = placement.place(args, NamedSharding(eight_devices, P("data")))
  assert len(spread[0].sharding.device_set) == 8
  assert_same(loss(*spread), loss(*args))


@pytest.mark.parametrize("block", [7, 1024])
def test_absent_elements_and_unknown_labels_may_be_nan(rng, block):
  for kind in ("instance", *KINDS):
    code, where, ids, label, labelled = case(rng, kind if kind in KINDS else "classes")
    bad = code.copy()
    bad[~where] = np.nan
    if kind == "instance":
      loss = instance(grad=True, block=block)
      clean, dirty = loss(code, where, ids), loss(bad, where, ids)
      unread = ~where
    else:
      loss = by_class(kind, grad=True, block=block)
      clean = loss(code, where, ids, label, labelled)
      bad[~labelled], unread = np.nan, ~(where & labelled[:, None, None])
      garbage = label.copy()
      garbage[~labelled] = 10**6 if kind == "classes" else np.nan
      dirty = loss(bad, where, ids, garbage, labelled)
    for a, b in zip(clean, dirty, strict=True):
      np.testing.assert_array_equal(a, b)
    assert (np.asarray(dirty[1])[unread] == 0).all() and unread.any()


def test_the_order_of_rows_views_and_modalities_does_not_matter(rng):
  code, where, ids, label, labelled = case(rng)
  rows = rng.permutation(B)
  before = instance(grad=True)(code, where, ids)
  after = instance(grad=True)(code[rows], where[rows], ids[rows])
  assert_same((before[0], before[1][rows]), after)
  turned = instance(grad=True)(code[:, :, ::-1], where[:, :, ::-1], ids)
  assert_same((before[0], before[1][:, :, ::-1]), turned)
  before = by_class("classes", grad=True)(code, where, ids, label, labelled)
  args = (code[:, ::-1], where[:, ::-1], ids, label, labelled)
  args = [x[rows] for x in args]
  after = by_class("classes", grad=True)(*args)
  assert_same((before[0], before[1][rows][:, ::-1]), after)


def test_gradients_equal_finite_differences(rng):
  with jax.enable_x64(True):
    code, where, ids, label, labelled = case(rng)
    code, step = np.float64(code), np.float64(rng.normal(size=code.shape)) * 1e-5
    for loss, more in (
      (instance(grad=True, temperature=0.2), ()),
      (by_class("classes", grad=True, temperature=0.2), (label, labelled)),
    ):
      up, down = (loss(code + s, where, ids, *more)[0] for s in (step, -step))
      slope = np.sum(loss(code, where, ids, *more)[1] * step)
      np.testing.assert_allclose((up - down) / 2, slope, 1e-6)


def assert_nothing(found):
  assert found[0] == 0 and (np.asarray(found[1]) == 0).all()


@pytest.mark.parametrize("block", [7, 1024])
def test_without_a_positive_pair_loss_and_gradient_are_zero(rng, block):
  code, where, ids, label, labelled = case(rng)
  each = instance(grad=True, block=block)
  nobody, one = np.zeros_like(where), np.zeros_like(where)
  one[4, 1, 0] = True
  assert_nothing(each(code, nobody, ids))
  assert_nothing(each(code, one, ids))
  single = np.zeros_like(where)
  single[:, 0, 0] = True  # one element a row: only the row with an id twice has a pair
  assert_nothing(each(code, single, np.arange(B, dtype=np.int32)))
  for kind in KINDS:
    _, _, _, label, labelled = case(rng, kind)
    loss = by_class(kind, grad=True, block=block)
    assert_nothing(loss(code, where, ids, label, np.zeros(B, bool)))
    assert_nothing(loss(code, one, ids, label, np.ones(B, bool)))
  # One view and no two rows of a class.
  loss, other = (
    by_class("classes", grad=True, block=block),
    np.arange(B, dtype=np.int32),
  )
  assert_nothing(loss(code, single, other, other, np.ones(B, bool)))


def test_equal_and_zero_vectors_have_finite_gradients():
  code = np.ones((4, 2, 2, 3), np.float32)
  code[0] = 0
  ids = np.arange(4, dtype=np.int32)
  where = np.ones((4, 2, 2), bool)
  for found in (
    instance(grad=True)(code, where, ids),
    by_class("classes", grad=True)(code, where, ids, ids // 2, np.ones(4, bool)),
  ):
    assert all(np.isfinite(x).all() for x in found)


def test_a_modality_without_an_anchor_does_not_count(rng):
  code, _, ids, label, labelled = case(rng)
  where = np.ones((B, M, V), bool)
  where[:, 1] = False
  loss = by_class("classes")
  kept = loss(code, where, ids, label, labelled)
  two = loss(code[:, ::2], where[:, ::2], ids, label, labelled)
  np.testing.assert_allclose(kept, two, 1e-6)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"temperature": 0.0}, "temperature is 0.0, it must be above 0"),
    ({"block": 0}, "block is 0, it must be at least 1"),
  ],
)
def test_an_impossible_option_is_an_error(rng, options, message):
  code, where, ids, *_ = case(rng)
  with pytest.raises(ValueError, match=message):
    hierarchical_contrast.instance_contrast(code, where, ids, **options)


def test_an_unknown_kind_of_task_is_an_error(rng):
  with pytest.raises(ValueError, match="kind is 'rank', known are classes"):
    hierarchical_contrast.class_contrast(*case(rng), "rank")


@pytest.fixture
def full_effort():
  """Programs are compiled as those of a user are, whatever the tests do else."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("kind", ["instance", "classes", "multilabel"])
def test_32768_elements_fit_in_two_gigabytes(kind, full_effort):
  """Loss and gradient are compiled, not run. A dense array of all pairs has 4.3 GB."""
  rows, width = 8192, 128
  shape = jax.ShapeDtypeStruct
  args = [
    shape((rows, 2, 2, width), jnp.float32),
    shape((rows, 2, 2), bool),
    shape((rows,), jnp.int32),
  ]
  if kind != "instance":
    label = {"classes": ((rows,), jnp.int32), "multilabel": ((rows, 23), jnp.float32)}
    args += [shape(*label[kind]), shape((rows,), bool)]
  build = instance if kind == "instance" else functools.partial(by_class, kind)
  program = build(grad=True).lower(*args).compile()
  memory = program.memory_analysis()
  total = memory.temp_size_in_bytes + memory.argument_size_in_bytes
  assert total + memory.output_size_in_bytes < 2e9
  elements = rows * 4 if kind == "instance" else rows * 2
  assert f"{elements},{elements}" not in program.as_text()
