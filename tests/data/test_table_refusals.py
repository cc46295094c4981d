"""A bad table is one sentence, or it is read and what was done is said; never a traceback."""

import pytest
from odd_tables import PHOTOS, SPLIT, VALUES, N, rows, with_value, write

from promise_jax import data

NOTHING = {}

# fmt: off
REFUSED = {  # name: (columns, options, the sentence)
  "no label": (rows(), {"label": ""}, "label is not given, expected .* one of size, name, kind"),
  "other label": (rows(), {"label": "class"}, "label is 'class', expected is the column"),
  "empty labels": (rows(kind=["NA"] * N), NOTHING, "label kind: all its cells are empty"),
  "one class": (rows(kind=["a"] * N), NOTHING, "label kind: all its cells are 'a'"),
  "many classes": (rows(kind=rows()["name"]), NOTHING, "40 different values in 40 rows, as '"),
  "one class in train": (
    rows(kind=["a"] * 24 + ["a", "b"] * 8, split=SPLIT), NOTHING, "the 24 train rows all have"),
  "text for a number": (
    rows(kind=with_value(VALUES, 3, "x")), {"task": "regression"}, "'kind', line 5: 'x' is no num"),
  "unknown task": (rows(), {"task": "several"}, "task is .several., known are"),
  "scale": (rows(kind=VALUES), {"scale": -1.0}, "scale is -1.0, expected is a positive"),
  "few rows": ("size,kind\n1,a\n5,b\n3,a\n4,b\n", NOTHING, "no test rows: 4 rows with"),
  "ids twice": (
    rows(id=with_value(range(N), 9, 3)), NOTHING,
    "id id, line 11: '3' is the id of a row above.*columns=id=group or =ignore"),
  "two ids": (
    rows(), {"columns": "size=id,name=id"}, "columns size and name are both id"),
  "unknown column": (
    rows(), {"columns": {"photo": "image"}}, "a column in columns is 'photo', known are size, na"),
  "unknown role": (rows(), {"columns": "size=image2"}, "columns, size is 'image2', known are num"),
  "no pair": (rows(), {"columns": "size"}, "columns has 'size', expected is name=value"),
  "twice": (rows(), {"columns": "size=text,size=text"}, "columns has 'size' twice"),
  "nothing left": (rows(), {"columns": "size=ignore,name=ignore"}, "no column is left to learn"),
  "unknown in modality": (rows(), {"modalities": "x=size+foo"}, "modality x is 'foo', known are"),
  "in two modalities": (rows(), {"modalities": "x=size,y=size"}, "modalities name size twice"),
  "odd modality": (rows(), {"modalities": "x y=size"}, "modality 'x y' must be a name of letters"),
  "empty modality": (rows(), {"modalities": "x=size+name,y=*"}, "modality y has no columns"),
  "image beside text": (
    rows(photo=PHOTOS[:2] * (N // 2)), {"modalities": "x=photo+name"}, "modality x has photo, na"),
  "mixed types": (
    rows(size=with_value(VALUES, 5, "heavy")), NOTHING,
    "line 7: 'heavy' is no number, as 98% of the cells are; correct it, or say what size is"),
  "long cell": (
    rows(size=with_value(VALUES, 5, "9" * 5000)), NOTHING, r"line 7: '9{59}\.\.\. is no number"),
  "given number": (
    rows(), {"columns": "name=number"}, "'name', line 2: 'thing 0 of 0' is no number"),
  "paths of nothing": (
    rows(photo=[f"{i}.jpg" for i in range(N)]), NOTHING,
    r"'photo' looks like paths of files, but .*/0.jpg does not exist.*root .*photo=text"),
  "many missing files": (
    rows(photo=PHOTOS), NOTHING, "photo: 10 of 40 files are missing, as .*/photos/3.png; more"),
  "path outside": (
    rows(photo=with_value(PHOTOS, 5, "../a.png")), NOTHING, "'photo': '../a.png' lies outside"),
  "absolute path": (
    rows(photo=with_value(PHOTOS, 5, "/a.png")), NOTHING, "lies outside .*the option root"),
  "unknown split": (
    rows(split=with_value(SPLIT, 8, "often")), {"columns": "split=split"},
    "split split, line 10: found 'often', expected: train, valid, test; columns=split=ignore"),
  "no test": (rows(split=["train", "valid"] * 20), NOTHING, "no test rows: the column split has"),
  "test without labels": (
    rows(split=SPLIT, kind=rows()["kind"][:32] + [""] * 8), NOTHING, "no test rows: .* a label"),
  "cut group": (
    rows(split=SPLIT, group=[i // 10 for i in range(N)]), NOTHING,
    "line 26 is of split valid, other rows of its group are of train"),
  "one group": (rows(group=["a"] * N), NOTHING, "no valid rows: 1 groups with a label are too few"),
  "empty file": ("", NOTHING, "the file is empty"),
  "blank file": ("\n \n", NOTHING, "the file is empty"),
  "header only": ("size,name,kind\n", NOTHING, "no rows, its columns are size, name, kind"),
  "same names": ("a,a,kind\n1,2,x\n", NOTHING, "two columns are called 'a'"),
  "long row": ("a,kind\n1,x\n1,2,x\n", NOTHING, "line 3 has 3 cells, the first line has 2; .*','"),
  "short row": ("a,b,kind\n1,2,x\n3,y\n", NOTHING, "line 3 has 2 cells, the first line has 3"),
  "open quote": ('a,kind\n1,"x\n2,y\n', NOTHING, "line 3 cannot be read: unexpected end of data"),
  "zeros": (b"a,kind\n1,\0x\n\0\0", NOTHING, "own.csv: "),
  "an image": (b"\x89PNG\r\n\x1a\n\0\0\0", NOTHING, "own.csv: "),
  "no such size": (rows(), {"image_size": 0}, "image_size is 0, it must be at least 1"),
  "unknown option": (rows(), {"kinds": {}}, "has no option 'kinds', its options are label"),
}
# fmt: on


def check_sentence(sentence):
  assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 400


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_table_is_one_sentence(photos, case):
  columns, options, sentence = REFUSED[case]
  with pytest.raises(ValueError, match=sentence) as found:
    data.load(write(photos, columns), **({"label": "kind"} | options))
  check_sentence(str(found.value))


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrow"])
def test_a_damaged_file_is_one_sentence(tmp_path, ending):
  for content in (b"", b"PAR1 ARROW1 nothing", b"ARROW1\0\0 nothing"):
    path = tmp_path / f"own{ending}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"own{ending}: this is no .{ending} file") as found:
      data.load(path, label="kind")
    check_sentence(str(found.value))
  path.unlink()
  with pytest.raises(ValueError, match="No such file or directory, expected is a table"):
    data.load(path, label="kind")


def test_a_folder_with_the_name_of_a_table_is_no_table(tmp_path):
  (tmp_path / "own.csv").mkdir()
  with pytest.raises(ValueError, match="own.csv: Is a directory, expected is a table"):
    data.load(tmp_path / "own.csv", label="kind")
