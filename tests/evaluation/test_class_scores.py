"""Scores of single classes against scikit-learn and a case by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from promise_jax.evaluation import measure
from promise_jax.types import Task


def draw(kind: str, rng: np.random.Generator):
  """Logits of two seeds for 60 rows and 4 classes, the last of which no row has."""
  logits = rng.normal(size=(2, 60, 4)).astype(np.float32)
  label = rng.integers(0, 3, 60) if kind == "classes" else rng.random((60, 4)) < [0.5, 0.2, 0.7, 0]
  return logits, label.astype(np.int32 if kind == "classes" else np.float32)


@pytest.mark.parametrize("kind", ["classes", "multilabel"])
def test_scores_agree_with_scikit_learn(kind, rng):
  logits, label = draw(kind, rng)
  found = measure.score_classes(Task(kind, 4, tuple("abcd")), logits, label, (7, 8))
  assert found["class"].tolist() == [*"aabbccdd"] and found["seed"].tolist() == [7, 8] * 4
  for seed, x in zip((7, 8), logits, strict=True):
    guess = x.argmax(axis=1) if kind == "classes" else x > 0
    scores = reference.precision_recall_fscore_support(
      label, guess, labels=range(4), zero_division=np.nan
    )
    own = found[found["seed"] == seed]
    for name, want in zip(("precision", "recall", "f1", "n"), scores, strict=True):
      np.testing.assert_allclose(own[name], want, rtol=1e-6, err_msg=name)
    if kind == "classes":
      counts = reference.confusion_matrix(label, guess, labels=range(4))
      np.testing.assert_array_equal(own["predicted"].tolist(), counts)
  assert ("predicted" in found) == (kind == "classes")


def test_a_case_by_hand():
  """Two rows of class 0, one of class 1; the second row is taken for class 1."""
  logits = np.array([[[2, 0, 0], [0, 2, 0], [0, 2, 0]], [[np.nan, 2, 0], [0, 2, 0], [0, 2, 0]]])
  found = measure.score_classes(Task("classes", 3), logits, np.array([0, 0, 1]), (0, 1))
  one, broken = (found[found["seed"] == seed].drop(columns="seed") for seed in (0, 1))
  nan = pytest.approx(np.nan, nan_ok=True)
  assert one.to_numpy().tolist() == [
    ["0", 2, 1.0, 0.5, pytest.approx(2 / 3), [1, 1, 0]],
    ["1", 1, 0.5, 1.0, pytest.approx(2 / 3), [0, 1, 0]],
    ["2", 0, nan, nan, 0.0, [0, 0, 0]],
  ]
  assert broken[["precision", "recall", "f1"]].isna().all(axis=None)
  assert broken["n"].tolist() == [2, 1, 0] and np.isnan(broken["predicted"].iloc[0]).all()


def test_confusions_are_counted_for_few_classes_only(rng):
  many = measure.MAX_COUNTED + 1
  arguments = rng.normal(size=(1, 5, many)), np.arange(5), (0,)
  found = measure.score_classes(Task("classes", many), *arguments)
  assert "predicted" not in found and len(found) == many


def test_a_regression_has_no_classes():
  assert not len(measure.score_classes(Task("regression", 1), np.ones((1, 3, 1)), None, (0,)))
