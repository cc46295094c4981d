"""The paired bootstrap: coverage, the same draws by hand, and cases with known answers."""

import jax
import numpy as np
import pytest

from promise_jax.evaluation import bootstrap, measure, metrics
from promise_jax.types import Task

CLASSES = Task("classes", 2)
FEW = 300


def interval(ours, baseline, label, weight, task=CLASSES, **options) -> bootstrap.Interval:
  """Of logits [S, N, C], or [P, S, N, C] with weight [P, N]: the mean over patterns."""
  if np.ndim(weight) == 1:
    ours, baseline, weight = (np.asarray(x)[None] for x in (ours, baseline, weight))
  options = {"resamples": FEW} | options
  every = [np.ones(len(weight), bool)]
  return bootstrap.paired_intervals(task, ours, baseline, label, weight, every, **options)[0]


def logits_of(hits):
  """Logits of two classes whose argmax is class 0, the label of every row, where it hits."""
  return np.eye(2, dtype=np.float32)[np.where(hits, 0, 1)]


def draw(shape, gain: float = 0.3, seed: int = 0):
  """Logits [2, *shape] of two methods, the first the better one; labels; weights [N]."""
  rng = np.random.default_rng(seed)
  label = rng.integers(0, shape[-1], shape[-2])
  logits = rng.normal(size=(2, *shape)).astype(np.float32)
  logits[..., np.arange(shape[-2]), label] += 1
  logits[0, ..., np.arange(shape[-2]), label] += gain
  return logits, label, rng.integers(0, 3, shape[-2]).astype(np.float32)


def test_equal_methods_differ_by_nothing():
  logits, label, weight = draw((2, 30, 2))
  assert interval(logits[0], logits[0], label, weight) == (0, 0, 0)


def test_rows_all_won_leave_nothing_to_chance():
  right, wrong = logits_of(np.ones((4, 6))), logits_of(np.zeros((4, 6)))
  label, ones = np.zeros(6, int), np.ones(6)
  assert interval(right, wrong, label, ones) == (1, 1, 1)
  assert interval(wrong, right, label, ones) == (-1, -1, -1)


def test_one_seed_and_one_differing_row_have_the_binomial_interval():
  # Ours gains row 0 of 4 alone, drawn Binomial(4, 1/4) times: P(0) = .316, P(4) = .004,
  # P(3) = .047, so the 97.5 % point is 3 of 4.
  ours, other = logits_of(np.array([[1, 1, 0, 0]])), logits_of(np.array([[0, 1, 0, 0]]))
  got = interval(ours, other, np.zeros(4, int), np.ones(4), resamples=2000)
  assert got == (0.25, 0, 0.75)


def test_seeds_are_drawn_too_and_the_same_for_both_methods():
  # All rows agree, so that the seeds alone decide: +1 in one of 4, 0 in the others.
  ours = logits_of(np.ones((4, 6)) * np.array([[1], [1], [0], [0]]))
  other = logits_of(np.ones((4, 6)) * np.array([[0], [1], [0], [0]]))
  got = interval(ours, other, np.zeros(6, int), np.ones(6), resamples=2000)
  assert got == (0.25, 0, 0.75)


@pytest.mark.parametrize("kind", ["classes", "multilabel", "regression", "auroc"])
def test_the_interval_is_that_of_a_loop_over_the_same_draws(kind):
  """Two patterns, three seeds, rows of weight 0 to 2; metrics in NumPy on repeated rows."""
  task = {
    "classes": Task("classes", 3),
    "multilabel": Task("multilabel", 3),
    "regression": Task("regression", 1, scale=3.0),
    "auroc": Task("classes", 2, metric="auroc"),
  }[kind]
  logits, label, weight = draw((2, 3, 20, task.outputs), gain=0.5)
  rng = np.random.default_rng(1)
  if kind == "multilabel":
    label = rng.integers(0, 2, (20, 3)).astype(np.float32)
  if kind == "regression":
    label = rng.normal(size=20).astype(np.float32)
  weight = np.stack([weight + 1, weight[::-1]])
  got = interval(*logits, label, weight, task, resamples=30, seed=5)
  name, _ = metrics.primary_metric(task)

  def difference(seeds, counts):
    means = np.zeros((2, 2))
    for method in (0, 1):
      for p in (0, 1):
        rows = np.repeat(np.arange(20), (weight[p] * counts).astype(int))
        values = measure.measure(task, logits[method, p][:, rows], label[rows])[name]
        means[method, p] = values @ seeds / 3
    return (means[0] - means[1]).mean()

  drawn = []
  for r in range(30):
    seed_key, row_key = jax.random.split(jax.random.fold_in(jax.random.key(5), r))
    counts = [
      np.bincount(jax.random.randint(key, (n,), 0, n), minlength=n)
      for key, n in ((seed_key, 3), (row_key, 20))
    ]
    drawn.append(difference(*counts))
  # A draw of one class alone has no AUROC, and is left out.
  want = difference(np.ones(3), np.ones(20)), *np.nanpercentile(drawn, (2.5, 97.5))
  np.testing.assert_allclose(got, want, atol=2e-6)


