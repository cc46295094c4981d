"""Builders: prepared once, by any number of processes, and builders of one's own."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data.builtin import builders
from promise_jax.types import Modality, Task

ROOT = pathlib.Path(data.__file__).parents[2]


def run(code, *arguments):
  """Runs `code` in a fresh interpreter at the root of the project."""
  command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
  return subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


def test_import_is_light_and_tensorflow_is_never_loaded(data_dir, mfeat):
  code = """if True:
    import sys
    from promise_jax import data
    names = ("tensorflow", "tensorflow_datasets", "array_record", "grain")
    assert not [n for n in names if n in sys.modules]
    data.load("mfeat", data_dir=sys.argv[1]).split("test")
    assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
  """
  process = run(code, data_dir)
  assert process.communicate() == ("", "")
  assert process.returncode == 0


def test_two_processes_may_prepare_at_once_after_one_was_killed(tmp_path):
  killed = """if True:
    import os, sys
    from promise_jax.data.builtin import builders
    def examples(self, arrays, split):
      yield from list(generate(self, arrays, split))[:5]
      os.kill(os.getpid(), 9)
    generate, builders.Mfeat._generate_examples = (
      builders.Mfeat._generate_examples, examples)
    builders.write_tfds(builders.Mfeat, None, sys.argv[1])
  """
  process = run(killed, tmp_path)
  process.communicate()
  assert process.returncode == -9
  assert list(tmp_path.glob("mfeat/incomplete.*"))
  assert not (tmp_path / "mfeat" / "1.0.0").exists()
  code = """if True:
    import sys
    from promise_jax import data
    assert len(data.load("mfeat", data_dir=sys.argv[1]).split("train").id) == 1200
  """
  both = [run(code, tmp_path) for _ in range(2)]
  for process in both:
    assert process.communicate() == ("", "")  # nor does tfds chatter
    assert process.returncode == 0
  assert [f.name for f in (tmp_path / "mfeat").iterdir()] == ["1.0.0"]


@pytest.fixture(scope="module")
def own(data_dir):
  """A prepared set of one's own: words are sometimes absent, audio has a length, the
  label is a number; two more beside it are off the convention."""
  import tensorflow_datasets as tfds

  class MineOwn(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return builders.describe(
        self,
        inputs={
          "words": tfds.features.Tensor(shape=(None,), dtype=np.int64),
          "audio": tfds.features.Tensor(shape=(4, 2), dtype=np.float32),
        },
        label=tfds.features.Scalar(np.float32),
        present=("words",),
        length=("audio",),
        group=True,
        scale=3.0,
        description="mine",
      )

    def _split_generators(self, dl_manager):
      return {s: self._generate_examples(s) for s in ("train", "validation", "test")}

    def _generate_examples(self, split):
      start = {"train": 0, "validation": 10, "test": 20}[split]
      for i in range(start, start + 10):
        absent = i % 5 == 0
        inputs = {"words": [] if absent else [i + 1] * (i % 3 + 1)}
        inputs["audio"] = np.arange(8.0, dtype=np.float32).reshape(4, 2) + i
        row = {"inputs": inputs, "label": i / 10, "id": i}
        row |= {"present": {"words": not absent}, "length": {"audio": i % 4 + 1}}
        yield i, row | {"group": i // 4}

  class Unfit(MineOwn):
    def _info(self):
      info = super()._info()
      features = dict(info.features.items()) | {"id": tfds.features.Text()}
      features["target"] = features.pop("label")
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self, split):
      for i, row in super()._generate_examples(split):
        yield i, row | {"target": row.pop("label"), "id": str(i)}

  class Odd(MineOwn):
    def _info(self):
      scalar = tfds.features.Scalar(np.float32)
      return builders.describe(self, inputs={"dial": scalar}, label=scalar)

    def _generate_examples(self, split):
      start = {"train": 0, "validation": 1, "test": 2}[split]
      yield start, {"inputs": {"dial": 0.5}, "label": 0.5, "id": start}

  builders.write_tfds(Unfit, None, data_dir)
  builders.write_tfds(Odd, None, data_dir)
  return builders.write_tfds(MineOwn, None, data_dir)


def test_a_builder_of_ones_own_is_found_by_name_and_by_path(data_dir, own):
  by_name, by_path = data.load("mine_own", data_dir=data_dir), data.load(own)
  for found in (by_name, by_path):
    assert found.spec.modalities == (
      Modality("words", "tokens", (3,), 8192),
      Modality("audio", "sequence", (4, 2)),
    )
    assert found.spec.task == Task("regression", 1, scale=3.0)
    assert (found.card, found.splits) == ("mine", ("train", "valid", "test"))
    test = found.split("test")
    assert test.id.tolist() == list(range(20, 30))
    assert test.recorded.tolist() == [[i % 5 != 0, True] for i in range(20, 30)]
    assert test.length["audio"].tolist() == [i % 4 + 1 for i in range(20, 30)]
    assert found.group("test").tolist() == [5] * 4 + [6] * 4 + [7] * 2
    assert test.inputs["words"][3].tolist() == [24, 24, 24]
    assert test.inputs["words"][4].tolist() == [25, 0, 0]  # 24 % 3 + 1 steps
    assert not test.inputs["audio"][0, 1:].any()  # length 1
    np.testing.assert_allclose(test.label, np.arange(20, 30) / 10, rtol=1e-6)
  assert data.load(own, scale=2.0).spec.task.scale == 2.0


def test_a_builder_off_the_convention_is_refused(data_dir, own):
  for name, words in (
    ("mfaet", "are mfeat, emoji, watch, synthetic, .*mine_own, odd, unfit"),
    ("unfit", "features .*target.*; expected are inputs .*, label, id"),
    ("odd", r"modality 'dial' is Scalar.*expected a Text or a Tensor: uint8"),
  ):
    with pytest.raises(ValueError, match=words):
      data.load(name, data_dir=data_dir)
