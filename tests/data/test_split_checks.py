"""What whole splits are warned of: other units, lacking modalities, constants, labels far out."""

import logging
import re

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data import split_checks
from promise_jax.types import Task

SPLIT = np.repeat(["train", "valid", "test"], (40, 20, 20))


def content(**changed):
  rng = np.random.default_rng(0)
  arrays = {
    "x_v": rng.normal(5, 1, (80, 4)),
    "x_s": rng.normal(size=(80, 3, 2)),
    "y": np.arange(80) % 2,
    "split": SPLIT,
  }
  return arrays | changed


def read_all(path, caplog):
  """(data set, what was said while all splits were read)."""
  caplog.clear()
  with caplog.at_level(logging.WARNING):
    found = data.load(path)
    for split in found.splits:
      found.split(split)
  return found, caplog.text


def test_ordinary_splits_are_not_warned_of(save_npz, caplog):
  found, text = read_all(save_npz(content()), caplog)
  assert text == "" and found.notes == ()


@pytest.mark.parametrize(
  ("change", "words"),
  [
    (lambda v: 1000 * v, "off by [0-9]+"),  # clipped
    (lambda v: v / 1000, "4 of 4 features .* train deviations or more"),
    (lambda v: v + 7, "off by 7"),
    (lambda v: 5 + (v - 5) * 9, "deviations are [6-9]"),
    (lambda v: 5 + (v - 5) / 100, "deviations are 0.01"),
  ],
)
def test_a_test_split_in_another_unit_is_said(save_npz, caplog, change, words):
  arrays = content()
  arrays["x_v"][60:] = change(arrays["x_v"][60:])
  _, text = read_all(save_npz(arrays), caplog)
  (line,) = [line for line in text.splitlines() if "another unit" in line]
  assert "own, test, v: 4 of 4 features are elsewhere than in train" in line

  assert re.search(words, line), line


def test_the_numbers_of_a_shift_are_those_of_a_loop():
  rng = np.random.default_rng(1)
  values = rng.normal([4, 0, -9, 0, 5], [1, 1, 1, 9, 1e-3], (500, 5)).astype(np.float32)
  far = [0, 2, 3, 4]
  shift = np.median([abs(float(values[:, d].mean())) for d in far])
  wide = np.median([float(values[:, d].std()) for d in far])
  text = split_checks.describe_shift(values)
  assert text.startswith("4 of 5 features")
  assert f"off by {shift:.3g} " in text and f"are {wide:.3g} times" in text
  assert split_checks.describe_shift(values[:, [0, 1]]) == ""  # half of them is not most
  assert split_checks.describe_shift(np.zeros((5, 3), np.float32)) == ""


def test_modalities_that_lack_or_are_never_together_are_said(save_npz, caplog):
  here = np.arange(80) % 2 == 0
  arrays = content(present_v=here & (SPLIT != "test"), present_s=~here)
  found, text = read_all(save_npz(arrays), caplog)
  assert found.notes == ("own, no train row has both v and s.",)
  assert "own, test, no row has v, " in text and "valid, no row" not in text


def test_labels_far_outside_the_others_are_said(save_npz, caplog):
  label = np.linspace(-1, 1, 80)
  label[[3, 70]] = 1e9, -1e7
  _, text = read_all(save_npz(content(y=label)), caplog)
  assert "own, train, 1 of 40 labels are far outside the others, as 1e+09." in text
  assert "own, test, 1 of 20 labels are far outside the others, as -1e+07." in text
  assert split_checks.describe_labels(Task("classes", 2), np.array([0, 1])) == ""
  words = split_checks.describe_labels(Task("classes", 2), np.ones(10, int))
  assert words == "all 10 rows are of class 1, which shows little"
