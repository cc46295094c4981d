"""Features of frozen encoders: computed once, kept as npz files, read in place of the
modality that was encoded.

What an encoder is, and what it is shown, is in `frozen_encoders`. The file of a
modality is <data set>-<modality>-<hash>.npz, by the convention in `arrays`, with the
labels, splits, ids and groups of the data set: a data set of its own. The hash covers
all that is in it but the features: data set, task, splits, labels, ids, groups; the
values that the encoder is shown, so that every option of reading counts by what it
changes; and the encoder. The same hash means the same features: an encoder whose file
is there is not called, nor imported. Ours.
"""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from promise_jax import files
from promise_jax.checks import check_choice
from promise_jax.data import cleaning, dataset
from promise_jax.data import source as data_source
from promise_jax.data.feature_encoders import (
  EncoderInputs,
  EncoderSpec,
  FeatureEncoder,
  encode,
  fingerprint,
  identify,
  join,
)
from promise_jax.data.readers import npz, npz_file, npz_labels

__all__ = ["FeatureEncoder", "EncoderSpec", "features_dir", "replace_by_features"]

FORM = 1  # of the hash and of what functions are shown; another one computes anew


def replace_by_features(
  source: data_source.Source,
  encoders: Mapping[str, EncoderSpec],
  *,
  nonfinite: str = "frame",
  folder: str | os.PathLike | None = None,
) -> data_source.Source:
  """`source` with features in place of the modalities that `encoders` {modality:
  encoder} names, as vectors or sequences; all else is as it was.

  All splits are read here; labels are kept, not used. `nonfinite` as in
  `cleaning.clean`, `folder` (default: `features_dir()`) is where the files are. The
  notes of the source say what was computed or read, and where. ValueError for an
  unknown modality, for what is no encoder or gives no features, and for a
  data set that an npz file cannot hold: it has train, valid and test, and no id twice.
  """
  if not isinstance(encoders, Mapping):
    raise ValueError(f"frozen is {encoders!r}, expected is {{modality: encoder}}.")
  names = [m.name for m in source.modalities]
  for name in encoders:
    if name not in names:
      raise ValueError(f"frozen names {name!r}, the modalities are {', '.join(names)}.")
  check_choice("nonfinite", nonfinite, cleaning.NONFINITE)
  folder = pathlib.Path(folder or features_dir()).expanduser()
  rows = read_rows(source)
  small = describe_rows(source, rows, tuple(encoders))
  modalities, notes, stored = list(source.modalities), list(source.notes), {}
  for i, name in enumerate(names):
    if name in encoders:
      shown = show(source, rows, i, nonfinite, notes)
      path, how = keep(source, name, encoders[name], shown, small, folder)
      stored[i] = npz.read_npz(path)
      (modalities[i],) = stored[i].modalities
      shape = " x ".join(map(str, modalities[i].shape))
      notes.append(f"{source.name}, {name}: features {shape} of {how} {path}.")
  left = {
    split: part._replace(inputs={m: x for m, x in part.inputs.items() if m not in encoders})
    for split, part in rows.items()
  }

  def combined(split: str) -> data_source.Rows:
    own = left.pop(split) if split in left else source.rows(split)
    inputs, steps, recorded = dict(own.inputs), dict(own.length), own.recorded.copy()
    for i, read in stored.items():
      features = read.rows(split)
      steps.pop(names[i], None)
      inputs |= features.inputs
      steps |= features.length
      recorded[:, i] = features.recorded[:, 0]
    return own._replace(inputs=inputs, length=steps, recorded=recorded)

  return source._replace(
    modalities=tuple(modalities), rows=combined, notes=tuple(notes), blocks=None
  )


def features_dir() -> str:
  """Where features are kept: promise_jax/features in the user's cache folder."""
  return str(files.cache_folder("features"))


def read_rows(source: data_source.Source) -> dict[str, data_source.Rows]:
  """{split: rows} of all splits, in the order of `labels.SPLITS`."""
  if set(source.splits) != set(npz_labels.SPLITS):
    raise ValueError(
      f"data set {source.name!r} has the splits {', '.join(source.splits)}; features "
      f"are kept for {', '.join(npz_labels.SPLITS)}, all of them and no other."
    )
  rows = {split: source.rows(split) for split in npz_labels.SPLITS}
  for split, part in rows.items():
    data_source.check_rows(source, split, part)
  return rows


