"""Losses of rows, probabilities and distillation, by hand and by loop."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from example_batches import TASKS
from promise_jax import missing
from promise_jax.losses import supervised
from promise_jax.types import Average

LOGITS = np.float32([[0, 0, math.log(2)], [5, -5, 0]])


def call(function, *args, **options):
  """Jitted, as in training."""
  return jax.jit(functools.partial(function, **options))(*args)


def test_cross_entropy_by_hand():
  found = call(
    supervised.task_loss,
    LOGITS,
    np.array([2, 0], np.int32),
    task=TASKS["classes"],
  )
  # Probabilities (1/4, 1/4, 1/2); then 1 / (1 + e^-10 + e^-5).
  expected = [math.log(2), math.log(1 + math.exp(-10) + math.exp(-5))]
  np.testing.assert_allclose(found, expected, 1e-5, 1e-6)


@pytest.mark.parametrize("kind", TASKS)
def test_labels_of_another_shape_are_refused(kind):
  """[B, 1] less [B] would be B x B errors."""
  shape = (2,) if kind == "multilabel" else (2, 1)
  dtype = np.int32 if kind == "classes" else np.float32
  with pytest.raises(AssertionError, match="shape"):
    call(
      supervised.task_loss,
      LOGITS,
      np.zeros(shape, dtype),
      task=TASKS[kind],
    )
  with pytest.raises(ValueError, match="shape"):
    Average.of(jnp.ones((2, 2)), jnp.ones(2, bool))


def test_binary_cross_entropy_by_loop(rng):
  logits = rng.normal(size=(5, 4)).astype(np.float32)
  label = np.float32(rng.random((5, 4)) < 0.5)
  found = call(supervised.task_loss, logits, label, task=TASKS["multilabel"])
  for n in range(5):
    total = 0.0
    for c in range(4):
      p = 1 / (1 + math.exp(-logits[n, c]))
      total -= math.log(p if label[n, c] else 1 - p)
    np.testing.assert_allclose(found[n], total / 4, 1e-5)


def test_absolute_error_is_in_units_of_the_scale():
  logits, label = np.float32([[0.5], [-1]]), np.float32([3, -1.5])
  task = TASKS["regression"]
  np.testing.assert_allclose(call(supervised.task_loss, logits, label, task=task), 0.5)
  np.testing.assert_allclose(call(supervised.predict_value, logits, task=task), [1.5, -3])
  np.testing.assert_array_equal(call(supervised.predict_probability, logits, task=task), logits)


def test_probabilities_by_hand():
  classes = call(supervised.predict_probability, LOGITS, task=TASKS["classes"])
  np.testing.assert_allclose(classes[0], [0.25, 0.25, 0.5], 1e-6)
  labels = call(supervised.predict_probability, LOGITS, task=TASKS["multilabel"])
  np.testing.assert_allclose(labels[0], [0.5, 0.5, 2 / 3], 1e-6)


def test_distillation_of_classes_is_the_divergence():
  student, teacher = LOGITS[:1], np.float32([[0, 0, 0]])
  found = call(supervised.distillation_loss, student, teacher, task=TASKS["classes"])
  p, q = [1 / 3] * 3, [1 / 4, 1 / 4, 1 / 2]
  expected = sum(x * math.log(x / y) for x, y in zip(p, q, strict=True))
  np.testing.assert_allclose(found, [expected], 1e-5)


def test_distillation_of_labels_is_the_mean_divergence(rng):
  student, teacher = rng.normal(size=(2, 3, 4)).astype(np.float32)
  found = call(supervised.distillation_loss, student, teacher, task=TASKS["multilabel"])
  for n in range(3):
    total = 0.0
    for c in range(4):
      p, q = (1 / (1 + math.exp(-x[n, c])) for x in (teacher, student))
      total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    np.testing.assert_allclose(found[n], total / 4, 1e-5, 1e-6)


@pytest.mark.parametrize("kind", TASKS)
def test_distillation_is_zero_where_both_agree_and_never_moves_the_teacher(kind, rng):
  task = TASKS[kind]
  student, teacher = rng.normal(size=(2, 3, task.outputs)).astype(np.float32)
  agree = call(supervised.distillation_loss, student, student, task=task)
  np.testing.assert_allclose(agree, 0, atol=1e-6)
  total = lambda *x: supervised.distillation_loss(*x, task).sum()
  to_student, to_teacher = call(jax.grad(total, (0, 1)), student, teacher)
  assert (to_teacher == 0).all() and (to_student != 0).any()


def test_means_skip_rows_and_survive_none():
  values, where = np.float32([1, np.nan, 4]), np.array([True, False, True])
  mean = Average.of(values, where)
  assert (mean.total, mean.count, mean.value) == (5, 2, 2.5)
  empty = Average.of(values, np.zeros(3, bool))
  assert (empty.total, empty.count, empty.value) == (0, 0, 0)
  grad = jax.grad(lambda x: Average.of(x, where).value)(values)
  np.testing.assert_array_equal(grad, [0.5, 0, 0.5])


def test_unknown_labels_become_zero():
  labelled = np.array([True, False])
  ids = missing.zero_absent(np.array([3, 10**6], np.int32), labelled)
  assert ids.tolist() == [3, 0] and ids.dtype == jnp.int32
  many = missing.zero_absent(np.float32([[1, 0], [np.nan, np.inf]]), labelled)
  assert many.tolist() == [[1, 0], [0, 0]]
