"""One absurd value does not move a feature: the fit, the clipping, every split, on disk or not."""

import logging

import jax
import numpy as np
import pytest
from npz_files import plain

from promise_jax import data
from promise_jax.data import new_rows, scaling

ROWS = 60
SPLIT = np.array(["train"] * 40 + ["valid"] * 10 + ["test"] * 10)


def arrays(**changed):
  """A vector with ordinary features of many kinds, and a padded sequence."""
  rng = np.random.default_rng(0)
  v = np.stack(
    [
      rng.normal(3, 2, ROWS),
      np.exp(rng.normal(size=ROWS)),  # a heavy tail
      np.arange(ROWS) % 20 == 3,  # a rare level
      np.full(ROWS, 7.0),
      rng.poisson(0.3, ROWS),
      rng.normal(2000, 1e-3, ROWS),
    ],
    axis=1,
  )
  s = rng.normal(size=(ROWS, 5, 3))
  good = {"x_v": v.astype(np.float32), "x_s": s.astype(np.float32), "split": SPLIT}
  good |= {"length_s": rng.integers(1, 6, ROWS), "y": np.arange(ROWS) % 3}
  return good | changed


def slow_range(values):
  """`plausible_range` of one feature, by sorting lists."""
  ordered = sorted(float(v) for v in values)
  centre = ordered[(len(ordered) - 1) // 2]
  distance = sorted(abs(v - centre) for v in ordered if v != centre)
  if len(distance) < scaling.FEW:
    return -scaling.LARGEST, scaling.LARGEST
  width = scaling.FAR * distance[int(0.75 * (len(distance) - 1))]
  return max(centre - width, -scaling.LARGEST), min(centre + width, scaling.LARGEST)


def slow_scale(values):
  """(mean, std, low, high) of the train values of one feature."""
  low, high = slow_range(values)
  near = [float(v) for v in values if low <= v <= high]
  mean, width = np.mean(near), max(near) - min(near)
  std = np.std(near) if width else 1.0
  return mean, std, min(near) - scaling.ROOM * width, max(near) + scaling.ROOM * width


def frames(content, split):
  """The valid steps of the sequence in a split, [n, 3]."""
  here = SPLIT == split
  rows = zip(content["x_s"][here], content["length_s"][here], strict=True)
  return np.concatenate([row[:n] for row, n in rows])


@pytest.fixture
def spoilt():
  """Absurd values in train (a cell, a frame, a code for missing) and in the other splits."""
  content = arrays()
  v, s = content["x_v"], content["x_s"]
  v[3, 0], v[[5, 6], 1], v[41, 0], v[55, 1] = 1e9, -9999, -1e12, np.float32(3e38)
  v[50, 3] = 8  # constant in train
  s[2, 0, 1], s[56, 0, 2] = 1e30, -3e38
  return content


def test_the_scale_is_that_of_slow_loops(save_npz, spoilt):
  fitted = data.load(save_npz(spoilt)).preprocessing.scale
  for name, values in (("v", spoilt["x_v"][:40]), ("s", frames(spoilt, "train"))):
    expected = np.transpose([slow_scale(values[:, d]) for d in range(values.shape[1])])
    np.testing.assert_allclose(fitted[name], expected, rtol=2e-5, atol=2e-5)
  assert fitted["v"].high[0] < 40 and fitted["s"].high[1] < 40


def test_values_are_those_of_a_file_without_the_absurd_ones(save_npz, spoilt, caplog):
  """The clean file has NaN there, which is dropped; all other values are equal to the bit."""
  clean = {name: x.copy() for name, x in spoilt.items()}
  where_v = np.abs(spoilt["x_v"]) > 9000
  where_s = np.abs(spoilt["x_s"]) > 9000
  clean["x_v"][where_v] = clean["x_s"][where_s] = np.nan
  with caplog.at_level(logging.WARNING):
    found = data.load(save_npz(spoilt))
    for split in ("valid", "test"):
      found.split(split)
  expected = data.load(save_npz(clean), nonfinite="value")
  for split in found.splits:
    ours, theirs = found.split(split), expected.split(split)
    np.testing.assert_array_equal(ours.recorded, theirs.recorded)
    for name, where in (("v", where_v), ("s", where_s)):
      where = where[SPLIT == split]
      x, y = ours.inputs[name], theirs.inputs[name]
      np.testing.assert_array_equal(x[~where], y[~where])
      assert not y[where].any()
      assert np.isfinite(x).all() and (np.abs(x[where]) > 3).all() and np.abs(x).max() < 40
  assert "own, train, v: 3 values far outside those of train, clipped." in caplog.text
  assert [found.report[s]["v"].num_clipped for s in found.splits] == [3, 1, 1]
  assert [found.report[s]["s"].num_clipped for s in found.splits] == [1, 0, 1]


def test_ordinary_values_are_scaled_as_ever(save_npz):
  """No value of heavy tails, rare levels, counts is touched; a constant feature is 0."""
  content = arrays()
  found = data.load(save_npz(content))
  train = content["x_v"][SPLIT == "train"].astype(np.float64)
  mean, std = train.mean(0).astype(np.float32), train.std(0).astype(np.float32)
  std[3] = 1
  for split in found.splits:
    expected = (content["x_v"][SPLIT == split] - mean) / std
    np.testing.assert_array_equal(found.split(split).inputs["v"], expected)
    assert not any(found.report[split]["v"])
  assert not found.split("test").inputs["v"][:, 3].any()
  assert sorted(found.notes) == [
    "own, v: 1 of 6 features are constant in train, the model reads them as 0.",
    "own, v: 1 of 6 features differ by hardly more than float32 tells apart at 2000, or by less; "
    "subtract a constant from them.",
  ]


@pytest.mark.parametrize("block_values", [2**22, 50])
def test_streamed_rows_and_new_rows_are_the_same(
  save_npz, spoilt, tmp_path, monkeypatch, block_values
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.setattr(scaling, "BLOCK_VALUES", block_values)
  path = save_npz(spoilt)
  resident, streamed = data.load(path), data.load(path, stream=True)
  every = np.arange(40)
  for name in ("v", "s"):
    for ours, theirs in zip(
      streamed.preprocessing.scale[name], resident.preprocessing.scale[name], strict=True
    ):
      assert ours.tobytes() == theirs.tobytes()
    rows = streamed.split("train").inputs[name][every]
    assert rows.tobytes() == resident.split("train").inputs[name].tobytes()
  assert streamed.report["train"] == resident.report["train"]
  test = {name: x[50:] for name, x in spoilt.items() if name not in ("split", "y")}
  (block,) = new_rows.read_new_rows(test, resident.preprocessing)
  split, report = resident.preprocessing.clean(block.rows)
  for name in ("v", "s"):
    np.testing.assert_array_equal(split.inputs[name], resident.split("test").inputs[name])
  assert report == resident.report["test"]


def test_numbers_of_every_size_stay_finite():
  big, small = np.float32(3.4e38), np.float32(1e-45)
  values = np.array([[0, 0, big, small], [0, 1, -big, 0], [0, big, big, 0]], np.float32)
  scale = scaling.fit_scale(values.__getitem__, np.ones(3, bool))
  assert np.isfinite(scale).all()
  assert np.isfinite(scaling.standardise(values, np.ones((3, 1), bool), scale)).all()


def test_a_cpu_shares_the_memory_of_standardised_rows(rng):
  values, kept = rng.normal(size=(7, 3)).astype(np.float32), rng.random((7, 1)) < 0.7
  scale = scaling.fit_scale(lambda index: np.where(kept, values, np.nan)[index], kept[:, 0])
  made = scaling.standardise(values, kept, scale)
  by_hand = np.where(kept, (np.clip(values, scale.low, scale.high) - scale.mean) / scale.std, 0)
  np.testing.assert_array_equal(made, by_hand)
  placed = jax.device_put(made, jax.devices()[0])
  assert placed.unsafe_buffer_pointer() == made.ctypes.data


def test_a_feature_without_any_train_value_is_zero(save_npz):
  content = plain()
  content["x_v"][:6, 0] = np.nan
  found = data.load(save_npz(content))
  assert not found.split("test").inputs["v"][:, 0].any()


def test_a_cell_of_a_table_is_that_of_the_arrays_made_by_hand(save_npz, tmp_path):
  """Neither the mean that stands for missing cells nor the unit of the label is swallowed."""
  rng = np.random.default_rng(0)
  size, price, label = rng.normal(size=ROWS), rng.normal(9, 2, ROWS), rng.normal(size=ROWS)
  price[[3, 50]], label[5] = 1e9, 1e9
  lines = ["size,price,split,y"]
  for i in range(ROWS):
    cell = "" if i % 7 == 0 else f"{price[i]:.17g}"
    lines.append(f"{size[i]:.17g},{cell},{SPLIT[i]},{label[i]:.17g}")
  (tmp_path / "own.csv").write_text("\n".join(lines))
  table = data.load(tmp_path / "own.csv", label="y", columns={"size": "number"})
  missing = np.arange(ROWS) % 7 == 0
  train = SPLIT == "train"
  mean = np.mean([price[i] for i in range(40) if i % 7 and price[i] < 100])
  filled = np.where(missing, np.float32(mean), price)
  by_hand = {"x_attributes": np.stack([size, filled, missing], axis=1), "y": label, "split": SPLIT}
  expected = data.load(save_npz(by_hand))
  for split in table.splits:
    ours, theirs = (d.split(split).inputs["attributes"] for d in (table, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
  unit = np.std([y for y in label[train] if y < 100])
  assert table.spec.task.scale == pytest.approx(unit, rel=1e-5)
