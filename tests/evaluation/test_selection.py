"""The primary metric in JAX: weights, padding, NaN, and its mean over patterns."""

import jax
import numpy as np
import pytest

from promise_jax.evaluation import measure, metrics, selection
from promise_jax.types import Task

ROWS = 40
TASKS = (Task("classes", 4), Task("multilabel", 5), Task("regression", 1, scale=3.0))
TASKS += (Task("classes", 2, metric="auroc"),)
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.metric or task.kind)
PATTERNS = np.array([[True, False], [False, True], [True, True]])


def draw(task: Task):
  """Logits, labels, and integer weights, a third of them 0."""
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(ROWS, task.outputs)).astype(np.float32)
  if task.metric == "auroc":
    logits = logits.round()  # many ties
  label = {
    "classes": rng.integers(0, task.outputs, ROWS),
    "multilabel": (logits + rng.normal(size=logits.shape) > 0.3).astype(np.float32),
    "regression": rng.normal(size=ROWS).astype(np.float32),
  }[task.kind]
  return logits, label, rng.integers(0, 3, ROWS).astype(np.float32)


score = jax.jit(selection.primary_score, static_argnames="task")


@every_task
def test_weights_are_repeated_rows_and_agree_with_the_reported_metric(task):
  logits, label, weight = draw(task)
  rows = np.repeat(np.arange(ROWS), weight.astype(int))
  name, _ = metrics.primary_metric(task)
  want = measure.measure(task, logits[None, rows], label[rows])[name][0]
  np.testing.assert_allclose(score(logits, label, weight, task=task), want, rtol=1e-5)
  single = selection.row_scores(logits, label, task)
  if single is None:
    assert task.kind == "multilabel" or task.metric == "auroc"
  else:
    np.testing.assert_allclose(np.average(single, weights=weight), want, rtol=1e-5)


@every_task
def test_outside_of_a_program_labels_are_numpy_arrays(task):
  logits, label, weight = draw(task)
  want = score(logits, label, weight, task=task) * (-1 if task.kind == "regression" else 1)
  found = selection.selection_score(logits[None], label, weight[None], task)
  np.testing.assert_allclose(found, want, rtol=1e-6)


@every_task
def test_only_rows_that_count_may_make_it_nan(task):
  logits, label, weight = draw(task)
  want = score(logits, label, weight, task=task)
  spoiled = np.where(weight[:, None] == 0, np.nan, logits)
  assert score(spoiled, label, weight, task=task) == want
  broken = np.where(np.arange(ROWS)[:, None] == weight.argmax(), np.nan, logits)
  assert np.isnan(score(broken, label, weight, task=task))
  assert np.isnan(score(logits, label, 0 * weight, task=task))


def accuracy_by_hand(logits, label, recorded):
  """Mean over the patterns that a row has, of plain accuracies."""
  means = []
  for pattern, x in zip(PATTERNS, logits, strict=True):
    rows = (recorded & pattern).any(axis=1)
    if rows.any():
      means.append(np.mean(x.argmax(axis=1)[rows] == label[rows]))
  return np.mean(means)


def test_neither_padding_nor_a_pattern_without_rows_changes_the_score():
  rng = np.random.default_rng(1)
  label, logits = rng.integers(0, 2, 23), rng.normal(size=(3, 23, 2)).astype(np.float32)
  for recorded in (rng.random((23, 2)) < 0.7, np.array([[True, False]] * 23)):
    padded = np.concatenate([logits, np.full((3, 3, 2), 1e30, np.float32)], axis=1)
    more = np.concatenate([recorded, np.ones((3, 2), bool)])
    weight = selection.row_weights(more, np.arange(26) < 23, PATTERNS)
    labels = np.concatenate([label, [0, 10**6, -5]])
    got = selection.selection_score(padded, labels, weight, Task("classes", 2))
    assert float(got) == pytest.approx(accuracy_by_hand(logits, label, recorded), abs=1e-6)


def test_the_score_is_larger_when_better_for_errors_too():
  label, weight = np.array([1.0, 2.0], np.float32), np.ones((1, 2), np.float32)
  near, far = (np.full((1, 2, 1), x, np.float32) for x in (1.5, 4.0))
  task = Task("regression", 1)
  assert float(selection.selection_score(near, label, weight, task)) == pytest.approx(-0.5)
  assert float(selection.selection_score(far, label, weight, task)) == pytest.approx(-2.5)


def test_the_full_pattern_alone_may_select():
  assert selection.selection_patterns(2, "full").tolist() == [[True, True]]
  assert selection.selection_patterns(2, "all").tolist() == PATTERNS.tolist()
