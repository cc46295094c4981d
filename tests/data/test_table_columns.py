"""`TableColumns` reads new tables with what the train rows said, and nothing else."""

import json
import unicodedata

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from promise_jax.data.readers import cells, text
from promise_jax.data.readers.fit_columns import fit_modality
from promise_jax.data.readers.table_columns import TableColumns, read_table_inputs
from promise_jax.types import Modality

TRAIN = pd.DataFrame(
  {
    "price": ["1", "3", "NA", "8"],
    "weight": [5.0, 6.0, 7.0, 8.0],
    "brand": ["b", "a", "a", "b"],
    "colour": ["red", "", "red", "blue"],
    "title": ["red mug", None, "old hat", ""],
    "notes": ["new", "", "used", "used"],
  }
)
ROLES = {
  "attributes": {"price": "number", "weight": "number", "brand": "category", "colour": "category"},
  "text": {"title": "text", "notes": "text"},
}


@pytest.fixture
def fitted(tmp_path):
  found = [fit_modality(m, TRAIN, roles, tmp_path, 4, 50) for m, roles in ROLES.items()]
  columns = {m.name: columns for m, columns in found}
  return TableColumns(tuple(m for m, _ in found), columns, labels=("kind",), id="sku")


def test_attributes_by_hand(fitted, tmp_path):
  new = TRAIN.iloc[[0, 1, 2]].assign(brand=["z", "a", None], price=[None, " 4 ", 2])
  inputs, _, recorded, *_ = read_table_inputs(fitted, new, tmp_path)
  assert inputs["attributes"].dtype == np.float32 and recorded[:, 0].all()
  # price, is missing; weight; brand a, b, other; colour red, other (blue is rare), missing
  assert inputs["attributes"].tolist() == [
    [4, 1, 5, 0, 0, 1, 1, 0, 0],
    [4, 0, 6, 1, 0, 0, 0, 0, 1],
    [2, 0, 7, 0, 0, 1, 1, 0, 0],
  ]
  assert fitted.modalities[0] == Modality("attributes", "vector", (9,))


def test_a_modality_is_absent_where_all_its_cells_are(fitted, tmp_path):
  new = pd.DataFrame([["", None, "NaN", "null", None, " "], [1, "", "", "", "", "x"]])
  new.columns = TRAIN.columns
  _, _, recorded, *_ = read_table_inputs(fitted, new, tmp_path)
  assert recorded.tolist() == [[False, False], [True, True]]


def test_texts_of_columns_are_joined(fitted, tmp_path):
  inputs, length, recorded, *_ = read_table_inputs(fitted, TRAIN, tmp_path)
  expected = text.hash_ngrams(["red mug new", "", "old hat used", "used"], 50)
  np.testing.assert_array_equal(inputs["text"], expected)
  assert length["text"].tolist() == np.count_nonzero(expected, axis=1).tolist()
  assert recorded[:, 1].tolist() == [True, False, True, True]


def test_new_rows_change_nothing_that_was_fitted(fitted, tmp_path):
  alone = read_table_inputs(fitted, TRAIN.iloc[[3]], tmp_path)[0]["attributes"]
  together = read_table_inputs(fitted, TRAIN, tmp_path)[0]["attributes"]
  np.testing.assert_array_equal(alone, together[3:])
  again = TableColumns.from_json(json.loads(json.dumps(fitted.to_json())))
  assert again == fitted
  found = read_table_inputs(again, TRAIN, tmp_path).inputs["attributes"]
  np.testing.assert_array_equal(found, together)


def test_differences_are_said_and_lacking_columns_are_missing(fitted, tmp_path):
  new = TRAIN.drop(columns=["price", "title"]).assign(sku="P1", kind="?", shelf=3)
  new["brand"] = ["a", "z", "y", "b"]
  lines = fitted.describe_differences(new)
  assert "not read: shelf." in lines[0] and "missing: price, title." in lines[1]
  assert lines[2].startswith("column brand: 2 rows have values") and "'z'" in lines[2]
  assert lines[3].startswith("column colour: 1 rows") and len(lines) == 4
  assert fitted.describe_differences(TRAIN.replace("blue", "red")) == []
  renamed = fitted.describe_differences(TRAIN.rename(columns={"price": "Price"}))
  assert renamed[1] == "column Price; did you mean price, which is lacking?"
  with pytest.raises(ValueError, match="no column is of a modality, found are a, b; read are "):
    fitted.describe_differences(pd.DataFrame({"a": [1], "b": [2]}))
  inputs, *_ = read_table_inputs(fitted, new, tmp_path)
  assert inputs["attributes"][:, :2].tolist() == [[4, 1]] * 4


def test_a_text_in_a_column_of_numbers_is_one_sentence(fitted, tmp_path):
  with pytest.raises(ValueError, match="column 'weight', row 2: 'heavy' is no number"):
    read_table_inputs(fitted, TRAIN.assign(weight=[1, "", "heavy", "x"]), tmp_path)


def test_images_and_arrays_are_files_under_the_root(tmp_path):
  Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
  np.save(tmp_path / "s.npy", np.ones((3, 2)))
  train = pd.DataFrame({"photo": ["a.png", "", "b.png"], "sound": ["s.npy", "t.npy", None]})
  made = [
    fit_modality("photo", train, {"photo": "image"}, tmp_path, 4, 50),
    fit_modality("sound", train, {"sound": "array"}, tmp_path, 4, 50),
  ]
  assert made[1][0] == Modality("sound", "sequence", (None, 2))
  fitted = TableColumns(tuple(m for m, _ in made), {m.name: c for m, c in made}, labels=("y",))
  inputs, _, recorded, _, counts = read_table_inputs(fitted, train, tmp_path)
  assert recorded.tolist() == [[True, True], [False, False], [False, False]]
  red, white = [255, 0, 0], [255, 255, 255]
  assert inputs["photo"][0].tolist() == [[white] * 4, [red] * 4, [red] * 4, [white] * 4]
  assert [x.shape for x in inputs["sound"]] == [(3, 2), (0, 2), (0, 2)]
  assert counts == {"photo": (2, 1, "b.png"), "sound": (2, 1, "t.npy")}
  for path in ("../a.png", "/etc/passwd"):
    with pytest.raises(ValueError, match=f"'photo': '{path}' lies outside .* option root"):
      read_table_inputs(fitted, train.assign(photo=path), tmp_path)
  kept = fitted.keep(("sound",))
  assert list(kept.columns) == ["sound"] and kept.describe_differences(train) == []


def test_paths_as_other_systems_write_them_are_found(tmp_path):
  folder = tmp_path / "my 'photos', \u00e9=1"
  folder.mkdir()
  path = folder / "caf\u00e9 1.png"
  path.write_bytes(b"x")
  names = [f"{folder.name}/{path.name}", f"{folder.name}\\{path.name}", f" {path} "]
  names += [unicodedata.normalize("NFD", names[0])]
  assert cells.read_files(pd.Series(names), tmp_path) == [path] * 4
  (tmp_path / "own.png").write_bytes(b"x")
  with pytest.raises(ValueError, match="lies outside"):
    cells.read_files(pd.Series(["..\\own.png"]), folder)
