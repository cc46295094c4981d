"""`TableColumns`: how the columns of a table become the inputs of a model.

  attributes  a number is its cell, or the train mean where that is missing, and an indicator if
              train has missing cells; a category is one-hot: its levels, "other" for what has
              less than two train rows, and "missing" if train has missing cells
  text        the texts of its columns, joined, as hashed n-grams
  image       pixels u8[S, S, 3], see `images`
  sound       a sequence [T, 64], see `sound`
  array       an array *.npy, a vector [D] or a sequence [T, D]

A modality is absent where all its cells are missing, or its file cannot be read.
"""

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from promise_jax.checks import suggest
from promise_jax.data.readers import cells, images, lost_files, sound, text
from promise_jax.data.readers.column_roles import FILE_ROLES
from promise_jax.types import Modality

logger = logging.getLogger(__name__)

MAX_TOKENS = 2048  # of a text; its words stand first, pieces of words are cut before them


@dataclasses.dataclass(frozen=True)
class Column:
  """A column that is read, and what the train rows say of it."""

  name: str
  role: str  # number, category, text, image, sound or array
  mean: float = 0.0  # of a number, without what `scaling.plausible_range` leaves out
  levels: tuple[str, ...] = ()  # of a category
  has_missing: bool = False  # a number or category with missing cells in train


class TableInputs(NamedTuple):
  """Some rows as a model reads them; the first four are those of `source.Rows`."""

  inputs: dict[str, Any]
  length: dict[str, np.ndarray]
  recorded: Bool[np.ndarray, "N M"]
  texts: dict[str, list[str]]
  files: dict[str, lost_files.FileCount]  # {modality: what cells name}


@dataclasses.dataclass(frozen=True)
class TableColumns:
  """The columns that are read, fitted on train rows; all that later commands need of them."""

  modalities: tuple[Modality, ...]  # T of texts and sequences is open
  columns: Mapping[str, tuple[Column, ...]]  # {modality: what it is made of}
  labels: tuple[str, ...]
  id: str = ""  # the column with the name of a row
  unread: tuple[str, ...] = ()  # columns that are known and not read

  def describe_differences(self, table: pd.DataFrame, has_others: bool = False) -> list[str]:
    """Sentences on columns that are new or lacking in `table`, and on values train has not.

    ValueError where every column that a modality is made of is lacking, unless the rows have
    other modalities.
    """
    known = [column for columns in self.columns.values() for column in columns]
    names = {*(c.name for c in known), *self.labels, self.id, *self.unread}
    lines, lacking = [], [c.name for c in known if c.name not in table.columns]
    if new := [str(name) for name in table.columns if name not in names]:
      lines.append(f"columns that training did not have are not read: {', '.join(new)}.")
      for name in new:
        if hint := suggest(name, lacking):
          lines.append(f"column {name}{hint.rstrip('?')}, which is lacking?")
    if known and len(lacking) == len(known) and not has_others:
      found, names = ", ".join(map(str, table.columns)), ", ".join(lacking)
      raise ValueError(f"no column is of a modality, found are {found}; read are {names}")
    if lacking:
      lines.append(f"columns are lacking, their cells count as missing: {', '.join(lacking)}.")
    for column in known:
      if column.role == "category" and column.name in table.columns:
        texts = [t for t in cells.read_texts(table[column.name]) if t is not None]
        if other := [t for t in texts if t not in column.levels]:
          words = f"{len(other)} rows have values that training hardly had, as {other[0]!r}"
          lines.append(f"column {column.name}: {words}; they count as one level, other.")
    return lines

  def keep(self, names: tuple[str, ...]) -> "TableColumns":
    """The modalities in `names` alone."""
    kept = tuple(m for m in self.modalities if m.name in names)
    dropped = [c.name for m, columns in self.columns.items() if m not in names for c in columns]
    columns = {m.name: self.columns[m.name] for m in kept}
    unread = (*self.unread, *dropped)
    return dataclasses.replace(self, modalities=kept, columns=columns, unread=unread)

  def to_json(self) -> dict[str, Any]:
    """Plain values; `from_json` reads them back exactly."""
    return dataclasses.asdict(self) | {"modalities": [m._asdict() for m in self.modalities]}

  @classmethod
  def from_json(cls, value: Mapping[str, Any]) -> "TableColumns":
    """What `to_json` wrote."""
    modalities = map(Modality.from_json, value["modalities"])
    column = lambda c: Column(**{**c, "levels": tuple(c["levels"])})
    columns = {m: tuple(map(column, every)) for m, every in value["columns"].items()}
    rest = {"id": value["id"]} | {name: tuple(value[name]) for name in ("labels", "unread")}
    return cls(tuple(modalities), columns, **rest)


