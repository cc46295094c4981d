"""The paired bootstrap: coverage, agreement of its two paths, and cases by hand."""

import functools

import numpy as np
import pytest

from promise_jax import types
from promise_jax.evaluation import bootstrap, metrics

few = functools.partial(bootstrap.paired_difference, resamples=300)


def plain_accuracy(logits, label, weight):
  """Not known to be a mean over rows: takes the generic path."""
  return metrics.accuracy(logits, label, weight)


def choose(hits, classes: int = 2):
  """Logits whose argmax is class 0, the label of every row, where `hits` is true."""
  return np.eye(classes, dtype=np.float32)[np.where(hits, 0, 1)]


def arms(shape, gain: float = 0.3, seed: int = 0):
  rng = np.random.default_rng(seed)
  label = rng.integers(0, shape[-1], shape[-2])
  logits = rng.normal(size=(2, *shape)).astype(np.float32)
  logits[..., np.arange(shape[-2]), label] += 1
  logits[0, ..., np.arange(shape[-2]), label] += gain
  return logits, label, rng.integers(0, 3, shape[-2]).astype(np.float32)


def test_identical_arms_differ_by_nothing():
  logits, label, weight = arms((2, 30, 3))
  got = few(metrics.accuracy, 1, logits[0], logits[0], label, weight)
  assert got == bootstrap.Difference(0, 0, 0, "undecided")


def test_rows_all_won_by_ours_leave_nothing_to_chance():
  right, wrong = choose(np.ones((4, 6))), choose(np.zeros((4, 6)))
  label, ones = np.zeros(6, int), np.ones(6)
  got = bootstrap.paired_difference(metrics.accuracy, 1, right, wrong, label, ones)
  assert got == bootstrap.Difference(1, 1, 1, "better")
  got = bootstrap.paired_difference(metrics.accuracy, 1, wrong, right, label, ones)
  assert got == bootstrap.Difference(-1, -1, -1, "worse")


def test_one_seed_and_one_differing_row_have_the_binomial_interval():
  # Ours gains row 0 of 4 alone, drawn Binomial(4, 1/4) times: P(0) = .316, P(4) = .004,
  # P(3) = .047, so the 97.5 % point is 3 of 4.
  ours, control = choose(np.array([[1, 1, 0, 0]])), choose(np.array([[0, 1, 0, 0]]))
  got = bootstrap.paired_difference(
    metrics.accuracy, 1, ours, control, np.zeros(4, int), np.ones(4)
  )
  assert got == bootstrap.Difference(0.25, 0, 0.75, "undecided")


def test_seeds_are_drawn_too_and_the_same_for_both_arms():
  # All rows agree, so that the seeds alone decide: +1 in one of 4, 0 in the others.
  ours = choose(np.ones((4, 6)) * np.array([[1], [1], [0], [0]]))
  control = choose(np.ones((4, 6)) * np.array([[0], [1], [0], [0]]))
  got = bootstrap.paired_difference(
    metrics.accuracy, 1, ours, control, np.zeros(6, int), np.ones(6)
  )
  assert got == bootstrap.Difference(0.25, 0, 0.75, "undecided")


def test_less_error_is_better_and_the_difference_keeps_its_unit():
  rng = np.random.default_rng(0)
  label = rng.normal(size=50).astype(np.float32)
  near = (label + 0.1 * rng.normal(size=(2, 50)))[..., None].astype(np.float32)
  far = (label + 0.9 * rng.normal(size=(2, 50)))[..., None].astype(np.float32)
  metric = metrics.metrics_for(types.Task("regression", 1))["mae"]
  got = few(metric, -1, near, far, label, np.ones(50))
  error = [np.abs(x[..., 0] - label).mean() for x in (near, far)]
  np.testing.assert_allclose(got.mean, error[0] - error[1], atol=1e-6)
  assert got.low < got.mean < got.high < 0 and got.verdict == "better"
  assert few(metric, -1, far, near, label, np.ones(50)).verdict == "worse"


def test_the_matrix_product_and_the_generic_path_agree():
  logits, label, weight = arms((2, 3, 40, 4))
  weight = np.stack([weight, weight[::-1]])
  results = [
    bootstrap.paired_difference_over_patterns(
      metric, 1, *logits, label, weight, resamples=300, seed=5
    )
    for metric in (metrics.accuracy, plain_accuracy)
  ]
  np.testing.assert_allclose(results[0][:3], results[1][:3], atol=1e-6)
  assert results[0].low < results[0].mean < results[0].high


def test_the_mean_difference_is_that_of_the_metric_over_seeds_and_patterns():
  logits, label, weight = arms((2, 3, 40, 4), gain=1.0)
  weight = np.stack([weight, weight[::-1]])
  want = [
    np.mean([metrics.macro_f1(arm[p, s], label, weight[p]) for p in (0, 1) for s in range(3)])
    for arm in logits
  ]
  got = bootstrap.paired_difference_over_patterns(
    metrics.macro_f1, 1, *logits, label, weight, resamples=200
  )
  np.testing.assert_allclose(got.mean, want[0] - want[1], atol=1e-6)
  assert got.verdict == "better"


def test_same_seed_same_interval_whatever_the_padding():
  logits, label, weight = arms((2, 30, 3))
  first = few(metrics.accuracy, 1, *logits, label, weight, seed=1)
  assert few(metrics.accuracy, 1, *logits, label, weight, seed=1) == first
  assert few(metrics.accuracy, 1, *logits, label, weight, seed=2) != first
  padded = np.concatenate([logits, np.full((2, 2, 9, 3), np.nan)], 2)
  label, weight = np.pad(label, (0, 9)), np.pad(weight, (0, 9))
  assert few(metrics.accuracy, 1, *padded, label, weight, seed=1) == first


