"""Folders of features: a modality of which each row has a file <id>.npy.

A file has f[D], the same D in all, or f[T, D] with any T. Where there is no file, or none that can
be read, the row lacks the modality.
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from promise_jax.data import source as data_source
from promise_jax.data.readers import cells, images, lost_files
from promise_jax.data.readers.table_columns import load_array
from promise_jax.types import Modality


def add_folders(
  source: data_source.Source,
  folders: Mapping[str, str],
  root: pathlib.Path,
  allow_missing_files: bool = False,
) -> data_source.Source:
  """`source` with a modality more for each of `folders` {modality: folder, from `root` on}.
  ValueError for a name that the data have already, or a folder without arrays."""
  known, added, identity = [m.name for m in source.modalities], [], source.identity
  places = {name: find_folder(root, folder) for name, folder in folders.items()}
  for name, place in places.items():
    if name in known or not name.isidentifier():
      raise ValueError(
        f"features has {name!r}, expected is a name of letters, digits and _ that the data do not "
        f"have; they have {', '.join(known)}."
      )
    paths = sorted(place.rglob("*.npy"))
    added.append(describe_arrays(name, place, paths))
    identity += f" {name} {images.hash_files(paths)}" if identity else ""

  def add(split: str, blocks: Iterable[data_source.Rows]) -> Iterator[data_source.Rows]:
    lost = []
    for rows in blocks:
      keys = rows.id if rows.key is None else rows.key
      inputs, recorded, counts = dict(rows.inputs), [rows.recorded], {}
      for m in added:
        inputs[m.name], here, counts[m.name] = read_folder(places[m.name], keys, m)
        recorded.append(here[:, None])
      lost.append(counts)
      yield rows._replace(inputs=inputs, recorded=np.concatenate(recorded, axis=1))
    place = data_source.describe_place(source, split)
    lost_files.report_split(place, split, lost, allow_missing_files)

  def read(split: str) -> data_source.Rows:
    (rows,) = add(split, [source.rows(split)])
    return rows

  return source._replace(
    modalities=(*source.modalities, *added),
    rows=read,
    blocks=source.blocks and (lambda split: add(split, source.blocks(split))),
    notes=(*source.notes, *(describe_folder(source.name, m, places[m.name]) for m in added)),
    identity=identity,
    folders={**folders},
  )


def describe_arrays(name: str, place: pathlib.Path, paths: Sequence[pathlib.Path]) -> Modality:
  """The modality `name` of the arrays in the files `paths` of a folder, as the first of them is."""
  first = load_array(paths[0]) if paths else None
  if first is None or first.ndim not in (1, 2):
    found = "there is none" if first is None else f"{paths[0].name} has the shape {first.shape}"
    raise ValueError(
      f"features, {name}: expected are files <id>.npy, [D] or [T, D], in {place}; {found}."
    )
  if first.ndim == 1:
    return Modality(name, "vector", first.shape)
  return Modality(name, "sequence", (None, first.shape[1]))


def describe_folder(source: str, modality: Modality, place: pathlib.Path) -> str:
  """A sentence on what is read from a folder."""
  is_sequence = modality.kind == "sequence"
  words = " a step, padded to the longest train row" if is_sequence else ""
  size = modality.shape[-1]
  return f"{source}, {modality.name}: {size} numbers{words}, of the files <id>.npy in {place}."


def find_folder(root: pathlib.Path, folder: str) -> pathlib.Path:
  """The folder of a modality; one that is not absolute starts from `root`."""
  return root / pathlib.Path(folder).expanduser()


def read_folder(
  folder: pathlib.Path, keys: Sequence[Any], modality: Modality
) -> tuple[list[np.ndarray], Bool[np.ndarray, " N"], lost_files.FileCount]:
  """The arrays of the rows with the ids `keys`, empty where there is none; which rows have one; and
  the files that are lost. ValueError for an id that leads out of the folder."""
  empty = np.zeros((0,) * (modality.kind == "sequence") + modality.shape[-1:], np.float32)
  texts = [None if cells.is_missing(key) else f"{cells.to_text(key)}.npy" for key in keys]
  paths = [text and cells.find_file(text, folder, "id") for text in texts]
  arrays = [load_array(path) for path in paths]
  lost = [text for text, x in zip(texts, arrays, strict=True) if text and x is None]
  here = np.array([x is not None for x in arrays], bool)
  count = lost_files.FileCount.of(len(texts) - texts.count(None), lost)
  return [empty if x is None else x for x in arrays], here, count
