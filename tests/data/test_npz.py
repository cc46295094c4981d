"""npz files of one's own: what they become, and a sentence for each way to be wrong."""

import pathlib
import warnings
import zipfile

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data.readers import text
from promise_jax.experiments import train_variant
from promise_jax.types import Modality, Task

NAN, INF = np.nan, np.inf
N = 12
SPLIT = np.array(["train"] * 6 + ["valid"] * 3 + ["test"] * 3)


def plain(**arrays):
  """A good file's arrays: a vector, a sequence and 3 classes in 12 rows."""
  rng = np.random.default_rng(0)
  good = {
    "x_v": rng.normal(size=(N, 2)).astype(np.float32),
    "x_s": rng.normal(size=(N, 4, 3)).astype(np.float32),
    "y": np.arange(N) % 3,
    "split": SPLIT,
  }
  return {k: v for k, v in (good | arrays).items() if v is not None}


@pytest.fixture
def save(tmp_path):
  def write(arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    return tmp_path / "own.npz"

  return write


def with_value(values, at, value):
  values = np.array(values)
  values[at] = value
  return values


# ---- what good files become


def test_kinds_shapes_and_splits(save):
  rng = np.random.default_rng(1)
  words = np.array([f"word {'x' * i}" for i in range(N)])
  arrays = plain(
    x_words=words,
    x_photo=rng.integers(0, 256, (N, 5, 4, 3), dtype=np.uint8),
    x_grey=rng.integers(0, 256, (N, 5, 4), dtype=np.uint8),
    x_ids=rng.integers(1, 9, (N, 7)),
    length_s=np.arange(N) % 5,
    id=np.arange(N) * 3 + 100,
  )
  found = data.load(save(arrays), vocabulary=64)
  longest = np.count_nonzero(text.hash_ngrams(words[:6].tolist(), 64), axis=1).max()
  assert found.spec.modalities == (
    Modality("v", "vector", (2,)),
    Modality("s", "sequence", (4, 3)),
    Modality("words", "tokens", (longest,), 64),
    Modality("photo", "image", (5, 4, 3)),
    Modality("grey", "image", (5, 4, 1)),
    Modality("ids", "tokens", (7,), 64),
  )
  assert found.spec.task == Task("classes", 3, ("0", "1", "2"))
  assert (found.name, found.splits) == ("own", ("train", "valid", "test"))
  assert found.notes == ()
  for split, rows in (
    ("train", range(6)),
    ("valid", range(6, 9)),
    ("test", range(9, N)),
  ):
    part = found.split(split)
    rows = list(rows)
    assert part.id.tolist() == [3 * r + 100 for r in rows]
    assert part.label.tolist() == [r % 3 for r in rows]
    assert part.length["s"].tolist() == [r % 5 for r in rows]
    assert part.recorded[:, 1].tolist() == [r % 5 > 0 for r in rows]
    assert part.recorded[:, [0, 2, 3, 4, 5]].all()
    np.testing.assert_array_equal(part.inputs["photo"], arrays["x_photo"][rows])
    np.testing.assert_array_equal(part.inputs["grey"][..., 0], arrays["x_grey"][rows])
    np.testing.assert_array_equal(part.inputs["ids"], arrays["x_ids"][rows])
    for i, r in enumerate(rows):
      ids = text.hash_ngrams([words[r]], 64)[0][:longest]
      assert part.inputs["words"][i, : len(ids)].tolist() == ids.tolist()
    mean, std = arrays["x_v"][:6].mean(0), arrays["x_v"][:6].std(0)
    expected = (arrays["x_v"][rows] - mean) / std
    np.testing.assert_allclose(part.inputs["v"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  ("y", "extra", "task", "label"),
  [
    ([0, 1, 1, 0], {}, Task("classes", 2, ("0", "1")), [0, 1, 1, 0]),
    ([True, False] * 2, {}, Task("classes", 2, ("0", "1")), [1, 0, 1, 0]),
    (["b", "a"] * 2, {}, Task("classes", 2, ("a", "b")), [1, 0, 1, 0]),
    (
      ["b", "a"] * 2,
      {"classes": ["c", "b", "a"]},
      Task("classes", 3, ("c", "b", "a")),
      [1, 2, 1, 2],
    ),
    (
      [0, 2, 0, 2],
      {"classes": list("abc")},
      Task("classes", 3, tuple("abc")),
      [0, 2] * 2,
    ),
    ([0.5, -1, 2, 0], {}, Task("regression", 1), [0.5, -1, 2, 0]),
    ([3.0, -3, 0, 1], {"scale": 3}, Task("regression", 1, scale=3.0), [3, -3, 0, 1]),
    (
      [[0, 1], [1, 1], [0, 0], [1, 0]],
      {"classes": ["p", "q"]},
      Task("multilabel", 2, ("p", "q")),
      [[0, 1], [1, 1], [0, 0], [1, 0]],
    ),
  ],
)
def test_tasks(save, y, extra, task, label):
  arrays = {k: np.array(v) for k, v in extra.items()}
  x, split = np.eye(4, dtype=np.float32), np.array(["train", "train", "valid", "test"])
  found = data.load(save({"x_a": x, "y": np.array(y), "split": split} | arrays))
  assert found.spec.task == task
  parts = [found.split(s).label for s in found.splits]
  assert np.concatenate(parts).tolist() == label
  assert parts[0].dtype == (np.int32 if task.kind == "classes" else np.float32)


@pytest.mark.parametrize("dtype", ["?", "u1", "i2", "u8", "f2", ">f4", ">i8", "f8", "g"])
def test_dtypes_and_orders_of_bytes_and_axes(save, dtype):
  values = np.arange(N * 2).reshape(N, 2) % 5
  values = np.asfortranarray(values.astype(dtype))
  found = data.load(save(plain(x_v=values, y=plain()["y"].astype(">i2"))), kinds={"v": "vector"})
  mean, std = found.spec.standardise["v"]
  for name, rows in (("train", slice(0, 6)), ("test", slice(9, N))):
    back = found.split(name).inputs["v"] * std[None] + mean[None]
    np.testing.assert_allclose(back, values[rows].astype(float), atol=1e-5)
    assert found.split(name).label.tolist() == [0, 1, 2] * (len(back) // 3)


def test_kinds_can_be_chosen(save):
  counts = np.arange(N) % 4 + 1
  arrays = plain(x_n=counts, x_pixels=np.full((N, 6), 7, np.uint8), x_s=np.ones((N, 5)))
  for kind, shape in (("vector", (1,)), ("tokens", (1,))):
    kinds = {"n": kind, "pixels": "vector", "s": "sequence"}
    found = data.load(save(arrays), kinds=kinds)
    vocabulary = 8192 if kind == "tokens" else 0
    assert found.spec.modalities[1:] == (
      Modality("s", "sequence", (5, 1)),
      Modality("n", kind, shape, vocabulary),
      Modality("pixels", "vector", (6,)),
    )
  assert found.split("test").inputs["n"].tolist() == [[2], [3], [4]]


def test_float_and_bool_images(save):
  photo = np.zeros((N, 2, 2, 2))
  photo[0], photo[1, 0, 0, 0], photo[2, 1, 1, 0] = NAN, NAN, 0.5
  photo[1, 1, 1, 0] = 1
  photo[3, :, :, 1] = INF  # in every pixel: nothing is left
  mask = np.arange(N * 4).reshape(N, 2, 2, 1) % 3 == 0
  found = data.load(save(plain(x_photo=photo, x_mask=mask)))
  train = found.split("train")
  assert train.inputs["photo"].dtype == np.uint8
  assert train.inputs["photo"][:3, :, :, 0].tolist() == [
    [[0, 0], [0, 0]], [[0, 0], [0, 255]], [[0, 0], [0, 128]],
  ]  # fmt: skip
  assert train.recorded[:, 2].tolist() == [False, True, True, False, True, True]
  # values, frames, absent, cut; the row of NaN alone is no fault
  assert found.report["train"]["photo"] == (5, 5, 1, 0)
  np.testing.assert_array_equal(train.inputs["mask"], mask[:6] * 255)


def test_natural_holes(save):
  arrays = plain(present_s=np.arange(N) % 2 == 0)
  arrays["x_v"][3] = NAN  # a hole
  arrays["x_v"][4] = [INF, -INF]  # one too
  arrays["x_v"][5, 1] = NAN  # a fault: the frame is lost
  arrays["x_s"][0, 1] = INF  # a fault: a step is lost
  arrays["x_s"][1] = NAN  # not looked at
  found = data.load(save(arrays))
  train = found.split("train")
  assert train.recorded.tolist() == [
    [True, True], [True, False], [True, True], [False, False], [False, True],
    [False, False],
  ]  # fmt: skip
  assert found.report["train"]["v"] == (1, 1, 1, 0)
  assert found.report["train"]["s"] == (3, 1, 0, 0)
  assert not train.inputs["s"][0, 1].any()
  np.testing.assert_allclose(found.spec.standardise["v"][0], arrays["x_v"][:3].mean(0), rtol=1e-5)
  arrays["x_s"][0, 1] = 0
  arrays["x_v"][5, 1] = 0
  data.load(save(arrays), nonfinite="error").split("train")  # holes are no error
  huge = with_value(arrays["x_v"].astype(np.float64), (0, 0), 1e300)
  assert data.load(save(plain(x_v=huge))).report["train"]["v"].values == 1


def test_many_modalities_rare_ones_and_wide_ones(save):
  rng = np.random.default_rng(2)
  n = 200
  arrays = {f"x_m{i}": rng.normal(size=(n, 1000 if i == 0 else 3)) for i in range(5)}
  arrays |= {"y": np.arange(n) % 10, "present_m4": np.arange(n) % 10 == 3}
  found = data.load(save(arrays))
  assert found.spec.names == ("m0", "m1", "m2", "m3", "m4")
  assert found.spec.modalities[0].shape == (1000,)
  parts = [found.split(s) for s in found.splits]
  assert sum(p.recorded[:, 4].sum() for p in parts) == 20
  for part in parts:
    assert part.recorded[:, 4].tolist() == (part.id % 10 == 3).tolist()


# ---- the split that is drawn


def test_drawn_split_is_stratified_and_follows_the_ids(save):
  y = np.repeat([0, 1, 2, 3], [100, 20, 5, 3])
  ids = np.random.default_rng(0).permutation(10_000)[: len(y)]
  x = ids[:, None].astype(np.float64)

  def read(order, seed=0):
    arrays = {"x_a": x[order], "y": y[order], "id": ids[order]}
    found = data.load(save(arrays), split_seed=seed)
    return {s: found.split(s) for s in found.splits}

  first = read(np.arange(len(y)))
  sizes = {s: np.bincount(part.label, minlength=4).tolist() for s, part in first.items()}
  assert sizes == {
    "train": [60, 12, 3, 2],
    "valid": [20, 4, 1, 0],
    "test": [20, 4, 1, 1],
  }
  assert sorted(np.concatenate([p.id for p in first.values()])) == sorted(ids)
  turned, other = read(np.arange(len(y))[::-1]), read(np.arange(len(y)), seed=1)
  for s in first:
    assert set(turned[s].id) == set(first[s].id) != set(other[s].id)


def test_rows_of_a_group_stay_together(save):
  rng = np.random.default_rng(4)
  group = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 8, 60)))
  y, x = group % 3, rng.normal(size=(len(group), 2))
  words = np.array([f"recording {g:02}" for g in group])
  named, counted = (data.load(save({"x_a": x, "y": y, "group": g})) for g in (words, group + 7))
  for found, shift in ((named, 0), (counted, 7)):
    seen = []
    for name in found.splits:
      assert found.group(name).dtype == np.int32
      assert found.group(name).tolist() == (group[found.split(name).id] + shift).tolist()
      seen.append(set(found.group(name).tolist()))
    # 60 groups, 20 of each class: 12, 4 and 4 of each.
    assert [len(s) for s in seen] == [36, 12, 12] and len(set.union(*seen)) == 60
  turned = data.load(save({"x_a": x[::-1], "y": y[::-1], "group": words[::-1]}))
  assert set(turned.group("test").tolist()) == set(named.group("test").tolist())
  assert data.load(save({"x_a": x, "y": y})).group("test") is None


