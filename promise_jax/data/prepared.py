"""A prepared tfds folder -> Source; the convention is in `builders`."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from promise_jax.data import dataset, text
from promise_jax.types import Modality, Task

KNOWN = "inputs, label, id and, where needed, present, length and group"


def read(
  folder: pathlib.Path,
  *,
  vocabulary: int = 8192,
  scale: float | None = None,
) -> dataset.Source:
  """The data set in `folder`, a version folder that tfds prepared.

  `vocabulary` bounds token ids and is the size of the hash of texts; `scale` replaces
  the unit of a regression label. ValueError names the first feature off the convention.
  """
  builder = tfds.builder_from_directory(str(folder))
  name = builder.name
  features, metadata = builder.info.features, builder.info.metadata or {}
  where = f"data set {name!r} ({folder})"
  if (stored := builder.info.file_format.value) != "array_record":
    raise ValueError(
      f"{where} is stored as {stored}, prepare it with file_format='array_record'."
    )
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
  return dataset.Source(
    name=name,
    card=builder.info.description,
    modalities=modalities,
    task=task,
    splits=tuple(splits),
    rows=lambda split: _rows(builder, splits[split], modalities),
    where=where,
    notes=tuple(metadata.get("notes", ())),
  )


def _check_features(features: tfds.features.FeaturesDict, where: str) -> None:
  for name in ("inputs", "label", "id"):
    if name not in features:
      raise ValueError(
        f"{where} has the features {', '.join(features)} and no {name!r}; "
        f"expected are {KNOWN}."
      )
  if not hasattr(features["inputs"], "keys"):
    raise ValueError(
      f"{where}: inputs is {features['inputs']!r}, expected a FeaturesDict."
    )
  for name in ("present", "length"):
    for modality in _marked(features, name):
      if modality not in features["inputs"]:
        raise ValueError(
          f"{where}: {name} names {modality!r}, the modalities are "
          f"{', '.join(features['inputs'])}."
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


def _rows(
  builder: tfds.core.DatasetBuilder, split: str, modalities: tuple[Modality, ...]
) -> dataset.Rows:
  source = builder.as_data_source(split)
  # tfds shuffles as it writes; sorting undoes it, whatever tfds hashes with
  records = sorted(source.__getitems__(range(len(source))), key=lambda r: r["id"])
  features, inputs, steps = builder.info.features, {}, {}
  recorded = np.ones((len(records), len(modalities)), bool)
  for i, name in enumerate(m.name for m in modalities):
    inputs[name] = [r["inputs"][name] for r in records]
    if isinstance(features["inputs"][name], tfds.features.Text):
      texts = [value.decode() for value in inputs[name]]
      inputs[name] = text.hash_ngrams(texts, modalities[i].vocabulary)
      steps[name] = np.count_nonzero(inputs[name], axis=1)
    elif name in _marked(features, "length"):
      steps[name] = np.array([r["length"][name] for r in records], np.int64)
    if name in _marked(features, "present"):
      recorded[:, i] = [r["present"][name] for r in records]
  classes = isinstance(features["label"], tfds.features.ClassLabel)
  label = np.array([r["label"] for r in records], np.int32 if classes else np.float32)
  ids = np.array([r["id"] for r in records], np.int64)
  group = np.array([r["group"] for r in records]) if "group" in features else None
  return dataset.Rows(inputs, steps, recorded, label, ids, group)
