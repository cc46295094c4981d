"""An npz file that breaks the convention is refused in one sentence."""

import pathlib
import warnings
import zipfile

import numpy as np
import pytest
from npz_files import SPLIT, N, plain, with_value

from promise_jax import data

NAN = np.nan
OBJECTS = np.array([{}] * N, dtype=object)
X4 = np.zeros((N, 2, 2, 1))

# fmt: off
BAD = {  # name: (arrays beside or instead of the good ones, options, the sentence)
  "short x": ({"x_v": np.zeros((10, 2))}, {}, "x_v has 10 rows, y has 12"),
  "objects": ({"x_v": OBJECTS}, {}, "x_v is an array of objects, a pickle"),
  "no x": ({"x_v": None, "x_s": None}, {}, "no array x_<modality>, found are y, split"),
  "no y": ({"y": None}, {}, "no array y, found are x_v, x_s, split"),
  "unknown array": ({"label": SPLIT}, {}, "'label' is unknown, known are x_<modality>"),
  "odd modality name": ({"x_a+b": X4}, {}, r"'x_a\+b' is unknown"),
  "5-D": ({"x_v": X4[..., None]}, {}, r"x_v is float64 of shape \(12, 2, 2, 1, 1\)"),
  "no features": ({"x_v": np.zeros((N, 0))}, {}, r"shape \(12, 0\), expected: num"),
  "complex": ({"x_v": np.zeros((N, 2), complex)}, {}, "x_v is complex128 of shape"),
  "dates": ({"x_v": np.zeros((N, 2), "M8[s]")}, {}, r"x_v is datetime64\[s\]"),
  "bytes": ({"x_v": np.array([b"a"] * N)}, {}, r"x_v is \|S1 .* or unicode strings \[N\]"),
  "fields": ({"x_v": np.zeros(N, [("a", "f4")])}, {}, r"x_v is \[\('a', '<f4'\)\]"),
  "2-D strings": ({"x_v": np.full((N, 2), "a")}, {}, r"x_v is <U1 .* unicode strings \[N\]\.$"),
  "paths of photos": (
    {"x_v": np.array([f"photos/{i}.JPG" for i in range(N)])}, {},
    "x_v has paths of files, as 'photos/0.JPG': .* a CSV with the column v; kinds.v=tokens reads",
  ),
  "paths of sounds": ({"x_v": np.array([f"{i}.wav" for i in range(N)])}, {}, "x_v has paths of"),
  "ambiguous 1-D": ({"x_v": np.arange(N)}, {}, "tokens or vector: say so by kinds.v"),
  "ambiguous 2-D": (
    {"x_v": np.random.default_rng(0).permutation(20 * N).reshape(N, 20) + 1}, {},
    "or vector: say so by kinds.v",
  ),
  "y of rank 3": ({"y": np.zeros((N, 2, 2), int)}, {}, r"y is int64 of shape \(12, 2, 2\)"),
  "y of one column": ({"y": np.ones((N, 1), int)}, {}, r"one label a row has the shape"),
  "no rows": ({k: v[:0] for k, v in plain().items()}, {}, "y has no rows"),
  "gaps": ({"y": np.array([0, 2, 5] * 4)}, {}, "0, 2, 5: number them 0 to 2, name"),
  "float classes": ({"y": np.array([0.0, 2, 5] * 4)}, {}, "5.0: say task=classes or task=regr"),
  "negative class": ({"y": np.arange(N) % 3 - 1}, {}, "y, row 0: found -1, .* from 0"),
  "unknown name": (
    {"y": np.array(["a", "b", "c"] * 4), "classes": np.array(["a", "b"])}, {},
    "y, row 2: found 'c', expected: the names in classes, a, b",
  ),
  "names twice": ({"classes": np.array(["a", "a"])}, {}, "expected: different names"),
  "no label": ({"y": np.full(N, "")}, {}, "y: no row has a label"),
  "one class": ({"y": np.zeros(N, int)}, {}, "6 train rows all have the label 0,"),
  "inf label": ({"y": with_value(np.ones(N), 7, np.inf)}, {}, "y, row 7: found inf"),
  "one value": ({"y": np.full(N, 0.5)}, {}, "6 train rows all have the label 0.5,"),
  "many values": ({"y": with_value(np.eye(N, 4), (5, 1), 2)}, {}, "row 5: found .* 0 and 1 alone"),
  "columns and names": (
    {"y": np.eye(N, 4), "classes": np.array(["a", "b"])}, {},
    "C above 1 and the number of names in classes \\(now 2\\)",
  ),
  "scale of classes": ({"scale": np.array(2.0)}, {}, "scale is there, but y is int64"),
  "scale of 0": ({"y": np.arange(N) / 7, "scale": np.array(0)}, {}, "scale is 0.0"),
  "classes of floats": (
    {"y": np.arange(N) / 7, "classes": np.array(["a", "b"])}, {},
    "classes is there, but",
  ),
  "unknown split": (
    {"split": with_value(SPLIT, 8, "dev")}, {},
    "split, row 8: found 'dev', expected: train, valid, test",
  ),
  "split of numbers": ({"split": np.zeros(N, int)}, {}, r"split is int64 .* strings \[N\]"),
  "empty split": (
    {"split": np.where(SPLIT == "test", "train", SPLIT)}, {},
    "no test rows: the array split has none",
  ),
  "too few rows": (
    {"x_v": np.ones((2, 1)), "x_s": None, "y": np.arange(2), "split": None}, {},
    "no valid rows: 2 rows with a label are too few",
  ),
  "group in two splits": (
    {"group": with_value(np.arange(N), 11, 8)}, {},
    "row 11 is of split test, .* expected: one split for a group",
  ),
  "named group in two splits": (
    {"group": np.array(["a"] * 3 + ["b"] * 7 + ["c"] * 2)}, {},
    "row 6 is of split valid, .* expected: one split",
  ),
  "negative group": ({"group": np.arange(N) - 1}, {}, "group, row 0: found -1, .*: 0 to"),
  "one group": (
    {"group": np.zeros(N, int), "split": None}, {},
    "no valid rows: 1 groups with a label are too few",
  ),
  "present of no modality": (
    {"present_w": np.ones(N, bool)}, {},
    "'present_w' is unknown, .* present_ and length_ of v, s",
  ),
  "present of floats": ({"present_v": np.ones(N)}, {}, r"present_v is float64 .* bool"),
  "present of 2": (
    {"present_v": with_value(np.ones(N, int), 3, 2)}, {},
    "present_v, row 3: found 2",
  ),
  "length of no modality": ({"length_w": np.ones(N, int)}, {}, "'length_w' is unknown"),
  "length of a vector": ({"length_v": np.ones(N, int)}, {}, "no lengths, as x_v is of"),
  "long length": ({"length_s": np.full(N, 5)}, {}, "length_s, row 0: found 5, .* 0 to 4"),
  "ids twice": (
    {"id": with_value(np.arange(N), 11, 4)}, {},
    "id, row 11: found 4, expected: a number that no row",
  ),
  "large id": ({"id": np.arange(N) + 2**31 - 3}, {}, "id, row 3: found 2147483648, expected: 0 to"),
  "ids that repeat": ({"id": SPLIT}, {}, "id, row 1: found .train., expected: a text that no row"),
  "empty strings": (
    {"x_w": np.full(N, "")}, {},
    "split 'train': modality 'w' is in none of the 6 rows",
  ),
  "absent in train": ({"present_v": SPLIT == "test"}, {}, "modality 'v' is in none of the 6"),
  "NaN in train": ({"x_v": np.full((N, 2), NAN)}, {}, "modality 'v' is in none of the 6"),
  "one feature is NaN": (
    {"x_s": np.ones((N, 4, 3)) * [1, NAN, 1]}, {},
    "'s' is in none .*24 frames lost .*; nonfinite=value drops such .*; modalities=v leaves it out",
  ),
  "NaN as an error": (
    {"x_s": with_value(np.ones((N, 4, 3)), (2, 1, 1), NAN)}, {"nonfinite": "error"},
    "modality 's': 1 values are NaN",
  ),
  "large token": (
    {"x_w": with_value(np.ones((N, 3), int), (4, 1), 99)},
    {"vocabulary": 50, "kinds": {"w": "tokens"}},
    "'w', row 4: token id 99 is outside 0 to 49: set vocabulary=100, or kinds.w=vector if",
  ),
  "large pixel": (
    {"x_i": with_value(np.ones((N, 2, 2, 1), int), (5, 1), 256)}, {},
    "x_i, row 5: a pixel is 256",
  ),
  "bright pixel": ({"x_i": X4 + 255}, {}, "modality 'i': a pixel is 255.0, floats .* 0 to 1"),
  "kind of none": ({}, {"kinds": {"w": "image"}}, "a modality in kinds is 'w', known are v, s"),
  "unknown kind": ({}, {"kinds": {"v": "audio"}}, "kinds.v is 'audio', known are image, tok"),
  "impossible kind": ({}, {"kinds": {"v": "image"}}, "x_v is .* can be sequence or vector, not im"),
  "image of strings": ({"x_v": SPLIT}, {"kinds": {"v": "image"}}, "can be tokens, not image"),
}
# fmt: on


