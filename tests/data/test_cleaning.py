"""What counts as nothing: padding on either side, rows of zeros, in every format."""

import logging
import pickle

import numpy as np
import pytest
import sentiment_files
from npz_files import plain

from promise_jax import data
from promise_jax.data import cleaning, dataset, new_rows
from promise_jax.data.readers import records
from promise_jax.types import Modality, Task

STEPS = 6


def slow_turn(row, length):
  """(row from its first valid step on, "ok", "turned" or "short"), by loops over numbers."""
  content = [t for t, frame in enumerate(row) if any(np.isfinite(x) and x != 0 for x in frame)]
  outside_first = [t for t in content if t >= length]
  outside_last = [t for t in content if t < len(row) - length]
  if not outside_first:
    return row, "ok"
  return (row, "short") if outside_last else (row[len(row) - length :], "turned")


def test_rows_are_turned_as_slow_loops_say():
  """Every way to fill four steps with nothing, NaN and something, at every length."""
  frames = {0: [0, 0], 1: [0, np.nan], 2: [3, 0]}
  filled = np.array(np.meshgrid(*[range(3)] * 4)).reshape(4, -1).T
  rows = np.array([[frames[f] for f in row] for row in filled])
  for length in range(6):
    found, *counts = cleaning.turn_rows(rows, np.full(81, length), np.ones(81, bool))
    expected = [slow_turn(row, length) for row in rows]
    for ours, (theirs, _) in zip(found, expected, strict=True):
      np.testing.assert_array_equal(ours, theirs)
    words = [word for _, word in expected]
    assert counts == [words.count("turned"), words.count("short")]


