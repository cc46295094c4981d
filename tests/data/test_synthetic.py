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
  ],
)
def test_bad_arguments(arguments, words):
  with pytest.raises(ValueError, match=words):
    make_synthetic(**arguments)