def test_labels_are_drawn_by_group(save):
  group = np.repeat(np.arange(30), 4)
  x = np.random.default_rng(5).normal(size=(120, 2))
  found = data.load(save({"x_a": x, "y": group % 2, "group": group}))
  kept = train_variant.label_subset(found, {"label_rate": 0.5}, seed=0)
  of_group = [set(kept[found.group("train") == g]) for g in set(found.group("train"))]
  assert all(len(s) == 1 for s in of_group) and sum(map(sum, of_group)) == 9


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_drawn_split_of_other_tasks(save, task):
  rng = np.random.default_rng(3)
  y = rng.normal(size=500) if task == "regression" else rng.integers(0, 2, (500, 3))
  found = data.load(save({"x_a": rng.normal(size=(500, 2)), "y": y}))
  labels = [found.split(s).label for s in found.splits]
  assert [len(part) for part in labels] == [300, 100, 100]
  if task == "regression":  # each block of ten neighbours gives 6, 2 and 2
    edges = np.sort(y.astype(np.float32))[10::10]
    for part, count in zip(labels, (6, 2, 2), strict=True):
      assert np.bincount(np.searchsorted(edges, part, "right")).tolist() == [count] * 50


def test_what_train_lacks_is_said(save, caplog):
  found = data.load(save(plain(y=np.array([0, 1] * 3 + [2] * 6))))
  assert found.notes == ("1 of 3 classes have no row in train: 2.",)
  assert "own: 1 of 3 classes" in caplog.text
  y = np.zeros((N, 2), int)
  y[::2, 0] = 1
  found = data.load(save(plain(y=y, classes=np.array(["p", "q"]))))
  assert found.notes == ("1 of 2 labels have no positive row in train: q.",)


