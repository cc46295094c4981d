"""Rows of one size in a file, taken by number; `stored` writes such files."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from promise_jax.data import cleaning


@dataclasses.dataclass(frozen=True, eq=False)
class RowFile:
  """The rows [N, ...] in file `path`, as an array of which only rows can be taken.

  `rows[index]`, index int[...] -> [..., *row]; safe in several threads and processes.
  """

  path: pathlib.Path
  shape: tuple[int, ...]
  dtype: np.dtype

  def __len__(self) -> int:
    return self.shape[0]

  def __getitem__(self, index: np.ndarray) -> np.ndarray:
    index = np.asarray(index)
    if index.size and not 0 <= index.min() <= index.max() < len(self):
      raise IndexError(f"rows {index.min()} to {index.max()} of {len(self)} in all")
    out = np.empty((index.size, *self.shape[1:]), self.dtype)
    # Not a mapped file: its pages would be counted as memory of ours.
    file, size = os.open(self.path, os.O_RDONLY), out[:1].nbytes
    try:
      for row, place in zip(out, index.ravel().tolist(), strict=True):
        if os.preadv(file, [row], place * size) != size:
          raise ValueError(f"{self.path}: row {place} is not there, delete its folder.")
    finally:
      os.close(file)
    return out.reshape(*index.shape, *self.shape[1:])

  def __array__(self, dtype=None, copy=None):
    raise ValueError(
      f"the {len(self)} rows in {self.path} are streamed, they cannot be taken all at "
      "once; load the data without stream."
    )


def pieces(rows: RowFile) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """The floats in order, as cut in memory, and which of them count: not the NaN."""
  size = int(np.prod(rows.shape[1:]))
  with open(rows.path, "rb") as file:
    for part in cleaning.row_slices(len(rows), size):
      count = min(part.stop, len(rows)) - part.start
      values = np.fromfile(file, rows.dtype, count * size)
      values = values.reshape(count, *rows.shape[1:])
      yield values, ~np.isnan(values)


def standardise(rows: RowFile, scale: tuple[np.ndarray, np.ndarray]) -> None:
  """Puts standardised values in the place of those that count, zeros of the others."""
  rest = np.zeros(0, np.int32), np.zeros(0, bool), cleaning.CleaningReport()
  with open(rows.path, "r+b") as file:
    for values, kept in pieces(rows):
      part = cleaning.CleanModality(values, kept, *rest)
      file.write(cleaning.standardise(part, scale).data)
    sync(file)


def sync(file) -> None:
  """On disk, not in a cache of the system."""
  file.flush()
  os.fsync(file.fileno())