def padded(in_front, count=40, seed=0):
  """Sequences padded with zeros, all of whose steps have numbers."""
  rng = np.random.default_rng(seed)
  length = rng.integers(1, STEPS, count)
  rows = [rng.uniform(1, 2, (n, 3)) for n in length]
  x = sentiment_files.pad(rows, STEPS, in_front)
  split = np.repeat(["train", "valid", "test"], (count // 2, count // 4, count // 4))
  return {"x_s": x, "length_s": length, "y": np.arange(count) % 3, "split": split}


def assert_same_split(ours, theirs):
  for name, x in theirs.inputs.items():
    np.testing.assert_array_equal(ours.inputs[name], x)
  for name, n in theirs.length.items():
    np.testing.assert_array_equal(ours.length[name], n)
  np.testing.assert_array_equal(ours.recorded, theirs.recorded)


@pytest.mark.parametrize("stream", [False, True])
def test_an_npz_file_padded_in_front_is_the_one_padded_behind(
  save_npz, tmp_path, monkeypatch, caplog, stream
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  behind = data.load(save_npz(padded(False)))
  expected = {split: behind.split(split) for split in behind.splits}
  assert not any(map(any, behind.report["train"].values()))
  content = padded(True)
  with caplog.at_level(logging.WARNING):
    found = data.load(save_npz(content), stream=stream)
  for split, theirs in expected.items():
    ours = found.split(split)
    rows = {name: x[np.arange(len(theirs.id))] for name, x in ours.inputs.items()}
    assert_same_split(ours._replace(inputs=rows), theirs)
    assert found.report[split]["s"].num_turned_rows == len(theirs.id)
  assert "own, train, s: 20 rows padded in front, read from their end." in caplog.text
  test = {name: content[name][30:] for name in ("x_s", "length_s")}
  (block,) = new_rows.read_new_rows(test, found.preprocessing)
  ours, report = found.preprocessing.clean(block.rows)
  assert_same_split(ours, expected["test"])
  assert report["s"].num_turned_rows == 10


def test_lengths_that_are_too_short_are_believed_and_said(save_npz, caplog):
  content = padded(False)
  content["length_s"][[2, 25]] -= 1
  with caplog.at_level(logging.WARNING):
    found = data.load(save_npz(content))
  steps = content["length_s"][2]
  np.testing.assert_array_equal(found.split("train").length["s"][2], steps)
  assert not found.split("train").inputs["s"][2, steps:].any()
  assert "train, s: 1 rows with values outside their length, which are not read" in caplog.text
  assert found.split("valid").length["s"][5] == content["length_s"][25]
  assert found.report["valid"]["s"].num_short_lengths == 1


@pytest.mark.parametrize("layout", ["unaligned", "aligned"])
def test_a_pickle_padded_in_front_is_the_one_padded_behind(tmp_path, layout):
  """MMSA's extractor pads on either side; the mask of the words counts them alone."""
  files, truth = sentiment_files.make(layout)
  for fields, rows in zip(files.values(), truth.values(), strict=True):
    for m in sentiment_files.DIMS:
      fields[m] = sentiment_files.pad(rows[m], fields[m].shape[1], in_front=True)
  path = tmp_path / "own.pkl"
  path.write_bytes(pickle.dumps(files))
  found = data.load(path)
  sentiment_files.check_rows(found, truth)
  assert found.report["train"]["text"].num_turned_rows > 0


def test_records_padded_in_front_keep_rows_longer_than_the_longest_train_row():
  def some(start, steps):
    x = np.zeros((steps, 2), np.float32)
    x[-2:] = [[1, 2], [3, 4]]
    inputs = {"s": x, "t": np.array([0] * (steps - 2) + [5, 6])}
    more = {"length": {"s": 2, "t": 2}, "label": start % 2, "id": start}
    return {"inputs": inputs} | more

  modalities = Modality("s", "sequence", (None, 2)), Modality("t", "tokens", (None,), 9)
  splits = {"train": [some(i, 3) for i in range(4)], "test": [some(9, 7)]}
  found = dataset.assemble(records.source("own", splits, modalities, Task("classes", 2)))
  test = found.split("test")
  np.testing.assert_array_equal(test.inputs["s"][0, :2], found.split("train").inputs["s"][0, :2])
  assert test.inputs["t"].tolist() == [[5, 6, 0]] and test.length["s"].tolist() == [2]


ZERO = {"train": [1, 4], "valid": [7], "test": [10]}  # rows of npz_files.plain
ABSENT = [row for rows in ZERO.values() for row in rows]


@pytest.mark.parametrize("with_length", [True, False])
def test_sequences_of_zeros_are_absent_and_vectors_where_it_is_asked(save_npz, caplog, with_length):
  content = plain(length_s=np.full(12, 4) if with_length else None)
  content["x_s"][ABSENT] = content["x_v"][ABSENT] = 0
  here = ~np.isin(np.arange(12), ABSENT)
  clean = content | {"present_s": here, "x_i": np.ones((12, 2, 2, 3), np.uint8)}
  clean["x_i"][ABSENT] = 0
  spoilt = clean | {"present_s": np.ones(12, bool)}
  with caplog.at_level(logging.WARNING):
    found = data.load(save_npz(spoilt))
    for split in found.splits:
      found.split(split)
  expected = data.load(save_npz(clean))
  for split in found.splits:
    assert_same_split(found.split(split), expected.split(split))
    assert found.report[split]["s"].num_blank_rows == len(ZERO[split])
    assert found.report[split]["v"].num_zero_rows == len(ZERO[split])
    assert found.report[split]["i"].num_zero_rows == len(ZERO[split])
  assert "train, s: 2 rows of zeros alone absent (zeros=kept: values)." in caplog.text
  assert "v: 2 rows of zeros alone read as values (zeros=absent: absent)." in caplog.text
  absent = data.load(save_npz(spoilt), zeros="absent")
  expected = data.load(save_npz(clean | {"present_v": here, "present_i": here}))
  for split in found.splits:
    assert_same_split(absent.split(split), expected.split(split))
  kept = data.load(save_npz(spoilt), zeros="kept")
  assert all(kept.split(split).recorded.all() for split in kept.splits)
  assert kept.report["train"]["s"].num_zero_rows == 2
  test = {name: spoilt[name][9:] for name in ("x_s", "x_v", "x_i")}
  for fitted in (found, absent, kept):
    (block,) = new_rows.read_new_rows(test, fitted.preprocessing)
    assert_same_split(fitted.preprocessing.clean(block.rows)[0], fitted.split("test"))
  with pytest.raises(ValueError, match="zeros is 'no', known are auto, absent, kept"):
    data.load(save_npz(spoilt), zeros="no")


def test_clips_that_failed_are_absent_in_both_files_of_the_same_clips(tmp_path):
  path = tmp_path / "own.pkl"
  for layout in ("unaligned", "aligned"):
    files, _ = sentiment_files.make(layout)
    files["train"]["audio"][[0, 3]] = files["test"]["vision"][1] = 0
    path.write_bytes(pickle.dumps(files))
    found = data.load(path)
    assert found.split("train").recorded[:, 1].tolist() == [i not in (0, 3) for i in range(6)]
    assert found.split("test").recorded[:, 2].tolist() == [i != 1 for i in range(4)]
    assert found.report["train"]["audio"].num_blank_rows == 2
  files["train"]["vision"][:] = 0
  path.write_bytes(pickle.dumps(files))
  with pytest.raises(ValueError, match="'vision' is in none of the 6 .* 6 rows of zeros alone"):
    data.load(path)


@pytest.mark.parametrize(("shape", "is_absent"), [((4, 2), True), ((3,), False)])
def test_features_of_zeros_alone_in_a_folder(save_npz, tmp_path, shape, is_absent):
  folder = tmp_path / "encoded"
  folder.mkdir()
  rng = np.random.default_rng(0)
  for i in range(12):
    np.save(folder / f"{i}.npy", np.zeros(shape) if i in ABSENT else rng.normal(size=shape))
  path = save_npz(plain())
  found = data.load(path, features={"f": str(folder)})
  assert (~found.split("train").recorded[:, -1]).tolist() == [
    is_absent and i in ABSENT for i in range(6)
  ]
  report = found.report["train"]["f"]
  assert (report.num_blank_rows, report.num_zero_rows) == ((2, 0) if is_absent else (0, 2))
  absent = data.load(path, features={"f": str(folder)}, zeros="absent")
  assert not absent.split("train").recorded[ABSENT[:2], -1].any()
  rows = {"x_s": plain()["x_s"][9:], "x_v": plain()["x_v"][9:], "id": np.arange(9, 12)}
  (block,) = new_rows.read_new_rows(rows, found.preprocessing)
  split, report = found.preprocessing.clean(block.rows)
  assert_same_split(split, found.split("test"))
  assert sum(report["f"]) == 1


def test_padding_that_no_length_speaks_of_is_said(save_npz, caplog):
  for in_front in (True, False):
    content = padded(in_front) | {"x_v": np.ones((40, 2))}
    rows = sum(n < STEPS for n in content.pop("length_s")[:20])
    with caplog.at_level(logging.WARNING):
      found = data.load(save_npz(content))
    assert found.report["train"]["s"].num_padded_rows == rows
    assert f"train, s: {rows} rows begin or end in steps of zeros, read as values" in caplog.text
    assert (found.split("train").length["s"] == STEPS).all()
