"""Sets and intervals: the coverage that is given, by hand and over many simulated fits."""

import numpy as np
import pytest
from scipy import stats

from promise_jax import missing
from promise_jax.evaluation import calibration
from promise_jax.types import Task

PATTERNS = missing.all_patterns(2)
CLASSES, REGRESSION = Task("classes", 3), Task("regression", 1, scale=2.0)


def draw(rng, task: Task, rows: int):
  """Wrong logits under each pattern, the same rows in all, and labels."""
  true = rng.normal(size=(rows, task.outputs))
  noise = rng.normal(size=(1, 3, rows, task.outputs))
  label = (true + rng.gumbel(size=true.shape)).argmax(1) if task.kind == "classes" else true[:, 0]
  return 3 * true + noise, label, np.ones((rows, 2), bool)


def covers(fitted, logits, label, coverage):
  """bool[P, N] whether the set or the interval has the label."""
  found = []
  for pattern, x in zip(PATTERNS, np.moveaxis(logits, 1, 0), strict=True):
    count = np.full(len(label), sum(pattern))
    output = calibration.calibrate(fitted, x, count)
    if fitted.kind == "classes":
      sets = calibration.prediction_sets(fitted, output, count, coverage)
      found.append(sets[np.arange(len(label)), label])
    else:
      low, high = calibration.prediction_intervals(fitted, output, count, coverage).T
      found.append((low <= label) & (label <= high))
  return np.array(found)


@pytest.mark.parametrize("task", [CLASSES, REGRESSION], ids=lambda t: t.kind)
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_new_rows_are_covered_as_often_as_asked(task, coverage, rng):
  fits, hits = 300, []
  for _ in range(fits):
    logits, label, recorded = draw(rng, task, 21)
    fitted = calibration.fit_calibration(
      task, logits[:, :, :20], label[:20], recorded[:20], PATTERNS
    )
    hits.append(covers(fitted, logits[:, :, 20:], label[20:], coverage)[:, 0])
  single, both = np.mean(hits, axis=0)[:2].mean(), np.mean(hits, axis=0)[2]
  low, high = stats.binom.interval(0.999, fits, coverage)
  # With one set of scores a row, coverage is at most 1 / (n + 1) above what was given. For
  # classes the set also has the most probable class, and temperatures are fitted to the same rows.
  assert low / fits <= both <= high / fits + 1 / 21 + (0.1 if task.kind == "classes" else 0)
  assert single >= low / fits


def test_thresholds_are_the_ranks_of_the_finite_sample_correction():
  residual = np.arange(1.0, 20.0)  # 19 rows: the rank of 0.9 is ceil(0.9 * 20) = 18
  logits = np.zeros((1, 1, 19, 1))
  fitted = calibration.fit_calibration(
    Task("regression", 1), logits, residual, np.ones((19, 1), bool), [(True,)]
  )
  one, zeros = np.array([1]), np.zeros((1, 1))
  for coverage, rank in ((0.9, 18), (0.5, 10), (0.95, 19), (0.05, 1)):
    interval = calibration.prediction_intervals(fitted, zeros, one, coverage)
    np.testing.assert_allclose(interval, [[-rank, rank]], rtol=1e-4)
  assert np.isinf(calibration.prediction_intervals(fitted, zeros, one, 0.96)).all()


def test_rows_count_once_in_the_correction_though_under_several_patterns(rng):
  logits, label, recorded = draw(rng, REGRESSION, 12)
  fitted = calibration.fit_calibration(REGRESSION, logits, label, recorded, PATTERNS)
  assert len(fitted.scores[1]) == 24 and fitted.num_rows[1] == 12
  scores = np.sort(abs(2 * logits[0, :2, :, 0] - label).ravel())
  value = calibration.calibrate(fitted, logits[:, 0], np.full(12, 1))
  got = calibration.prediction_intervals(fitted, value, np.full(12, 1), 0.9)[:, 1] - value[:, 0]
  np.testing.assert_allclose(got, scores[int(np.ceil(0.9 * 13 * 2)) - 1], rtol=1e-4)


def test_quantiles_of_many_rows_are_a_little_larger_than_the_exact_ones(rng):
  label = abs(rng.normal(size=7001))
  fitted = calibration.fit_calibration(
    Task("regression", 1), np.zeros((1, 1, 7001, 1)), label, np.ones((7001, 1), bool), [(True,)]
  )
  assert len(fitted.scores[1]) == calibration.MAX_SCORES
  for coverage in (0.5, 0.9, 0.99):
    interval = calibration.prediction_intervals(fitted, np.zeros((1, 1)), np.array([1]), coverage)
    inside = np.mean(label <= interval[0, 1])
    assert coverage <= inside <= coverage + 1 / calibration.MAX_SCORES + 1e-3


def test_ties_are_covered_and_the_most_probable_class_always():
  # A constant predictor: every row has the same probabilities, the scores are tied.
  logits = np.log(np.broadcast_to([0.7, 0.2, 0.1], (1, 1, 100, 3)))
  label = np.repeat([0, 1, 2], (70, 20, 10))
  fitted = calibration.fit_calibration(CLASSES, logits, label, np.ones((100, 1), bool), [(True,)])
  one = np.array([1])
  probability = calibration.calibrate(fitted, logits[:, 0, :1], one)
  for coverage, want in ((0.1, 1), (0.6, 1), (0.8, 2), (0.95, 3)):
    sets = calibration.prediction_sets(fitted, probability, one, coverage)
    assert sets.tolist() == [[True, want > 1, want > 2]]
  sure = np.array([[0.4, 0.31, 0.29]])
  assert calibration.prediction_sets(fitted, sure, one, 0.6).tolist() == [[True, False, False]]


def test_rows_that_nothing_was_fitted_to_get_everything(rng):
  logits, label, recorded = draw(rng, CLASSES, 30)
  fitted = calibration.fit_calibration(CLASSES, logits, label, recorded, PATTERNS)
  count = np.array([0, 1, 2])
  probability = calibration.calibrate(fitted, logits[:, 0, :3], count)
  assert calibration.prediction_sets(fitted, probability, count, 0.6)[0].all()


@pytest.mark.parametrize("coverage", [0, 1, 1.5, -0.1, float("nan")])
def test_a_coverage_that_is_none_is_refused(coverage):
  fitted = calibration.Calibration("classes", 1.0, (1.0, 1.0), (0, 0), ((), ()))
  with pytest.raises(ValueError, match="number between 0 and 1"):
    calibration.prediction_sets(fitted, np.ones((1, 2)) / 2, np.array([1]), coverage)


def test_tasks_without_sets_or_intervals_say_so():
  fitted = calibration.Calibration("multilabel", 1.0, (1.0, 1.0), (0, 0), ((), ()))
  with pytest.raises(ValueError, match="for classes, the task is multilabel"):
    calibration.prediction_sets(fitted, np.ones((1, 2)), np.array([1]))
  with pytest.raises(ValueError, match="for regression, the task is multilabel"):
    calibration.prediction_intervals(fitted, np.ones((1, 1)), np.array([1]))
