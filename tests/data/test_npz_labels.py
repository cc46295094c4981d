"""Labels, tasks and splits of npz files."""

import pathlib
import re

import numpy as np
import pytest
from npz_files import N, plain

from promise_jax import data
from promise_jax.data import new_rows, new_values
from promise_jax.experiments import setup
from promise_jax.types import Task


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
def test_the_task_follows_from_the_labels(save_npz, y, extra, task, label):
  arrays = {k: np.array(v) for k, v in extra.items()}
  x, split = np.eye(4, dtype=np.float32), np.array(["train", "train", "valid", "test"])
  found = data.load(save_npz({"x_a": x, "y": np.array(y), "split": split} | arrays))
  assert found.spec.task == task
  parts = [found.split(s).label for s in found.splits]
  assert np.concatenate(parts).tolist() == label
  assert parts[0].dtype == (np.int32 if task.kind == "classes" else np.float32)


def test_a_drawn_split_is_stratified_and_follows_the_ids(save_npz):
  y = np.repeat([0, 1, 2, 3], [100, 20, 5, 3])
  ids = np.random.default_rng(0).permutation(10_000)[: len(y)]
  x = ids[:, None].astype(np.float64)

  def read(order, seed=0):
    arrays = {"x_a": x[order], "y": y[order], "id": ids[order]}
    found = data.load(save_npz(arrays), split_seed=seed)
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


def test_rows_of_a_group_stay_together(save_npz):
  rng = np.random.default_rng(4)
  group = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 8, 60)))
  y, x = group % 3, rng.normal(size=(len(group), 2))
  words = np.array([f"recording {g:02}" for g in group])
  named, counted = (data.load(save_npz({"x_a": x, "y": y, "group": g})) for g in (words, group + 7))
  for found, shift in ((named, 0), (counted, 7)):
    seen = []
    for name in found.splits:
      assert found.group(name).dtype == np.int32
      assert found.group(name).tolist() == (group[found.split(name).id] + shift).tolist()
      seen.append(set(found.group(name).tolist()))
    # 60 groups, 20 of each class: 12, 4 and 4 of each.
    assert [len(s) for s in seen] == [36, 12, 12] and len(set.union(*seen)) == 60
  turned = data.load(save_npz({"x_a": x[::-1], "y": y[::-1], "group": words[::-1]}))
  assert set(turned.group("test").tolist()) == set(named.group("test").tolist())
  assert data.load(save_npz({"x_a": x, "y": y})).group("test") is None


def test_whole_groups_keep_or_lose_their_labels(save_npz):
  group = np.repeat(np.arange(30), 4)
  x = np.random.default_rng(5).normal(size=(120, 2))
  found = data.load(save_npz({"x_a": x, "y": group % 2, "group": group}))
  kept = setup.labelled_mask(found, 0.5, seed=0)
  of_group = [set(kept[found.group("train") == g]) for g in set(found.group("train"))]
  assert all(len(s) == 1 for s in of_group) and sum(map(sum, of_group)) == 9


def test_valid_is_drawn_of_train_where_the_file_has_none(save_npz):
  y = np.array([0, 1] * 40 + [1, 1, 2])
  split = np.array(["train"] * 80 + ["test"] * 3)
  path = save_npz({"x_a": np.eye(83, dtype=np.float32), "y": y, "split": split})
  found = data.load(path)
  train, valid, test = (found.split(name) for name in ("train", "valid", "test"))
  assert test.id.tolist() == [80, 81, 82]
  assert np.bincount(train.label).tolist() == [30, 30]
  assert np.bincount(valid.label).tolist() == [10, 10]
  assert sorted([*train.id, *valid.id]) == list(range(80))
  assert "own.npz: the split has no valid rows: a quarter of the train rows are drawn as such." in (
    found.notes
  )
  other = data.load(path, split_seed=1).split("valid")
  assert set(other.id) != set(valid.id)


