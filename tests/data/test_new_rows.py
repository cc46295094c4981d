"""New rows: the same numbers as the stored split, whatever form they have and whatever lacks."""

import json
import logging

import numpy as np
import pandas as pd
import pytest

from data import encoded_rows, npz_files
from promise_jax import data
from promise_jax.data import new_rows, new_values, preprocessing
from promise_jax.types import Task

ROWS = 40
TEXTS = ["a red dress", "blue shoes, two pairs", "hat", ""]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
  """(path, arrays, data set) of a photo, a text, a vector with holes and a padded sequence."""
  rng = np.random.default_rng(1)
  arrays = {
    "x_photo": rng.integers(0, 256, (ROWS, 6, 5, 3), dtype=np.uint8),
    "x_text": np.array([TEXTS[i % 4] for i in range(ROWS)]),
    "x_v": rng.normal(3, 2, (ROWS, 3)).astype(np.float32),
    "x_s": rng.normal(size=(ROWS, 4, 2)).astype(np.float32),
    "length_s": rng.integers(0, 5, ROWS),
    "present_photo": rng.random(ROWS) < 0.7,
    "id": 100 + np.arange(ROWS),
    "y": np.arange(ROWS) % 3,
    "classes": np.array(["hat", "shoe", "dress"]),
    "split": np.array(["train"] * 24 + ["valid"] * 8 + ["test"] * 8),
  }
  arrays["x_v"][::7] = np.nan
  path = tmp_path_factory.mktemp("new") / "mixed.npz"
  np.savez(path, **arrays)
  return path, arrays, data.load(path)


def read_all(rows, fitted, **options):
  """(Split, ids, labels) of all blocks joined."""
  blocks = list(new_rows.read_new_rows(rows, fitted, **options))
  splits = [fitted.clean(block.rows)[0] for block in blocks]
  join = lambda *x: np.concatenate(x)
  inputs, length = (
    {m: join(*(getattr(s, field)[m] for s in splits)) for m in getattr(splits[0], field)}
    for field in ("inputs", "length")
  )
  recorded = join(*(s.recorded for s in splits))
  labels = None if blocks[0].label is None else join(*(b.label for b in blocks))
  return (inputs, length, recorded), join(*(b.ids for b in blocks)), labels


def assert_is_test_split(found, split):
  inputs, length, recorded = found
  np.testing.assert_array_equal(recorded, split.recorded)
  for found_part, expected in ((inputs, split.inputs), (length, split.length)):
    assert found_part.keys() == expected.keys()
    for name, values in expected.items():
      np.testing.assert_array_equal(found_part[name], values, name)


def test_a_file_gives_the_rows_of_the_stored_split_in_any_block_size(mixed):
  path, arrays, dataset = mixed
  for block_rows in (4096, 3):
    (inputs, length, recorded), ids, labels = read_all(
      path, dataset.preprocessing, block_rows=block_rows
    )
    tail = tuple({m: x[32:] for m, x in part.items()} for part in (inputs, length))
    assert_is_test_split((*tail, recorded[32:]), dataset.split("test"))
    np.testing.assert_array_equal(ids, arrays["id"])
    np.testing.assert_array_equal(labels, arrays["classes"][arrays["y"]])


@pytest.mark.parametrize(
  ("y", "want"),
  [
    ([2, 0], [1, 2]),
    (["dress", "hat"], [2, 0]),
    ([[1, 0, 1], [0, 0, 1]], [[0, 1, 1], [0, 1, 0]]),
  ],
)
def test_labels_are_those_of_the_model_by_name(y, want, mixed, tmp_path):
  """The file numbers the classes, or orders its columns, in another way than the model."""
  names, y = np.array(["dress", "hat", "shoe"]), np.array(y)
  np.savez(tmp_path / "other.npz", x_text=np.array(["a", "b"]), y=y, classes=names)
  kind = "multilabel" if y.ndim > 1 else "classes"
  task = Task(kind, 3, ("hat", "shoe", "dress"))
  (found,) = new_rows.read_new_rows(tmp_path / "other.npz", mixed[2].preprocessing)
  label, is_known = new_values.encode_labels(found.label, task)
  assert label.tolist() == want and is_known.all()
  with pytest.raises(ValueError, match="dress"):
    new_values.encode_labels(found.label, task._replace(names=("hat", "shoe", "coat")))


def test_a_frame_and_a_dict_of_lists_give_the_rows_of_the_stored_split(mixed):
  _, arrays, dataset = mixed
  test = {name: x[32:] for name, x in arrays.items() if len(x) == ROWS}
  for form in (lambda x: x, lambda x: json.dumps(np.asarray(x).tolist())):
    cells = {
      "photo": [
        form(x) if here else None
        for x, here in zip(test["x_photo"], test["present_photo"], strict=True)
      ],
      "text": [t or None for t in test["x_text"].tolist()],
      "s": [form(x[:n]) if n else None for x, n in zip(test["x_s"], test["length_s"], strict=True)],
    }
    vector = {f"v_{i}": test["x_v"][:, i] for i in range(3)}
    for rows in (pd.DataFrame(cells | vector), cells | {"v": list(test["x_v"])}):
      found, ids, labels = read_all(rows, dataset.preprocessing)
      assert_is_test_split(found, dataset.split("test"))
      assert labels is None and ids.tolist() == list(range(8))


def test_preprocessing_survives_json(mixed):
  fitted = mixed[2].preprocessing
  again = preprocessing.from_json(json.loads(json.dumps(fitted.to_json())))
  assert again.modalities == fitted.modalities and again.texts == ("text",)
  for name, scale in fitted.scale.items():
    np.testing.assert_array_equal(again.scale[name], scale)


