"""Several labels a row in a table, in every form; arrow files of MAP."""

import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
from PIL import Image

from promise_jax import data
from promise_jax.data import new_values
from promise_jax.data.readers import label_sets, table_labels
from promise_jax.types import Task

N = 30
SPLIT = np.array((["train"] * 3 + ["valid", "test"]) * 6)
NAMES = ("art", "sea", "sky")
UNKNOWN = 6  # a row of train


@pytest.fixture
def y(rng):
  """0/1 [N, 3] with rows of none, one and several."""
  y = rng.integers(0, 2, (N, 3))
  y[:3] = [[1, 0, 0], [0, 1, 1], [1, 1, 1]]
  y[UNKNOWN] = 0
  return y


def columns_of(form, y):
  """(the columns of the labels, the option label, the names)."""
  words = [[n for n, flag in zip(NAMES, row, strict=True) if flag] for row in y]
  hide = lambda cells: [None if i == UNKNOWN else c for i, c in enumerate(cells)]
  if form == "columns":
    return {n: hide(y[:, c].tolist()) for c, n in enumerate(NAMES)}, "art,sea,sky", NAMES
  if form == "vectors":
    return {"genre": hide(y.tolist())}, "genre", ("0", "1", "2")
  if form == "joined":
    return {"genre": hide(["|".join(w) or " | " for w in words])}, "genre", NAMES
  return {"genre": hide(words)}, "genre", NAMES


@pytest.mark.parametrize("form", ["columns", "vectors", "names", "joined"])
def test_every_form_gives_the_same_labels(form, y, tmp_path):
  labels, option, names = columns_of(form, y)
  frame = pd.DataFrame({"size": np.arange(N) * 1.5, "split": SPLIT, **labels})
  frame.to_parquet(tmp_path / "own.parquet")
  found = data.load(tmp_path / "own.parquet", label=option)
  assert found.spec.task == Task("multilabel", 3, names)
  train = found.split("train")
  np.testing.assert_array_equal(train.label, y[SPLIT == "train"])
  assert found.labelled.tolist() == [i != UNKNOWN for i in np.flatnonzero(SPLIT == "train")]
  assert found.spec.names == ("attributes",)
  target = frame[list(NAMES)] if form == "columns" else frame["genre"]
  again, known = new_values.encode_labels(target, found.spec.task)
  np.testing.assert_array_equal(again, y)
  assert known.tolist() == [i != UNKNOWN for i in range(N)]


def test_one_label_in_every_row_is_a_class(y, tmp_path):
  frame = pd.DataFrame({"size": np.arange(N) * 1.5, "split": SPLIT})
  frame["kind"] = np.eye(3, dtype=int)[np.arange(N) % 3].tolist()
  frame.to_parquet(tmp_path / "own.parquet")
  found = data.load(tmp_path / "own.parquet", label="kind")
  assert found.spec.task == Task("classes", 3, ("0", "1", "2"))
  assert "guessed, task=multilabel says otherwise" in " ".join(found.notes)
  np.testing.assert_array_equal(found.split("test").label, np.arange(N)[SPLIT == "test"] % 3)


@pytest.mark.parametrize(
  ("cells", "words"),
  [
    ([[0, 1], [1, 0, 1], [1, 1]], "label g, row 1: found .* expected: 2 times 0 or 1"),
    ([[0, 3], [1, 0], [1, 1]], r"row 0: found \[0, 3\], expected"),
    ([["a", 2], ["b"], []], r"row 0: found \['a', 2\], expected: texts"),
    (["a|b", "a|b", None], "expected are at least two different labels"),
  ],
)
def test_sets_that_are_none_are_refused(cells, words):
  with pytest.raises(ValueError, match=words):
    table_labels.read_task(pd.Series(cells, name="g", dtype=object))


def test_a_row_with_some_of_its_columns_is_refused():
  frame = pd.DataFrame({"a": [1, None], "b": [0, 1]}, dtype=object)
  with pytest.raises(ValueError, match="label a, b, row 1: found"):
    label_sets.read_sets(frame)
  with pytest.raises(ValueError, match="label is 'a,c', expected is .* one of a, b, or sev"):
    table_labels.choose_columns(frame, "a,c")


def test_a_text_with_a_bar_may_be_a_class():
  values = pd.Series(["x|y", "z", "x|y", "z"], name="g")
  assert table_labels.read_task(values, "classes")[0].names == ("x|y", "z")


def write_arrow(path, rows):
  pyarrow.feather.write_feather(pa.table(rows), path, compression="uncompressed")


def test_the_arrow_files_of_map(tmp_path, y, monkeypatch):
  """Three files, of image bytes, lists of texts, labels 0/1 and their names."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

  def photo(i):
    file = io.BytesIO()
    Image.new("RGB", (6, 4), (8 * i, 0, 0)).save(file, "PNG")
    return file.getvalue()

  for name, split in (("train", "train"), ("dev", "valid"), ("test", "test")):
    index = np.flatnonzero(SPLIT == split)
    rows = {
      "image": [photo(i) for i in index],
      "plots": [[f"a long plot {i}", f"another {i}"] for i in index],
      "label": y[index].tolist(),
      "genres": [[n for n, flag in zip(NAMES, y[i], strict=True) if flag] for i in index],
      "image_id": [f"tt{i}" for i in index],
      "split": [name] * len(index),
    }
    write_arrow(tmp_path / f"mmimdb_{name}.arrow", rows)
  found = data.load(tmp_path / "mmimdb_*.arrow", label="label", image_size=4)
  assert found.name == "mmimdb" and found.spec.names == ("image", "text")
  assert "column genres: ignored; guessed, it has a text for each label" in " ".join(found.notes)
  for split in ("train", "valid", "test"):
    here, index = found.split(split), np.flatnonzero(SPLIT == split)
    np.testing.assert_array_equal(here.label, y[index])
    assert here.inputs["image"][:, 2, 2, 0].tolist() == [8 * i for i in index]
  write_arrow(tmp_path / "mmimdb_more.arrow", {"image": [photo(0)], "label": [[0, 1, 1]]})
  with pytest.raises(ValueError, match="mmimdb_more.arrow has the columns image, label, mmimdb_d"):
    data.load(tmp_path / "mmimdb_*.arrow", label="label")
