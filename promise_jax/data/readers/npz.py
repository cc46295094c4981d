"""Reads an npz file of arrays, the way to bring data of your own without code.

  x_<modality>        numbers [N, ...] or unicode strings [N]; one or more
  y                   integers [N], names [N] or one 1 a row in 0/1 [N, C] (classes),
                      floats [N] (regression), other 0/1 [N, C] (multilabel); the option
                      `task` says otherwise; "" and NaN are no label
  labelled            optional bool [N]: False where the label of a row is none
  present_<modality>  optional bool [N]: False where the data lack the modality; a row
                      of nothing but NaN is absent too
  length_<modality>   optional integers [N]: the valid steps of a padded sequence
  split               optional strings [N], train, valid and test; without it 60/20/20 of
                      the rows are drawn, without valid in it a quarter of the train rows,
                      see `splits.draw_split`
  id                  optional integers or strings [N], unique; without it the row numbers
  group               optional integers from 0, or strings [N]: the recording, speaker, ...
                      of a row; the rows of one lie in one split, keep or lose their
                      labels together and count as one in an interval
  scale               optional number: the unit of a regression label
  classes             optional names [C] of the classes or of the columns of y

Modalities keep the order of the file. Their kind follows from the array:

  strings [N]                                          tokens: hashed n-grams
  integers [N, D]                                      tokens (0 is padding) or vector, see
                                                       `integers`
  uint8 [N, height, width], any [N, height, width, C]  image (floats lie in 0 to 1)
  other numbers [N, T, D]                              sequence
  floats or bool [N] or [N, D]                         vector

The option `kinds` says otherwise, and what integers [N] are. Images [N, 1 or 3, height, width] are
turned.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from promise_jax.data import source as data_source
from promise_jax.data.readers import images, npz_arrays, npz_kinds, npz_labels
from promise_jax.types import Modality, Task

BLOCK_BYTES = 2**24  # of the arrays that are streamed at a time


@dataclasses.dataclass(frozen=True)
class NpzOptions(data_source.ReadOptions):
  """How an npz file is read."""

  split_seed: int = 0  # draws the split of a file without one
  features: Mapping[str, str] | str = ""  # modalities in folders, see `feature_folders`


@dataclasses.dataclass(frozen=True)
class ArrayFile:
  """A file of arrays: its small ones, checked, and what the large ones are."""

  path: pathlib.Path
  headers: Mapping[str, npz_arrays.Header]
  modalities: tuple[Modality, ...]
  task: Task
  split: np.ndarray  # strings [N]
  small: data_source.Rows  # all rows of the file, without inputs
  notes: tuple[str, ...]
  guesses: dict[str, str]

  @property
  def row_bytes(self) -> list[int]:
    """The size of a row of every modality."""
    return [self.headers[f"x_{m.name}"].row_bytes for m in self.modalities]

  def make_source(self, rows: Callable[[str], data_source.Rows], **more: Any) -> data_source.Source:
    """The source, of which `rows` reads a split; `more` are other fields of it."""
    return data_source.Source(
      name=self.path.stem,
      card=f"Arrays of {self.path.name}, {len(self.split)} rows.",
      modalities=self.modalities,
      task=self.task,
      splits=data_source.SPLITS,
      rows=rows,
      place=str(self.path),
      notes=self.notes,
      guesses=self.guesses,
      **more,
    )

  def make_rows(self, index: np.ndarray, read: Callable[[str], np.ndarray]) -> data_source.Rows:
    """The rows with numbers `index`, of which `read(array)` has the values."""
    rows, inputs, texts = self.small.take(index), {}, {}
    for i, m in enumerate(self.modalities):
      values = read(f"x_{m.name}")
      inputs[m.name], has_value = npz_arrays.convert_values(m, values, index)
      rows.recorded[:, i] &= has_value
      if values.dtype.kind == "U":
        rows.length[m.name] = np.count_nonzero(inputs[m.name], axis=1)
        texts[m.name] = values.tolist()
    return rows._replace(inputs=inputs, texts=texts)


def describe_arrays(
  path: pathlib.Path,
  headers: Mapping[str, npz_arrays.Header],
  small: Mapping[str, np.ndarray],
  read_first: Callable,
  options: NpzOptions,
) -> ArrayFile:
  """Describes a file by the headers of all arrays, the values of the `small` ones, which are no
  inputs x_*, and the first rows of the others, `read_first(array, header)`."""
  modalities, guesses = npz_kinds.describe_modalities(read_first, headers, small, options)
  task, guess, rows = npz_labels.read_rows(small, modalities, options.scale, options.task)
  split, notes = npz_labels.read_split(small, rows, task, options.split_seed)
  guesses |= {data_source.TASK: guess} if guess else {}
  guesses |= {} if "split" in small else {data_source.DRAWN: data_source.SAY_SPLIT}
  notes = tuple(f"{path.name}: {line}" for line in notes)
  return ArrayFile(path, headers, modalities, task, split, rows, notes, guesses)


def read_npz(path: pathlib.Path, options: NpzOptions | None = None) -> data_source.Source:
  """The source in an npz file; its inputs, the arrays x_*, are read split by split. ValueError
  names the file and the first array that breaks the convention above."""
  options = options or NpzOptions()
  small = {}
  with npz_arrays.open_npz(path) as file:
    headers = npz_arrays.read_headers(file)
    npz_arrays.check_headers(headers, bool(options.features))
    for array in (a for a in headers if not a.startswith("x_")):
      with npz_arrays.name_array_in_errors(array):
        small[array] = file[array]
    read_first = functools.partial(npz_arrays.read_first_rows, file)
    found = describe_arrays(path, headers, small, read_first, options)
  row_bytes, num_train = found.row_bytes, int((found.split == "train").sum())
  return found.make_source(
    functools.partial(read_split, found),
    blocks=functools.partial(read_blocks, found),
    identity=f"{path.resolve()} {images.hash_files([path])} {options.split_seed}",
    # The train rows of all modalities and, one after the other, a whole array.
    train_bytes=sum(row_bytes) * num_train + max(row_bytes, default=0) * len(found.split),
  )


def read_split(found: ArrayFile, split: str) -> data_source.Rows:
  """All rows of a split; one whole array is in memory at a time."""
  index = np.flatnonzero(found.split == split)
  with npz_arrays.open_npz(found.path) as file:

    def read(array: str) -> np.ndarray:
      with npz_arrays.name_array_in_errors(array):
        return file[array][index]

    return found.make_rows(index, read)


def read_blocks(found: ArrayFile, split: str) -> Iterator[data_source.Rows]:
  """The rows of a split, a few at a time; no array is ever read as a whole."""
  names = [f"x_{m.name}" for m in found.modalities] or ["y"]
  headers = {name: found.headers[name] for name in names}
  size = max(BLOCK_BYTES // sum(header.row_bytes for header in headers.values()), 1)
  with npz_arrays.open_npz(found.path) as file:
    for i, values in enumerate(npz_arrays.read_blocks(file, headers, size)):
      index = np.flatnonzero(found.split[i * size : (i + 1) * size] == split)
      if len(index):
        yield found.make_rows(index + i * size, lambda a, v=values, rows=index: v[a][rows])
