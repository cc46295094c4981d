"""The gain of asking for a modality: a slow loop, cases by hand, there and back as JSON."""

import json

import numpy as np
import pytest

from promise_jax import missing
from promise_jax.evaluation import gain
from promise_jax.types import Task

CLASSES = Task("classes", 3)
PATTERNS = missing.all_patterns(2)  # first, second, both


def softmax(logits):
  power = np.exp(logits)
  return power / power.sum(axis=-1, keepdims=True)


def case(num_rows: int = 200):
  """(probabilities, recorded) on validation: the second modality is absent in every fourth row."""
  rng = np.random.default_rng(0)
  probabilities = softmax(rng.normal(size=(3, num_rows, 3)) * rng.uniform(0, 4, (3, num_rows, 1)))
  recorded = np.ones((num_rows, 2), bool)
  recorded[::4, 1] = False
  probabilities[1:, ::4] = np.nan  # what is not recorded must not be read
  return probabilities, recorded


def entropy(p) -> float:
  return -sum(x * np.log(x) for x in p if x > 0)


def test_gain_is_the_mean_fall_of_the_entropy_in_a_third():
  probabilities, recorded = case()
  fitted = gain.fit_expected_gain(CLASSES, probabilities, recorded, PATTERNS)
  before = np.array([entropy(p) for p in probabilities[0]])
  low, high = np.quantile(before, [1 / 3, 2 / 3])
  both = np.flatnonzero(recorded.all(axis=1))
  for row in range(0, 200, 4):
    third = lambda x: int(x > low) + int(x > high)
    alike = [i for i in both if third(before[i]) == third(before[row])]
    want = np.mean([before[i] - entropy(probabilities[2, i]) for i in alike])
    got = gain.expected_gain(fitted, np.array([0]), probabilities[0, row : row + 1])
    np.testing.assert_allclose(got, [[np.nan, want]], atol=1e-12)


def test_few_rows_of_a_third_take_all_of_the_pattern():
  probabilities, recorded = case(40)
  fitted = gain.fit_expected_gain(CLASSES, probabilities, recorded, PATTERNS)
  both = recorded.all(axis=1)
  fall = [entropy(p) - entropy(q) for p, q in zip(probabilities[0], probabilities[2], strict=True)]
  np.testing.assert_allclose(fitted.mean[0, 1], np.mean(np.array(fall)[both]), atol=1e-12)


def test_unknown_is_what_no_validation_row_tells():
  probabilities, recorded = case()
  recorded[:, 1] = False
  fitted = gain.fit_expected_gain(CLASSES, probabilities, recorded, PATTERNS)
  pattern = np.array([0, 1, 2, -1])
  assert np.isnan(gain.expected_gain(fitted, pattern, np.full((4, 3), 1 / 3))).all()


def test_what_is_present_or_empty_has_no_gain():
  probabilities, recorded = case()
  fitted = gain.fit_expected_gain(CLASSES, probabilities, recorded, PATTERNS)
  got = gain.expected_gain(fitted, np.array([0, 1, 2, -1]), probabilities[0, :4])
  assert (~np.isnan(got)).tolist() == [[False, True], [True, False], [False] * 2, [False] * 2]


def test_a_sure_answer_gains_all_of_the_entropy():
  """Half for half before, sure after; labels of their own count each."""
  half, sure = np.full((6, 2), 0.5), np.tile([1.0, 0.0], (6, 1))
  probabilities = np.stack([half, half, sure])
  for task, want in ((Task("classes", 2), np.log(2)), (Task("multilabel", 2), 2 * np.log(2))):
    fitted = gain.fit_expected_gain(task, probabilities, np.ones((6, 2), bool), PATTERNS)
    got = gain.expected_gain(fitted, np.array([0, 1]), half[:2])
    np.testing.assert_allclose(got, [[np.nan, want], [want, np.nan]])


def test_a_regression_has_no_gain():
  task = Task("regression", 1)
  fitted = gain.fit_expected_gain(task, np.zeros((3, 9, 1)), np.ones((9, 2), bool), PATTERNS)
  assert np.isnan(gain.expected_gain(fitted, np.array([0, 1]), np.zeros((2, 1)))).all()


@pytest.mark.parametrize("kind", ["classes", "regression"])
def test_json_there_and_back(kind):
  probabilities, recorded = case()
  fitted = gain.fit_expected_gain(Task(kind, 3), probabilities, recorded, PATTERNS)
  text = json.dumps(fitted.to_json(), allow_nan=False)
  again = gain.Gain.from_json(json.loads(text))
  assert again.task == kind
  np.testing.assert_array_equal(again.edges, fitted.edges)
  np.testing.assert_array_equal(again.mean, fitted.mean)