def test_other_splits_are_read_only_when_asked_for(save):
  path = save(plain())
  found = data.load(path)
  path.rename(path.with_name("gone.npz"))
  assert len(found.split("train").id) == 6
  with pytest.raises(ValueError, match="own.npz: there is no such file"):
    found.split("test")
  path.with_name("gone.npz").rename(path)
  assert len(found.split("test").id) == 3
  assert set(found.report) == {"train", "test"}


# ---- files that are wrong

OBJECTS = np.array([{}] * N, dtype=object)
X4 = np.zeros((N, 2, 2, 1))

BAD = {  # name: (arrays beside or instead of the good ones, options, the sentence)
  "short x": ({"x_v": np.zeros((10, 2))}, {}, "x_v has 10 rows, y has 12"),
  "short present": ({"present_v": np.ones(5, bool)}, {}, "present_v has 5 rows, y has"),
  "short split": ({"split": SPLIT[:4]}, {}, "split has 4 rows, y has 12"),
  "objects": ({"x_v": OBJECTS}, {}, "x_v is an array of objects, .* a pickle"),
  "object labels": ({"y": OBJECTS}, {}, "y is an array of objects"),
  "no x": ({"x_v": None, "x_s": None}, {}, "no array x_<modality>, found are y, split"),
  "no y": ({"y": None}, {}, "no array y, found are x_v, x_s, split"),
  "unknown array": ({"label": SPLIT}, {}, "'label' is unknown, known are x_<modality>"),
  "no modality name": ({"x_": X4}, {}, "'x_' is unknown"),
  "odd modality name": ({"x_a+b": X4}, {}, r"'x_a\+b' is unknown"),
  "5-D": ({"x_v": X4[..., None]}, {}, r"x_v is float64 of shape \(12, 2, 2, 1, 1\)"),
  "0-D": (
    {"x_v": np.float32(1)},
    {},
    r"x_v is float32 of shape \(\), expected: num",
  ),
  "no features": ({"x_v": np.zeros((N, 0))}, {}, r"shape \(12, 0\), expected: num"),
  "complex": ({"x_v": np.zeros((N, 2), complex)}, {}, "x_v is complex128 of shape"),
  "dates": ({"x_v": np.zeros((N, 2), "M8[s]")}, {}, r"x_v is datetime64\[s\]"),
  "durations": ({"y": np.zeros(N, "m8[s]")}, {}, r"y is timedelta64\[s\]"),
  "bytes": (
    {"x_v": np.array([b"a"] * N)},
    {},
    r"x_v is \|S1 .* or unicode strings \[N\]",
  ),
  "fields": ({"x_v": np.zeros(N, [("a", "f4")])}, {}, r"x_v is \[\('a', '<f4'\)\]"),
  "2-D strings": (
    {"x_v": np.full((N, 2), "a")},
    {},
    r"x_v is <U1 .* unicode strings \[N\]\.$",
  ),
  "ambiguous 1-D": ({"x_v": np.arange(N)}, {}, "tokens or vector: say so by kinds.v"),
  "ambiguous 2-D": (
    {"x_v": np.zeros((N, 9), "u1")},
    {},
    "or vector: say so by kinds.v",
  ),
  "y of rank 3": (
    {"y": np.zeros((N, 2, 2), int)},
    {},
    r"y is int64 of shape \(12, 2, 2\)",
  ),
  "y of rank 0": ({"y": np.array(3)}, {}, r"y is int64 of shape \(\)"),
  "y of one column": (
    {"y": np.ones((N, 1), int)},
    {},
    r"one label a row has the shape",
  ),
  "no rows": ({k: v[:0] for k, v in plain().items()}, {}, "y has no rows"),
  "gaps": ({"y": np.array([0, 2, 5] * 4)}, {}, "0, 2, 5: number them 0 to 2, or name"),
  "float classes": (
    {"y": np.array([0.0, 2, 5] * 4)},
    {},
    r"whole, 0.0, 2.0, 5.0: give",
  ),
  "negative class": ({"y": np.arange(N) % 3 - 1}, {}, "y, row 0: found -1, .* from 0"),
  "class without name": (
    {"classes": np.array(["a", "b"])},
    {},
    "y, row 2: found 2, .*0 to 1",
  ),
  "unknown name": (
    {"y": np.array(["a", "b", "c"] * 4), "classes": np.array(["a", "b"])},
    {},
    "y, row 2: found 'c', expected: the names in classes, a, b",
  ),
  "names twice": (
    {"classes": np.array(["a", "a"])},
    {},
    "expected: different names",
  ),
  "empty name": ({"y": with_value(["a", "b"] * 6, 4, "")}, {}, "y, row 4: found ''"),
  "one class": (
    {"y": np.zeros(N, int)},
    {},
    r"6 train rows all have the label 0 \(0\)",
  ),
  "one class in train": (
    {"y": np.array([1] * 6 + [0] * 6)},
    {},
    "all have the label 1",
  ),
  "NaN label": ({"y": with_value(np.ones(N), 7, NAN)}, {}, "y, row 7: found nan"),
  "inf label": (
    {"y": with_value(np.ones(N), 2, 1e300)},
    {},
    r"y, row 2: found 1e\+300",
  ),
  "one value": ({"y": np.full(N, 0.5)}, {}, "6 train rows all have the label 0.5,"),
  "many values": (
    {"y": with_value(np.eye(N, 4), (5, 1), 2)},
    {},
    "row 5: found .* 0 and 1 alone",
  ),
  "columns and names": (
    {"y": np.eye(N, 4), "classes": np.array(["a", "b"])},
    {},
    "classes has 2 names, y has 4 columns",
  ),
  "scale of classes": ({"scale": np.array(2.0)}, {}, "scale is there, but y is int64"),
  "scale of 0": ({"y": np.arange(N) / 7, "scale": np.array(0)}, {}, "scale is 0.0"),
  "scale [1]": ({"scale": np.array([2.0])}, {}, r"scale is float64 of shape \(1,\)"),
  "classes of floats": (
    {"y": np.arange(N) / 7, "classes": np.array(["a", "b"])},
    {},
    "classes is there, but",
  ),
  "unknown split": (
    {"split": with_value(SPLIT, 8, "dev")},
    {},
    "split, row 8: found 'dev', expected: train, valid, test",
  ),
  "split of numbers": (
    {"split": np.zeros(N, int)},
    {},
    r"split is int64 .* strings \[N\]",
  ),
  "empty split": (
    {"split": np.where(SPLIT == "test", "train", SPLIT)},
    {},
    "no test rows: split has none",
  ),
  "too few rows": (
    {"x_v": np.ones((2, 1)), "x_s": None, "y": np.arange(2), "split": None},
    {},
    "no valid rows: 2 rows are too few",
  ),
  "group in two splits": (
    {"group": with_value(np.arange(N), 11, 8)},
    {},
    "group 8 has rows in valid and in test, expected: each group in one split",
  ),
  "named group in two splits": (
    {"group": np.array(["a"] * 3 + ["b"] * 7 + ["c"] * 2)},
    {},
    "group 'b' has rows in train and in valid",
  ),
  "negative group": (
    {"group": np.arange(N) - 1},
    {},
    "group, row 0: found -1, .*: 0 to",
  ),
  "group of floats": (
    {"group": np.ones(N)},
    {},
    r"float64 .* integers or strings \[N\]",
  ),
  "short group": ({"group": np.arange(3)}, {}, "group has 3 rows, y has 12"),
  "one group": (
    {"group": np.zeros(N, int), "split": None},
    {},
    "no valid rows: 12 rows in 1 groups are too few",
  ),
  "present of no modality": (
    {"present_w": np.ones(N, bool)},
    {},
    "present_w is of no modality, these are v, s",
  ),
  "present of floats": ({"present_v": np.ones(N)}, {}, r"present_v is float64 .* bool"),
  "present of 2": (
    {"present_v": with_value(np.ones(N, int), 3, 2)},
    {},
    "present_v, row 3: found 2",
  ),
  "length of no modality": (
    {"length_w": np.ones(N, int)},
    {},
    "length_w is of no modality",
  ),
  "length of a vector": (
    {"length_v": np.ones(N, int)},
    {},
    "x_v is of kind vector; only a seq",
  ),
  "long length": (
    {"length_s": np.full(N, 5)},
    {},
    "length_s, row 0: found 5, .* 0 to 4",
  ),
  "negative length": (
    {"length_s": with_value(np.ones(N, int), 9, -1)},
    {},
    "row 9: found -1",
  ),
  "ids twice": (
    {"id": with_value(np.arange(N), 11, 4)},
    {},
    "id, row 11: found 4, expected: a number that no row",
  ),
  "large id": (
    {"id": np.arange(N) + 2**31 - 3},
    {},
    "id, row 3: found 2147483648, expected: 0 to",
  ),
  "negative id": ({"id": np.arange(N) - 2}, {}, "id, row 0: found -2, expected: 0 to"),
  "ids of strings": ({"id": SPLIT}, {}, r"id is <U5 .* integers \[N\]"),
  "empty strings": (
    {"x_w": np.full(N, "")},
    {},
    "split 'train': modality 'w' is in none of the 6 rows",
  ),
  "absent in train": (
    {"present_v": SPLIT == "test"},
    {},
    "modality 'v' is in none of the 6",
  ),
  "NaN in train": (
    {"x_v": np.full((N, 2), NAN)},
    {},
    "modality 'v' is in none of the 6",
  ),
  "NaN as an error": (
    {"x_s": with_value(np.ones((N, 4, 3)), (2, 1, 1), NAN)},
    {"nonfinite": "error"},
    "modality 's': 1 values are NaN",
  ),
  "large token": (
    {"x_w": with_value(np.ones((N, 3), int), (4, 1), 99)},
    {"vocabulary": 50},
    "modality 'w', row 4: token id 99 is outside 0 to 49",
  ),
  "large pixel": (
    {"x_i": with_value(np.ones((N, 2, 2, 1), int), (5, 1), 256)},
    {},
    "x_i, row 5: a pixel is 256",
  ),
  "bright pixel": (
    {"x_i": X4 + 255},
    {},
    "modality 'i': a pixel is 255.0, floats .* 0 to 1",
  ),
  "kind of none": (
    {},
    {"kinds": {"w": "image"}},
    "kinds names 'w', the modalities are v, s",
  ),
  "unknown kind": (
    {},
    {"kinds": {"v": "audio"}},
    "kinds.v is 'audio', known are image, tok",
  ),
  "impossible kind": (
    {},
    {"kinds": {"v": "image"}},
    "x_v is .* can be sequence or vector, not im",
  ),
  "tokens of floats": (
    {},
    {"kinds": {"v": "tokens"}},
    "can be sequence or vector, not tokens",
  ),
  "image of strings": (
    {"x_v": SPLIT},
    {"kinds": {"v": "image"}},
    "can be tokens, not image",
  ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_end_in_one_sentence(save, case):
  arrays, options, sentence = BAD[case]
  path = save(plain(**arrays))
  with pytest.raises(ValueError, match=sentence) as found:
    data.load(path, **options)
  check_sentence(str(found.value), path)


def check_sentence(sentence, path):
  assert sentence.startswith((f"{path}: ", f"{path}, split "))
  assert sentence.endswith(".") and "\n" not in sentence
  assert ". " not in sentence.removeprefix(str(path))
  assert len(sentence) - len(str(path)) < 240


def cut(path):
  path.write_bytes(path.read_bytes()[:-200])


def spoil(path):
  """Changes bytes of the values of the first array."""
  whole = bytearray(path.read_bytes())
  whole[200:208] = b"spoiled!"
  path.write_bytes(bytes(whole))


def shorten(path):
  """An array with fewer values than its header says, in a sound zip file."""
  with zipfile.ZipFile(path) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  members["x_v.npy"] = members["x_v.npy"][:-8]
  with zipfile.ZipFile(path, "w") as archive:
    for name, values in members.items():
      archive.writestr(name, values)


def add(name, content):
  def change(path):
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of a name that is there twice
      archive.writestr(name, content)

  return change


def save_npy(path):
  with path.open("wb") as file:
    np.save(file, np.ones(3))


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (pathlib.Path.unlink, "there is no such file"),
    (cut, "cut short or damaged: it has no sound directory"),
    (spoil, "x_v cannot be read: Bad CRC-32"),
    (shorten, "x_v cannot be read: it holds 88 bytes, its header says 96"),
    (lambda path: path.write_bytes(b""), "the file is empty"),
    (lambda path: path.write_text("a,b\n1,2\n"), "this is not an npz file"),
    (save_npy, "this is one npy array"),
    (add("notes.txt", "hello"), "notes.txt is no array"),
    (add("x_w.npy", b"nothing"), "x_w cannot be read: "),
    (add("y.npy", b""), "y is there twice"),
  ],
)
def test_bad_files_end_in_one_sentence(save, change, sentence):
  path = save(plain())
  change(path)
  with pytest.raises(ValueError, match=sentence) as found:
    data.load(path)
  check_sentence(str(found.value), path)