def test_a_resample_does_not_depend_on_the_chunk_it_is_in(monkeypatch):
  logits, label, weight = arms((2, 30, 3))
  whole = few(metrics.accuracy, 1, *logits, label, weight)
  monkeypatch.setattr(bootstrap, "CHUNK", 7 * logits.size)
  chunked = few(metrics.accuracy, 1, *logits, label, weight)
  np.testing.assert_allclose(whole[:3], chunked[:3], atol=1e-6)


def by_hand(hits, group, resamples, rng):
  """The interval from a loop over resamples, seeds and drawn groups; hits bool[2, S,
  N]."""
  rows_of, seeds = [np.flatnonzero(group == g) for g in set(group)], hits.shape[1]
  drawn = []
  for _ in range(resamples):
    rows = []
    for g in rng.choice(len(rows_of), len(rows_of)):
      rows += rows_of[g].tolist()
    chosen = rng.choice(seeds, seeds)
    ours, control = (np.mean([arm[s][rows].mean() for s in chosen]) for arm in hits)
    drawn.append(ours - control)
  return np.percentile(drawn, [2.5, 97.5])


def grouped(sizes, seed: int = 3):
  """hits bool[2, 3, N] and group [N]: most of a group's rows share their luck."""
  rng = np.random.default_rng(seed)
  group = np.repeat(np.arange(len(sizes)), sizes)
  luck = rng.random((2, 3, len(sizes)))[..., group]
  chance = np.array([0.7, 0.55])[:, None, None]
  return (0.8 * luck + 0.2 * rng.random((2, 3, len(group)))) < chance, group


def test_groups_are_drawn_whole():
  hits, group = grouped(np.random.default_rng(1).integers(1, 9, 24))
  label, weight = np.zeros(len(group), int), np.ones(len(group))
  low, high = by_hand(hits, group, 5000, np.random.default_rng(0))
  arguments = metrics.accuracy, 1, *map(choose, hits), label, weight
  got = bootstrap.paired_difference(*arguments, group=group, resamples=10_000)
  np.testing.assert_allclose(got.mean, hits[0].mean() - hits[1].mean(), atol=1e-6)
  np.testing.assert_allclose([got.low, got.high], [low, high], atol=0.02)


def test_copies_of_a_row_are_one_row():
  logits, label, weight = arms((2, 40, 3))
  weight = weight + 1
  once = few(metrics.accuracy, 1, *logits, label, weight)
  fivefold = (np.repeat(logits, 5, axis=2), np.repeat(label, 5), np.repeat(weight, 5))
  group = np.repeat(np.array([f"row {i:02}" for i in range(40)]), 5)
  together = few(metrics.accuracy, 1, *fivefold[0], *fivefold[1:], group=group)
  np.testing.assert_allclose(together[:3], once[:3], atol=1e-6)
  apart = few(metrics.accuracy, 1, *fivefold[0], *fivefold[1:])
  assert (apart.high - apart.low) < 0.8 * (once.high - once.low)
  own = few(metrics.accuracy, 1, *logits, label, weight, group=np.arange(40) * 3)
  assert own == once


def test_undefined_draws_are_left_out_and_an_undefined_metric_decides_nothing():
  rng = np.random.default_rng(0)
  logits, label = rng.normal(size=(2, 1, 12, 2)).astype("f"), np.arange(12) == 0
  # The only positive row is in 65 % of the draws.
  got = few(metrics.auroc, 1, *logits, label.astype(int), np.ones(12))
  assert np.isfinite(got[:3]).all()
  got = few(metrics.auroc, 1, *logits, np.zeros(12, int), np.ones(12))
  assert np.isnan(got[:3]).all() and got.verdict == "undecided"


def test_the_interval_covers_the_truth_as_often_as_it_says():
  """200 made-up experiments of 8 seeds and 60 rows with a true difference of .08.

  Rows differ in how easy they are, for all seeds of an arm alike (means .7 and .6), and
  every seed of an arm loses a part of them, from nothing to .4, for its own bad luck.
  """
  mean = np.array([0.7, 0.6])[:, None]
  label, ones = np.zeros(60, int), np.ones(60)
  above = below = 0
  for trial in range(200):
    rng = np.random.default_rng(trial)
    easy = rng.beta(0.5 * mean, 0.5 * (1 - mean), (2, 60))[:, None]
    lost = rng.uniform(0, 0.4, (2, 8, 1))
    ours, control = choose(rng.random((2, 8, 60)) < easy * (1 - lost))
    got = few(metrics.accuracy, 1, ours, control, label, ones, seed=trial)
    above += got.low > 0.08
    below += got.high < 0.08
  # A share of 200 at .05 has a standard error of .015.
  assert 0.015 <= (above + below) / 200 <= 0.095, (above, below)
  assert max(above, below) / 200 <= 0.07, (above, below)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"control": np.zeros((2, 5, 4))}, "logits of one shape"),
    ({"weight": np.ones(4)}, r"want weights \(1, 5\)"),
    ({"weight": np.zeros(5)}, "Pattern 0 has no row"),
    ({"sign": 0}, "A sign is 1"),
    ({"group": np.zeros(4)}, "5 rows want a group each"),
  ],
)
def test_what_does_not_fit_is_said(change, message):
  fits = {
    "metric": metrics.accuracy,
    "sign": 1,
    "ours": np.zeros((2, 5, 3)),
    "control": np.zeros((2, 5, 3)),
    "label": np.zeros(5, int),
    "weight": np.ones(5),
  }
  with pytest.raises(ValueError, match=message):
    bootstrap.paired_difference(**(fits | change))
