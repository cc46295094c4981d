"""nll, brier and ece against scikit-learn and slow loops; the table by pattern."""

import numpy as np
import pytest
from sklearn import metrics as reference

from promise_jax import missing
from promise_jax.evaluation import calibration, reliability
from promise_jax.types import Split, Task

PATTERNS, NAMES = missing.all_patterns(2), ("m0", "m1")
TASKS = {
  "classes": Task("classes", 3),
  "multilabel": Task("multilabel", 3),
  "regression": Task("regression", 1),
}


def draw(kind: str, rows: int = 80, seed: int = 0):
  """Logits of two seeds under three patterns, and a split with holes."""
  rng, outputs = np.random.default_rng(seed), TASKS[kind].outputs
  logits = 3 * rng.normal(size=(2, 3, rows, outputs)).astype(np.float32)
  label = {
    "classes": rng.integers(0, outputs, rows),
    "multilabel": (rng.random((rows, outputs)) < 0.4).astype(np.float32),
    "regression": rng.normal(size=rows).astype(np.float32),
  }[kind]
  recorded = rng.random((rows, 2)) < 0.7
  return logits, Split({}, {}, recorded, label, np.arange(rows))


def slow_ece(probability, label):
  """By loops over bins and rows."""
  total = 0.0
  for b in range(15):
    inside = [n for n, p in enumerate(probability) if b / 15 < p <= (b + 1) / 15]
    if inside:
      accuracy = sum(bool(label[n]) for n in inside) / len(inside)
      confidence = sum(probability[n] for n in inside) / len(inside)
      total += len(inside) / len(probability) * abs(accuracy - confidence)
  return total


def test_errors_of_classes_agree_with_scikit_learn_and_a_loop(rng):
  probability, label = rng.dirichlet(np.ones(4) / 2, 200), rng.integers(0, 4, 200)
  nll = reliability.negative_log_likelihood(probability, label)
  assert nll == pytest.approx(reference.log_loss(label, probability))
  brier = reference.brier_score_loss(label, probability, labels=range(4), scale_by_half=False)
  assert reliability.brier_score(probability, label) == pytest.approx(brier)
  want = slow_ece(probability.max(1), probability.argmax(1) == label)
  assert reliability.calibration_error(probability, label) == pytest.approx(want)


def test_errors_of_labels_agree_with_scikit_learn_and_a_loop(rng):
  probability, label = rng.random((200, 3)), (rng.random((200, 3)) < 0.3).astype(np.float32)
  pairs = list(zip(label.T, probability.T, strict=True))
  nll = np.mean([reference.log_loss(y, p) for y, p in pairs])
  assert reliability.negative_log_likelihood(probability, label) == pytest.approx(nll)
  brier = np.mean([reference.brier_score_loss(y, p) for y, p in pairs])
  assert reliability.brier_score(probability, label) == pytest.approx(brier)
  ece = np.mean([slow_ece(p, y) for y, p in pairs])
  assert reliability.calibration_error(probability, label) == pytest.approx(ece)


def test_certain_predictions_are_counted():
  probability, label = np.eye(2)[[0, 0, 1, 1]], np.array([0, 1, 1, 1])
  assert reliability.calibration_error(probability, label) == pytest.approx(0.25)
  assert np.isfinite(reliability.negative_log_likelihood(probability, label))


@pytest.mark.parametrize("kind", TASKS)
def test_the_table_has_each_pattern_before_and_after(kind):
  logits, split = draw(kind)
  valid_logits, valid = draw(kind, seed=1)
  fitted = calibration.fit_calibration(
    TASKS[kind], valid_logits, valid.label, valid.recorded, PATTERNS
  )
  table = reliability.measure_calibration(
    {"a": fitted, "b": fitted}, {"a": logits, "b": logits + 1}, split, PATTERNS, NAMES
  )
  names = reliability.METRICS[kind]
  assert list(table) == "variant pattern num_present n metric before after".split()
  assert len(table) == 2 * 3 * len(names)
  part = table[(table["variant"] == "a") & (table["pattern"] == "m0+m1")].set_index("metric")
  rows = split.recorded.all(1)  # not those that have one of the two
  count = np.full(rows.sum(), 2)
  assert set(part["n"]) == {rows.sum()} and set(part["num_present"]) == {2}
  output, label = calibration.calibrate(fitted, logits[:, 2, rows], count), split.label[rows]
  if kind == "regression":
    low, high = calibration.prediction_intervals(fitted, output, count, 0.9).T
    want = {"coverage": ((low <= label) & (label <= high)).mean(), "width": (high - low).mean()}
  else:
    mean = np.exp(logits[:, 2, rows] - np.log(np.exp(logits[:, 2, rows]).sum(-1, keepdims=True)))
    plain = mean.mean(0) if kind == "classes" else (1 / (1 + np.exp(-logits[:, 2, rows]))).mean(0)
    for name, error in reliability.ERRORS.items():
      assert part.loc[name, "before"] == pytest.approx(error(plain, label), rel=1e-4)
    want = {name: error(output, label) for name, error in reliability.ERRORS.items()}
  if kind == "classes":
    sets = calibration.prediction_sets(fitted, output, count, 0.9)
    want |= {"coverage": sets[range(len(label)), label].mean(), "size": sets.sum(1).mean()}
  assert part["after"].to_dict() == pytest.approx(want)


@pytest.mark.parametrize("kind", TASKS)
def test_a_nan_logit_is_undefined_and_patterns_without_rows_are_left_out(kind):
  logits, split = draw(kind)
  fitted = calibration.fit_calibration(TASKS[kind], logits, split.label, split.recorded, PATTERNS)
  logits[:, :, ~split.recorded[:, 0]] = np.nan  # rows without m0
  table = reliability.measure_calibration({"a": fitted}, {"a": logits}, split, PATTERNS, NAMES)
  undefined = table.groupby("pattern")["after"].apply(lambda x: x.isna().all())
  assert undefined.to_dict() == {"m0": False, "m1": True, "m0+m1": False}
  without = split._replace(recorded=split.recorded & [True, False])
  table = reliability.measure_calibration({"a": fitted}, {"a": logits}, without, PATTERNS, NAMES)
  assert set(table["pattern"]) == {"m0"} and table["n"].min() > 0
  nothing = split._replace(recorded=np.zeros_like(split.recorded))
  args = {"a": fitted}, {"a": logits}, nothing, PATTERNS, NAMES
  assert not len(reliability.measure_calibration(*args))
