"""An odd table is read, and what was done is said."""

import logging
import re

import numpy as np
import pandas as pd
import pytest
from odd_tables import PHOTOS, SPLIT, VALUES, N, rows, write
from PIL import Image

from promise_jax import data
from promise_jax.data import new_rows
from promise_jax.data.readers.lost_files import FileOptions

DATES = [f"2026-01-{1 + i % 28:02}" for i in range(N)]
LATIN = "size,name,kind\n" + "\n".join(f"{i},caf\xe9 {i},{'ab'[i % 2]}" for i in range(N))
QUOTED = "size,name,kind\n" + "\n".join(f'{i},"a, ""b"" {i}\n2",{"ab"[i % 2]}' for i in range(N))
CITIES = [f"city{'abcd'[i % 4]} {i}" for i in range(N)]
# fmt: off
SAID = {  # name: (columns, options, a modality, a sentence)
  "date": (rows(when=DATES), {}, "text", "column when: ignored; guessed, dates and times"),
  "time": (rows(when=[f"{i % 24}:{i:02}" for i in range(N)]), {}, "text", "when: ignored; .*times"),
  "date in words": (
    rows(when=[f"{i % 9 + 1} May 20{i + 10}" for i in range(N)]), {}, "text", "when: ignored"),
  "date as a number": (
    rows(when=[20260101 + i % 28 for i in range(N)]), {}, "text", "when: ignored; .*days since"),
  "lists": (rows(v=[f"[{i}, 1]" for i in range(N)]), {}, "text", "v: ignored; .*Parquet"),
  "nanoseconds": (
    rows(when=[f"{10**18 + i}.0" for i in range(N)]), {}, "attributes", "than float32 tells apart"),
  "constant": (rows(shop=["x"] * N), {}, "text", "column shop: ignored; .* are 'x'"),
  "empty column": (rows(shop=["null"] * N), {}, "text", "shop: ignored, 40 of .* are empty"),
  "sound": (rows(s=[f"{i}.m4a" for i in range(N)]), {}, "text", "s: ignored; .* is not read"),
  "numbered rows": (rows(index=range(N)), {}, "text", "column index: id; .*counts the rows"),
  "many values": (rows(city=CITIES), {}, "text", "city: text of modality text; guessed, 40 diff"),
  "codes": (rows(zip=[f"0{i % 9}123" for i in range(N)]), {}, "attributes", "zip: category of"),
  "booleans": (rows(new=[i % 3 == 0 for i in range(N)]), {}, "attributes", "new: category of"),
  "many columns": (
    rows(**{f"g{j}": [f"{i * j % 17}.5" if i % 9 else "" for i in range(N)] for j in range(1, 50)}),
    {}, "attributes",
    "50 columns, size, g1, .* g9, ...: number of modality attributes, 245 of 2000 cells"),
  "levels of few rows": (rows(), {"columns": "name=category"}, "attributes", "name: category of"),
  "byte order mark": (
    b"\xef\xbb\xbf" + LATIN.encode(), {"columns": "size=number"}, "attributes", "size: number"),
  "latin-1": (LATIN.encode("latin-1"), {}, "text", "it is no UTF-8, it was read as Latin-1"),
  "quotes": (QUOTED, {}, "text", "column name: text"),
  "semicolons": (LATIN.replace(",", ";"), {}, "text", "its columns are separated by ';'"),
  "regression": (rows(kind=VALUES), {}, "text", "a number to predict; guessed, task=classes says"),
  "scale": (rows(kind=VALUES), {"scale": 3.0}, "text", "unit of the label: 3, given"),
  "whole labels": (rows(kind=[i % 3 for i in range(N)]), {}, "text", "0, 1, 2; guessed, task=regr"),
  "many whole labels": (
    rows(kind=[i * 10 for i in range(N)]), {"task": "regression"}, "text", "a number to predict."),
  "unlabelled": (
    rows(split=SPLIT, kind=["", "a"] * 10 + ["b"] * 4 + ["", "a"] * 8), {}, "text",
    "10 rows without a label train .*\n.*8 rows of valid or test have no label and are left out"),
  "odd path": (
    rows(photo=["photos/0.png"] * 38 + ["a\0.png", "a" * 5000 + ".png"]), {}, "photo",
    "photo: image of modality photo"),
  "amounts": (rows(price=[f"${i}.99" for i in range(N)]), {}, "text", "price: text .* signs"),
  "thousands": (
    rows(price=[f"{i},200" for i in range(1, N + 1)]), {}, "attributes", "separates thousands"),
  "percent": (rows(off=[f"{i % 3} %" for i in range(N)]), {}, "attributes", "off: category of mod"),
  "words with a comma": (rows(no=[f"0,{i}/ä#0" for i in range(N)]), {}, "text", "column no: id;"),
  "codes of every row": (rows(ean=[f"978-{i}" for i in range(N)]), {}, "text", "column ean: id;"),
  "a long cell": (rows(name=["w " * 70000] + [f"{i} n" for i in range(39)]), {}, "text", "name:"),
  "a header of two lines": (
    'size,"a\nname",kind\n' + "\n".join(f"{i}.5,b {i},{'ab'[i % 2]}" for i in range(N)), {}, "text",
    "column a name: text of"),
  "other line ends": (LATIN.replace("\n", "\r"), {}, "text", "column name: text of modality text"),
  "missing allowed": (
    rows(photo=PHOTOS), {"allow_missing_files": True}, "photo", "photo: image of modality photo"),
}
# fmt: on


