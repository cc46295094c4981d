"""Label subsets are stratified and nested; batches pass over all rows."""

import collections

import numpy as np
import pytest

from promise_jax.data import sampling

RATES = (0.01, 0.05, 0.1, 0.2, 0.33, 0.5, 0.9, 1.0)


def some_labels(kind, rows=300):
  rng = np.random.default_rng(1)
  if kind == "classes":
    return rng.choice(5, rows, p=[0.5, 0.3, 0.15, 0.03, 0.02])
  if kind == "multilabel":
    return (rng.random((rows, 4)) < [0.5, 0.1, 0.02, 0.0]).astype(np.float32)
  return rng.normal(size=rows).round(1).astype(np.float32)


def labelled_counts(sizes, rate, seed=0):
  label = np.repeat(np.arange(len(sizes)), sizes)
  chosen = sampling.label_subset(label, "classes", rate, seed, np.arange(len(label)))
  return np.bincount(label[chosen], minlength=len(sizes)).tolist()


@pytest.mark.parametrize(
  ("sizes", "rate", "expected"),
  [
    ([50, 30, 20], 0.1, [5, 3, 2]),
    ([50, 30, 20], 0.01, [1, 1, 1]),
    ([90, 9, 1], 0.05, [3, 1, 1]),
    ([120] * 10, 0.05, [6] * 10),
    ([3, 2, 1], 1.0, [3, 2, 1]),
    ([53, 24, 23], 0.1, [6, 2, 2]),  # the last goes by 53 / 11 > 24 / 5 > 23 / 5
  ],
)
def test_class_counts_by_hand(sizes, rate, expected):
  assert labelled_counts(sizes, rate) == expected


@pytest.mark.parametrize("total", range(4, 48, 4))
def test_class_counts_against_highest_averages(total):
  sizes = [41, 29, 17, 13]
  seats = [1] * 4
  while sum(seats) < total:
    averages = [n / (2 * s + 1) for n, s in zip(sizes, seats, strict=True)]
    seats[averages.index(max(averages))] += 1
  assert labelled_counts(sizes, total / 100) == seats


def test_ties_between_classes_are_broken_by_chance():
  counts = [labelled_counts([20, 20, 20], 4 / 60, seed) for seed in range(60)]
  extra = collections.Counter(c.index(2) for c in counts)
  assert all(sorted(c) == [1, 1, 2] for c in counts)
  assert min(extra[c] for c in range(3)) > 8


@pytest.mark.parametrize(
  ("rate", "rows", "expected"), [(0.35, 10, 4), (0.34, 10, 3), (0.145, 100, 15)]
)
def test_halves_are_rounded_up(rate, rows, expected):
  ids = np.arange(rows)
  assert sampling.label_subset(ids, "regression", rate, 0, ids).sum() == expected


def test_every_row_is_equally_likely_to_keep_its_label():
  label, ids = np.repeat([0, 1], [30, 10]), np.arange(40)
  times = sum(sampling.label_subset(label, "classes", 0.2, s, ids).astype(int) for s in range(500))
  deviation = np.sqrt(500 * 0.2 * 0.8)
  assert np.abs(times - 100).max() < 4 * deviation


def test_every_label_has_a_positive_row():
  label = some_labels("multilabel")
  label[:, 2] = 0
  label[123, 2] = 1
  for seed in range(5):
    chosen = sampling.label_subset(label, "multilabel", 0.001, seed, np.arange(300))
    assert chosen[123] and label[chosen].any(axis=0).tolist() == [True] * 3 + [False]
    assert chosen.sum() <= 3
  chosen = sampling.label_subset(label, "multilabel", 0.05, 0, np.arange(300))
  assert chosen.sum() == 15


def test_the_rarest_label_gets_its_row_first():
  label = np.zeros((20, 2), np.float32)
  label[:, 0] = label[7, 1] = 1
  chosen = sampling.label_subset(label, "multilabel", 0.01, 0, np.arange(20))
  assert np.flatnonzero(chosen).tolist() == [7]


def test_multilabel_without_any_positive():
  label = np.zeros((10, 2), np.float32)
  assert sampling.label_subset(label, "multilabel", 0.3, 0, np.arange(10)).sum() == 3


