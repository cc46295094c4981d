"""Reads the tensors of a .pth file without torch, and without running any code of the file.

Both forms of torch.save are read: a zip archive (since 1.6) and, before it, pickles followed by the
bytes of every storage. Admitted are dicts of dense tensors of numbers; all else is refused.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from promise_jax.data.readers.safe_pickle import RefusedPickleError, check_operations

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old form
DTYPES = {
  "FloatStorage": "<f4",
  "DoubleStorage": "<f8",
  "HalfStorage": "<f2",
  "LongStorage": "<i8",
  "IntStorage": "<i4",
}


class StateDict(dict):
  """A dict whose attributes, as the versions of modules, are not kept."""

  def __setstate__(self, state):
    pass


class TensorUnpickler(pickle.Unpickler):
  """Finds dicts and tensors; a storage is whatever `read_storage(dtype, key)` returns."""

  def __init__(self, file: io.BytesIO, read_storage: Callable[[str, str, int], Any]):
    super().__init__(file)
    self.read_storage = read_storage

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ("collections", "OrderedDict"):
      return StateDict
    if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
      return rebuild_tensor
    if module == "torch" and name in DTYPES:
      return DTYPES[name]
    raise RefusedPickleError(f"asks for {module[:40]}.{name[:40]}, which no tensor needs")

  def persistent_load(self, identity: tuple) -> Any:
    _, dtype, key, _, count, *_ = identity
    return self.read_storage(dtype, str(key), count)


class Tensor:
  """A tensor whose storage may be read later."""

  def __init__(self, storage: Callable[[], np.ndarray], offset: int, shape: tuple, strides: tuple):
    self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

  def to_array(self) -> np.ndarray:
    """A copy. ValueError where the tensor reaches beyond its storage."""
    values = self.storage()[self.offset :]
    last = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
    negative = min((*self.shape, *self.strides, self.offset), default=0) < 0
    if 0 in self.shape or negative or last >= len(values):
      raise ValueError("has a tensor that reaches beyond its storage")
    strides = [step * values.itemsize for step in self.strides]
    return np.lib.stride_tricks.as_strided(values, self.shape, strides).copy()


def rebuild_tensor(storage, offset, shape, strides, *_) -> Tensor:
  """What a file calls to make a tensor."""
  return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
  """{name: array} of the tensors in a .pth file. ValueError where it is none, is damaged, or holds
  something else than tensors."""
  try:
    read = read_zip if zipfile.is_zipfile(io.BytesIO(content)) else read_pickles
    found = read(io.BytesIO(content))
    return {name: t.to_array() for name, t in found.items() if isinstance(t, Tensor)}
  except RefusedPickleError as error:
    raise ValueError(f"the file {error}") from error
  except Exception as error:  # a damaged program can fail in any way
    raise ValueError(f"this is no .pth file, or a damaged one: {error}") from error


def read_zip(file: io.BytesIO) -> dict[str, Tensor]:
  """The tensors of an archive: data.pkl, and a member a storage."""
  with zipfile.ZipFile(file) as archive:
    (main,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    folder = main.removesuffix("data.pkl") + "data/"

    def read_storage(dtype: str, key: str, count: int) -> Callable[[], np.ndarray]:
      values = np.frombuffer(archive.read(folder + key), dtype)
      return lambda: values

    return load_pickle(io.BytesIO(archive.read(main)), read_storage)


def read_pickles(file: io.BytesIO) -> dict[str, Tensor]:
  """The tensors of the old form: five pickles, then each storage with its length in front."""
  storages: dict[str, np.ndarray] = {}
  dtypes: dict[str, str] = {}

  def read_storage(dtype: str, key: str, count: int) -> Callable[[], np.ndarray]:
    dtypes[key] = dtype
    return lambda: storages[key]

  magic, _, _, tensors, keys = (load_pickle(file, read_storage) for _ in range(5))
  if magic != MAGIC:
    raise ValueError("it begins with something else")
  for key in map(str, keys):
    count, dtype = int.from_bytes(file.read(8), "little"), np.dtype(dtypes[key])
    storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
  return tensors


def load_pickle(file: io.BytesIO, read_storage: Callable[[str, str, int], Any]) -> Any:
  """The next pickle of a file."""
  start = file.tell()
  check_operations(file)
  file.seek(start)
  return TensorUnpickler(file, read_storage).load()
