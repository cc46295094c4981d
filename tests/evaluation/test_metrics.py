"""Metrics of classes, multilabel and regression against scikit-learn and cases by hand."""

import numpy as np
import pytest
from sklearn import metrics as reference

from promise_jax.evaluation import measure, metrics
from promise_jax.types import Task

CLASSES = Task("classes", 4)
ROWS = 120


def draw(kind: str, outputs: int, seed: int = 0):
  """Logits of two seeds, and labels that follow those of the first."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(2, ROWS, outputs)).astype(np.float32)
  if kind == "classes":
    random_label = rng.integers(0, outputs, ROWS)
    label = np.where(rng.random(ROWS) < 0.4, logits[0].argmax(1), random_label)
  elif kind == "multilabel":
    label = (logits[0] + rng.normal(size=logits[0].shape) > 0.3).astype(np.float32)
  else:
    label = (logits[0, :, 0] + rng.normal(size=ROWS)).round(1).astype(np.float32)
  return logits, label


def softmax(x):
  e = np.exp(x.astype(np.float64))
  return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_class_metrics_agree_with_scikit_learn(seed):
  logits, y = draw("classes", 4, seed)
  got = measure.measure(CLASSES, logits, y)
  assert list(got)[0] == "accuracy"
  for s, x in enumerate(logits):
    p = x.argmax(1)
    want = {
      "accuracy": reference.accuracy_score(y, p),
      "macro_f1": reference.f1_score(y, p, average="macro"),
      "weighted_f1": reference.f1_score(y, p, average="weighted"),
      "uar": reference.balanced_accuracy_score(y, p),
      "auroc": reference.roc_auc_score(y, softmax(x), multi_class="ovr"),
    }
    assert got.keys() == want.keys()
    for name, value in want.items():
      np.testing.assert_allclose(got[name][s], value, atol=1e-6, err_msg=name)


def test_multilabel_metrics_agree_with_scikit_learn():
  logits, label = draw("multilabel", 5)
  # Label 1 neither occurs nor is predicted: it counts as 0 in the macro mean.
  logits[..., 1], label[:, 1] = -1, 0
  got = measure.measure(Task("multilabel", 5), logits, label)
  has_both = [0, 2, 3, 4]
  for s, x in enumerate(logits):
    want = {
      f"{kind}_f1": reference.f1_score(label, x > 0, average=kind, zero_division=0)
      for kind in ("macro", "micro", "weighted", "samples")
    }
    want["samples_accuracy"] = reference.accuracy_score(label, x > 0)
    want["auroc"] = reference.roc_auc_score(label[:, has_both], x[:, has_both])
    assert got.keys() == want.keys()
    for name, value in want.items():
      np.testing.assert_allclose(got[name][s], value, atol=1e-6, err_msg=name)


def test_auroc_counts_ties_half():
  rng = np.random.default_rng(3)
  score, label = rng.integers(0, 4, ROWS) / 2, rng.integers(0, 2, ROWS)
  won = total = 0.0
  for i in np.flatnonzero(label == 1):
    for j in np.flatnonzero(label == 0):
      won += 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
      total += 1
  logits = np.stack([np.zeros(ROWS), score], 1)
  np.testing.assert_allclose(metrics.auroc(logits, label), won / total, rtol=1e-12)


def test_auroc_sees_the_order_of_scores_that_underflow():
  # exp(-110) and exp(-120), the scores of class 1 in rows 1 and 0, are 0 in float32.
  logits = np.array([[120.0, 0, 0], [0, 0, 110], [0, 9, 0], [0, 0, 9]], np.float32)
  # Pairs won: class 0 3 of 3; class 1 row 1 one, row 2 two of 4; class 2 2 of 3.
  want = (1 + 3 / 4 + 2 / 3) / 3
  np.testing.assert_allclose(metrics.auroc(logits, np.array([0, 1, 1, 2])), want, rtol=1e-6)


def test_auroc_and_uar_leave_out_classes_that_do_not_occur():
  logits = draw("classes", 4)[0][0]
  label = np.arange(ROWS) % 2
  areas = [reference.roc_auc_score(label == c, softmax(logits)[:, c]) for c in (0, 1)]
  np.testing.assert_allclose(metrics.auroc(logits, label), np.mean(areas), atol=1e-6)
  hits = logits.argmax(1) == label
  recalls = [hits[label == c].mean() for c in (0, 1)]
  np.testing.assert_allclose(metrics.uar(logits, label), np.mean(recalls), atol=1e-12)


@pytest.mark.parametrize("p, golden", [(0.70, 0.576), (0.694, 0.568)])
def test_weighted_f1_of_a_constant_predictor_weights_by_the_truth(p, golden):
  label = (np.arange(1000) < 1000 * p).astype(int)
  always = np.tile([0.0, 1.0], (1000, 1))
  np.testing.assert_allclose(metrics.weighted_f1(always, label), golden, atol=1e-3)


@pytest.mark.parametrize("kind, outputs", [("classes", 4), ("multilabel", 5), ("regression", 1)])
def test_no_rows_or_a_nan_logit_give_nan_for_that_seed_alone(kind, outputs):
  task, (logits, label) = Task(kind, outputs), draw(kind, outputs)
  names = list(measure.known_metrics(kind))
  names = names if kind == "regression" else []
  empty = measure.measure(task, logits[:, :0], label[:0], names)
  assert all(np.isnan(v).all() and v.shape == (2,) for v in empty.values())
  want = measure.measure(task, logits, label, names)
  broken = logits.copy()
  broken[1, 7, 0] = np.nan
  for name, got in measure.measure(task, broken, label, names).items():
    assert got[0] == want[name][0] and np.isnan(got[1]), name


def test_what_is_undefined_is_nan():
  one_class = np.zeros(ROWS, int)
  assert np.isnan(metrics.auroc(np.eye(2)[one_class], one_class))
  assert np.isnan(metrics.micro_f1(-np.ones((4, 2)), np.zeros((4, 2))))
  assert np.isnan(metrics.corr(np.full(ROWS, 0.1), np.linspace(-1, 1, ROWS)))
  assert np.isnan(metrics.corr(np.linspace(-1, 1, ROWS), np.full(ROWS, 0.1)))


def test_the_primary_metric_and_its_sign():
  assert metrics.primary_metric(CLASSES) == ("accuracy", 1)
  assert metrics.primary_metric(Task("multilabel", 3)) == ("macro_f1", 1)
  assert metrics.primary_metric(Task("regression", 1)) == ("mae", -1)
  unequal = Task("classes", 2, metric="auroc")
  assert metrics.primary_metric(unequal) == ("auroc", 1)
  assert list(measure.metrics_for(unequal))[:2] == ["auroc", "accuracy"]
  with pytest.raises(ValueError, match="it may be auroc, of two classes"):
    metrics.primary_metric(CLASSES._replace(metric="auroc"))
  with pytest.raises(ValueError, match="'ranking' is not one of"):
    metrics.primary_metric(Task("ranking", 1))
  with pytest.raises(ValueError, match="'mae' is no metric of classes; known: accur"):
    measure.metrics_for(CLASSES, ["mae"])