@pytest.mark.parametrize("case", BAD)
def test_a_bad_array_is_one_sentence(save_npz, case):
  arrays, options, sentence = BAD[case]
  path = save_npz(plain(**arrays))
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


def make_npy(shape):
  """An npy file whose header has `shape`, text, and no values."""
  header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
  return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def save_npy(path):
  with path.open("wb") as file:
    np.save(file, np.ones(3))


@pytest.mark.parametrize(
  ("change", "sentence"),
  [
    (pathlib.Path.unlink, "No such file or directory, expected is an npz file"),
    (cut, "this is no npz file .*, or one that is cut short"),
    (spoil, "x_v cannot be read: Bad CRC-32"),
    (shorten, "x_v cannot be read: it holds 88 bytes, its header says 96"),
    (lambda path: path.write_bytes(b""), "this is no npz file"),
    (lambda path: path.write_text("a,b\n1,2\n"), "this is no npz file"),
    (save_npy, "this is no npz file"),
    (add("notes.txt", "hello"), "notes.txt is no array"),
    (add("x_w.npy", b"nothing"), "x_w cannot be read: "),
    (add("x_w.npy", make_npy("(1" + "0" * 12 + ",)")), "x_w cannot be read: it holds 0 bytes"),
    (add("x_w.npy", make_npy("(" * 5000)), "x_w cannot be read: "),
    (add("y.npy", b""), "y.npy is no array, or there twice"),
  ],
)
def test_a_bad_file_is_one_sentence(save_npz, change, sentence):
  path = save_npz(plain())
  change(path)
  with pytest.raises(ValueError, match=sentence) as found:
    data.load(path)
  check_sentence(str(found.value), path)


def test_a_file_that_may_not_be_read_is_refused(save_npz, monkeypatch):
  path = save_npz(plain())

  def refuse(*args, **options):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(pathlib.Path, "open", refuse)  # root may read all
  with pytest.raises(ValueError, match="own.npz: Permission denied"):
    data.load(path)


def test_a_pickle_inside_is_never_loaded(tmp_path):
  class Trap:
    def __reduce__(self):
      return (pathlib.Path.touch, (tmp_path / "sprung",))

  np.savez(tmp_path / "trap.npz", x_a=np.array([Trap()] * 3), y=np.arange(3))
  with pytest.raises(ValueError, match="x_a is an array of objects"):
    data.load(tmp_path / "trap.npz")
  assert not (tmp_path / "sprung").exists()
