"""The results of many conditions as a DataFrame, and the best constant of sentiment."""

import numpy as np
import pytest

import tiny_runs
from promise_jax import missing, patterns
from promise_jax.evaluation import conditions, measure
from promise_jax.types import Split, Task

PATTERNS = missing.all_patterns(2)
NAMES = ("m0", "m1")


@pytest.fixture
def split(rng) -> Split:
  """20 rows with holes, some empty."""
  split = tiny_runs.dataset().split("test")
  return split._replace(recorded=split.recorded & (rng.random((20, 2)) < 0.7))


@pytest.fixture
def logits(rng) -> np.ndarray:
  return rng.normal(size=(2, 3, 20, 2)).astype(np.float32)


def test_results_have_their_columns_and_count_only_rows_with_something_left(split, logits):
  protocol = missing.parse_protocol("bernoulli(0.5,keep_one=false)")
  chosen = conditions.pattern_conditions(split, PATTERNS, NAMES)
  chosen += conditions.protocol_conditions(split, [protocol], NAMES, "test")
  results = measure.measure_conditions(Task("classes", 2), logits, split, chosen, (4, 9))
  accuracy = results[results["metric"] == "accuracy"].reset_index()
  assert accuracy["seed"].tolist() == [4, 9] * 4
  assert accuracy["pattern"].fillna("").tolist()[::2] == ["m0", "m1", "m0+m1", ""]
  assert accuracy["protocol"].tolist()[::2] == ["none"] * 3 + [str(protocol)]
  assert accuracy["rate"].dropna().tolist() == [0.5, 0.5]
  assert accuracy["mask_hash"].nunique() == 4
  for i, line in accuracy.iterrows():
    (mask,) = chosen[i // 2].mask
    hits = [
      logits[i % 2, PATTERNS.index(tuple(shown)), n].argmax() == split.label[n]
      for n, shown in enumerate(mask.tolist())
      if any(shown)
    ]
    assert line["n"] == len(hits) < 20
    assert line["value"] == pytest.approx(np.mean(hits))


def test_of_a_sample_of_patterns_logits_are_taken_by_their_place(rng):
  """Nine modalities, some not recorded: patterns, a protocol behind them, and pooled ones."""
  tested = patterns.tested_patterns(9)
  recorded = rng.random((12, 9)) < 0.5
  split = Split({}, {}, recorded, rng.integers(0, 2, 12), np.arange(12))
  logits = rng.normal(size=(1, len(tested) + 1, 12, 2)).astype(np.float32)
  hits = logits[0].argmax(axis=-1) == split.label
  (protocol,) = conditions.protocol_conditions(
    split, [missing.parse_protocol("exact(0.5)")], "abcdefghi", "test", len(tested)
  )
  chosen = [*conditions.pattern_conditions(split, tested, "abcdefghi"), protocol]
  chosen += conditions.pooled_conditions(split, tested)
  found = measure.measure_conditions(Task("classes", 2), logits, split, chosen, (0,))
  accuracy = found[found["metric"] == "accuracy"]["value"].to_numpy()
  shown = (np.array(tested)[:, None] & recorded).any(axis=-1)
  shown = np.concatenate([shown, protocol.mask.any(axis=-1)])
  want = [hit[row].mean() if row.any() else np.nan for hit, row in zip(hits, shown, strict=True)]
  np.testing.assert_allclose(accuracy[: len(want)], want, rtol=1e-6)
  pooled = [hits[:-1][shown[:-1]].mean(), hits[:-2][shown[:-2]].mean()]
  np.testing.assert_allclose(accuracy[len(want) :], pooled, rtol=1e-6)


def test_a_modality_that_no_row_has_does_not_make_rows_incomplete(split):
  recorded = np.array([[True, True, False], [True, False, False], [False, False, False]])
  assert conditions.comparable_rows(recorded).tolist() == [True, False, False]
  apart = np.array([[True, False], [False, True]])
  assert conditions.comparable_rows(apart).tolist() == [True, True]


def test_complete_rows_are_the_same_under_every_pattern(split, logits):
  chosen = conditions.complete_row_conditions(split, PATTERNS, NAMES)
  complete = [n for n, row in enumerate(split.recorded) if row.all()]
  assert conditions.comparable_rows(split.recorded).nonzero()[0].tolist() == complete
  results = measure.measure_conditions(Task("classes", 2), logits, split, chosen, (0, 1))
  results = results[results["metric"] == "accuracy"].reset_index()
  assert set(results["n"]) == {len(complete)} and 0 < len(complete) < 20
  assert set(results["protocol"]) == {conditions.COMPLETE_ROWS}
  for i, line in results.iterrows():
    hits = [logits[i % 2, i // 2, n].argmax() == split.label[n] for n in complete]
    assert line["value"] == pytest.approx(np.mean(hits))


def test_without_holes_or_without_complete_rows_there_is_nothing_to_choose(split):
  whole = split._replace(recorded=np.ones((20, 2), bool))
  assert conditions.complete_row_conditions(whole, PATTERNS, NAMES) == []
  one = split._replace(recorded=np.eye(2, dtype=bool)[np.arange(20) % 2])
  assert not any(c.mask.any() for c in conditions.complete_row_conditions(one, PATTERNS, NAMES))
  assert conditions.comparable_rows(one.recorded).all()


def test_pooled_metrics_count_every_pattern_of_every_row(split, logits):
  from sklearn import metrics as reference

  pooled = conditions.pooled_conditions(split, PATTERNS)
  results = measure.measure_conditions(Task("classes", 2), logits, split, pooled, (7, 8))
  for protocol, pooled_over in {
    "pooled(all)": PATTERNS,
    "pooled(incomplete)": PATTERNS[:2],
  }.items():
    for s, seed in enumerate((7, 8)):
      truth, guess = [], []
      for pattern in pooled_over:
        for n, shown in enumerate((split.recorded & pattern).tolist()):
          if any(shown):
            truth.append(split.label[n])
            guess.append(int(logits[s, PATTERNS.index(tuple(shown)), n].argmax()))
      own = results[(results["protocol"] == protocol) & (results["seed"] == seed)]
      values = own.set_index("metric")["value"]
      want = reference.f1_score(truth, guess, average="macro")
      np.testing.assert_allclose(values["macro_f1"], want, rtol=1e-5)
      want = reference.accuracy_score(truth, guess)
      np.testing.assert_allclose(values["accuracy"], want, rtol=1e-5)
      assert set(own["n"]) == {len(truth)}


def best_by_hand(label):
  """What one value scores at best."""
  low, high = np.sum(label < 0), np.sum(label > 0)
  p = max(low, high) / (low + high)
  _, levels = np.unique(np.round(label), return_counts=True)
  return {
    "mae": np.mean(abs(label - np.median(label))),
    "acc2_has0": max(low, len(label) - low) / len(label),
    "acc2_non0": p,
    "f1_non0": 2 * p * p / (1 + p),
    "f1_mplmm": 2 * p / (1 + p),
    "acc7": levels.max() / len(label),
  }


def test_the_best_constant_is_the_best_in_every_metric(rng):
  label = np.where(rng.random(19) < 0.3, 0, rng.uniform(-3, 1, 19)).astype(np.float32)
  split = Split({}, {}, np.ones((19, 2), bool), label, np.arange(19))
  chosen = conditions.pattern_conditions(split, PATTERNS, NAMES)
  task = Task("regression", 1, scale=3.0)
  best = measure.measure_best_constant(task, split, chosen, (3, 5))
  values = np.zeros((2, 3, 19, 1), np.float32)
  normal = measure.measure_conditions(task, values, split, chosen, (3, 5))
  key = ["seed", "metric", "protocol", "mask_hash", "pattern", "n"]
  where = lambda frame: sorted(map(str, frame[key].to_numpy().tolist()))
  assert where(best) == where(normal)
  for name, want in best_by_hand(label).items():
    got = best.loc[best["metric"] == name, "value"]
    np.testing.assert_allclose(got, want, atol=1e-5, err_msg=name)
  assert best.loc[best["metric"] == "corr", "value"].isna().all()
