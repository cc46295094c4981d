"""Which baseline is the one to beat, and the verdict over patterns."""

import numpy as np
import pytest

from promise_jax import missing
from promise_jax.evaluation import bootstrap, verdicts
from promise_jax.types import Split, Task

PATTERNS, NAMES = missing.all_patterns(2), ("m0", "m1")


@pytest.mark.parametrize(
  ("scores", "chosen"),
  [
    ({"a": 1, "a(x=1)": 0.9, "b": 0.5, "c": 0.6, "majority": 0.8}, "c"),
    ({"a": 1, "a(x=1)": 0.2, "a(x=2)": 0.3, "majority": 0.8}, "a(x=2)"),
    ({"a": 1, "majority": 0.8}, "majority"),
  ],
)
def test_the_best_baseline_is_another_method_if_there_is_one(scores, chosen):
  assert verdicts.best_baseline("a", scores, "majority") == chosen


def test_a_verdict_needs_an_interval_without_zero_and_knows_the_sign():
  gain, none = bootstrap.Interval(2, 1, 3), bootstrap.Interval(2, -1, 3)
  assert [verdicts.verdict(sign, gain) for sign in (1, -1)] == ["better", "worse"]
  assert [verdicts.verdict(sign, none) for sign in (1, -1)] == ["undecided"] * 2
  assert verdicts.verdict(1, bootstrap.Interval(np.nan, np.nan, np.nan)) == "undecided"


def test_differences_are_those_of_plain_errors_and_less_error_is_better():
  rng = np.random.default_rng(0)
  label = rng.normal(size=50).astype(np.float32)
  noise = rng.normal(size=(2, 3, 50)).astype(np.float32)
  near, far = ((label + size * noise)[..., None] for size in (0.1, 0.9))
  split = Split({}, {}, np.ones((50, 2), bool), label, np.arange(50))
  arguments = split, PATTERNS, NAMES
  lines = verdicts.compare_variants(Task("regression", 1), near, far, *arguments)
  assert lines["rows"].tolist() == ["incomplete", "all", "m0", "m1", "m0+m1"]
  assert set(lines["metric"]) == {"mae"} and set(lines["verdict"]) == {"better"}
  error = [abs(x[..., 0] - label).mean(axis=(0, 2)) for x in (near, far)]
  gap = error[0] - error[1]
  want = [gap[:2].mean(), gap.mean(), *gap]
  np.testing.assert_allclose(lines["difference"], want, atol=1e-6)
  assert (lines["low"] < lines["difference"]).all() and (lines["high"] < 0).all()


def test_patterns_without_a_row_are_left_out():
  rng = np.random.default_rng(0)
  pair = rng.normal(size=(2, 2, 3, 20, 2)).astype(np.float32)
  recorded = np.array([[True, False]] * 20)
  split = Split({}, {}, recorded, rng.integers(0, 2, 20), np.arange(20))
  lines = verdicts.compare_variants(Task("classes", 2), *pair, split, PATTERNS, NAMES)
  assert lines["rows"].tolist() == ["incomplete", "all", "m0", "m0+m1"]


def test_a_difference_is_on_the_rows_that_have_everything():
  """What is predicted of the other rows, half of them, changes nothing."""
  rng = np.random.default_rng(0)
  pair, label = rng.normal(size=(2, 2, 3, 40, 2)).astype(np.float32), rng.integers(0, 2, 40)
  recorded = np.ones((40, 2), bool)
  recorded[::2, 0] = False
  split = Split({}, {}, recorded, label, np.arange(40))
  lines = verdicts.compare_variants(Task("classes", 2), *pair, split, PATTERNS, NAMES)
  hits = (pair[..., 1::2, :].argmax(-1) == label[1::2]).mean(axis=(1, 3))  # by variant, pattern
  want = [hits[0, :2].mean() - hits[1, :2].mean(), hits[0].mean() - hits[1].mean()]
  np.testing.assert_allclose(lines["difference"], [*want, *(hits[0] - hits[1])], atol=1e-6)
  pair[..., ::2, :] *= -1
  again = verdicts.compare_variants(Task("classes", 2), *pair, split, PATTERNS, NAMES)
  assert again.equals(lines)
