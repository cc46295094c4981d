"""Reads an npz file of arrays, the way to bring data of your own without code.

  x_<modality>        numbers [N, ...] or unicode strings [N]; one or more
  y                   integers [N] or names [N] (classes), floats [N] (regression),
                      0/1 [N, C] (multilabel)
  present_<modality>  optional bool [N]: False where the data lack the modality; a row
                      of nothing but NaN or inf is absent too
  length_<modality>   optional integers [N]: the valid steps of a padded sequence
  split               optional strings [N], train, valid and test; without it 60/20/20 of
                      the rows are drawn, see `npz_labels.draw_split`
  id                  optional integers [N], unique; without it the row numbers
  group               optional integers from 0, or strings [N]: the recording, speaker, ...
                      of a row; the rows of one lie in one split, keep or lose their
                      labels together and count as one in an interval
  scale               optional number: the unit of a regression label
  classes             optional names [C] of the classes or of the columns of y

Modalities keep the order of the file. Their kind follows from the array:

  strings [N], or integers [N, T]                      tokens (0 is padding)
  uint8 [N, height, width], any [N, height, width, C]  image (floats lie in 0 to 1)
  other numbers [N, T, D]                              sequence
  floats or bool [N] or [N, D]                         vector

uint8 [N, D] and integers [N] could be either: the option `kinds` decides.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO

import numpy as np

from promise_jax.data import source as data_source
from promise_jax.data.readers import npz_arrays, npz_labels
from promise_jax.types import Modality, Task

BLOCK_BYTES = 2**24  # of the arrays that are streamed at a time


@dataclasses.dataclass(frozen=True)
class NpzOptions:
  """How an npz file is read."""

  vocabulary: int = 8192  # token ids are smaller than this; texts are hashed into it
  scale: float | None = None  # unit of a regression label; None: what the file says
  kinds: Mapping[str, str] = dataclasses.field(default_factory=dict)  # {modality: kind}
  split_seed: int = 0  # draws the split of a file without one


@dataclasses.dataclass(frozen=True)
class NpzDataset:
  """The small arrays of an npz file, checked, and functions that read the large ones."""

  path: pathlib.Path
  headers: dict[str, npz_arrays.Header]
  modalities: tuple[Modality, ...]
  task: Task
  label: np.ndarray
  id: np.ndarray
  group: np.ndarray | None
  split: np.ndarray  # strings [N]
  present: dict[str, np.ndarray]  # {modality: bool[N]}
  length: dict[str, np.ndarray]  # {sequence: i64[N]}

  def rows(self, split: str) -> data_source.Rows:
    """All rows of a split; one whole array is in memory at a time."""
    index = np.flatnonzero(self.split == split)
    with npz_arrays.open_npz(self.path) as file:

      def read(array: str) -> np.ndarray:
        with npz_arrays.name_array_in_errors(array):
          return file[array][index]

      return self.make_rows(index, read)

  def blocks(self, split: str) -> Iterator[data_source.Rows]:
    """The rows of a split, a few at a time; no array is ever read as a whole."""
    names = [f"x_{m.name}" for m in self.modalities]
    size = max(BLOCK_BYTES // sum(self.headers[a].row_bytes for a in names), 1)
    with contextlib.ExitStack() as stack:
      file = stack.enter_context(npz_arrays.open_npz(self.path))
      members = {a: stack.enter_context(file.zip.open(f"{a}.npy")) for a in names}
      for name, member in members.items():
        with npz_arrays.name_array_in_errors(name):
          if npz_arrays.read_header(member).by_column and len(self.headers[name].shape) > 1:
            raise ValueError(
              "it is stored column by column, to be streamed it must be stored row by row "
              "(numpy.ascontiguousarray)"
            )
      for start in range(0, len(self.label), size):
        here = self.split[start : start + size]
        values = {a: self._read_rows(a, member, len(here)) for a, member in members.items()}
        index = np.flatnonzero(here == split)
        if len(index):
          yield self.make_rows(index + start, lambda a, v=values, i=index: v[a][i])

  def _read_rows(self, array: str, member: IO[bytes], count: int) -> np.ndarray:
    header = self.headers[array]
    with npz_arrays.name_array_in_errors(array):
      content = member.read(count * header.row_bytes)
      if len(content) < count * header.row_bytes:
        raise EOFError("it ends before its last row")
    return np.frombuffer(content, header.dtype).reshape(count, *header.shape[1:])

  def make_rows(self, index: np.ndarray, read: Callable[[str], np.ndarray]) -> data_source.Rows:
    """The rows with numbers `index`, of which `read(array)` has the values."""
    recorded = np.ones((len(index), len(self.modalities)), bool)
    inputs, length = {}, {m: n[index] for m, n in self.length.items()}
    for i, m in enumerate(self.modalities):
      values = read(f"x_{m.name}")
      inputs[m.name], recorded[:, i] = npz_arrays.convert_values(m, values, index)
      if values.dtype.kind == "U":
        length[m.name] = np.count_nonzero(inputs[m.name], axis=1)
      if m.name in self.present:
        recorded[:, i] &= self.present[m.name][index]
    group = None if self.group is None else self.group[index]
    return data_source.Rows(inputs, length, recorded, self.label[index], self.id[index], group)


def open_dataset(path: pathlib.Path, options: NpzOptions) -> NpzDataset:
  """Reads all of a file but the arrays x_*; raises ValueError for the first that is wrong."""
  with npz_arrays.open_npz(path) as file:
    headers = npz_arrays.read_headers(file)
    names = npz_arrays.check_headers(headers)
    npz_arrays.check_kinds(options.kinds, names)
    modalities = tuple(
      npz_arrays.describe_modality(m, headers[f"x_{m}"], options.kinds.get(m), options.vocabulary)
      for m in names
    )
    small = {}
    for array in (a for a in headers if not a.startswith("x_")):
      with npz_arrays.name_array_in_errors(array):
        small[array] = file[array]
    label, task = npz_labels.read_labels(small, options.scale)
    ids = npz_labels.read_ids(small, len(label))
    group = npz_labels.read_group(small)
    split = npz_labels.read_split(small, label, task, ids, group, options.split_seed)
    present = npz_labels.read_present(small)
    length = npz_labels.read_length(small, modalities)
  return NpzDataset(path, headers, modalities, task, label, ids, group, split, present, length)


def read_npz(path: pathlib.Path, options: NpzOptions | None = None) -> data_source.Source:
  """The source in an npz file; its inputs are read split by split.

  Raises:
    ValueError: names the file and the first array that breaks the convention above.
  """
  options = options or NpzOptions()
  dataset = open_dataset(path, options)
  stat = path.stat()
  row_bytes = [dataset.headers[f"x_{m.name}"].row_bytes for m in dataset.modalities]
  num_rows, num_train = len(dataset.label), int((dataset.split == "train").sum())
  return data_source.Source(
    name=path.stem,
    card=f"Arrays of {path.name}, {num_rows} rows.",
    modalities=dataset.modalities,
    task=dataset.task,
    splits=data_source.SPLITS,
    rows=dataset.rows,
    place=str(path),
    blocks=dataset.blocks,
    identity=f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {options.split_seed}",
    # The train rows of all modalities and, one after the other, a whole array.
    train_bytes=sum(row_bytes) * num_train + max(row_bytes) * num_rows,
  )
