"""Pickles of every protocol are read back; what is no pickle is refused in a sentence."""

import collections
import io
import pickle
import struct

import numpy as np
import pytest

from promise_jax.data.readers import safe_pickle

TREE = {
  "c": np.arange(6, dtype="f4").reshape(2, 3),
  "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
  "strided": np.arange(10)[::2],
  "big_endian": np.arange(3, dtype=">i2"),
  "half": np.array([1.5, -np.inf, np.nan], "f2"),
  "bool": np.array([True, False]),
  "empty": np.zeros((0, 3)),
  "text": np.array(["ab", "ü"]),
  "no_text": np.array([""]),
  "bytes": np.array([b"x", b"yy"]),
  "objects": np.array(["ab", 1, None, 2.5, np.float64(2)], object),
  "scalars": [np.float32(3.5), np.int64(4), np.str_("hi"), np.str_(""), np.bool_(True)],
  "plain": [1, 2.5, 2**80, None, True, "ü", b"\xff", b"", ("a",), [], {}],
  "sets": [{1, 2}, set()],
}


def read(tmp_path, content):
  path = tmp_path / "a.pkl"
  path.write_bytes(content)
  return safe_pickle.load(path)


@pytest.mark.parametrize("dump", [pickle.dumps, pickle._dumps])
@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read_back(tmp_path, protocol, dump):
  found = read(tmp_path, dump(TREE, protocol))
  assert found.keys() == TREE.keys()
  for key, expected in TREE.items():
    if isinstance(expected, np.ndarray):
      np.testing.assert_array_equal(found[key], expected)
      assert found[key].dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
    else:
      assert found[key] == expected
  assert list(map(type, found["scalars"])) == list(map(type, TREE["scalars"]))


class Python2(pickle._Pickler):
  """Writes str and bytes as Python 2 wrote its str."""

  dispatch = pickle._Pickler.dispatch.copy()

  def save_bytes(self, value):
    self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

  def save_str(self, value):
    self.save_bytes(value.encode("latin1"))

  dispatch[bytes], dispatch[str] = save_bytes, save_str


@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_python_2_and_both_homes_of_numpy_are_read(tmp_path, core):
  tree = {"x": np.arange(4.0).reshape(2, 2), "id": np.array(["a", "b"], object)}
  file = io.BytesIO()
  Python2(file, 2).dump(tree)
  content = file.getvalue().replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", core)
  found = read(tmp_path, content)
  np.testing.assert_array_equal(found[b"x"], tree["x"])
  assert found[b"id"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize(
  ("value", "match"),
  [
    (np.zeros(2, [("a", "f4")]), "dtype 'V4'"),
    (np.zeros(2, "c8"), "dtype 'c8'"),
    (np.zeros(2, "M8[s]"), "dtype 'M8'"),
    (np.array([np.zeros(2), np.zeros(3)], object), "neither text nor numbers, as rows of diff"),
    (np.array([{"a": 1}, 1], object), "neither text nor numbers"),
    (np.ma.zeros(2), "asks for 'numpy.ma"),
    (collections.Counter("aab"), "asks for 'collections.Counter'"),
    (bytearray(b"ab"), "asks for 'builtins.bytearray'"),
    (complex(1, 2), "asks for 'builtins.complex'"),
    (print, "asks for 'builtins.print'"),
    (np.float32, "asks for 'numpy.float32'"),
  ],
)
def test_values_that_are_neither_arrays_nor_plain_are_refused(tmp_path, value, match):
  with pytest.raises(ValueError, match=match):
    read(tmp_path, pickle.dumps({"x": value}))


def test_a_cut_or_changed_pickle_is_one_sentence(tmp_path):
  content = pickle.dumps({"a": np.arange(30.0), "b": ["x", 1.5]}, 4)
  for end in range(0, len(content), 3):
    with pytest.raises(ValueError, match=r"^[^\n]+\.$"):
      read(tmp_path, content[:end])
  with pytest.raises(ValueError, match="no pickle, or a damaged one"):
    read(tmp_path, content[: len(content) // 2])
  rng = np.random.default_rng(0)
  for at in range(0, len(content), 5):
    changed = bytearray(content)
    changed[at] = rng.integers(256)
    try:
      read(tmp_path, bytes(changed))
    except ValueError as error:
      assert "\n" not in str(error)


@pytest.mark.parametrize(
  ("content", "match"),
  [
    (b"", "the file begins with b'' and is no pickle"),
    (b"PK\x03\x04", r"begins with b'PK.* and is no pickle"),
    (b"version https://git-lfs.github.com/spec/v1\n", "begins with b'version ' and is no"),
    (b"id,label\n1,0.5\n", "no pickle, or a damaged one"),
    (pickle.BYTEARRAY8 + struct.pack("<Q", 2**62) + b".", "damaged"),
    (pickle.BINBYTES8 + struct.pack("<Q", 2**40) + b".", "damaged"),
  ],
)
def test_a_file_that_is_no_pickle_is_refused(tmp_path, content, match):
  with pytest.raises(ValueError, match=match):
    read(tmp_path, content)
