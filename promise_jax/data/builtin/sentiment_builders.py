"""MOSI, MOSEI and CH-SIMS as tfds builders with a manual folder.

Nobody may pass these files on, so nothing is downloaded: put what the MMSA project
offers into the manual folder of tfds, `downloads/manual` in the data folder, as

  downloads/manual/MOSI/Processed/aligned_50.pkl
  downloads/manual/MOSI/Processed/unaligned_50.pkl
  downloads/manual/MOSEI/Processed/aligned_50.pkl
  downloads/manual/MOSEI/Processed/unaligned_50.pkl
  downloads/manual/SIMS/Processed/unaligned_39.pkl

and `load("mosi/aligned_50")` and so on prepare them once. A file of the MulT layout is
read as well. Dimensions are those of the file; its SHA-256 is compared and told.
"""

import functools
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from promise_jax.data import source as data_source
from promise_jax.data.builtin import builders
from promise_jax.data.readers import mmsa


class Sentiment(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A pickle in the manual folder; `FOLDER` is that of the data set there, `SCALE` the
  unit of its labels, a config the name of a file."""

  VERSION = tfds.core.Version("1.0.0")
  MANUAL_DOWNLOAD_INSTRUCTIONS = "See promise_jax/data/sentiment_builders.py."
  FOLDER: str
  SCALE: float

  @functools.cached_property
  def source(self) -> data_source.Source:
    """What the file holds; ValueError if it is not there."""
    root = pathlib.Path(self.data_dir_root) / "downloads" / "manual"
    file = root / self.FOLDER / "Processed" / f"{self.builder_config.name}.pkl"
    if not file.is_file():
      raise ValueError(
        f"{file}: there is no such file; it cannot be downloaded for you, put the one "
        "of the MMSA project there."
      )
    return mmsa.read_mmsa(file, scale=self.SCALE)

  def _info(self) -> tfds.core.DatasetInfo:
    modalities = self.source.modalities
    return builders.describe(
      self,
      inputs={m.name: tfds.features.Tensor(shape=m.shape, dtype=np.float32) for m in modalities},
      label=tfds.features.Scalar(np.float32),
      length=tuple(m.name for m in modalities if m.kind == "sequence"),
      group=True,
      scale=self.SCALE,
      names=self.source.task.names,
      description=self.source.card,
      notes=self.source.notes,
    )

  def _split_generators(self, dl_manager):
    return {name: self._generate_examples(name) for name in builders.SPLITS}

  def _generate_examples(self, split):
    rows = self.source.rows(split)
    # A clip whose video is not known is a group of its own.
    group = rows.id if rows.group is None else rows.group
    for i, row in enumerate(rows.id.tolist()):
      inputs, length = {}, {}
      for m in self.source.modalities:
        inputs[m.name] = rows.inputs[m.name][i]
        if m.kind == "sequence":
          length[m.name] = len(inputs[m.name])
          padding = ((0, m.shape[0] - length[m.name]), (0, 0))
          inputs[m.name] = np.pad(inputs[m.name], padding)
      yield (
        row,
        {
          "inputs": inputs,
          "length": length,
          "label": float(rows.label[i]),
          "id": row,
          "group": int(group[i]),
        },
      )


def _configs(*names: str) -> list[tfds.core.BuilderConfig]:
  return [tfds.core.BuilderConfig(name=name) for name in names]


class Mosi(Sentiment):
  """CMU-MOSI, clips of video reviews with a sentiment of -3 to 3."""

  FOLDER, SCALE = "MOSI", mmsa.SENTIMENT
  BUILDER_CONFIGS = _configs("aligned_50", "unaligned_50")


class Mosei(Sentiment):
  """CMU-MOSEI, the same of more speakers."""

  FOLDER, SCALE = "MOSEI", mmsa.SENTIMENT
  BUILDER_CONFIGS = _configs("aligned_50", "unaligned_50")


class Sims(Sentiment):
  """CH-SIMS, Chinese clips with a sentiment of -1 to 1."""

  FOLDER, SCALE = "SIMS", mmsa.SIMS
  BUILDER_CONFIGS = _configs("unaligned_39")


OWN = {
  f"{builder.name}/{config.name}": (builder, config.name)
  for builder in (Mosi, Mosei, Sims)
  for config in builder.BUILDER_CONFIGS
}