def test_garbage_in_absent_modalities_changes_nothing(mixed):
  _, arrays, dataset = mixed
  test = {name: x[32:] for name, x in arrays.items() if len(x) == ROWS}
  spoilt = dict(test, x_photo=test["x_photo"].copy(), x_s=test["x_s"].copy())
  spoilt["x_photo"][~test["present_photo"]] = 255
  spoilt["x_s"][np.arange(4) >= test["length_s"][:, None]] = np.nan
  found, _, _ = read_all(spoilt, dataset.preprocessing)
  assert_is_test_split(found, dataset.split("test"))


def test_what_lacks_and_what_is_not_used_is_said(mixed, caplog):
  fitted = mixed[2].preprocessing
  with caplog.at_level(logging.WARNING):
    (_, _, recorded), ids, _ = read_all({"text": ["hat"], "id": ["P1"], "price": [3]}, fitted)
  assert recorded.tolist() == [[False, True, False, False]] and ids.tolist() == ["P1"]
  assert "no row has photo or v or s." in caplog.text
  assert "columns that the model does not use: price." in caplog.text


def test_frozen_encoders_read_new_rows(tmp_path, monkeypatch):
  (tmp_path / "half.py").write_text("def encode(x): return x.reshape(len(x), -1)[:, :4] / 2.0\n")
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  arrays = encoded_rows.make()
  np.savez(tmp_path / "own.npz", **arrays)
  dataset = data.load(tmp_path / "own.npz", encoders={"photo": "half:encode"})
  where = arrays["split"] == "test"
  test = {name: x[where] for name, x in arrays.items() if name not in ("classes", "split")}
  found, _, _ = read_all(test, dataset.preprocessing)
  assert_is_test_split(found, dataset.split("test"))
  (_, _, recorded), _, _ = read_all({"v": test["x_v"]}, dataset.preprocessing)
  assert not recorded[:, 0].any()


@pytest.mark.parametrize(
  "rows, words",
  [
    ({"price": [1]}, "no column is of a modality, found are price.*photo, text, v, s"),
    ({"text": [3.5]}, "text: a cell is 3.5, expected: texts"),
    ({"v": ["a"]}, "v: row 0 is 'a', expected: numbers of shape"),
    ({"v": [[1, 2]]}, r"row 0 has shape \(2,\), expected \(3,\)"),
    ({"v_0": ["1", "many"]}, "v: a cell is no number"),
    ({"v_0": [10**400]}, "v: a cell is no number"),
    ({"v": [[10**400, 0, 0]]}, "v: row 0 is .*expected: numbers of shape"),
    ({"v": [[[1], [2, 3]]]}, "v: row 0 is .*expected: numbers of shape"),
    ({"v_0": [1], "present_v": ["maybe"]}, "present_v has 'maybe', expected: true and false"),
    ({"text": [[1, None]]}, "text: row 0 is .*ids of tokens are whole numbers"),
    ({"v_0": [1], "length_s": [1.5]}, "length_s: a length is 1.5, expected: whole numbers"),
    ({"v_0": [1], "length_s": [-1]}, "length_s: a length is -1, expected: whole numbers"),
    ({"v_0": [1], "length_s": [[2]]}, "length_s: a cell is no number"),
    ({"photo": np.full((1, 6, 5, 3), 256)}, "photo, row 0: a pixel is 256"),
    ({"photo": np.full((1, 6, 5, 3), 1.5)}, "a pixel is 1.5"),
    ({"photo": np.zeros((1, 5, 6, 3))}, r"expected \(6, 5, 3\)"),
    ({"text": ["a"], "v": [[1, 2, 3]] * 2}, "the columns have"),
    ({"text": ["a"], "present_text": ["maybe"]}, "present_text has 'maybe'"),
    ({"text": []}, "the new rows: there are no rows"),
    (3, "new rows are a int, expected: a DataFrame"),
    ("rows.xyz", "ends in '.xyz', new rows are read from .csv"),
    ("none.npz", "none.npz: No such file"),
    (".", r"\. is a folder, expected: a file that ends in \.csv"),
  ],
)
def test_what_cannot_be_read_is_one_sentence(mixed, rows, words):
  with pytest.raises(ValueError, match=words):
    read_all(rows, mixed[2].preprocessing)


def test_the_arrays_of_a_file_have_one_number_of_rows(tmp_path, mixed):
  arrays = npz_files.plain(y=None, split=None, x_s=np.zeros((3, 2)))
  np.savez(tmp_path / "uneven.npz", **arrays)
  with pytest.raises(ValueError, match=r"its arrays have \[3, 12\] rows"):
    read_all(tmp_path / "uneven.npz", mixed[2].preprocessing)


def test_lists_are_rows_of_a_table_too(tmp_path):
  frame = pd.DataFrame({"price": np.arange(40.0), "note": ["red", "blue"] * 20, "y": [0, 1] * 20})
  frame.to_csv(tmp_path / "table.csv", index=False)
  fitted = data.load(tmp_path / "table.csv", label="y").preprocessing
  rows = {"price": [1.5, None], "note": ["red", None]}
  (found, _, recorded), *_ = read_all(rows, fitted)
  (expected, *_), *_ = read_all(pd.DataFrame(rows), fitted)
  assert recorded.any(1).tolist() == [True, False]
  for name, x in expected.items():
    np.testing.assert_array_equal(found[name], x)
