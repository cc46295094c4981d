"""Tasks that labels look like, and `task=` where they are meant otherwise."""

import numpy as np
import pytest
from npz_files import N, plain

from promise_jax import data
from promise_jax.data import new_values, source
from promise_jax.types import Task

ONE_HOT = np.eye(3, dtype=int)[np.arange(N) % 3]


def labels(found):
  return np.concatenate([found.split(split).label for split in found.splits]).tolist()


def test_one_hot_columns_are_the_classes_that_they_mean(save_npz):
  clean = data.load(save_npz(plain()))
  for y in (ONE_HOT, ONE_HOT.astype(bool), ONE_HOT.astype(np.float32)):
    found = data.load(save_npz(plain(y=y)))
    assert found.spec == clean.spec._replace(standardise=found.spec.standardise)
    assert labels(found) == labels(clean)
    assert found.guesses[source.TASK].endswith(
      "every row has one 1; task=multilabel says otherwise"
    )
  names = np.array(["a", "b", "c"])
  assert data.load(save_npz(plain(y=ONE_HOT, classes=names))).spec.task.names == ("a", "b", "c")


def test_task_says_otherwise(save_npz):
  several = data.load(save_npz(plain(y=ONE_HOT)), task="multilabel")
  assert several.spec.task == Task("multilabel", 3) and labels(several) == ONE_HOT.tolist()
  assert source.TASK not in several.guesses
  ages = np.arange(N) * 7
  found = data.load(save_npz(plain(y=ages)), task="regression", scale=10.0)
  assert found.spec.task == Task("regression", 1, scale=10.0) and labels(found) == ages.tolist()
  found = data.load(save_npz(plain(y=np.arange(N) % 3 * 1.0)), task="classes")
  assert found.spec.task == Task("classes", 3, ("0", "1", "2"))
  assert labels(found) == labels(data.load(save_npz(plain())))


def test_two_ones_in_one_row_are_several_labels(save_npz):
  y = ONE_HOT.copy()
  y[7, 2], y[7, 1] = 1, 1
  assert data.load(save_npz(plain(y=y))).spec.task.kind == "multilabel"


def test_labels_of_new_rows_may_be_one_hot_too():
  label, known = new_values.encode_labels(ONE_HOT, Task("classes", 3, ("0", "1", "2")))
  assert label.tolist() == (np.arange(N) % 3).tolist() and known.all()
  with pytest.raises(ValueError, match=r"label, row 1: found \[1, 1, 0\], expected: one 1 a row"):
    new_values.encode_labels(np.array([[1, 0, 0], [1, 1, 0]]), Task("classes", 3))


@pytest.mark.parametrize(
  ("y", "task", "sentence"),
  [
    (np.arange(N) % 3, "class", "task is 'class', known are"),
    (np.array(["a", "b"] * 6), "regression", r"y is <U1 of .*, expected: numbers \[N\] for regr"),
    (np.arange(N) % 3, "multilabel", r"y is int64 of shape \(12,\), expected: 0/1 \[N, C\]"),
    (
      ONE_HOT | 1,
      "classes",
      r"row 0: found \[1, 1, 1\], .*one 1 a row; task=multilabel takes several",
    ),
    (np.arange(N) / 2, "classes", "y, row 1: found 0.5, expected: classes from 0"),
  ],
)
def test_labels_that_cannot_be_of_a_task_are_refused(save_npz, y, task, sentence):
  with pytest.raises(ValueError, match=sentence):
    data.load(save_npz(plain(y=y)), task=task)
