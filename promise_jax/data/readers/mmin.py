"""Reads the folder of features of MMIN and RedCore: IEMOCAP, and MSP-IMPROV alike.

  A/*.h5, V/*.h5, L/*.h5            {utterance: f[T, D]}; *mean_std* is not read
  target/<fold>/{trn,val,tst}_label.npy     classes, one 1 a row [N, C], or numbers [N]
  target/<fold>/{trn,val,tst}_int2name.npy  names of utterances, bytes [N, 1]

An utterance that a file of features lacks is absent there.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from promise_jax.checks import check_choice
from promise_jax.data import source as data_source
from promise_jax.data.readers import images, mmsa_labels, npz_arrays, npz_labels, records, row_names
from promise_jax.data.readers.hdf5 import open_hdf5
from promise_jax.types import Modality, Task

FOLDERS = {"text": "L", "audio": "A", "vision": "V"}
SPLITS = {"train": "trn", "valid": "val", "test": "tst"}


@dataclasses.dataclass(frozen=True)
class MminOptions:
  """How a folder of MMIN is read."""

  fold: int = 1  # the folder in target/


class Utterances:
  """The records of a split of MMIN, read by number."""

  def __init__(self, files: dict[str, pathlib.Path], sizes: dict[str, int], names, labels, ids):
    self.files, self.sizes = files, sizes
    self.names, self.labels, self.ids = names, labels, ids

  def __len__(self) -> int:
    return len(self.names)

  def __getitems__(self, numbers: Sequence[int]) -> list[dict]:
    found = [
      {"inputs": {}, "present": {}, "label": label, "id": number, "key": name}
      for label, number, name in ((self.labels[i], self.ids[i], self.names[i]) for i in numbers)
    ]
    for modality, path in self.files.items():
      with open_hdf5(path) as file:
        for record, i in zip(found, numbers, strict=True):
          here = self.names[i] in file
          values = file[self.names[i]][()] if here else np.zeros((0, self.sizes[modality]))
          record["inputs"][modality] = values
          record["present"][modality] = here
    return found


def read_mmin(path: pathlib.Path, options: MminOptions) -> data_source.Source:
  """The source in a folder, for one fold. ValueError for a file that is not there, or not as
  described above."""
  targets = path / "target"
  folds = sorted((p.name for p in targets.iterdir() if p.is_dir()), key=lambda n: (len(n), n))
  check_choice(f"{targets}: fold", str(options.fold), folds)
  files = {
    m: find_features(path / letter) for m, letter in FOLDERS.items() if (path / letter).is_dir()
  }
  if not files:
    raise ValueError(f"{path}: there is none of the folders {', '.join(FOLDERS.values())}.")
  fold, names, labels = targets / str(options.fold), {}, {}
  for split, word in SPLITS.items():
    names[split] = load_names(fold / f"{word}_int2name.npy")
    labels[split] = load_labels(fold / f"{word}_label.npy", len(names[split]))
  every = sorted(name for part in names.values() for name in part)
  if repeated := [a for a, b in zip(every, every[1:], strict=False) if a == b]:
    raise ValueError(f"{fold}: the utterance {repeated[0]!r} is there twice.")
  number = {name: i for i, name in enumerate(every)}
  sizes = {modality: find_size(file) for modality, file in files.items()}
  splits = {
    s: Utterances(files, sizes, names[s], labels[s], [number[n] for n in names[s]]) for s in names
  }
  count = 1 + max(int(x.max()) for x in labels.values())
  source = records.source(
    path.name,
    splits,
    [Modality(m, "sequence", (None, size)) for m, size in sizes.items()],
    Task("classes", count, tuple(map(str, range(count)))),
    identity=f"{fold.resolve()} {images.hash_files([*files.values(), *fold.iterdir()])}",
  )
  notes = [f"fold {options.fold} of {', '.join(folds)}; fold=N chooses another."]
  notes += row_names.describe_names("utterances", names, count)
  return source._replace(place=str(path), notes=tuple(f"{path.name}: {note}" for note in notes))


def find_features(folder: pathlib.Path) -> pathlib.Path:
  """The one file of features in a folder."""
  found = [p for p in sorted(folder.glob("*.h5")) if "mean_std" not in p.name]
  if len(found) != 1:
    names = ", ".join(p.name for p in found) or "none"
    raise ValueError(f"{folder}: found are {names}, expected is one file *.h5 of features.")
  return found[0]


def find_size(path: pathlib.Path) -> int:
  """The number of features D of a file {utterance: f[T, D]}."""
  with open_hdf5(path) as file:
    first = next(iter(file), None)
    shape = getattr(file[first], "shape", ()) if first else ()
    if len(shape) != 2:
      keys = data_source.list_first(list(file))
      raise ValueError(f"expected are utterances [T, D], the keys are {keys or 'none'}.")
    return shape[1]


def load_names(path: pathlib.Path) -> list[str]:
  """The utterances of a split."""
  names = load_npy(path).ravel().tolist()
  return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


def load_labels(path: pathlib.Path, count: int) -> np.ndarray:
  """The classes of a split, i[N]; they may be stored with one 1 a row."""
  label = load_npy(path)
  if label.ndim == 2 and npz_labels.find_one_hot(label).all():
    label = label.argmax(axis=1)
  if label.shape != (count,) or label.dtype.kind not in "biuf":
    raise ValueError(f"{path}: found are {label.dtype} {label.shape}, expected: {count} classes.")
  good = (label == np.round(label)) & (label >= 0) & (label < mmsa_labels.MAX_CLASSES)
  most = mmsa_labels.MAX_CLASSES - 1
  data_source.check_values(
    str(path), label, good, f"whole numbers from 0 to {most}, or one 1 a row"
  )
  return label.astype(np.int64)


def load_npy(path: pathlib.Path) -> np.ndarray:
  """An array of a file."""
  with data_source.name_file_in_errors(path, "an array *.npy"), path.open("rb") as content:
    with npz_arrays.name_array_in_errors("the array"):
      return np.lib.format.read_array(content, allow_pickle=False)