@pytest.mark.parametrize("case", SAID)
def test_an_odd_table_is_read_and_said(photos, case):
  columns, options, modality, sentence = SAID[case]
  found = data.load(write(photos, columns), label="kind", **options)
  said = "\n".join(found.notes)
  assert re.search(sentence, said), said
  assert modality in found.spec.names
  for name in found.splits:
    split = found.split(name)
    assert all(np.isfinite(x).all() for x in split.inputs.values()) and len(split.id)


def test_records_and_dates_of_parquet_are_ignored_and_said(tmp_path):
  columns = {
    "records": [{"x": i + 1} for i in range(N)],
    "when": pd.date_range("2026-01-01", periods=N),
    "passed": pd.to_timedelta(range(N), "s"),
    "flag": [True, None] * (N // 2),
  }
  pd.DataFrame(columns | rows()).to_parquet(tmp_path / "own.parquet")
  said = "\n".join(data.load(tmp_path / "own.parquet", label="kind").notes)
  assert "column records: ignored; guessed, it holds records." in said
  assert said.count("ignored; guessed, dates and times are not read") == 2
  assert "column flag: category of modality attributes, 20 of 40 cells missing" in said


def test_a_regression_has_unit_and_centre_of_its_train_labels(photos):
  found = data.load(write(photos, rows(kind=VALUES)), label="kind")
  label = found.split("train").label
  assert found.spec.task[:2] == ("regression", 1) and found.spec.task.center == np.median(label)
  np.testing.assert_allclose(found.spec.task.scale, label.std(), rtol=1e-6)


def test_files_that_cannot_be_read_are_counted_and_absent(photos, caplog):
  names = [f"photos/{i % 2}.png" for i in range(N)]
  (photos / "photos/2.png").write_bytes((photos / "photos/2.png").read_bytes()[:50])
  (photos / "photos/3.png").mkdir()
  names[4], names[30] = "photos/2.png", "photos/3.png"
  with caplog.at_level(logging.WARNING):
    found = data.load(write(photos, rows(photo=names, split=SPLIT)), label="kind")
    place = found.spec.names.index("photo")
    recorded = {name: found.split(name).recorded[:, place] for name in found.splits}
  assert np.flatnonzero(~recorded["train"]).tolist() == [4]
  assert np.flatnonzero(~recorded["valid"]).tolist() == [6] and recorded["test"].all()
  words = "files are missing or cannot be read, as photos"
  assert f"split 'train', photo: 1 of 24 {words}/2.png; there the modality is" in caplog.text
  assert f"split 'valid', photo: 1 of 8 {words}/3.png; there the modality is" in caplog.text


def test_damaged_files_are_refused_before_training_and_said_after(photos, caplog):
  names = [f"photos/{i % 3}.png" for i in range(N)]
  (photos / "photos/2.png").write_bytes(b"damaged")
  path = write(photos, rows(photo=names, split=SPLIT))
  with pytest.raises(ValueError, match="split 'train', photo: 8 of 24 files .* more than 20%"):
    data.load(path, label="kind")
  names[:32] = ["photos/1.png"] * 32
  found = data.load(write(photos, rows(photo=names, split=SPLIT)), label="kind")
  found.split("test")
  assert "split 'test', photo: 3 of 8 files are missing or cannot be read" in caplog.text


def test_a_stream_is_made_anew_when_a_photo_changes(photos):
  path = write(photos, rows(photo=[f"photos/{i % 3}.png" for i in range(N)]))
  read = lambda: data.load(path, label="kind", stream=True).split("train").inputs["photo"][:]
  first = read()
  Image.new("RGB", (9, 9), "blue").save(photos / "photos/1.png")
  blue = (read() == [0, 0, 255]).all(-1).any((1, 2))
  assert blue.any() and not blue.all() and not (first == [0, 0, 255]).all(-1).any()


def test_long_texts_are_cut_and_said(photos, caplog):
  long = " ".join(f"word{i}" for i in range(3000))
  names = [long if i % 2 else f"thing {i}" for i in range(N)]
  found = data.load(write(photos, rows(name=names)), label="kind", columns="name=text")
  assert found.spec.modalities[found.spec.names.index("text")].shape == (2048,)
  count = np.sum(found.split("train").id % 2)
  assert f"text: {count} texts are cut to their first 2048 tokens" in caplog.text


def test_the_root_may_be_another_folder_or_everything(photos, tmp_path_factory):
  other = tmp_path_factory.mktemp("other")
  names = [f"photos/{i % 3}.png" for i in range(N)]
  found = data.load(write(other, rows(photo=names)), label="kind", root=str(photos))
  assert found.split("train").recorded.all()
  absolute = [str(photos / name) for name in names]
  found = data.load(write(other, rows(photo=absolute)), label="kind", root="/")
  assert found.split("train").recorded.all()


def test_unlabelled_rows_of_a_group_that_is_held_out_are_left_out(photos):
  kind = ["abc"[i // 2 % 3] if i % 2 else "" for i in range(N)]
  path = write(photos, rows(kind=kind, group=[f"g{i // 4}" for i in range(N)]))
  found = data.load(path, label="kind")
  groups = [set(found.group(name).tolist()) for name in found.splits]
  assert sum(map(len, groups)) == len(set.union(*groups)) == 10
  assert found.labelled.sum() * 2 == len(found.labelled)
  out = N - sum(len(found.split(name).id) for name in found.splits)
  assert f"{out} rows of valid or test have no label" in "\n".join(found.notes) and out > 0


def test_new_rows_whose_files_are_lost_are_refused_as_in_training(photos, tmp_path_factory, caplog):
  names = [f"photos/{i % 2}.png" for i in range(N)]
  fitted = data.load(write(photos, rows(photo=names)), label="kind").preprocessing
  path = tmp_path_factory.mktemp("elsewhere") / "NEW.CSV"
  pd.DataFrame(rows(photo=names)).to_csv(path, index=False)

  def read(**options):
    files = FileOptions(**options)
    blocks = new_rows.read_new_rows(path, fitted, 25, file_options=files)
    place = [m.name for m in fitted.modalities].index("photo")
    return np.concatenate([block.rows.recorded[:, place] for block in blocks])

  with pytest.raises(ValueError, match="NEW.CSV, photo: 25 of 25 files .* allow_missing_files"):
    read()
  assert read(root=str(photos)).all()
  assert not read(allow_missing=True).any()
  assert "NEW.CSV, photo: 40 of 40 files are missing or cannot be read" in caplog.text
  (one,) = new_rows.read_new_rows({"photo": ["photos/none.png"], "name": ["thing 1"]}, fitted)
  assert one.rows.recorded.tolist() == [[m.name == "text" for m in fitted.modalities]]
  assert "photo: 1 of 1 files are missing" in caplog.text
  (nothing,) = new_rows.read_new_rows(pd.DataFrame(index=["a", "b"]), fitted)
  assert nothing.rows.recorded.shape == (2, 3) and not nothing.rows.recorded.any()