def test_same_seed_same_interval_whatever_the_padding_and_the_chunk(monkeypatch):
  logits, label, weight = draw((2, 30, 3))
  first = interval(*logits, label, weight, Task("classes", 3), seed=1)
  assert interval(*logits, label, weight, Task("classes", 3), seed=1) == first
  assert interval(*logits, label, weight, Task("classes", 3), seed=2) != first
  padded = np.concatenate([logits, np.full((2, 2, 9, 3), np.nan)], 2)
  more = np.pad(label, (0, 9)), np.pad(weight, (0, 9))
  assert interval(*padded, *more, Task("classes", 3), seed=1) == first
  monkeypatch.setattr(bootstrap, "CHUNK", 7 * logits.size)
  chunked = interval(*logits, label, weight, Task("classes", 3), seed=1)
  np.testing.assert_allclose(chunked, first, atol=1e-6)


def by_hand(hits, group, resamples, rng):
  """The interval from a loop over resamples, seeds and drawn groups; hits bool[2, S, N]."""
  rows_of, seeds = [np.flatnonzero(group == g) for g in set(group)], hits.shape[1]
  drawn = []
  for _ in range(resamples):
    rows = np.concatenate([rows_of[g] for g in rng.choice(len(rows_of), len(rows_of))])
    chosen = rng.choice(seeds, seeds)
    ours, other = (np.mean([method[s][rows].mean() for s in chosen]) for method in hits)
    drawn.append(ours - other)
  return np.percentile(drawn, [2.5, 97.5])


def test_groups_are_drawn_whole():
  rng = np.random.default_rng(3)
  sizes = np.random.default_rng(1).integers(1, 9, 24)
  group = np.repeat(np.arange(24), sizes)
  # Most of a group's rows share their luck.
  luck = rng.random((2, 3, 24))[..., group]
  chance = np.array([0.7, 0.55])[:, None, None]
  hits = (0.8 * luck + 0.2 * rng.random((2, 3, len(group)))) < chance
  low, high = by_hand(hits, group, 3000, np.random.default_rng(0))
  label, ones = np.zeros(len(group), int), np.ones(len(group))
  got = interval(*map(logits_of, hits), label, ones, group=group, resamples=10_000)
  np.testing.assert_allclose(got.mean, hits[0].mean() - hits[1].mean(), atol=1e-6)
  np.testing.assert_allclose([got.low, got.high], [low, high], atol=0.02)


def test_copies_of_a_row_are_one_row():
  logits, label, weight = draw((2, 40, 2))
  weight = weight + 1
  once = interval(*logits, label, weight)
  copies = *np.repeat(logits, 5, axis=2), np.repeat(label, 5), np.repeat(weight, 5)
  group = np.repeat(np.array([f"row {i:02}" for i in range(40)]), 5)
  np.testing.assert_allclose(interval(*copies, group=group), once, atol=1e-6)
  apart = interval(*copies)
  assert (apart.high - apart.low) < 0.8 * (once.high - once.low)
  assert interval(*logits, label, weight, group=np.arange(40) * 3) == once


def test_draws_without_a_row_of_a_pattern_are_left_out():
  logits, label, _ = draw((1, 12, 2))
  pair = np.stack([logits, logits[:, :, ::-1]], axis=1)
  # The second pattern has one row, which is in 65 % of the draws.
  weight = np.stack([np.ones(12), np.arange(12) == 0])
  assert np.isfinite(interval(*pair, label, weight)).all()


def test_the_interval_covers_the_truth_as_often_as_it_says():
  """200 made-up experiments of 8 seeds and 60 rows with a true difference of .08.

  Rows differ in how easy they are, for all seeds of a method alike (means .7 and .6), and
  every seed loses a part of them, from nothing to .4, for its own bad luck.
  """
  mean = np.array([0.7, 0.6])[:, None]
  label, ones = np.zeros(60, int), np.ones(60)
  above = below = 0
  for trial in range(200):
    rng = np.random.default_rng(trial)
    easy = rng.beta(0.5 * mean, 0.5 * (1 - mean), (2, 60))[:, None]
    lost = rng.uniform(0, 0.4, (2, 8, 1))
    pair = logits_of(rng.random((2, 8, 60)) < easy * (1 - lost))
    got = interval(*pair, label, ones, seed=trial)
    above += got.low > 0.08
    below += got.high < 0.08
  # A share of 200 at .05 has a standard error of .015.
  assert 0.015 <= (above + below) / 200 <= 0.095, (above, below)
  assert max(above, below) / 200 <= 0.07, (above, below)
