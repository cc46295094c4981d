"""The built-in data sets as tfds builders, and the convention for a builder of your own.

A builder that `promise_jax.data.load` can read has splits `train`, `valid` (or
`validation`), `test` and the features

  inputs   {modality: feature}; at least one. The kind follows from the feature:
             Tensor uint8 [height, width, channels]   image
             Text, or Tensor of integers [T]          tokens (0 is padding)
             Tensor of floats [T, D]                  sequence
             Tensor of floats [D]                     vector
           T may be None; then the longest train row decides, longer rows are cut.
  label    ClassLabel (classes), float Scalar (regression), Tensor [C] of 0/1
           (multilabel); every row has a valid one
  id       Scalar int64, unique in the whole data set, 0 to 2^31-1; orders the rows
  present  optional {modality: Scalar bool}: False where the data lack the modality; such a
           row still holds a value of the right shape, which is ignored
  length   optional {modality: Scalar int32}: the valid steps of a row that is padded
  group    optional Scalar int64, 0 to 2^31-1: rows of one recording, speaker, ... share
           it; a group lies in one split, and labels are given to whole groups

`describe` makes the info of such a builder:

  class Mine(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return builders.describe(self, inputs={...}, label=..., present=("audio",))

tfds sorts features by name, so `describe` keeps the order of the modalities in the
metadata; a builder without it has its modalities in alphabetical order.
"""

import contextlib
import fcntl
import io
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from promise_jax.data.source import SPLITS

EMBEDDED = pathlib.Path(__file__).parent


def describe(
  builder: tfds.core.DatasetBuilder,
  *,
  inputs: dict[str, tfds.features.FeatureConnector],
  label: tfds.features.FeatureConnector,
  present: tuple[str, ...] = (),
  length: tuple[str, ...] = (),
  group: bool = False,
  scale: float = 1.0,
  description: str = "",
) -> tfds.core.DatasetInfo:
  """The DatasetInfo of a builder that keeps the convention above.

  The order of `inputs` is that of the modalities. `present` and `length` name the modalities
  with such a feature, `group` says whether rows have one, `scale` is the unit of a
  regression label, `description` the card of the data set.
  """
  features = {"inputs": tfds.features.FeaturesDict(inputs), "label": label}
  features["id"] = tfds.features.Scalar(np.int64)
  if group:
    features["group"] = tfds.features.Scalar(np.int64)
  for name, modalities, dtype in (("present", present, np.bool_), ("length", length, np.int32)):
    if modalities:
      scalars = {m: tfds.features.Scalar(dtype) for m in modalities}
      features[name] = tfds.features.FeaturesDict(scalars)
  return tfds.core.DatasetInfo(
    builder=builder,
    features=tfds.features.FeaturesDict(features),
    description=description,
    metadata=tfds.core.MetadataDict(modalities=list(inputs), scale=scale),
  )


def tensor(*shape: int | None, dtype: type = np.float32) -> tfds.features.Tensor:
  """An array as a feature."""
  return tfds.features.Tensor(shape=shape, dtype=dtype)


