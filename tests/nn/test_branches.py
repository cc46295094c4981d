"""How much a branch counts where several of many are present."""

import math

import numpy as np
import pytest

import example_batches
from promise_jax import missing
from promise_jax.nn import branches

PATTERNS = np.array(missing.all_patterns(3))
TASKS = example_batches.TASKS


def entropy(p):
  return -sum(float(x) * math.log(x) for x in p)


def slow_confidence(logits, task):
  """Of one branch of one row."""
  if task.kind == "classes":
    p = np.exp(logits) / np.exp(logits).sum()
    return math.log(len(p)) - entropy(p)
  if task.kind == "multilabel":
    p = 1 / (1 + np.exp(-logits))
    return math.log(2) - np.mean([entropy([x, 1 - x]) for x in p])
  return 1.0


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda t: t.kind)
@pytest.mark.parametrize("kind", ["confidence", "mean"])
def test_weights_equal_a_slow_loop(kind, task, rng):
  logits = 3 * rng.normal(size=(5, 3, task.outputs)).astype(np.float32)
  visible = np.repeat(PATTERNS[:, None], 5, axis=1)
  found = branches.weigh_branches(kind, logits, visible, task)
  for p, pattern in enumerate(PATTERNS):
    for n in range(5):
      each = [slow_confidence(x, task) + 1e-3 if kind == "confidence" else 1 for x in logits[n]]
      expected = np.where(pattern, each, 0)
      np.testing.assert_allclose(found[p, n], expected / expected.sum(), 1e-4, 1e-6)


def test_a_branch_that_says_nothing_counts_nothing():
  """One branch says 0.99 of two classes, the other is undecided."""
  logits = np.array([[[math.log(99.0), 0.0], [0.0, 0.0]]], np.float32)
  task = TASKS["classes"]._replace(outputs=2)
  weight = branches.weigh_branches("confidence", logits, np.ones((1, 2), bool), task)
  sure = math.log(2) - entropy([0.99, 0.01]) + 1e-3
  np.testing.assert_allclose(weight[0], [sure / (sure + 1e-3), 1e-3 / (sure + 1e-3)], 1e-4)


def test_in_a_row_that_shows_nothing_all_branches_count():
  logits, nothing = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3), bool)
  weight = branches.weigh_branches("mean", logits, nothing, TASKS["multilabel"])
  np.testing.assert_allclose(weight, 1 / 3)
