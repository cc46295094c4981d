"""The fingerprint of data: what it notices, and that it is the same for the same rows."""

import time

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data import fingerprint

SPLITS = ("train", "valid", "test")


def make_arrays() -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  return {
    "x_sound": rng.normal(size=(60, 5, 2)).astype(np.float32),
    "length_sound": np.full(60, 5),
    "x_sensor": rng.normal(size=(60, 3)).astype(np.float32),
    "y": rng.integers(0, 2, 60),
    "split": np.repeat(SPLITS, 20),
    "group": np.arange(60) // 2,
  }


def take(folder, arrays, names=SPLITS, **options):
  np.savez(folder / "mine.npz", **arrays)
  dataset = data.load(folder / "mine.npz", **options)
  return fingerprint.take_fingerprint(dataset, {name: dataset.split(name) for name in names})


def with_cell(arrays, name, index, value):
  changed = arrays[name].copy()
  changed[index] = value
  return arrays | {name: changed}


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (lambda a: a, ""),
    (
      lambda a: with_cell(a, "x_sensor", (45, 1), 0.0),
      "values of sensor of the 20 test rows differ",
    ),
    (lambda a: with_cell(a, "length_sound", 30, 4), "values of sound of the 20 valid rows differ"),
    (lambda a: with_cell(a, "y", 3, 1 - a["y"][3]), "labels of the 20 train rows differ"),
    (lambda a: with_cell(a, "group", [58, 59], 99), "groups of the 20 test rows differ"),
    (
      lambda a: a | {"id": np.arange(1, 61)},
      "ids of the 20 train rows differ; ids of the 20 valid",
    ),
    (lambda a: with_cell(a, "y", 3, 2), "the task was 2 classes, is 3 classes"),
    (lambda a: a | {"classes": np.array(["no", "yes"])}, "a class was 0, is no; a class was 1, is"),
    (lambda a: a | {"x_sensor": a["x_sensor"][:, :2]}, "sensor was vector [3], is vector [2]"),
    (
      lambda a: {k: v for k, v in a.items() if k != "x_sensor"},
      "the list of modalities was sound, sensor, is sound",
    ),
    (
      lambda a: {k: v[1:] for k, v in a.items()} | {"id": np.arange(1, 60)},
      "the number of train rows was 20, is 19",
    ),
  ],
)
def test_a_change_is_named(change, sentence, tmp_path):
  before, now = take(tmp_path, make_arrays()), take(tmp_path, change(make_arrays()))
  found = fingerprint.describe_differences(before, now)
  assert sentence in found and bool(found) == bool(sentence)


def test_streamed_rows_have_the_fingerprint_of_resident_ones(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  assert take(tmp_path, make_arrays()) == take(tmp_path, make_arrays(), stream=True)


def test_splits_that_were_not_taken_are_not_compared(tmp_path):
  before = take(tmp_path, make_arrays(), ("train", "valid"))
  now = take(tmp_path, with_cell(make_arrays(), "y", 45, 1 - make_arrays()["y"][45]))
  assert not fingerprint.describe_differences(before, now)


def test_a_modality_that_is_lost_in_a_row_is_noticed(tmp_path):
  before = take(tmp_path, make_arrays() | {"present_sensor": np.ones(60, bool)})
  now = take(tmp_path, make_arrays() | {"present_sensor": np.arange(60) != 50})
  found = fingerprint.describe_differences(before, now)
  assert found == "values of sensor of the 20 test rows differ"


def test_a_gigabyte_takes_less_than_half_a_second():
  dataset = data.load("synthetic", modalities=1, rows=(8, 8, 8))
  rows = dataset.split("train")
  big = rows._replace(inputs={"m0": np.zeros((2**20, 256), np.float32)}, id=np.arange(2**20))
  big = big._replace(recorded=np.ones((2**20, 1), bool), label=np.zeros(2**20, np.int32))
  since = time.process_time()
  fingerprint.take_fingerprint(dataset, {"train": big})
  assert time.process_time() - since < 0.5
