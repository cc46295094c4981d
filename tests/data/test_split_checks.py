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
  describe, task = split_checks.describe_labels, Task("classes", 2)
  assert describe(task, np.array([0, 1])) == []
  assert describe(task, np.ones(10, int)) == ["all 10 rows are of class 1, which shows little"]
  (line,) = describe(task, np.arange(100) // 97)
  assert line.startswith("97 of 100 rows are of class 0: ")


def test_labels_in_another_unit_or_nearly_all_the_same_are_said(save_npz, caplog):
  label = np.random.default_rng(0).normal(size=80)
  _, text = read_all(save_npz(content(y=label)), caplog)
  assert text == ""
  _, text = read_all(save_npz(content(y=np.where(SPLIT == "test", 100 * label, label))), caplog)
  test, train = 100 * label[60:], label[:40]
  words = f"{test.mean():.3g} ± {test.std():.3g}, in train {train.mean():.3g} ± {train.std():.3g}"
  assert f"own, test, the labels are elsewhere than in train, as in another unit: {words}" in text
  for unit, scale in ((1e5, 1.0), (1e-3, 1.0), (1e5, 1e5)):
    _, text = read_all(save_npz(content(y=unit * label, scale=np.array(scale))), caplog)
    assert ("their unit is 1: scale should be near" in text) == (unit != scale)
  _, text = read_all(save_npz(content(y=np.where(np.arange(80) == 3, 1.5, 1.25))), caplog)
  assert "own, train, 39 of 40 rows have the label 1.25" in text
  assert "own, test, all 20 rows have the label 1.25, which shows little" in text


@pytest.mark.parametrize("stream", [False, True])
def test_rows_that_two_splits_have_are_counted(save_npz, stream, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  arrays = content(x_photo=np.random.default_rng(1).integers(0, 256, (80, 30, 30, 1), np.uint8))
  for name in ("x_v", "x_s", "x_photo"):
    arrays[name][60:67] = arrays[name][[1, 5, 7, 5, 0, 3, 30]]
    arrays[name][44] = arrays[name][67]
  arrays["x_v"][66, 2] += 1  # hardly the same
  arrays["x_photo"][65, 7, 7] ^= 1
  arrays["present_s"] = np.arange(80) != 64
  found = data.load(save_npz(arrays), stream=stream)
  splits = {name: found.split(name) for name in found.splits}
  words = "rows in all that a model reads: it may know them by heart"
  assert split_checks.describe_repeated(splits) == [
    f"4 of 20 test rows are equal to train {words}",
    f"1 of 20 test rows are equal to valid {words}",
  ]


def test_an_image_that_many_rows_have_is_said(save_npz):
  photo = np.random.default_rng(1).integers(0, 256, (80, 6, 6, 3), np.uint8)
  photo[3:40:3] = photo[3]
  here = np.arange(80) != 6
  found = data.load(save_npz(content(x_photo=photo, present_photo=here)))
  train = found.split("train")
  assert split_checks.describe_placeholders(found.spec.modalities, train) == [
    "12 of 39 train rows have the same photo, that of row 3; if it stands for none, an empty cell "
    "or present_photo says so"
  ]


def test_features_that_float32_does_not_tell_apart_are_said(save_npz, caplog):
  times = np.arange(80.0)[:, None] + [0, 1.7e9, 1e18, 1e-9]
  found, _ = read_all(save_npz(content(x_v=times)), caplog)
  assert found.notes == (
    "own, v: 2 of 4 features are constant in train, the model reads them as 0.",
    "own, v: 2 of 4 features differ by hardly more than float32 tells apart at 1.7e+09, or by "
    "less; subtract a constant from them.",
  )


@pytest.mark.parametrize("wide", [6e4, 1e300])
def test_what_is_too_large_for_its_type_is_counted(save_npz, caplog, wide):
  x = np.random.default_rng(0).normal(size=(80, 2))
  x[3] = 2e4 * wide if wide < 1e9 else wide
  with np.errstate(over="ignore"):
    x = x.astype(np.float16) if wide < 1e9 else x
  found, text = read_all(save_npz(content(x_v=x)), caplog)
  words = "2 NaN, inf or huge values dropped, 1 frames lost to them, 1 rows absent"
  assert f"own, train, v: {words}" in text
  assert found.split("train").recorded[:, 0].tolist() == [i != 3 for i in range(40)]
