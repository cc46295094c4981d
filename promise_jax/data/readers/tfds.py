"""Reads a data set that tensorflow-datasets prepared; `builders` has the convention."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from promise_jax.checks import check_choice
from promise_jax.data import source as data_source
from promise_jax.data.readers import images, integers, mmsa_labels, npz_labels, records
from promise_jax.types import TASKS, Modality, Task

KNOWN = "inputs {modality: feature}, label, id and, where needed, present, length, group"
BLOCK_IDS = 1024  # records whose ids are read at a time


def read_tfds(folder: pathlib.Path, options: data_source.ReadOptions) -> data_source.Source:
  """The source in a version folder, as mine/1.0.0, that tensorflow-datasets prepared.

  `kinds` of the options is of modalities of integers [T], "tokens" or "vector". Raises ValueError
  for a feature that breaks the convention.
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
  splits = {"valid" if s == "validation" else s: s for s in info.splits}
  modalities, guesses = describe_inputs(builder, options, place)
  read_all = lambda: np.concatenate([read_field(builder, s, "label") for s in info.splits])
  scale = options.scale or metadata.get("scale", 1.0)
  task, guess = make_task(features["label"], scale, place, options.task, read_all)
  guesses |= {data_source.TASK: guess} if guess else {}
  examples = {split: Examples(builder, stored) for split, stored in splits.items()}
  identity = f"{folder.resolve()} {images.hash_files(sorted(folder.iterdir()))}"
  source = records.source(builder.name, examples, modalities, task, identity=identity)
  return source._replace(
    card=info.description,
    place=place,
    guesses={**source.guesses, **guesses},
    train_bytes=info.splits[splits["train"]].num_bytes if "train" in splits else 0,
  )


class Examples:
  """The records of a split in the order of their ids: tfds shuffles rows as it writes them."""

  def __init__(self, builder: tfds.core.DatasetBuilder, split: str):
    self.builder, self.split = builder, split
    self.stored = builder.as_data_source(split)

  def __len__(self) -> int:
    return len(self.stored)

  @functools.cached_property
  def order(self) -> np.ndarray:
    """Numbers of stored records."""
    return np.argsort(read_field(self.builder, self.split, "id"), kind="stable")

  def __getitems__(self, numbers: Sequence[int]) -> Sequence[Mapping]:
    return self.stored.__getitems__(self.order[list(numbers)].tolist())


def check_features(features: tfds.features.FeaturesDict, place: str) -> None:
  """Raises ValueError for features that are missing or of no modality."""
  if not {"inputs", "label", "id"} <= set(features) or not hasattr(features["inputs"], "keys"):
    raise ValueError(f"{place} has the features {', '.join(features)}; expected are {KNOWN}.")
  for name in ("present", "length"):
    for modality in features[name].keys() if name in features else ():
      check_choice(f"{place}: a modality in {name}", modality, list(features["inputs"]))


def describe_inputs(
  builder: tfds.core.DatasetBuilder, options: data_source.ReadOptions, place: str
) -> tuple[tuple[Modality, ...], dict[str, str]]:
  """The modalities, and {modality: words on what was guessed}."""
  features, metadata = builder.info.features, builder.info.metadata or {}
  inputs, guesses = features["inputs"], {}
  found = [
    describe_modality(m, inputs[m], options.vocabulary, place)
    for m in metadata.get("modalities", sorted(inputs.keys()))
  ]
  unsure = [m.name for m in found if m.kind == "tokens" and m.shape[0] is not None]
  for name, kind in options.kinds.items():
    if name not in unsure:
      known = ", ".join(unsure) or "none"
      raise ValueError(f"{place}: kinds has {name!r}, known are those of integers [T]: {known}.")
    check_choice(f"kinds.{name}", kind, ("tokens", "vector"))
  with_length = features["length"].keys() if "length" in features else ()
  for i, modality in enumerate(found):
    name, kind = modality.name, options.kinds.get(modality.name)
    if name in unsure and not kind and name not in with_length:
      with data_source.name_file_in_errors(place, "a prepared data set"):
        kind, guesses[name] = integers.guess_kind_of(name, sample_values(builder, name))
    if kind == "vector":
      found[i] = Modality(name, kind, modality.shape)
  return tuple(found), guesses


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


def make_task(
  feature: tfds.features.FeatureConnector,
  scale: float,
  place: str,
  kind: str,
  read_all: Callable[[], np.ndarray],
) -> tuple[Task, str]:
  """The task of the label feature, of the `kind` that is given or follows, and what was guessed;
  `read_all()` returns all labels."""
  check_choice("task", kind, ("", *TASKS))
  shape, is_class = feature.shape, isinstance(feature, tfds.features.ClassLabel)
  if is_class and feature.num_classes and kind in ("", "classes"):
    return Task("classes", feature.num_classes, tuple(feature.names)), ""
  is_number = shape == () and np.issubdtype(feature.np_dtype, np.number) and not is_class
  is_float = is_number and np.issubdtype(feature.np_dtype, np.floating)
  if is_number and kind == "regression" or is_float and not kind:
    return Task("regression", 1, scale=float(scale)), ""
  if is_number and kind == "classes":
    label = read_all()
    mmsa_labels.check_label(f"{place}, label", label, "classes")
    count = int(label.max()) + 1
    return Task("classes", count, tuple(map(str, range(count)))), ""
  if isinstance(shape, tuple) and len(shape) == 1 and shape[0] and kind != "regression":
    found, guess = npz_labels.guess_task(read_all())
    names = tuple(map(str, range(shape[0]))) if (kind or found) == "classes" else ()
    return Task(kind or found, shape[0], names), "" if kind else guess
  raise ValueError(
    f"{place}: label is {feature!r}, expected a ClassLabel, a float Scalar, integers with "
    "task=classes or task=regression, or a Tensor of 0/1 with one dimension."
  )


def skip_inputs(builder: tfds.core.DatasetBuilder, kept: str = "") -> dict:
  """Decoders that leave all inputs but one as they are stored."""
  names = builder.info.features["inputs"].keys()
  return {"inputs": {m: tfds.decode.SkipDecoding() for m in names if m != kept}}


def sample_values(builder: tfds.core.DatasetBuilder, name: str) -> np.ndarray:
  """The values of one modality in some train rows that have it."""
  split = "train" if "train" in builder.info.splits else next(iter(builder.info.splits))
  examples = builder.as_data_source(split, decoders=skip_inputs(builder, name))
  rows = examples.__getitems__(range(min(len(examples), BLOCK_IDS)))
  values = [r["inputs"][name] for r in rows if r.get("present", {}).get(name, True)]
  shape = builder.info.features["inputs"][name].shape
  return np.array(values).reshape(len(values), *shape)


def read_field(builder: tfds.core.DatasetBuilder, split: str, field: str) -> np.ndarray:
  """The labels or ids of a split as it is stored; inputs are not decoded."""
  examples = builder.as_data_source(split, decoders=skip_inputs(builder))
  numbers = range(len(examples))
  parts = (numbers[start : start + BLOCK_IDS] for start in numbers[::BLOCK_IDS])
  return np.array([row[field] for part in parts for row in examples.__getitems__(part)])