def test_regression_labels_come_equally_from_every_decile():
  label = np.random.default_rng(0).permutation(200).astype(np.float32)
  for rate, each in ((0.05, 1), (0.1, 2), (0.5, 10)):
    chosen = sampling.label_subset(label, "regression", rate, 0, np.arange(200))
    assert np.bincount((label[chosen] // 20).astype(int)).tolist() == [each] * 10
  assert sampling.label_subset(label, "regression", 0.001, 0, np.arange(200)).sum() == 1


@pytest.mark.parametrize("kind", ["classes", "multilabel", "regression"])
def test_label_subsets_are_nested_in_the_rate(kind):
  label, ids = some_labels(kind), np.arange(300)
  sets = [sampling.label_subset(label, kind, rate, 0, ids) for rate in RATES]
  for small, large in zip(sets, sets[1:], strict=False):
    assert not (small & ~large).any()
  assert [s.sum() for s in sets[1:]] == [15, 30, 60, 99, 150, 270, 300]


@pytest.mark.parametrize("kind", ["classes", "multilabel", "regression"])
def test_label_subsets_follow_ids_and_seeds(kind):
  label, ids = some_labels(kind), np.arange(300) * 7
  chosen = sampling.label_subset(label, kind, 0.2, 0, ids)
  shuffle = np.random.default_rng(0).permutation(300)
  moved = sampling.label_subset(label[shuffle], kind, 0.2, 0, ids[shuffle])
  np.testing.assert_array_equal(moved, chosen[shuffle])
  other = sampling.label_subset(label, kind, 0.2, 1, ids)
  assert other.sum() == chosen.sum() and (other != chosen).mean() > 0.15


@pytest.mark.parametrize(
  ("kind", "rate", "words"),
  [
    ("classes", 0.0, r"\(0, 1\].*0.0"),
    ("classes", 1.1, r"\(0, 1\].*1.1"),
    ("classes", float("nan"), r"\(0, 1\].*nan"),
    ("ranking", 0.5, "ranking.*classes, multilabel, regression"),
  ],
)
def test_label_subset_errors(kind, rate, words):
  with pytest.raises(ValueError, match=words):
    sampling.label_subset(np.zeros(4, int), kind, rate, 0, np.arange(4))


def batches(labelled, steps, batch=8, share=3, seed=0, ids=None):
  ids = np.arange(len(labelled)) + 100 if ids is None else ids
  return sampling.sample_batches(
    labelled, ids, seed=seed, steps=steps, batch_size=batch, labelled_per_batch=share
  )


@pytest.mark.parametrize(("count", "share"), [(10, 3), (2, 5), (1, 4), (9, 7)])
def test_every_pass_has_every_row_once(count, share):
  labelled = np.zeros(23, bool)
  labelled[np.random.default_rng(0).permutation(23)[:count]] = True
  rows = batches(labelled, np.arange(40), share=share)
  assert rows.shape == (40, 8) and rows.dtype == np.int32
  for part, members in ((rows[:, :share], labelled), (rows[:, share:], ~labelled)):
    stream, expected = part.ravel().tolist(), np.flatnonzero(members).tolist()
    size = len(expected)
    passes = [stream[i : i + size] for i in range(0, len(stream), size)]
    if len(passes[-1]) < size:
      assert len(set(passes[-1])) == len(passes.pop())
    assert all(sorted(p) == expected for p in passes)
    if size > 5 and len(passes) > 1:
      assert len({tuple(p) for p in passes}) == len(passes)


@pytest.mark.parametrize("labelled", [np.ones(10, bool), np.zeros(10, bool)])
def test_one_kind_of_rows_fills_the_batch(labelled):
  rows = batches(labelled, np.arange(5))
  assert all(sorted(p) == [*range(10)] for p in rows.reshape(4, 10).tolist())


@pytest.mark.parametrize("share", [0, 8])
def test_a_batch_may_be_labelled_or_unlabelled_altogether(share):
  labelled = np.arange(20) < 10
  rows = batches(labelled, np.arange(5), share=share)
  assert (labelled[rows] == (share == 8)).all()


def test_batches_do_not_depend_on_the_steps_asked_with_them():
  labelled = np.arange(50) % 3 == 0
  whole = batches(labelled, np.arange(60))
  pieces = [batches(labelled, np.arange(a, b)) for a, b in ((0, 7), (7, 8), (8, 60))]
  np.testing.assert_array_equal(np.concatenate(pieces), whole)
  np.testing.assert_array_equal(batches(labelled, [41, 3, 41]), whole[[41, 3, 41]])
  assert batches(labelled, np.arange(0)).shape == (0, 8)


def test_the_order_follows_the_ids():
  labelled, ids = np.arange(50) % 3 == 0, np.arange(50) * 5
  shuffle = np.random.default_rng(0).permutation(50)
  seen = ids[batches(labelled, np.arange(20), ids=ids)]
  moved = ids[shuffle][batches(labelled[shuffle], np.arange(20), ids=ids[shuffle])]
  np.testing.assert_array_equal(moved, seen)


def test_equal_numbers_keep_the_order_of_their_rows():
  tied, distinct = np.array([0.5, 0.1, 0.5, 0.1]), np.array([0.5, 0.1, 0.7])
  assert sampling._argsort(tied).tolist() == [1, 3, 0, 2]
  assert sampling._argsort(distinct).tolist() == [1, 0, 2]


def test_seeds_give_other_orders():
  labelled = np.arange(500) < 250
  first, second = (batches(labelled, np.arange(30), seed=s) for s in (0, 1))
  assert (first == second).mean() < 0.05


def test_a_step_far_away_is_as_quick():
  labelled = np.arange(50) % 3 == 0
  rows = batches(labelled, np.array([10**12]))
  assert labelled[rows[0]].tolist() == [True] * 3 + [False] * 5


@pytest.mark.parametrize(
  ("rows", "batch", "share", "step", "words"),
  [
    (4, 0, 0, 0, "found 0 and 0"),
    (4, 4, 5, 0, "found 4 and 5"),
    (4, 4, -1, 0, "found 4 and -1"),
    (0, 4, 2, 0, "at least 1 row"),
    (4, 4, 2, -1, "found -1"),
  ],
)
def test_batch_errors(rows, batch, share, step, words):
  with pytest.raises(ValueError, match=words):
    batches(np.arange(rows) < 2, np.array([step]), batch, share)


def test_bank_indices_by_hand():
  labelled = np.array([True, False, True, True, False, True])
  assert sampling.bank_indices(labelled, 2).tolist() == [0, -1, 1, 0, -1, 1]
  assert sampling.bank_indices(labelled, 9).tolist() == [0, -1, 1, 2, -1, 3]
  with pytest.raises(ValueError, match="found 0"):
    sampling.bank_indices(labelled, 0)
