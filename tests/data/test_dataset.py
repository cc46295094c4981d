"""Rows of any source become clean, standardised splits."""

import logging

import numpy as np
import pytest

from promise_jax.data import cleaning, dataset
from promise_jax.data import source as data_source
from promise_jax.types import Modality, Task

NAN, INF = np.nan, np.inf


def source(inputs, modality, *, steps=None, recorded=None, label=None, task=None):
  """A source of one modality; `inputs` {split: rows}."""

  def rows(split):
    n = len(inputs[split])
    present = np.ones((n, 1), bool) if recorded is None else recorded[split][:, None]
    real = {} if steps is None else {modality.name: np.array(steps[split])}
    values = {modality.name: inputs[split]}
    labels = np.arange(n, dtype=np.int32) % 2 if label is None else label
    return data_source.Rows(values, real, present, labels, np.arange(n))

  task = task or Task("classes", 2)
  return data_source.Source("own", "", (modality,), task, tuple(inputs), rows)


def test_standardisation_reads_present_train_frames_alone():
  rng = np.random.default_rng(0)
  inputs = {
    split: [rng.normal(3, 2, (t, 3)).astype(np.float32) for t in range(2, n + 2)]
    for split, n in (("train", 6), ("valid", 8))
  }
  for rows in inputs.values():
    for row in rows:
      row[:, 2] = 7  # a constant feature
  recorded = {"train": np.arange(6) != 2, "valid": np.arange(8) != 0}
  steps = {"train": [2, 2, 4, 5, 1, 7], "valid": [2, 3, 4, 5, 6, 7, 8, 9]}
  found = dataset.assemble(
    source(inputs, Modality("a", "sequence", (None, 3)), steps=steps, recorded=recorded)
  )
  assert found.spec.modalities[0].shape == (7, 3)
  frames = []
  for i, row in enumerate(inputs["train"]):
    if recorded["train"][i]:
      frames += [row[t] for t in range(min(len(row), steps["train"][i]))]
  mean, std = np.mean(frames, 0, np.float64), np.std(frames, 0, np.float64)
  std[2] = 1
  np.testing.assert_allclose(found.spec.standardise["a"], (mean, std), rtol=1e-5)
  for name in found.splits:
    split = found.split(name)
    for i, row in enumerate(inputs[name]):
      expected = np.zeros((7, 3))
      real = min(len(row), steps[name][i], 7) if recorded[name][i] else 0
      for t in range(real):
        expected[t] = (row[t] - mean) / std
      np.testing.assert_allclose(split.inputs["a"][i], expected, rtol=1e-4, atol=1e-5)
      assert split.length["a"][i] == real
    assert split.recorded[:, 0].tolist() == recorded[name].tolist()
  assert found.report["valid"]["a"].num_truncated_rows == 2  # those of 8 and 9 steps


DIRTY = [
  np.array([[1, 4], [NAN, 4], [3, 4], [9, 9]]),  # one frame is lost, one is padding
  np.array([[INF, 0], [0, -INF], [NAN, 0], [0, 0]]),  # two real frames, both lost
  np.array([[NAN, NAN], [0, 0], [0, 0], [0, 0]]),  # not recorded
  np.array([[5, 1], [7, 7], [7, 7], [7, 7]]),  # one real frame
]


def dirty(nonfinite):
  return dataset.assemble(
    source(
      {"train": DIRTY},
      Modality("a", "sequence", (4, 2)),
      steps={"train": [3, 2, 1, 1]},
      recorded={"train": np.array([True, True, False, True])},
    ),
    cleaning.Rules(nonfinite),
  )


def test_nonfinite_frames_become_zero_and_lost_rows_absent(caplog):
  with caplog.at_level(logging.WARNING):
    found = dirty("frame")
  split = found.split("train")
  # frames that count: (1, 4), (3, 4), (5, 1), of mean (3, 3) and std sqrt(8/3), sqrt(2)
  np.testing.assert_allclose(
    found.spec.standardise["a"], ([3, 3], [(8 / 3) ** 0.5, 2**0.5]), rtol=1e-6
  )
  assert split.recorded[:, 0].tolist() == [True, False, False, True]
  assert split.length["a"].tolist() == [3, 0, 0, 1]
  a, b = 2 / (8 / 3) ** 0.5, 1 / 2**0.5
  expected = np.zeros((4, 4, 2))
  expected[0, 0], expected[0, 2], expected[3, 0] = (-a, b), (0, b), (a, -2 * b)
  np.testing.assert_allclose(split.inputs["a"], expected, rtol=1e-6, atol=1e-7)
  assert found.report["train"]["a"][:4] == (3, 3, 1, 0)  # values, frames, absent, cut
  assert "own, train, a" in caplog.text