def test_a_valid_split_drawn_of_train_keeps_groups(save_npz):
  split, group = np.array(["train"] * 40 + ["test"] * 4), np.arange(44) // 4
  arrays = {"x_a": np.eye(44, dtype=np.float32), "y": np.arange(44) // 8 % 2}
  found = data.load(save_npz(arrays | {"split": split, "group": group}))
  groups = [set(found.group(name)) for name in found.splits]
  assert sum(map(len, groups)) == len(set.union(*groups)) == 11
  assert len(groups[1]) == 3 and groups[2] == {10}  # of ten groups in two strata


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_a_drawn_split_of_regression_and_multilabel(save_npz, task):
  rng = np.random.default_rng(3)
  y = rng.normal(size=500) if task == "regression" else rng.integers(0, 2, (500, 3))
  found = data.load(save_npz({"x_a": rng.normal(size=(500, 2)), "y": y}))
  labels = [found.split(s).label for s in found.splits]
  assert [len(part) for part in labels] == [300, 100, 100]
  if task == "regression":  # each block of ten neighbours gives 6, 2 and 2
    edges = np.sort(y.astype(np.float32))[10::10]
    for part, count in zip(labels, (6, 2, 2), strict=True):
      assert np.bincount(np.searchsorted(edges, part, "right")).tolist() == [count] * 50


def test_classes_without_a_train_row_are_warned_of_once(save_npz, caplog):
  data.load(save_npz(plain(y=np.array([0, 1] * 3 + [2] * 6))))
  assert caplog.text.count("own: 1 of 3 classes have no row in train: 2.") == 1
  y = np.zeros((N, 2), int)
  y[::2, 0] = 1
  data.load(save_npz(plain(y=y, classes=np.array(["p", "q"]))))
  assert "own: 1 of 2 labels have no positive row in train: q." in caplog.text


UNKNOWN = [1, 3, 8, 10]  # rows without a label: two of train, one of valid, one of test


def hide(y):
  """`y` of 12 rows with "" or NaN, or as it is with an array `labelled`."""
  known = ~np.isin(np.arange(N), UNKNOWN)
  if y.dtype.kind in "iu":
    return {"y": np.where(known, y, 99), "labelled": known}
  nothing = "" if y.dtype.kind == "U" else np.nan
  return {"y": np.where(known.reshape(N, *(1,) * (y.ndim - 1)), y, nothing)}


@pytest.mark.parametrize(
  ("y", "options"),
  [
    (np.arange(N) % 3, {}),
    (np.array(["dog", "cat"] * 6), {}),
    (np.arange(N) / 5, {}),
    (np.eye(N, 4, k=-1) + np.eye(N, 4), {"task": "multilabel"}),
  ],
)
@pytest.mark.parametrize("drawn", [False, True])
def test_rows_without_a_label_train_and_never_validate(y, options, drawn, save_npz):
  split = {"split": None} if drawn else {}
  found = data.load(save_npz(plain(**hide(y), **split)), **options)
  ours = {name: found.split(name) for name in found.splits}
  known = ~np.isin(np.arange(N), UNKNOWN)
  every = np.arange(N)
  alone = {name: x[known] for name, x in plain(y=y, id=every, **split).items()}
  expected = data.load(save_npz(alone), **options)
  for name in ("valid", "test"):
    assert ours[name].id.tolist() == expected.split(name).id.tolist()
    np.testing.assert_array_equal(ours[name].label, expected.split(name).label)
  train = ours["train"]
  np.testing.assert_array_equal(train.label[found.labelled], expected.split("train").label)
  added = train.id[~found.labelled].tolist()
  assert added == (UNKNOWN if drawn else UNKNOWN[:2]) and not train.label[~found.labelled].any()
  count = len(added)
  assert f"own.npz: {count} rows without a label train as unlabelled rows." in found.notes


def test_of_new_rows_only_the_labelled_are_scored(save_npz):
  fitted = data.load(save_npz(plain())).preprocessing
  rows = plain(y=np.arange(N) % 3, labelled=np.arange(N) > 8, split=None)
  (block,) = new_rows.read_new_rows(rows, fitted)
  label, known = new_values.encode_labels(block.label, Task("classes", 3, ("0", "1", "2")))
  assert known.tolist() == (np.arange(N) > 8).tolist() and label[9:].tolist() == [0, 1, 2]


def test_the_file_of_mosi_that_the_documentation_makes(tmp_path):
  page = (pathlib.Path(__file__).parents[2] / "docs" / "data" / "sentiment.md").read_text("utf-8")
  (block,) = (b for b in re.findall(r"```python\n(.*?)```", page, re.S) if "def make_mosi" in b)
  rng = np.random.default_rng(0)
  for split, count in (("train", 40), ("test", 8)):
    for name, size in (("text", 3), ("audio", 2), ("video", 4)):
      (tmp_path / name).mkdir(exist_ok=True)
      lines = np.column_stack([rng.normal(size=(count, size)), np.arange(count) % 2])
      np.savetxt(tmp_path / name / f"{name}_{split}0.csv", lines, delimiter=",")
  exec(block, namespace := {})
  namespace["make_mosi"](tmp_path, tmp_path / "mosi.npz")
  found = data.load(tmp_path / "mosi.npz")
  assert [(m.name, m.shape) for m in found.spec.modalities] == [
    ("text", (3,)), ("audio", (2,)), ("video", (4,)),
  ]  # fmt: skip
  assert [len(found.split(name).id) for name in found.splits] == [30, 10, 8]
