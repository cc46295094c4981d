"""Predictions of branches combined, against a loop over rows and branches in numpy."""

import math

import numpy as np
import pytest

import example_batches
from promise_jax import missing
from promise_jax.nn import branches

KINDS = ("logits", "probabilities", "confidence")
PATTERNS = np.array(missing.all_patterns(3))


def entropy(p):
  return -sum(float(x) * math.log(x) for x in p)


def probabilities(logits, kind):
  """Of the classes; of a label and its absence, a row a label."""
  if kind == "classes":
    return np.exp(logits) / np.exp(logits).sum()
  p = 1 / (1 + np.exp(-logits))
  return np.stack([p, 1 - p], axis=1)


def slow_combine(kind, logits, task):
  """Logits of one row from the logits f[m, C] of its visible branches."""
  if task.kind == "regression" or kind == "logits":
    return logits.mean(axis=0)
  p = [probabilities(x, task.kind) for x in logits]
  weight = np.ones(len(p))
  if kind == "confidence":
    weight = np.array([1 / (np.mean([entropy(q) for q in np.atleast_2d(x)]) + 0.01) for x in p])
  mean = sum(w * x for w, x in zip(weight / weight.sum(), p, strict=True))
  return np.log(mean) if task.kind == "classes" else np.log(mean[:, 0] / mean[:, 1])


@pytest.mark.parametrize("task", example_batches.TASKS.values(), ids=lambda t: t.kind)
@pytest.mark.parametrize("kind", KINDS)
def test_combined_logits_equal_a_slow_loop(kind, task, rng):
  logits = 3 * rng.normal(size=(5, 3, task.outputs)).astype(np.float32)
  visible = np.repeat(PATTERNS[:, None], 5, axis=1)
  weight = branches.branch_weights(kind, logits, visible, task)
  found = branches.combine_logits(kind, logits, weight, task)
  assert found.shape == (7, 5, task.outputs)
  np.testing.assert_allclose(np.sum(weight, axis=-1), 1, 1e-6)
  assert not np.any(weight * ~visible)
  expected = [[slow_combine(kind, row[p], task) for row in logits] for p in PATTERNS]
  np.testing.assert_allclose(centre(found, task), centre(np.array(expected), task), 1e-4, 1e-5)


def centre(logits, task):
  """Logits of classes up to a constant of the row."""
  return logits - np.mean(logits, -1, keepdims=True) if task.kind == "classes" else logits


def test_a_row_that_shows_nothing_weighs_all_branches():
  logits, nothing = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), bool)
  task = example_batches.TASKS["multilabel"]
  np.testing.assert_allclose(branches.branch_weights("logits", logits, nothing, task), 1 / 3)


def test_a_branch_that_is_sure_counts_more():
  """Two classes: one branch says 0.99, one is undecided, by hand."""
  logits = np.array([[[math.log(99.0), 0.0], [0.0, 0.0]]], np.float32)
  task = example_batches.TASKS["classes"]._replace(outputs=2)
  seen = np.ones((1, 2), bool)
  sure, unsure = np.asarray(branches.branch_weights("confidence", logits, seen, task))[0]
  ratio = (math.log(2) + 0.01) / (entropy([0.99, 0.01]) + 0.01)
  assert sure / unsure == pytest.approx(ratio, rel=1e-5)
