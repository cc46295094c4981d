"""The known answer of the synthetic data, against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from promise_jax import data
from promise_jax.data.builtin import synthetic
from promise_jax.data.builtin.synthetic import SyntheticOptions
from promise_jax.types import Modality, Task

ROWS = (4000, 10, 15000)


def make_synthetic(**options):
  return synthetic.make_synthetic(SyntheticOptions(**options))


def ceiling(num_present, **options):
  return synthetic.ceiling(num_present, SyntheticOptions(**options))


def learn(found, names):
  """Test accuracy (correlation for regression) of a linear model on modalities."""
  splits = found.split("train"), found.split("test")
  features = []
  for split in splits:
    parts = [split.inputs[name] for name in names]
    if found.spec.modalities[0].kind == "sequence":
      steps = [np.maximum(split.length[name], 1)[:, None] for name in names]
      parts = [part.sum(1) / n for part, n in zip(parts, steps, strict=True)]
    features.append(np.concatenate(parts, axis=1))
  (train, test), (known, truth) = features, [split.label for split in splits]
  if found.spec.task.kind == "regression":
    predicted = LinearRegression().fit(train, known).predict(test)
    return np.corrcoef(predicted, truth)[0, 1]
  columns = [(known, truth)] if known.ndim == 1 else zip(known.T, truth.T, strict=True)
  return np.mean([LogisticRegression(C=10).fit(train, a).score(test, b) for a, b in columns])


@pytest.mark.parametrize("task", ["classes", "multilabel", "regression"])
@pytest.mark.parametrize("strength", [{}, {"private": 0.0}, {"shared": 0.0}])
def test_a_learner_comes_up_to_the_ceiling_and_not_above(task, strength):
  # the label is a linear question, so a linear model on enough rows is nearly optimal
  found = data.load("synthetic", rows=ROWS, task=task, **strength)
  for names in (["m1"], ["m0", "m2"], ["m0", "m1", "m2"]):
    best = ceiling(len(names), task=task, **strength)
    assert learn(found, names) == pytest.approx(best, abs=0.025)


def test_without_noise_the_shared_part_is_enough():
  found = make_synthetic(rows=ROWS, private=0.0, noise=0.0)
  assert ceiling(1, private=0.0, noise=0.0) == 1
  for name in found.spec.names:
    assert learn(found, [name]) > 0.985


def test_without_noise_a_private_part_is_a_share_of_the_label():
  kwargs = {"shared": 0.0, "noise": 0.0, "task": "regression", "modalities": 4}
  # one of four independent summands of equal variance: correlation 1/2
  assert ceiling(1, **kwargs) == pytest.approx(0.5)
  assert ceiling(4, **kwargs) == pytest.approx(1)
  found = make_synthetic(rows=ROWS, **kwargs)
  assert learn(found, ["m3"]) == pytest.approx(0.5, abs=0.03)
  assert learn(found, found.spec.names) == pytest.approx(1)


def test_nothing_present_is_chance():
  assert ceiling(0) == pytest.approx(0.25, abs=0.002)
  assert ceiling(0, task="multilabel") == 0.5
  assert ceiling(0, task="regression") == 0
  # two classes are one binary question
  two = ceiling(2, classes=2, dim=8)
  assert two == pytest.approx(ceiling(2, classes=2, dim=8, task="multilabel"), abs=0.002)


def test_sequences_hold_the_same_knowledge():
  found = make_synthetic(rows=ROWS, kind="sequence", steps=6)
  assert found.spec.modalities[0] == Modality("m0", "sequence", (6, 16))
  train = found.split("train")
  assert set(train.length["m1"].tolist()) == {3, 4, 5, 6}
  beyond = np.arange(6)[None] >= train.length["m1"][:, None]
  assert not train.inputs["m1"][beyond].any()
  assert np.all(train.inputs["m1"][~beyond].any(-1))
  assert learn(found, ["m0", "m1"]) == pytest.approx(ceiling(2), abs=0.03)


CLUSTERS = {"classes": 5, "strengths": (2.0, 1.0, 0.0), "noise": 0.8, "rows": ROWS}


@pytest.mark.parametrize("pattern", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_the_bayes_accuracy_is_that_of_the_true_posterior(pattern):
  """By brute force: means and posterior of every test row, from the values as they were drawn."""
  options = SyntheticOptions(**CLUSTERS)
  rng = np.random.default_rng([options.seed, 0])
  means = np.linalg.qr(rng.normal(size=(3, options.dim, 10)))[0][:, :, :5]
  y = rng.integers(0, 5, 20_000)
  loglik = np.zeros((len(y), 5))
  for m, (strength, present) in enumerate(zip(options.strengths, pattern, strict=True)):
    x = strength * means[m].T[y] + options.noise * rng.normal(size=(len(y), options.dim))
    for label in range(5):
      distance = ((x - strength * means[m][:, label]) ** 2).sum(1)
      loglik[:, label] -= present * distance / (2 * options.noise**2)
  posterior = np.exp(loglik) / np.exp(loglik).sum(1, keepdims=True)
  hits = np.mean(posterior.argmax(1) == y) if any(pattern[:2]) else 0.2
  assert synthetic.bayes_accuracy(pattern, options) == pytest.approx(hits, abs=0.01)
  # the set that is made has the same answer: its own values, and a linear model on them
  found = make_synthetic(**CLUSTERS)
  names = [f"m{m}" for m in range(3) if pattern[m]]
  assert learn(found, names) == pytest.approx(hits, abs=0.02)


def test_strengths_are_given_as_a_text_too():
  known = make_synthetic(**CLUSTERS).split("train")
  text = data.load("synthetic", **CLUSTERS | {"strengths": "2+1+0"}).split("train")
  np.testing.assert_array_equal(text.inputs["m0"], known.inputs["m0"])
  np.testing.assert_array_equal(text.label, known.label)


def test_splits_are_reproducible_and_disjoint():
  first, again, other = (make_synthetic(seed=seed, rows=(30, 20, 10)) for seed in (1, 1, 2))
  assert first.spec.task == Task("classes", 4)
  ids = [first.split(s).id.tolist() for s in first.splits]
  assert ids == [list(range(30)), list(range(30, 50)), list(range(50, 60))]
  for split in first.splits:
    a, b, c = (found.split(split) for found in (first, again, other))
    np.testing.assert_array_equal(a.inputs["m0"], b.inputs["m0"])
    np.testing.assert_array_equal(a.label, b.label)
    assert not np.allclose(a.inputs["m0"], c.inputs["m0"])
  train, test = first.split("train").inputs["m0"], first.split("test").inputs["m0"]
  assert not np.allclose(train[:10], test)


@pytest.mark.parametrize(
  ("arguments", "words"),
  [
    ({"task": "ranking"}, "'ranking'.*classes, multilabel, regression"),
    ({"kind": "image"}, "'image'.*vector, sequence"),
    ({"modalities": 0}, "modalities is 0.*at least 1"),
    ({"classes": 1}, "classes is 1.*at least 2"),
    ({"steps": 0}, "steps is 0.*at least 1"),
    ({"noise": -1.0}, "must not be negative"),
    ({"shared": 0.0, "private": 0.0}, "not both 0"),
    ({"classes": 9}, "dim is 16.*at least 18"),
    ({"strengths": "3+1"}, r"strengths is '3\+1', expected are 3 numbers"),
    ({"strengths": "3+a+0"}, r"strengths is '3\+a\+0', expected are 3 numbers"),
    ({"strengths": (3, 1, -1)}, "expected are 3 numbers of at least 0"),
    ({"strengths": (3, 1, 0), "private": 0.0}, "strengths is given, .*classes, 1.0, 0.0"),
    (
      {"strengths": (3, 1, 0), "noise": 0.0},
      "beside it they must be classes, 1, 1 and more than 0",
    ),
  ],
)
def test_bad_arguments(arguments, words):
  with pytest.raises(ValueError, match=words):
    make_synthetic(**arguments)
