"""Reads an HDF5 file of arrays by key, as MultiBench has them.

Each array has a row for each example; the option `label` names the one with the labels, without it
"y". Every other array is a modality, called by its key without "x_"; the option `modalities` names
those that are read. What `readers.npz` says of id, split, group, scale, classes, present_ and
length_ goes here too, and "ids" and "*_ids" are ids. A file with the keys and the 25,959 rows of
MM-IMDb has its splits.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from promise_jax.data import source as data_source
from promise_jax.data.readers import npz, npz_arrays

MM_IMDB = {"features", "images", "vgg_features", "genres", "imdb_ids"}
MM_IMDB_SPLITS = ("train",) * 15552 + ("valid",) * 2608 + ("test",) * 7799


@dataclasses.dataclass(frozen=True)
class Hdf5Options(npz.NpzOptions):
  """How an HDF5 file is read."""

  label: str = ""  # the key of the labels
  modalities: str | Sequence[str] = ""  # the keys that are read, as "features+vgg_features"


@contextlib.contextmanager
def open_hdf5(path: pathlib.Path) -> Iterator[Any]:
  """Opens a file; every ValueError, also of the code in the context, names it."""
  try:
    import h5py
  except ImportError:
    words = 'HDF5 needs h5py: python -m pip install "promise-jax[formats]"'
    raise ValueError(f"{path}: {words}.") from None
  with data_source.name_file_in_errors(path, "an HDF5 file"):
    try:
      file = h5py.File(path, "r")
    except OSError as error:
      raise ValueError("this is no HDF5 file, or one that is cut short.") from error
    with file:
      try:
        yield file
      except (KeyError, MemoryError, OSError, RuntimeError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].strip("'\"")
        raise ValueError(f"it is damaged, it cannot be read: {reason}.") from error


def read_hdf5(path: pathlib.Path, options: Hdf5Options) -> data_source.Source:
  """The source in a file; its inputs are read split by split. ValueError names the file and its
  keys, or the first array that does not fit."""
  with open_hdf5(path) as file:
    keys = name_arrays(file, options)
    headers = {array: read_header(file[key]) for array, key in keys.items()}
    npz_arrays.check_headers(headers, bool(options.features))
    small = {a: read_array(file[key]) for a, key in keys.items() if not a.startswith("x_")}
    if {*file} == MM_IMDB and len(small["y"]) == len(MM_IMDB_SPLITS):
      small["split"] = np.array(MM_IMDB_SPLITS)
    count = lambda header: max(npz_arrays.SAMPLE_BYTES // header.row_bytes, 1)
    first = lambda array, header: read_array(file[keys[array]], slice(count(header)))
    found = npz.describe_arrays(path, headers, small, first, options)

  def read(split: str) -> data_source.Rows:
    (index,) = np.nonzero(found.split == split)
    with open_hdf5(path) as file:
      return found.make_rows(index, lambda array: read_array(file[keys[array]], index))

  train_bytes = sum(found.row_bytes) * int(np.sum(found.split == "train"))
  return found.make_source(read, train_bytes=train_bytes)


def name_arrays(file: Any, options: Hdf5Options) -> dict[str, str]:
  """{name of the array as in an npz file: key}."""
  label, keys = options.label or "y", list(file)
  given = options.modalities
  wanted = [n.strip() for n in given.split("+")] if isinstance(given, str) else list(given)
  if label not in keys:
    words = f"is {options.label!r}" if options.label else "is not given"
    raise ValueError(f"label {words}, expected is the key of the labels, one of {', '.join(keys)}.")
  arrays = {}
  for key in keys:
    form, _, name = key.partition("_")
    form, name = (form, name) if form in ("x", "present", "length") and name else ("x", key)
    if key == label:
      arrays["y"] = key
    elif key in ("id", "split", "group", "scale", "classes", "labelled"):
      arrays[key] = key
    elif key == "ids" or key.endswith("_ids"):
      arrays["id"] = key
    elif wanted in ([], [""]) or name in wanted:
      arrays[f"{form}_{name}"] = key
  for array, key in arrays.items():
    shape, count = getattr(file[key], "shape", None), len(file[label])
    if not shape or (shape[0] != count and array not in ("scale", "classes")):
      found = "a group" if shape is None else f"of shape {shape}"
      raise ValueError(
        f"the key {key!r} is {found}, expected are arrays of {count} rows as {label!r}; the keys "
        f"are {', '.join(keys)}; modalities=NAME+NAME leaves others out."
      )
  return arrays


def read_header(dataset: Any) -> npz_arrays.Header:
  """What a data set is; texts are of the longest one's size."""
  is_text = dataset.dtype.kind in "SO"
  return npz_arrays.Header(dataset.shape, False, np.dtype("U1") if is_text else dataset.dtype)


def read_array(dataset: Any, index: slice | np.ndarray = slice(None)) -> np.ndarray:
  """The rows of a data set; bytes become texts."""
  values = dataset[index] if dataset.shape else dataset[()]
  if dataset.dtype.kind not in "SO":
    return values
  texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values.flat]
  return np.array(texts, str).reshape(values.shape)
