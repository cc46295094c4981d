"""A prepared tfds folder -> Source; the convention is in `builders`."""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from promise_jax.data import source as data_source
from promise_jax.data.readers import records
from promise_jax.types import Modality, Task

KNOWN = "inputs, label, id and, where needed, present, length and group"
PART = 1024  # records whose ids are read at a time


def read_tfds(
  folder: pathlib.Path,
  *,
  vocabulary: int = 8192,
  scale: float | None = None,
) -> data_source.Source:
  """The data set in `folder`, a version folder that tfds prepared.

  `vocabulary` bounds token ids and is the size of the hash of texts; `scale` replaces
  the unit of a regression label. ValueError names the first feature off the convention.
  """
  builder = tfds.builder_from_directory(str(folder))
  name = builder.name
  features, metadata = builder.info.features, builder.info.metadata or {}
  where = f"data set {name!r} ({folder})"
  if (stored := builder.info.file_format.value) != "array_record":
    raise ValueError(f"{where} is stored as {stored}, prepare it with file_format='array_record'.")
  _check_features(features, where)
  modalities = tuple(
    _modality(m, features["inputs"][m], vocabulary, where)
    for m in metadata.get("modalities", sorted(features["inputs"].keys()))
  )
  told = metadata.get("scale", 1.0)
  # Whose convention the label keeps is said of the unit it was prepared with.
  names = tuple(metadata.get("names", ())) if scale in (None, told) else ()
  task = _task(features["label"], told if scale is None else scale, names)
  if task is None:
    raise ValueError(
      f"{where}: label is {features['label']!r}, expected a ClassLabel, a float Scalar "
      "or a Tensor of 0/1 with one dimension."
    )
  splits = {"valid" if s == "validation" else s: s for s in builder.info.splits}
  return data_source.Source(
    name=name,
    card=builder.info.description,
    modalities=modalities,
    task=task,
    splits=tuple(splits),
    rows=lambda split: _rows(builder, splits[split], modalities, task),
    place=where,
    notes=tuple(metadata.get("notes", ())),
    blocks=lambda split: _pieces(builder, splits[split], modalities, task),
    identity=_identity(folder),
    train_bytes=builder.info.splits[splits["train"]].num_bytes if "train" in splits else 0,
  )


def _check_features(features: tfds.features.FeaturesDict, where: str) -> None:
  for name in ("inputs", "label", "id"):
    if name not in features:
      raise ValueError(
        f"{where} has the features {', '.join(features)} and no {name!r}; expected are {KNOWN}."
      )
  if not hasattr(features["inputs"], "keys"):
    raise ValueError(f"{where}: inputs is {features['inputs']!r}, expected a FeaturesDict.")
  for name in ("present", "length"):
    for modality in _marked(features, name):
      if modality not in features["inputs"]:
        raise ValueError(
          f"{where}: {name} names {modality!r}, the modalities are {', '.join(features['inputs'])}."
        )


def _marked(features: tfds.features.FeaturesDict, name: str) -> tuple[str, ...]:
  """The modalities that carry the optional feature `name`."""
  return tuple(features[name].keys()) if name in features else ()


def _modality(
  name: str, feature: tfds.features.FeatureConnector, vocabulary: int, where: str
) -> Modality:
  shape, dtype = feature.shape, feature.np_dtype
  if isinstance(feature, tfds.features.Text):
    return Modality(name, "tokens", (None,), vocabulary)
  if isinstance(shape, tuple) and None not in shape[1:]:
    integer, real = (np.issubdtype(dtype, k) for k in (np.integer, np.floating))
    if dtype == np.uint8 and len(shape) == 3 and shape[0]:
      return Modality(name, "image", shape)
    if integer and len(shape) == 1:
      return Modality(name, "tokens", shape, vocabulary)
    if real and len(shape) == 2:
      return Modality(name, "sequence", shape)
    if real and len(shape) == 1 and shape[0]:
      return Modality(name, "vector", shape)
  raise ValueError(
    f"{where}: modality {name!r} is {feature!r}, expected a Text or a Tensor: uint8 "
    "[height, width, channels], integers [T], floats [T, D] or floats [D]."
  )


def _task(
  feature: tfds.features.FeatureConnector, scale: float, names: tuple[str, ...]
) -> Task | None:
  if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes:
    return Task("classes", feature.num_classes, tuple(feature.names))
  if feature.shape == () and np.issubdtype(feature.np_dtype, np.floating):
    return Task("regression", 1, names, float(scale))
  if isinstance(feature.shape, tuple) and len(feature.shape) == 1 and feature.shape[0]:
    return Task("multilabel", feature.shape[0])
  return None


def _order(source: Sequence) -> np.ndarray:
  """The numbers of the records of a split in the order of their ids: tfds shuffles as
  it writes, and sorting undoes it, whatever tfds hashes with."""
  numbers = np.arange(len(source))
  parts = [numbers[i : i + PART] for i in range(0, len(source), PART)]
  ids = [r["id"] for part in parts for r in source.__getitems__(part.tolist())]
  return np.argsort(np.array(ids, np.int64), kind="stable")


def _rows(
  builder: tfds.core.DatasetBuilder,
  split: str,
  modalities: tuple[Modality, ...],
  task: Task,
) -> data_source.Rows:
  source = builder.as_data_source(split)
  every = sorted(source.__getitems__(range(len(source))), key=lambda r: r["id"])
  return records.to_rows(every, modalities, task)


def _pieces(
  builder: tfds.core.DatasetBuilder,
  split: str,
  modalities: tuple[Modality, ...],
  task: Task,
) -> Iterator[data_source.Rows]:
  skipped = {"inputs": {m.name: tfds.decode.SkipDecoding() for m in modalities}}
  order = _order(builder.as_data_source(split, decoders=skipped)).tolist()
  source = builder.as_data_source(split)
  return records.read_pieces(source, order, modalities, task)


def _identity(folder: pathlib.Path) -> str:
  """The files of a prepared folder, by size and the time they were written."""
  about = ((f.name, f.stat()) for f in sorted(folder.iterdir()))
  return f"{folder.resolve()} {[(n, s.st_size, s.st_mtime_ns) for n, s in about]}"