class Embedded(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A builder of the arrays in <name>.npz beside this file."""

  VERSION = tfds.core.Version("1.0.0")
  INPUTS: dict[str, tfds.features.FeatureConnector]
  NAMES: list[str] | None = None  # of the classes; None: the file has them
  GROUP = False

  def arrays(self) -> dict[str, np.ndarray]:
    """What the file holds."""
    with np.load(EMBEDDED / f"{self.name}.npz") as file:
      return dict(file)

  def _info(self) -> tfds.core.DatasetInfo:
    names = self.NAMES or self.arrays()["names"].tolist()
    label, card = tfds.features.ClassLabel(names=names), self.__doc__.splitlines()[0]
    return describe(self, inputs=self.INPUTS, label=label, group=self.GROUP, description=card)

  def _split_generators(self, dl_manager):
    arrays = self.arrays()
    return {name: self._generate_examples(arrays, i) for i, name in enumerate(SPLITS)}


class Mfeat(Embedded):
  """Handwritten digits in three views, see mfeat.md."""

  INPUTS: ClassVar = {"fou": tensor(76), "zer": tensor(47), "mor": tensor(6)}
  NAMES: ClassVar = list("0123456789")

  def _generate_examples(self, arrays, split):
    for row in np.flatnonzero(arrays["split"] == split).tolist():
      inputs = {name: arrays[name][row] for name in self.INPUTS}
      yield row, {"inputs": inputs, "label": int(arrays["y"][row]), "id": row}


class Emoji(Embedded):
  """Emoji as image, text and properties, see emoji.md."""

  BUILDER_CONFIGS = (
    tfds.core.BuilderConfig(name="label", description="text: the name"),
    tfds.core.BuilderConfig(name="tags", description="text: the name and the search words"),
  )
  INPUTS: ClassVar = {
    "image": tensor(48, 48, 3, dtype=np.uint8),
    "text": tfds.features.Text(),
    "props": tensor(5),
  }

  def _generate_examples(self, arrays, split):
    tags = self.builder_config.name == "tags"
    for row in np.flatnonzero(arrays["split"] == split).tolist():
      text = str(arrays["text"][row])
      inputs = {
        "image": arrays["images"][row],
        "text": f"{text} {arrays['tags'][row]}" if tags else text,
        "props": arrays["props"][row],
      }
      yield row, {"inputs": inputs, "label": int(arrays["label"][row]), "id": row}


class Watch(Embedded):
  """Exercises seen by the two sensors of a watch, see watch.md.

  A row is a segment, its group the recording; the configs are two ways to split subjects.
  """

  BUILDER_CONFIGS = (
    tfds.core.BuilderConfig(name="fold0", description="tested on subjects 5 and 7"),
    tfds.core.BuilderConfig(name="fold1", description="tested on subjects 4 and 6"),
  )
  INPUTS: ClassVar = {"accel": tensor(None, 3), "gyro": tensor(None, 3)}
  GROUP = True

  def _generate_examples(self, arrays, split):
    fold = int(self.builder_config.name.removeprefix("fold"))
    for row, (group, start, stop) in enumerate(cut_segments(arrays["length"])):
      if arrays["split"][fold, group] == split:
        x = arrays["x"][start:stop].astype(np.float32)
        inputs = {"accel": x[:, :3], "gyro": x[:, 3:]}
        label = int(arrays["label"][group])
        yield row, {"inputs": inputs, "label": label, "id": row, "group": group}


def cut_segments(
  length: np.ndarray, longest: int = 200, shortest: int = 50
) -> Iterator[tuple[int, int, int]]:
  """(recording, start, stop) of consecutive segments, positions counted over all recordings.

  The rest of a recording is a segment if it has `shortest` steps.
  """
  offset = 0
  for recording, steps in enumerate(length.tolist()):
    for start in range(0, steps, longest):
      stop = min(start + longest, steps)
      if stop - start >= shortest:
        yield recording, offset + start, offset + stop
    offset += steps


BUILTIN = {"mfeat": (Mfeat, None)} | {  # name: builder, config
  f"{builder.name}/{config.name}": (builder, config.name)
  for builder in (Emoji, Watch)
  for config in builder.BUILDER_CONFIGS
}


def write_tfds(
  builder: type[tfds.core.DatasetBuilder], config: str | None, data_dir: str | os.PathLike
) -> pathlib.Path:
  """Writes the data set of a builder under `data_dir` unless it is there; returns its folder.

  tfds renames its folder at the end, so a final name is complete. Processes wait for the one
  that has the lock; a killed one loses its lock, and the next clears what it left.
  """
  data_dir = pathlib.Path(data_dir).expanduser()
  folder = data_dir / builder.name / (config or "") / str(builder.VERSION)
  if folder.exists():  # without the lock: a shared folder may be read-only
    return folder
  data_dir.mkdir(parents=True, exist_ok=True)
  # The progress bars and notes of tfds, which are prints, stay off the console.
  hide, hide_errors = contextlib.redirect_stdout, contextlib.redirect_stderr
  sink, lock_file = io.StringIO(), data_dir / f".{builder.name}.lock"
  with open(lock_file, "w") as lock, hide(sink), hide_errors(sink):
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Without TensorFlow, tfds 4.9 can both write and read array_record alone.
    made = builder(data_dir=str(data_dir), config=config, file_format="array_record")
    folder = pathlib.Path(made.data_path)
    if not folder.exists():
      for rest in folder.parent.glob(f"incomplete.*_{folder.name}"):
        shutil.rmtree(rest)
      made.download_and_prepare()
  return folder