def describe_rows(
  source: data_source.Source, rows: dict[str, data_source.Rows], names: tuple[str, ...]
) -> dict[str, np.ndarray]:
  """The arrays of an npz file but those of a modality; ValueError where the file that
  has them, and modalities of these `names`, could not be read."""
  task, parts = source.task, rows.values()
  sizes = [len(part.id) for part in parts]
  small = {
    "y": np.concatenate([part.label for part in parts]),
    "split": np.repeat(npz_labels.SPLITS, sizes),
    "id": np.concatenate([part.id for part in parts]).astype(np.int64),
  }
  if all(part.group is not None for part in parts):
    small["group"] = np.concatenate([part.group for part in parts]).astype(np.int64)
  if task.kind == "regression":
    small["scale"] = np.float64(task.scale)
  elif task.names or task.kind == "classes":
    small["classes"] = np.array(task.names or [str(c) for c in range(task.outputs)])
  small = {array: np.asarray(values) for array, values in small.items()}
  headers = {a: npz_file.Header(v.shape, v.dtype) for a, v in small.items()}
  feature = npz_file.Header((sum(sizes), 1), np.dtype(np.float32))
  try:
    npz.check_headers(headers | {f"x_{name}": feature for name in names})
    label, found = npz_labels.read_labels(small)
    ids, group = npz.read_ids(small, len(label)), npz.read_group(small)
    npz_labels.read_split(small, label, found, ids, group, seed=0)
  except ValueError as error:
    raise ValueError(
      f"{source.place or f'data set {source.name!r}'}: its features cannot be kept in "
      f"an npz file: {error}"
    ) from error
  return small


def show(
  source: data_source.Source,
  rows: dict[str, data_source.Rows],
  i: int,
  nonfinite: str,
  notes: list[str],
) -> list[EncoderInputs]:
  """What the encoder of modality number `i` is shown, split by split; adds to `notes`
  what was wrong there."""
  name = source.modalities[i].name
  modality = cleaning.resolve_length(source.modalities[i], rows["train"].inputs[name])
  shown = []
  for split, part in rows.items():
    values, steps = part.inputs[name], part.length.get(name)
    try:
      clean = cleaning.clean_modality(modality, values, steps, part.recorded[:, i], nonfinite)
    except ValueError as error:
      raise ValueError(f"{data_source.describe_place(source, split)}: {error}") from error
    dataset.log_report(source.name, split, {name: clean.report})
    if any(clean.report):
      notes.append(f"{source.name}, {split}, {name}: {clean.report.describe()}.")
    length = None
    if modality.kind == "sequence":
      length = clean.length[clean.recorded]
    elif modality.kind == "tokens":
      last = clean.kept_mask * np.arange(1, clean.kept_mask.shape[1] + 1, dtype=np.int32)
      length = last.max(axis=1, initial=0)[clean.recorded]
    x = cleaning.standardise(clean, None)[clean.recorded]
    shown.append(EncoderInputs(x, length, part.id[clean.recorded], clean.recorded))
  if not any(len(part.id) for part in shown):
    raise ValueError(
      f"{source.place or f'data set {source.name!r}'}: modality {name!r} is in no row, "
      "there is nothing to encode."
    )
  return shown


def keep(
  source: data_source.Source,
  name: str,
  given: EncoderSpec,
  shown: list[EncoderInputs],
  small: dict[str, np.ndarray],
  folder: pathlib.Path,
) -> tuple[pathlib.Path, str]:
  """The file that has the features, computed unless it is there, and how it came to be
  there, as the middle of a sentence."""
  told, code = identify(name, given, shown)
  about = (FORM, source.name, source.task, name, code)
  values = [value for part in shown for value in part]
  digest = fingerprint(*about, *small.items(), *values)
  path = folder / f"{source.name}-{name}-{digest[:16]}.npz"
  if path.exists():
    return path, f"{told}, read from"
  x, length = join(list(encode(name, given, shown)))
  recorded = np.concatenate([part.recorded for part in shown])
  features = {
    f"x_{name}": np.zeros((len(recorded), *x.shape[1:]), np.float32),
    f"present_{name}": recorded,
  }
  features[f"x_{name}"][recorded] = x
  if length is not None:
    features[f"length_{name}"] = np.zeros(len(recorded), np.int32)
    features[f"length_{name}"][recorded] = length
  folder.mkdir(parents=True, exist_ok=True)
  files.write_npz(path, features | small)
  return path, f"{told}, computed and kept in"
