"""Integers and labels of tensorflow-datasets are taken for what the same arrays of a file are."""

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data.builtin import builders
from promise_jax.types import Modality, Task

N = 30
RNG = np.random.default_rng(0)
COUNTS = RNG.poisson(3, (N, 6))
WORDS = np.where(np.arange(6) < RNG.integers(1, 6, (N, 1)), RNG.integers(1, 50, (N, 6)), 0)
PHOTO = RNG.integers(0, 256, (N, 3, 5, 4), dtype=np.uint8)
LABEL = np.arange(N) % 3
SPLITS = {"train": range(18), "validation": range(18, 24), "test": range(24, N)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A prepared set whose labels are one-hot, and one where they are integers."""
  import tensorflow_datasets as tfds

  tensor = lambda shape, dtype: tfds.features.Tensor(shape=shape, dtype=dtype)

  class OneHot(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    label = tensor((3,), np.int64)

    def _info(self):
      inputs = {"counts": tensor((6,), np.int64), "words": tensor((6,), np.int32)}
      inputs["photo"] = tensor((3, 5, 4), np.uint8)
      return builders.describe(self, inputs=inputs, label=self.label)

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(rows) for split, rows in SPLITS.items()}

    def _generate_examples(self, rows):
      for i in rows:
        inputs = {"counts": COUNTS[i], "words": WORDS[i].astype(np.int32), "photo": PHOTO[i]}
        yield i, {"inputs": inputs, "label": self.make_label(i), "id": i}

    def make_label(self, i):
      return np.eye(3, dtype=np.int64)[LABEL[i]]

  class Whole(OneHot):
    label = tfds.features.Scalar(np.int64)

    def make_label(self, i):
      return LABEL[i]

  root = tmp_path_factory.mktemp("prepared")
  return [builders.write_tfds(own, None, root) for own in (OneHot, Whole)]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prepared_set_equals_the_clean_one(folder, stream, tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  split = np.repeat(["train", "valid", "test"], [18, 6, 6])
  photo = np.moveaxis(PHOTO, 1, 3)
  arrays = {"x_counts": COUNTS.astype(np.float32), "x_words": WORDS, "x_photo": photo}
  np.savez(tmp_path / "clean.npz", **arrays, y=LABEL, split=split)
  clean = data.load(tmp_path / "clean.npz", kinds={"words": "tokens"})
  found = data.load(folder[0], stream=stream)
  assert found.spec.modalities == clean.spec.modalities
  assert found.spec.task == Task("classes", 3, ("0", "1", "2")) == clean.spec.task
  for name in found.splits:
    ours, theirs = found.split(name), clean.split(name)
    assert ours.label.tolist() == theirs.label.tolist()
    for m in found.spec.names:
      np.testing.assert_array_equal(ours.inputs[m][:], theirs.inputs[m])
  assert found.guesses.keys() == {"counts", "words", "photo", "the task"}


def test_what_is_guessed_can_be_said(folder):
  found = data.load(folder[0], task="multilabel", kinds={"counts": "tokens", "words": "vector"})
  assert found.spec.modalities[:2] == (
    Modality("counts", "tokens", (6,), 8192),
    Modality("words", "vector", (6,)),
  )
  assert found.spec.task == Task("multilabel", 3)
  assert found.split("test").label.tolist() == np.eye(3)[LABEL[24:]].tolist()
  assert found.guesses.keys() == {"photo"}
  with pytest.raises(ValueError, match="label is Scalar.*integers with task=classes or task=regr"):
    data.load(folder[1])
  assert data.load(folder[1], task="classes").split("test").label.tolist() == LABEL[24:].tolist()
  assert data.load(folder[1], task="regression").spec.task.kind == "regression"
  with pytest.raises(ValueError, match="kinds has 'photo', known are .*: counts, words"):
    data.load(folder[0], kinds={"photo": "vector"})
