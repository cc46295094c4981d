"""Reads a data set that tensorflow-datasets prepared; `builders` has the convention."""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from promise_jax.checks import check_choice
from promise_jax.data import source as data_source
from promise_jax.data.readers import records
from promise_jax.types import Modality, Task

KNOWN = "inputs {modality: feature}, label, id and, where needed, present, length, group"
BLOCK_IDS = 1024  # records whose ids are read at a time


def read_tfds(
  folder: pathlib.Path, *, vocabulary: int = 8192, scale: float | None = None
) -> data_source.Source:
  """The source in a version folder, as mine/1.0.0, that tensorflow-datasets prepared.

  Token ids are smaller than `vocabulary`; `scale` is the unit of a regression label (None:
  what the data set says). Raises ValueError for a feature that breaks the convention.
  """
  builder = tfds.builder_from_directory(str(folder))
  info = builder.info
  place = f"data set {builder.name!r} ({folder})"
  if (file_format := info.file_format.value) != "array_record":
    raise ValueError(
      f"{place} is stored as {file_format}, prepare it with file_format='array_record'."
    )
  features, metadata = info.features, info.metadata or {}
  check_features(features, place)
  modalities = tuple(
    describe_modality(m, features["inputs"][m], vocabulary, place)
    for m in metadata.get("modalities", sorted(features["inputs"].keys()))
  )
  task = make_task(features["label"], scale or metadata.get("scale", 1.0), place)
  splits = {"valid" if s == "validation" else s: s for s in info.splits}

  def rows(split: str) -> data_source.Rows:
    examples = builder.as_data_source(splits[split])
    ordered = sorted(examples.__getitems__(range(len(examples))), key=lambda r: r["id"])
    return records.make_rows(ordered, modalities, task)

  def blocks(split: str) -> Iterator[data_source.Rows]:
    order = sort_by_id(builder, splits[split], modalities)
    examples = builder.as_data_source(splits[split])
    return records.read_blocks(examples, order.tolist(), modalities, task)

  stats = ((f.name, f.stat()) for f in sorted(folder.iterdir()))
  return data_source.Source(
    name=builder.name,
    card=info.description,
    modalities=modalities,
    task=task,
    splits=tuple(splits),
    rows=rows,
    place=place,
    blocks=blocks,
    identity=f"{folder.resolve()} {[(n, s.st_size, s.st_mtime_ns) for n, s in stats]}",
    train_bytes=info.splits[splits["train"]].num_bytes if "train" in splits else 0,
  )


def check_features(features: tfds.features.FeaturesDict, place: str) -> None:
  """Raises ValueError for features that are missing or of no modality."""
  if not {"inputs", "label", "id"} <= set(features) or not hasattr(features["inputs"], "keys"):
    raise ValueError(f"{place} has the features {', '.join(features)}; expected are {KNOWN}.")
  for name in ("present", "length"):
    for modality in features[name].keys() if name in features else ():
      check_choice(f"{place}: a modality in {name}", modality, list(features["inputs"]))


def describe_modality(
  name: str, feature: tfds.features.FeatureConnector, vocabulary: int, place: str
) -> Modality:
  """The modality of a feature, whose kind follows from type and shape."""
  shape, dtype = feature.shape, feature.np_dtype
  if isinstance(feature, tfds.features.Text):
    return Modality(name, "tokens", (None,), vocabulary)
  if isinstance(shape, tuple) and None not in shape[1:]:
    is_integer, is_float = (np.issubdtype(dtype, k) for k in (np.integer, np.floating))
    if dtype == np.uint8 and len(shape) == 3 and shape[0]:
      return Modality(name, "image", shape)
    if is_integer and len(shape) == 1:
      return Modality(name, "tokens", shape, vocabulary)
    if is_float and len(shape) == 2:
      return Modality(name, "sequence", shape)
    if is_float and len(shape) == 1 and shape[0]:
      return Modality(name, "vector", shape)
  raise ValueError(
    f"{place}: modality {name!r} is {feature!r}, expected a Text or a Tensor: uint8 "
    "[height, width, channels], integers [T], floats [T, D] or floats [D]."
  )


def make_task(feature: tfds.features.FeatureConnector, scale: float, place: str) -> Task:
  """The task of the label feature."""
  if isinstance(feature, tfds.features.ClassLabel) and feature.num_classes:
    return Task("classes", feature.num_classes, tuple(feature.names))
  if feature.shape == () and np.issubdtype(feature.np_dtype, np.floating):
    return Task("regression", 1, scale=float(scale))
  if isinstance(feature.shape, tuple) and len(feature.shape) == 1 and feature.shape[0]:
    return Task("multilabel", feature.shape[0])
  raise ValueError(
    f"{place}: label is {feature!r}, expected a ClassLabel, a float Scalar or a Tensor of "
    "0/1 with one dimension."
  )


def sort_by_id(builder: tfds.core.DatasetBuilder, split: str, modalities) -> np.ndarray:
  """Record numbers in the order of their ids: tfds shuffles rows as it writes them."""
  skipped = {"inputs": {m.name: tfds.decode.SkipDecoding() for m in modalities}}
  examples = builder.as_data_source(split, decoders=skipped)
  ids = []
  for start in range(0, len(examples), BLOCK_IDS):
    numbers = range(start, min(start + BLOCK_IDS, len(examples)))
    ids += [r["id"] for r in examples.__getitems__(numbers)]
  return np.argsort(np.array(ids, np.int64), kind="stable")
