"""A table gives the rows that an npz file made by hand gives, to the bit."""

import csv
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shop
from PIL import Image, ImageOps

from promise_jax import data
from promise_jax.data.readers.table_columns import TableColumns, read_table_inputs
from promise_jax.experiments import setup


@pytest.fixture(scope="module")
def table(tmp_path_factory):
  """The path of a shop of 120 rows, 12 of them without a label."""
  return shop.write_shop(tmp_path_factory.mktemp("shop") / "files")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def found(table):
  return data.load(table, label="category")


def read_by_hand(path):
  """The rows of the shop as dicts, with the standard library alone."""
  with path.open(newline="", encoding="utf-8") as file:
    return list(csv.DictReader(file))


def square(path):
  """A photo as 48 x 48, by other functions of Pillow where there are any."""
  image = ImageOps.exif_transpose(Image.open(path))
  if image.mode.startswith("I"):
    values = np.asarray(image).astype(np.float64) / 65535 * 255
    image = Image.fromarray(np.round(values).astype(np.uint8))
  if image.mode == "RGBA":
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    image = white
  small = np.asarray(ImageOps.contain(image.convert("RGB"), (48, 48), Image.LANCZOS))
  top, left = ((48 - side) // 2 for side in small.shape[:2])
  found = np.full((48, 48, 3), 255, np.uint8)
  found[top : top + small.shape[0], left : left + small.shape[1]] = small
  return found


def one_hot(values, train, is_missing):
  """Levels with two train rows, other, missing, written as loops."""
  levels = sorted({v for v in train if v and train.count(v) > 1})
  width = len(levels) + 1 + is_missing
  rows = np.zeros((len(values), width))
  for row, value in zip(rows, values, strict=True):
    row[levels.index(value) if value in levels else len(levels) + (is_missing and not value)] = 1
  return rows


def make_npz(table, split, path):
  """The npz file that a user would write of the rows with a label."""
  rows = [row for row in read_by_hand(table) if row["category"]]
  train = [row for row, name in zip(rows, split, strict=True) if name == "train"]
  every_train = train + [row for row in read_by_hand(table) if not row["category"]]
  cell = lambda row: float(row["price"]) if row["price"] != "NA" else np.nan
  mean = np.float32(np.nanmean([cell(row) for row in every_train]))
  price = np.array([cell(row) for row in rows])
  columns = [np.where(np.isnan(price), mean, price), np.isnan(price)]
  columns += [[float(row["weight"]) for row in rows]]
  brands = one_hot([r["brand"] for r in rows], [r["brand"] for r in every_train], True)
  photos = np.zeros((len(rows), 48, 48, 3), np.uint8)
  for i, row in enumerate(rows):
    if row["photo"]:
      photos[i] = square(table.parent / row["photo"])
  arrays = {
    "x_photo": photos,
    "present_photo": np.array([row["photo"] != "" for row in rows]),
    "x_text": np.array([" ".join(filter(None, (r["title"], r["notes"]))) for r in rows]),
    "x_attributes": np.concatenate([np.transpose(columns), brands], axis=1).astype(np.float32),
    "y": np.array([row["category"] for row in rows]),
    "split": split,
    "id": np.arange(len(rows)),
  }
  np.savez(path, **arrays)
  return path


def test_the_rows_are_those_of_an_npz_file_made_by_hand(table, found, tmp_path):
  place = {int(i): name for name in found.splits for i in found.split(name).id}
  split = np.array([place[i] for i in range(108)])
  by_hand = data.load(make_npz(table, split, tmp_path / "own.npz"))
  assert found.spec.task == by_hand.spec.task and found.spec.names == by_hand.spec.names
  for name in found.splits:
    ours, theirs = found.split(name), by_hand.split(name)
    known = ours.id < 108
    assert ours.id[known].tolist() == theirs.id.tolist() and (name == "train") == (~known).any()
    np.testing.assert_array_equal(ours.recorded[known], theirs.recorded)
    np.testing.assert_array_equal(ours.label[known], theirs.label)
    if name != "train":
      assert found.keys[name].tolist() == [f"P{i:05}" for i in ours.id]
    shown = ours.recorded[known][:, 0]
    np.testing.assert_array_equal(ours.inputs["photo"][known][shown], theirs.inputs["photo"][shown])
    ids, width = theirs.inputs["text"], min(theirs.inputs["text"].shape[1], 60)
    np.testing.assert_array_equal(ours.inputs["text"][known][:, :width], ids[:, :width])
    # Mean and deviation are of the train rows, which the npz file has no unlabelled ones of.
    raw = ours.inputs["attributes"][known] * found.spec.standardise["attributes"][1]
    raw += found.spec.standardise["attributes"][0]
    other = theirs.inputs["attributes"] * by_hand.spec.standardise["attributes"][1]
    np.testing.assert_allclose(raw, other + by_hand.spec.standardise["attributes"][0], atol=2e-5)


def test_inputs_before_scaling_are_the_same_bits(table, found, tmp_path):
  frame = pd.DataFrame(read_by_hand(table)[:108])
  inputs, _, recorded, *_ = read_table_inputs(found.preprocessing.columns, frame, table.parent)
  place = {int(i): name for name in found.splits for i in found.split(name).id}
  path = make_npz(table, np.array([place[i] for i in range(108)]), tmp_path / "own.npz")
  with np.load(path) as arrays:
    np.testing.assert_array_equal(inputs["attributes"], arrays["x_attributes"])
    np.testing.assert_array_equal(recorded[:, 0], arrays["present_photo"])
    here = arrays["present_photo"]
    np.testing.assert_array_equal(inputs["photo"][here], arrays["x_photo"][here])


def test_the_split_is_the_one_that_an_npz_file_of_the_labelled_rows_gets(table, found, tmp_path):
  labels = np.array([row["category"] for row in read_by_hand(table)][:108])
  np.savez(tmp_path / "own.npz", x_v=np.eye(108), y=labels)
  by_hand = data.load(tmp_path / "own.npz")
  for name in ("valid", "test"):
    assert found.split(name).id.tolist() == by_hand.split(name).id.tolist()
  train = found.split("train").id
  assert train.tolist() == [*by_hand.split("train").id, *range(108, 120)]
  assert found.labelled.tolist() == (train < 108).tolist()


def test_what_was_guessed_is_said(found):
  said = "\n".join(found.notes)
  for words in (
    "products.csv: label category: 4 classes, kitchen, shoes, tea & coffee, toys, 12 of 120 cells",
    "column sku: id; guessed, each row has one word of its own.",
    "column photo: image of modality photo, 31 of 120 cells missing; guessed, paths of",
    "column title: text of modality text, 11 of 120",
    "column price: number of modality attributes, 28 of 120",
    "column brand: category of modality attributes",
    "12 rows without a label train as unlabelled rows.",
    'corrected by columns, as --columns "',
  ):
    assert words in said, words
  columns = found.preprocessing.columns
  assert (columns.labels, columns.id) == (("category",), "sku")
  assert TableColumns.from_json(json.loads(json.dumps(columns.to_json()))) == columns


def test_roles_and_modalities_are_chosen(table):
  found = data.load(
    table,
    label="category",
    columns="brand=text,weight=ignore",
    modalities="(words=title+brand,photo=photo,rest=*)",
  )
  assert found.spec.names == ("words", "photo", "rest")
  assert [c.name for c in found.preprocessing.columns.columns["rest"]] == ["notes", "price"]
  assert [m.kind for m in found.spec.modalities] == ["tokens", "image", "tokens"]
  assert "column weight: ignored." in "\n".join(found.notes)
  kept = data.load(table, label="category", modalities="text+attributes")
  assert kept.spec.names == ("text", "attributes")
  rows = pd.DataFrame(read_by_hand(table)).drop(columns="brand")
  assert kept.preprocessing.columns.describe_differences(rows) == [
    "columns are lacking, their cells count as missing: brand."
  ]


@pytest.mark.parametrize("form", ["tsv", "parquet", "feather", "arrow", "semicolons"])
def test_every_format_gives_the_same_rows(table, found, tmp_path, form):
  frame = pd.read_csv(table)
  frame["category"] = frame["category"].astype(object).where(frame["category"].notna(), None)
  path = table.parent / f"other.{form}"
  if form == "tsv":
    frame.to_csv(path, sep="\t", index=False)
  elif form == "semicolons":
    path = path.with_suffix(".CSV")
    content = frame.to_csv(sep=";", index=False, decimal=",").encode("utf-16")
    path.write_bytes(content)
  elif form == "arrow":  # the stream that Hugging Face writes
    batch = pa.Table.from_pandas(frame)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, batch.schema) as writer:
      writer.write_table(batch)
  else:
    getattr(frame, f"to_{form}")(path)
  other = data.load(path, label="category")
  for name in found.splits:
    ours, theirs = found.split(name), other.split(name)
    for a, b in ((ours.inputs, theirs.inputs), ({"l": ours.label}, {"l": theirs.label})):
      for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def test_bytes_and_arrays_may_stand_in_cells(tmp_path, table):
  rows = read_by_hand(table)[:108]
  photo = lambda row: (table.parent / row["photo"]).read_bytes() if row["photo"] else None
  frame = pd.DataFrame(
    {
      "photo": [{"bytes": photo(row), "path": None} for row in rows],
      "vector": [[float(row["weight"]), 1.0] if i % 3 else None for i, row in enumerate(rows)],
      "category": [row["category"] for row in rows],
    }
  )
  frame.to_parquet(tmp_path / "cells.parquet")
  found = data.load(tmp_path / "cells.parquet", label="category")
  by_path = data.load(table, label="category")
  valid, other = found.split("valid"), by_path.split("valid")
  assert [m.kind for m in found.spec.modalities] == ["image", "vector"]
  np.testing.assert_array_equal(valid.recorded[:, 0], other.recorded[:, 0])
  np.testing.assert_array_equal(valid.inputs["photo"], other.inputs["photo"])
  assert valid.recorded[:, 1].tolist() == [i % 3 != 0 for i in valid.id]


def test_streamed_rows_are_the_resident_ones(table, found, monkeypatch):
  monkeypatch.setattr("promise_jax.data.readers.table.BLOCK_ROWS", 7)
  streamed = data.load(table, label="category", stream=True)
  assert streamed.labelled.tolist() == found.labelled.tolist()
  for name in found.splits:
    ours, theirs = found.split(name), streamed.split(name)
    for key in ours.inputs:
      np.testing.assert_array_equal(ours.inputs[key], theirs.inputs[key][:])
    np.testing.assert_array_equal(ours.recorded, theirs.recorded)


def test_the_label_rate_is_a_part_of_the_rows_that_have_a_label(found):
  assert setup.labelled_mask(found, 1.0, seed=0).tolist() == found.labelled.tolist()
  half = setup.labelled_mask(found, 0.5, seed=0)
  assert not half[~found.labelled].any() and half.sum() == (found.labelled.sum() + 1) // 2
