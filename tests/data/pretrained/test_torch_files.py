"""Files of torch.save: both forms, written here without torch; nothing in them runs."""

import collections
import io
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from promise_jax.data.pretrained import torch_files


@pytest.fixture
def torch(monkeypatch):
  """The names that a file of torch asks for."""
  module, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
  module.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
  module.LongStorage = type("LongStorage", (), {"__module__": "torch"})
  inner._rebuild_tensor_v2 = lambda *args: None
  inner._rebuild_tensor_v2.__module__ = "torch._utils"
  inner._rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
  monkeypatch.setitem(sys.modules, "torch", module)
  monkeypatch.setitem(sys.modules, "torch._utils", inner)
  return module, inner


class Storage:
  def __init__(self, values, kind):
    self.values, self.kind = values, kind


class Tensor:
  """Pickles as a view of a storage."""

  def __init__(self, function, storage, offset, shape, strides):
    self.parts = function, (storage, offset, shape, strides, False, collections.OrderedDict())

  def __reduce__(self):
    return self.parts


class Pickler(pickle.Pickler):
  def persistent_id(self, value):
    if isinstance(value, Storage):
      return ("storage", value.kind, str(id(value)), "cpu", len(value.values), None)


def dump(value):
  file = io.BytesIO()
  Pickler(file, protocol=2).dump(value)
  return file.getvalue()


def write(form, tensors, storages):
  """The bytes of a file in one of the two forms."""
  if form == "pickles":
    keys = dump([str(id(s)) for s in storages])
    head = [dump(x) for x in (torch_files.MAGIC, 1001, {"little_endian": True}, tensors)]
    bodies = [len(s.values).to_bytes(8, "little") + s.values.tobytes() for s in storages]
    return b"".join((*head, keys, *bodies))
  file = io.BytesIO()
  with zipfile.ZipFile(file, "w") as archive:
    archive.writestr("own/data.pkl", dump(tensors))
    for s in storages:
      archive.writestr(f"own/data/{id(s)}", s.values.tobytes())
  return file.getvalue()


@pytest.mark.parametrize("form", ["pickles", "zip"])
def test_tensors_are_read_with_their_strides(torch, form):
  module, inner = torch
  floats = Storage(np.arange(12, dtype=np.float32), module.FloatStorage)
  whole = Storage(np.array([7]), module.LongStorage)
  make = inner._rebuild_tensor_v2
  tensors = collections.OrderedDict(
    a=Tensor(make, floats, 2, (2, 3), (3, 1)),
    turned=Tensor(make, floats, 0, (3, 4), (1, 3)),
    count=Tensor(make, whole, 0, (), ()),
  )
  tensors._metadata = {"version": 1}
  found = torch_files.read_tensors(write(form, tensors, [floats, whole]))
  np.testing.assert_array_equal(found["a"], np.arange(2, 8).reshape(2, 3))
  np.testing.assert_array_equal(found["turned"], np.arange(12).reshape(4, 3).T)
  assert found["count"] == 7 and found["a"].dtype == np.float32


class Harm:
  def __reduce__(self):
    return os.mkdir, ("harm",)


def test_what_is_no_file_of_tensors_is_one_sentence(torch, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  module, inner = torch
  floats = Storage(np.arange(3, dtype=np.float32), module.FloatStorage)
  beyond = {"a": Tensor(inner._rebuild_tensor_v2, floats, 1, (3,), (1,))}
  good = {"a": Tensor(inner._rebuild_tensor_v2, floats, 0, (3,), (1,))}
  for content, words in (
    (write("zip", {"a": Harm()}, []), "asks for .*mkdir, which no tensor needs"),
    (write("pickles", {"a": Harm()}, []), "asks for .*mkdir, which no tensor needs"),
    (write("zip", beyond, [floats]), "a tensor that reaches beyond its storage"),
    (write("pickles", good, [floats])[:-2], "no .pth file, or a damaged one"),
    (b"nothing", "no .pth file, or a damaged one"),
    (b"", "no .pth file, or a damaged one"),
  ):
    with pytest.raises(ValueError, match=words):
      torch_files.read_tensors(content)
  assert not (tmp_path / "harm").exists()