def test_nonfinite_values_alone_become_zero():
  found = dirty("value")
  split = found.split("train")
  assert split.recorded[:, 0].tolist() == [True, True, False, True]
  first = np.mean([1, 3, 5, 0]), np.std([1, 3, 5, 0])
  second = np.mean([4, 4, 4, 1, 0]), np.std([4, 4, 4, 1, 0])
  np.testing.assert_allclose(found.spec.standardise["a"], np.transpose([first, second]), rtol=1e-6)
  assert split.inputs["a"][0, 1, 0] == 0
  assert split.inputs["a"][0, 1, 1] == split.inputs["a"][0, 0, 1] != 0


def test_by_default_a_step_of_a_sequence_is_lost_and_a_value_of_a_vector():
  np.testing.assert_array_equal(
    dirty("auto").split("train").inputs["a"], dirty("frame").split("train").inputs["a"]
  )
  vector = Modality("v", "vector", (2,))
  split = dataset.assemble(source({"train": [[1, NAN], [3, 5], [2, 1]]}, vector)).split("train")
  assert split.recorded.all()
  np.testing.assert_allclose(split.inputs["v"][:, 0], np.array([-1, 1, 0]) / (2 / 3) ** 0.5)
  assert split.inputs["v"][:, 1].tolist() == [0, 1, -1]


def test_lost_vectors_are_absent_images_and_labels_untouched():
  rows = [np.array([1.0, NAN]), np.array([2.0, 4.0]), np.array([4.0, 8.0])]
  task, label = Task("regression", 1), np.array([0.5, -2.0, 1.5], np.float32)
  found = dataset.assemble(
    source({"train": rows}, Modality("v", "vector", (2,)), label=label, task=task),
    cleaning.Rules("frame"),
  )
  split = found.split("train")
  assert split.recorded[:, 0].tolist() == [False, True, True]
  np.testing.assert_allclose(split.inputs["v"], [[0, 0], [-1, -1], [1, 1]])
  assert split.label.tolist() == [0.5, -2.0, 1.5]
  image = np.full((1, 2, 2, 3), 200, np.uint8)
  found = dataset.assemble(source({"train": image}, Modality("i", "image", (2, 2, 3))))
  assert found.spec.standardise == {}
  np.testing.assert_array_equal(found.split("train").inputs["i"], image)


def test_absent_vectors_do_not_count():
  rows = [np.array([1e6]), np.array([2.0]), np.array([6.0])]
  recorded = {"train": np.array([False, True, True])}
  vector = Modality("v", "vector", (1,))
  found = dataset.assemble(source({"train": rows}, vector, recorded=recorded))
  assert found.spec.standardise["v"] == (np.float32(4), np.float32(2))
  assert found.split("train").inputs["v"].tolist() == [[0], [-1], [1]]
  assert found.split("train").recorded[:, 0].tolist() == [False, True, True]


def test_tokens_without_content_are_absent():
  rows = {"train": [np.array([5, 2]), np.array([0, 0])], "test": [np.array([1, 2, 3])]}
  found = dataset.assemble(source(rows, Modality("t", "tokens", (None,), 6)))
  train, test = found.split("train"), found.split("test")
  assert train.recorded[:, 0].tolist() == [True, False]
  assert test.inputs["t"].tolist() == [[1, 2]]
  assert test.inputs["t"].dtype == np.int32
  assert found.report["test"]["t"].num_truncated_rows == 1
  assert train.length == {}


def test_a_modality_that_no_train_row_has_is_refused():
  rows = {"train": [np.ones(2), np.ones(2)]}
  recorded = {"train": np.zeros(2, bool)}
  with pytest.raises(ValueError, match="split 'train': modality 'v' is in none of the 2"):
    dataset.assemble(source(rows, Modality("v", "vector", (2,)), recorded=recorded))


def test_bad_rows_are_refused():
  vector, row = Modality("v", "vector", (2,)), np.zeros(2)
  for nonfinite, words in (("error", "1 values are NaN"), ("zero", "frame, value")):
    with pytest.raises(ValueError, match=words):
      dataset.assemble(source({"train": [[NAN, 0]]}, vector), cleaning.Rules(nonfinite))
  with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\)"):
    dataset.assemble(source({"train": [np.zeros(3)]}, vector))
  for token in (9, -1, 2**32):
    with pytest.raises(ValueError, match=f"token id {token} is outside 0 to 8"):
      rows = {"train": [np.array([1, token])]}
      dataset.assemble(source(rows, Modality("t", "tokens", (2,), 9)))
  with pytest.raises(ValueError, match="is 'train', known are test"):
    dataset.assemble(source({"test": [row]}, vector))
  for task, label, words in (
    (Task("classes", 2), [0, 2], "label, row 1: found 2, expected: 0 to 1"),
    (Task("regression", 1), [NAN, 0], "label, row 0: found nan"),
    (Task("multilabel", 2), [[0, 1], [0, 3]], r"row 1: found \[0, 3\], expected: 0 and 1"),
  ):
    with pytest.raises(ValueError, match=words):
      bad = source({"train": [row, row]}, vector, label=np.array(label), task=task)
      dataset.assemble(bad)