def test_bad_paths_end_in_one_sentence(save, tmp_path, monkeypatch):
  (tmp_path / "folder.npz").mkdir()
  with pytest.raises(ValueError, match=r"must be a file \*.npz or a prepared"):
    data.load(tmp_path / "folder.npz", data_dir=tmp_path)
  for option, value in (("kinds", {"a": "image"}), ("split_seed", 1)):
    with pytest.raises(ValueError, match=f"no {option}, the option is for npz files"):
      data.load("mfeat", data_dir=tmp_path, **{option: value})
  path = save(plain())
  for option in ("tags", "fold"):
    with pytest.raises(ValueError, match=f"has no {option}, the option is for '"):
      data.load(path, **{option: True})
  with pytest.raises(ValueError, match="has no option 'foo'"):
    data.load(path, foo=1)
  named = path.rename(path.with_suffix(".arrays"))
  with pytest.raises(ValueError, match="a path must be a file"):
    data.load(named, data_dir=tmp_path)
  named.rename(path)

  def refuse(*args, **options):
    raise PermissionError

  monkeypatch.setattr(pathlib.Path, "open", refuse)  # root may read all
  with pytest.raises(ValueError, match="own.npz: there is no permission to read"):
    data.load(path)


def test_pickles_are_never_loaded(tmp_path):
  class Trap:
    def __reduce__(self):
      return (pathlib.Path.touch, (tmp_path / "sprung",))

  np.savez(tmp_path / "trap.npz", x_a=np.array([Trap()] * 3), y=np.arange(3))
  with pytest.raises(ValueError, match="x_a is an array of objects"):
    data.load(tmp_path / "trap.npz")
  assert not (tmp_path / "sprung").exists()
