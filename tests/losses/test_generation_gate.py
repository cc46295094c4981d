"""Labels of generation gates, against slow loops and cases worked by hand."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from promise_jax.losses import generation_gate, supervised

KINDS = tuple(example_batches.TASKS)
PRESENT = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], bool)


def close(found, expected, rtol=1e-5, atol=1e-6):
  np.testing.assert_allclose(found, expected, rtol, atol)


def test_gate_settings_are_all_combinations():
  assert generation_gate.gate_settings(1).shape == (1, 0)
  assert generation_gate.gate_settings(3).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
  with pytest.raises(ValueError, match="num_modalities is 0"):
    generation_gate.gate_settings(0)


def test_the_kth_absent_modality_gets_the_kth_gate():
  values = jax.jit(generation_gate.gate_values)
  found = values(np.array([True, False]), PRESENT)
  assert found.dtype == np.float32
  close(found, [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
  found = values(np.array([False, True]), PRESENT)
  close(found, [[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 0]])
  close(generation_gate.gate_values(np.zeros(0, bool), np.array([[True], [False]])), [[1], [0]])


def test_benefit_by_hand():
  # Settings 00, 01, 10, 11; the columns are the rows of PRESENT. The second row has one
  # absent modality, its first gate: .5 -> .2 when ON. The third has two: the first gate
  # gains .8 - .6 and .7 - .1, the second .8 - .7 and .6 - .1.
  errors = np.array(
    [[0.3, 0.5, 0.8, 9], [0.3, 0.5, 0.7, 1], [0.3, 0.2, 0.6, 2], [0.3, 0.2, 0.1, 3]],
    np.float32,
  )
  expected = [[0, 0, 0], [0, 0.3, 0], [0.4, 0, 0.3], [0, 0, 0]]
  close(generation_gate.generation_benefit(errors, PRESENT), expected)
  assert not np.any(generation_gate.generation_benefit(errors[:1, :2], np.array([[True], [False]])))


def test_benefit_of_four_modalities_equals_a_slow_loop(rng):
  present = np.array(list(itertools.product((False, True), repeat=4)))
  settings = generation_gate.gate_settings(4)
  # An error that a row's own gates decide, as a model's would.
  own = rng.random((len(present), 2, 2, 2, 2))
  errors = np.zeros((len(settings), len(present)))
  expected = np.zeros(present.shape)
  for b, row in enumerate(present):
    absent = np.flatnonzero(~row)
    error = lambda on, b=b: own[b][tuple(int(m in on) for m in range(4))]
    for g, setting in enumerate(settings):
      errors[g, b] = error({m for m, on in zip(absent, setting, strict=False) if on})
    for m in absent if row.any() else ():
      others = [n for n in absent if n != m]
      gains = [
        error(set(itertools.compress(others, on))) - error({m, *itertools.compress(others, on)})
        for on in itertools.product((False, True), repeat=len(others))
      ]
      expected[b, m] = np.mean(gains)
  close(generation_gate.generation_benefit(errors.astype(np.float32), present), expected)


def slow_probabilities(logits, kind):
  if kind == "classes":
    e = np.exp(logits)
    return e / e.sum(-1, keepdims=True)
  return 1 / (1 + np.exp(-logits)) if kind == "multilabel" else logits


@pytest.mark.parametrize("kind", KINDS)
def test_target_and_error_equal_numpy(rng, kind):
  task, rows = example_batches.TASKS[kind], 5
  logits = rng.normal(size=(rows, task.outputs)).astype(np.float32)
  label = example_batches.random_labels(task, rows, rng)
  expected = {
    "classes": lambda: np.eye(task.outputs)[label],
    "multilabel": lambda: label,
    "regression": lambda: label[:, None] / 3,
  }[kind]()
  target = supervised.label_probability(label, task)
  close(target, expected)
  found = generation_gate.prediction_error(logits, target, task)
  close(found, np.abs(slow_probabilities(logits, kind) - expected).mean(1))


def test_the_label_is_in_units_of_the_targets():
  benefit, label = np.array([[0.2, 0.0, -0.2]], np.float32), generation_gate.gate_label
  e2 = math.exp(2)
  close(label(benefit, np.float32(1)), [[e2 / (1 + e2), 0.5, 1 / (1 + e2)]])
  close(label(benefit * 3, np.array([1.0, 5.0])), label(benefit, np.float32(1)))
  close(label(benefit, np.float32(0)), [[1, 0.5, 0]])
  # A margin of two moves all by the benefit whose label is sigmoid(2).
  close(label(benefit, np.float32(1), 2.0), label(benefit - 0.2, np.float32(1)))


def test_the_deviation_is_that_of_all_targets_so_far(rng):
  targets, where = rng.normal(size=(3, 5, 2)).astype(np.float32), rng.random((3, 5)) < 0.7
  moments = generation_gate.init_moments(2)
  for target, kept in zip(targets, where, strict=True):
    poisoned = np.where(kept[:, None], target, np.nan)
    moments = generation_gate.update_moments(moments, poisoned, kept)
  close(generation_gate.target_deviation(moments), targets[where].std(0), atol=1e-5)


def test_cross_entropy_pulls_the_gate_to_the_label_and_not_back():
  q = np.array([[0.3, 1.0, 0.5]], np.float32)
  x = np.array([[0.7, 2.0, 900.0]], np.float32)

  def loss(q, x):
    each = generation_gate.gate_cross_entropy(q, x)
    return jnp.sum(each), each

  (of_q, of_x), each = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(q, x)
  s = 1 / (1 + np.exp(-np.float64(x)))
  expected = q * np.log1p(np.exp(-np.float64(x))) + (1 - q) * (
    np.float64(x) + np.log1p(np.exp(-np.float64(x)))
  )
  close(each, expected)
  close(of_x, s - q)
  assert not np.any(of_q)