def read_table_inputs(
  fitted: TableColumns,
  table: pd.DataFrame,
  root: pathlib.Path,
  cache: pathlib.Path | None = None,
) -> TableInputs:
  """What a model reads of the rows of a table; files that cannot be read are absent, and counted.

  Paths in cells are relative to `root`; `cache` is for decoded files. ValueError for a path that
  leads out of `root`, and for a cell that is no number in a column of numbers.
  """
  read = TableInputs({}, {}, np.ones((len(table), len(fitted.modalities)), bool), {}, {})
  lacking = {c.name for columns in fitted.columns.values() for c in columns} - {*table.columns}
  table = table.assign(**dict.fromkeys(lacking, None)) if lacking else table
  for i, modality in enumerate(fitted.modalities):
    name, columns = modality.name, fitted.columns[modality.name]
    missing = np.stack([cells.find_missing(table[c.name]) for c in columns])
    read.recorded[:, i] = ~missing.all(axis=0)
    if columns[0].role in FILE_ROLES:
      values = table[columns[0].name]
      contents = cells.read_files(values, root)
      if modality.kind == "image":
        read.inputs[name], readable = images.read_images(contents, modality.shape[0], cache)
      elif columns[0].role == "sound":
        read.inputs[name], readable = sound.read_sounds(contents, cache)
        if silent := sum(len(steps) > 0 and np.ptp(steps) == 0 for steps in read.inputs[name]):
          logger.warning("%s: %d sounds are silence alone, they count as recorded.", name, silent)
        if cut := sum(len(steps) == sound.MAX_STEPS for steps in read.inputs[name]):
          logger.warning("%s: %d sounds are cut after %d s.", name, cut, sound.MAX_SECONDS)
      else:
        arrays = [load_array(content) for content in contents]
        readable = np.array([array is not None for array in arrays], bool)
        empty = np.zeros([d or 0 for d in modality.shape], np.float32)
        read.inputs[name] = [empty if array is None else array for array in arrays]
      bad = read.recorded[:, i] & ~readable
      lost = list(cells.name_files(values, contents, bad))
      read.files[name] = lost_files.FileCount.of(int(read.recorded[:, i].sum()), lost)
      read.recorded[:, i] &= readable
    elif modality.kind == "tokens":
      texts = zip(*(cells.read_texts(table[c.name]) for c in columns), strict=True)
      read.texts[name] = [" ".join(t for t in row if t is not None) for row in texts]
      ids = text.hash_ngrams(read.texts[name], modality.vocabulary, max_width=MAX_TOKENS)
      read.inputs[name], read.length[name] = ids, np.count_nonzero(ids, axis=1)
      if cut := np.sum(read.length[name] == MAX_TOKENS):
        logger.warning("%s: %d texts are cut to their first %d tokens.", name, cut, MAX_TOKENS)
    else:
      read.inputs[name] = encode_attributes(columns, table)
  return read


def encode_attributes(columns: tuple[Column, ...], table: pd.DataFrame) -> Float[np.ndarray, "N D"]:
  """Numbers and categories side by side, without holes."""
  features = []
  for column in columns:
    values = table[column.name]
    missing = cells.find_missing(values)
    if column.role == "number":
      numbers = cells.read_numbers(values)
      features.append(np.where(missing, column.mean, numbers)[:, None])
      features += [missing[:, None]] if column.has_missing else []
      continue
    place = {level: i for i, level in enumerate(column.levels)}
    other = len(place)
    width = other + 1 + column.has_missing  # a cell that is missing here alone is "other"
    number = [place.get(t, other) for t in cells.read_texts(values)]
    features.append(np.eye(width)[np.where(missing, width - 1, number).astype(int)])
  with np.errstate(over="ignore"):
    return np.concatenate(features, axis=1).astype(np.float32)


def load_array(content: cells.FileContent) -> np.ndarray | None:
  """The array of a file *.npy, or of a cell; None if there is none, or none that can be read."""
  if content is None:
    return None
  try:
    if isinstance(content, pathlib.Path):
      content = np.load(content, allow_pickle=False)
    array = np.array([np.asarray(row, np.float32) for row in content], np.float32)
    return array if array.size else None
  except Exception:  # a damaged file can fail in any way; the caller counts them
    return None
