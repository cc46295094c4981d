"""Data sets against the embedded arrays, hand-worked rows and slow numpy."""

import importlib.util
import json
import logging
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data import dataset
from promise_jax.data import source as data_source
from promise_jax.data.readers import text
from promise_jax.types import Modality, Task

ROOT = pathlib.Path(data.__file__).parents[2]
EMBEDDED = pathlib.Path(data.__file__).parent / "builtin"
NAN, INF = np.nan, np.inf


def run(code, *arguments):
  """Runs `code` in a fresh interpreter at the root of the project."""
  command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
  return subprocess.Popen(
    command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def mfeat(data_dir):
  return data.load("mfeat", data_dir=data_dir)


@pytest.fixture(scope="module")
def emoji(data_dir):
  return data.load("emoji", data_dir=data_dir)


@pytest.fixture(scope="module")
def watch(data_dir):
  return [data.load("watch", data_dir=data_dir, fold=fold) for fold in (0, 1)]


def raw(found, split, name):
  """The inputs before standardisation."""
  mean, std = found.spec.standardise[name]
  return split.inputs[name] * std[None] + mean[None]


# ---- the embedded data sets


@pytest.mark.parametrize(
  ("row", "label", "fou", "zer", "mor"),
  [  # the first values of three lines of the source's own files
    (0, 0, (0.065882, 0.19731, 0.10383), (0.011033, 0.83147), (1, 0, 0, 133.15)),
    (777, 3, (0.29067, 0.49473, 0.26809), (0.068862, 1.9018), (0, 3, 1, 194.89)),
    (1999, 9, (0.27157, 0.14904, 0.23275), (0.02974, 0.77684), (1, 1, 1, 133.92)),
  ],
)
def test_mfeat_rows(mfeat, row, label, fou, zer, mor):
  splits = [s for s in map(mfeat.split, mfeat.splits) if row in s.id]
  assert len(splits) == 1
  at = splits[0].id.tolist().index(row)
  assert splits[0].label[at] == label
  for name, first in (("fou", fou), ("zer", zer), ("mor", mor)):
    values = raw(mfeat, splits[0], name)[at, : len(first)]
    np.testing.assert_allclose(values, first, rtol=1e-5, atol=1e-5)


def test_mfeat_spec_and_stratification(mfeat):
  assert mfeat.spec.modalities == (
    Modality("fou", "vector", (76,)),
    Modality("zer", "vector", (47,)),
    Modality("mor", "vector", (6,)),
  )
  assert mfeat.spec.task == Task("classes", 10, tuple("0123456789"))
  for name, count in (("train", 120), ("valid", 40), ("test", 40)):
    split = mfeat.split(name)
    assert np.bincount(split.label).tolist() == [count] * 10
    assert split.label.dtype == split.id.dtype == np.int32
    assert split.recorded.shape == (count * 10, 3)
    assert split.recorded.all()
  ids = np.concatenate([mfeat.split(s).id for s in mfeat.splits])
  assert sorted(ids.tolist()) == list(range(2000))


def test_emoji_rows(emoji):
  train = emoji.split("train")
  at = train.id.tolist().index(600)  # the turtle
  tokens = text.hash_ngrams(["turtle"], 8192)[0]
  assert train.inputs["text"][at, : len(tokens)].tolist() == tokens.tolist()
  assert not train.inputs["text"][at, len(tokens) :].any()
  assert train.inputs["image"][at].sum() == 1407448
  np.testing.assert_allclose(
    raw(emoji, train, "props")[at], [0.6, 1, 0, 0, 0], rtol=1e-5, atol=1e-6
  )
  assert emoji.spec.task.names[train.label[at]] == "animals-nature"


def test_emoji_splits_share_no_family(emoji):
  with np.load(EMBEDDED / "emoji.npz") as arrays:
    family = arrays["family"]
  sizes = {s: len(emoji.split(s).id) for s in emoji.splits}
  assert sizes == {"train": 951, "valid": 318, "test": 317}
  families = [set(family[emoji.split(s).id].tolist()) for s in emoji.splits]
  assert sum(map(len, families)) == len(set.union(*families)) == 1361


def test_emoji_tags_are_an_option(data_dir, emoji):
  tagged = data.load("emoji", data_dir=data_dir, tags=True, vocabulary=512)
  assert tagged.spec.modalities[1].vocabulary == 512
  train = tagged.split("train")
  at = train.id.tolist().index(600)
  tokens = text.hash_ngrams(["turtle animal terrapin tortoise"], 512)[0]
  assert train.inputs["text"][at, : len(tokens)].tolist() == tokens.tolist()


def test_emoji_text_is_as_wide_as_the_longest_train_row(emoji):
  with np.load(EMBEDDED / "emoji.npz") as arrays:
    texts, split = arrays["text"], arrays["split"]
  count = np.array([np.count_nonzero(text.hash_ngrams([t], 8192)) for t in texts])
  longest = count[split == 0].max()
  for i, name in enumerate(emoji.splits):
    assert emoji.split(name).inputs["text"].shape == (np.sum(split == i), longest)
    assert emoji.report[name]["text"].num_truncated_rows == np.sum(count[split == i] > longest)


def test_watch_rows_are_segments_of_recordings(watch):
  with np.load(EMBEDDED / "watch.npz") as arrays:
    x, length, label = arrays["x"].astype(np.float64), arrays["length"], arrays["label"]
  recordings = np.split(x, np.cumsum(length)[:-1])
  for found in watch:
    rows = []
    for name in found.splits:
      split, group = found.split(name), found.group(name)
      assert split.recorded.all() and group.dtype == np.int32
      values = np.concatenate([raw(found, split, m) for m in ("accel", "gyro")], axis=2)
      for i, recording in enumerate(group):
        assert split.label[i] == label[recording]
        assert split.length["accel"][i] == split.length["gyro"][i]
        steps = split.length["accel"][i]
        assert not split.inputs["gyro"][i, steps:].any()
        rows.append((split.id[i], recording, values[i, :steps]))
    rows.sort(key=lambda row: row[0])
    assert [row[0] for row in rows] == list(range(1259))
    for recording, whole in enumerate(recordings):
      parts = [values for _, g, values in rows if g == recording]
      assert {len(part) for part in parts[:-1]} == {200}
      dropped = len(whole) - sum(map(len, parts))
      assert 0 <= dropped < 50 <= len(parts[-1]) <= 200
      back = np.concatenate(parts)
      np.testing.assert_allclose(back, whole[: len(back)], rtol=1e-4, atol=1e-5)


def test_watch_is_split_by_subject_in_two_ways(watch):
  with np.load(EMBEDDED / "watch.npz") as arrays:
    subject = arrays["subject"]
  held = []
  for fold, found in enumerate(watch):
    assert found.spec.modalities == (
      Modality("accel", "sequence", (200, 3)),
      Modality("gyro", "sequence", (200, 3)),
    )
    assert found.spec.task.outputs == 7
    found_subjects = [set(subject[found.group(s)].tolist()) for s in found.splits]
    assert found_subjects[1:] == [[{3, 8}, {5, 7}], [{1, 10}, {4, 6}]][fold]
    assert found_subjects[0] == set(range(1, 11)) - set.union(*found_subjects[1:])
    sizes = [len(found.split(s).id) for s in found.splits]
    assert sizes == [[774, 213, 272], [758, 289, 212]][fold]
    held += found_subjects[1:]
  assert len(set.union(*held)) == 8


def test_nothing_but_the_modalities_is_stored(data_dir, mfeat, emoji, watch):
  for folder, names, more in (
    ("mfeat/1.0.0", {"fou", "zer", "mor"}, set()),
    ("emoji/label/1.0.0", {"image", "text", "props"}, set()),
    ("watch/fold1/1.0.0", {"accel", "gyro"}, {"group"}),
  ):
    stored = json.loads((data_dir / folder / "features.json").read_text())
    features = stored["featuresDict"]["features"]
    assert set(features) == {"inputs", "label", "id"} | more
    assert set(features["inputs"]["featuresDict"]["features"]) == names
  with np.load(EMBEDDED / "mfeat.npz") as arrays:
    assert set(arrays) == {"fou", "zer", "mor", "y", "split"}
  assert emoji.spec.names == ("image", "text", "props")


def test_array_record_holds_the_embedded_arrays(data_dir, mfeat, emoji):
  import tensorflow_datasets as tfds

  for folder, file, columns in (
    ("mfeat/1.0.0", "mfeat", {"fou": "fou", "zer": "zer", "mor": "mor"}),
    ("emoji/label/1.0.0", "emoji", {"image": "images", "props": "props"}),
  ):
    builder = tfds.builder_from_directory(data_dir / folder)
    with np.load(EMBEDDED / f"{file}.npz") as arrays:
      arrays = dict(arrays)
    count = 0
    for split in builder.info.splits:
      for row in builder.as_data_source(split):
        for name, column in columns.items():
          np.testing.assert_array_equal(row["inputs"][name], arrays[column][row["id"]])
        if file == "emoji":
          assert row["inputs"]["text"].decode() == arrays["text"][row["id"]]
        assert row["label"] == arrays["y" if file == "mfeat" else "label"][row["id"]]
        count += 1
    assert count == len(arrays["split"])


def test_the_test_split_is_read_only_when_asked_for(data_dir, mfeat, tmp_path):
  folder = shutil.copytree(data_dir / "mfeat", tmp_path / "mfeat") / "1.0.0"
  (folder / "mfeat-test.array_record-00000-of-00001").unlink()
  found = data.load("mfeat", data_dir=tmp_path)
  assert len(found.split("train").id) == 1200
  assert len(found.split("valid").id) == 400
  with pytest.raises(Exception, match="mfeat-test"):
    found.split("test")


def test_make_draws_the_stored_splits():
  spec = importlib.util.spec_from_file_location("make", EMBEDDED / "make.py")
  make = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(make)
  with np.load(EMBEDDED / "mfeat.npz") as arrays:
    label, split = arrays["y"], arrays["split"]
  np.testing.assert_array_equal(make.stratify(label, (120, 40, 40)), split)
  with np.load(EMBEDDED / "watch.npz") as arrays:
    subject, split = arrays["subject"], arrays["split"]
  np.testing.assert_array_equal(make.draw_folds(subject), split)


def test_notices_travel_with_the_data(mfeat, emoji, watch):
  notice = (ROOT / "NOTICE").read_text("utf-8")
  assert notice == (EMBEDDED / "NOTICE").read_text("utf-8")
  for words in (
    "10.24432/C5HC70", "Robert Duin", "CC BY 4.0", "Miles Johnson",
    "Copyright (c) Microsoft Corporation", "UNICODE LICENSE V3",
    "Copyright (c) 2018, David M. Burns", "Neither the name of project-template",
  ):  # fmt: skip
    assert words in notice
  assert notice.count("THE SOFTWARE IS PROVIDED") == 2
  assert "CC BY 4.0" in mfeat.card
  assert "Fluent Emoji" in emoji.card
  assert "seglearn" in watch[0].card


# ---- imports and processes


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


# ---- rows of any source


def source(inputs, modality, *, steps=None, recorded=None, label=None, task=None):
  """A source of one modality; `inputs` {split: rows}."""

  def rows(split):
    n = len(inputs[split])
    present = np.ones((n, 1), bool) if recorded is None else recorded[split][:, None]
    real = {} if steps is None else {modality.name: np.array(steps[split])}
    values = {modality.name: inputs[split]}
    labels = np.zeros(n, np.int32) if label is None else label
    return data_source.Rows(values, real, present, labels, np.arange(n))

  task = task or Task("classes", 2)
  return data_source.Source("own", "", (modality,), task, tuple(inputs), rows)


def test_standardisation_reads_present_train_frames_alone():
  rng = np.random.default_rng(0)
  inputs = {
    split: [rng.normal(3, 2, (t, 3)).astype(np.float32) for t in range(2, n + 2)]
    for split, n in (("train", 6), ("valid", 8))
  }
  for rows in inputs.values():
    for row in rows:
      row[:, 2] = 7  # a constant feature
  recorded = {"train": np.arange(6) != 2, "valid": np.arange(8) != 0}
  steps = {"train": [2, 2, 4, 5, 1, 7], "valid": [2, 3, 4, 5, 6, 7, 8, 9]}
  found = dataset.assemble(
    source(inputs, Modality("a", "sequence", (None, 3)), steps=steps, recorded=recorded)
  )
  assert found.spec.modalities[0].shape == (7, 3)
  frames = []
  for i, row in enumerate(inputs["train"]):
    if recorded["train"][i]:
      frames += [row[t] for t in range(min(len(row), steps["train"][i]))]
  mean, std = np.mean(frames, 0, np.float64), np.std(frames, 0, np.float64)
  std[2] = 1
  np.testing.assert_allclose(found.spec.standardise["a"], (mean, std), rtol=1e-5)
  for name in found.splits:
    split = found.split(name)
    for i, row in enumerate(inputs[name]):
      expected = np.zeros((7, 3))
      real = min(len(row), steps[name][i], 7) if recorded[name][i] else 0
      for t in range(real):
        expected[t] = (row[t] - mean) / std
      np.testing.assert_allclose(split.inputs["a"][i], expected, rtol=1e-4, atol=1e-5)
      assert split.length["a"][i] == real
    assert split.recorded[:, 0].tolist() == recorded[name].tolist()
  assert found.report["valid"]["a"].num_truncated_rows == 2  # those of 8 and 9 steps


DIRTY = [
  np.array([[1, 4], [NAN, 4], [3, 4], [9, 9]]),  # one frame is lost, one is padding
  np.array([[INF, 0], [0, -INF], [NAN, 0], [0, 0]]),  # two real frames, both lost
  np.array([[NAN, NAN], [0, 0], [0, 0], [0, 0]]),  # not recorded
  np.array([[5, 1], [7, 7], [7, 7], [7, 7]]),  # one real frame
]


def dirty(nonfinite):
  return dataset.assemble(
    source(
      {"train": DIRTY},
      Modality("a", "sequence", (4, 2)),
      steps={"train": [3, 2, 1, 1]},
      recorded={"train": np.array([True, True, False, True])},
    ),
    nonfinite=nonfinite,
  )


def test_nonfinite_frames_become_zero_and_lost_rows_absent(caplog):
  with caplog.at_level(logging.WARNING):
    found = dirty("frame")
  split = found.split("train")
  # frames that count: (1, 4), (3, 4), (5, 1), of mean (3, 3) and std sqrt(8/3), sqrt(2)
  np.testing.assert_allclose(
    found.spec.standardise["a"], ([3, 3], [(8 / 3) ** 0.5, 2**0.5]), rtol=1e-6
  )
  assert split.recorded[:, 0].tolist() == [True, False, False, True]
  assert split.length["a"].tolist() == [3, 0, 0, 1]
  a, b = 2 / (8 / 3) ** 0.5, 1 / 2**0.5
  expected = np.zeros((4, 4, 2))
  expected[0, 0], expected[0, 2], expected[3, 0] = (-a, b), (0, b), (a, -2 * b)
  np.testing.assert_allclose(split.inputs["a"], expected, rtol=1e-6, atol=1e-7)
  assert found.report["train"]["a"] == (3, 3, 1, 0)  # values, frames, absent, cut
  assert "own, train, a" in caplog.text


def test_nonfinite_values_alone_become_zero():
  found = dirty("value")
  split = found.split("train")
  assert split.recorded[:, 0].tolist() == [True, True, False, True]
  first = np.mean([1, 3, 5, 0]), np.std([1, 3, 5, 0])
  second = np.mean([4, 4, 4, 1, 0]), np.std([4, 4, 4, 1, 0])
  np.testing.assert_allclose(found.spec.standardise["a"], np.transpose([first, second]), rtol=1e-6)
  assert split.inputs["a"][0, 1, 0] == 0
  assert split.inputs["a"][0, 1, 1] == split.inputs["a"][0, 0, 1] != 0


def test_nonfinite_vectors_are_absent_images_and_labels_untouched():
  rows = [np.array([1.0, NAN]), np.array([2.0, 4.0]), np.array([4.0, 8.0])]
  task, label = Task("regression", 1), np.array([0.5, -2.0, 1.5], np.float32)
  found = dataset.assemble(
    source({"train": rows}, Modality("v", "vector", (2,)), label=label, task=task)
  )
  split = found.split("train")
  assert split.recorded[:, 0].tolist() == [False, True, True]
  np.testing.assert_allclose(split.inputs["v"], [[0, 0], [-1, -1], [1, 1]])
  assert split.label.tolist() == [0.5, -2.0, 1.5]
  image = np.full((1, 2, 2, 3), 200, np.uint8)
  found = dataset.assemble(source({"train": image}, Modality("i", "image", (2, 2, 3))))
  assert found.spec.standardise == {}
  np.testing.assert_array_equal(found.split("train").inputs["i"], image)


def test_absent_vectors_do_not_count():
  rows = [np.array([1e6]), np.array([2.0]), np.array([6.0])]
  recorded = {"train": np.array([False, True, True])}
  vector = Modality("v", "vector", (1,))
  found = dataset.assemble(source({"train": rows}, vector, recorded=recorded))
  assert found.spec.standardise["v"] == (np.float32(4), np.float32(2))
  assert found.split("train").inputs["v"].tolist() == [[0], [-1], [1]]
  assert found.split("train").recorded[:, 0].tolist() == [False, True, True]


def test_tokens_without_content_are_absent():
  rows = {"train": [np.array([5, 2]), np.array([0, 0])], "test": [np.array([1, 2, 3])]}
  found = dataset.assemble(source(rows, Modality("t", "tokens", (None,), 6)))
  train, test = found.split("train"), found.split("test")
  assert train.recorded[:, 0].tolist() == [True, False]
  assert test.inputs["t"].tolist() == [[1, 2]]
  assert test.inputs["t"].dtype == np.int32
  assert found.report["test"]["t"].num_truncated_rows == 1
  assert train.length == {}


def test_a_modality_that_no_train_row_has_is_refused():
  rows = {"train": [np.ones(2), np.ones(2)]}
  recorded = {"train": np.zeros(2, bool)}
  with pytest.raises(ValueError, match="split 'train': modality 'v' is in none of the 2"):
    dataset.assemble(source(rows, Modality("v", "vector", (2,)), recorded=recorded))


def test_bad_rows_are_refused():
  vector, row = Modality("v", "vector", (2,)), np.zeros(2)
  for nonfinite, words in (("error", "1 values are NaN"), ("zero", "frame, value")):
    with pytest.raises(ValueError, match=words):
      dataset.assemble(source({"train": [[NAN, 0]]}, vector), nonfinite=nonfinite)
  with pytest.raises(ValueError, match=r"shape \(3,\), expected \(2,\)"):
    dataset.assemble(source({"train": [np.zeros(3)]}, vector))
  for token in (9, -1, 2**32):
    with pytest.raises(ValueError, match=f"token id {token} is outside 0 to 8"):
      rows = {"train": [np.array([1, token])]}
      dataset.assemble(source(rows, Modality("t", "tokens", (2,), 9)))
  with pytest.raises(ValueError, match="no train split, its splits are test"):
    dataset.assemble(source({"test": [row]}, vector))
  for task, label, words in (
    (Task("classes", 2), [0, 2], "label of id 1 is 2, labels of this task are 0 to 1"),
    (Task("regression", 1), [NAN, 0], "label of id 0 is nan"),
    (Task("multilabel", 2), [[0, 1], [0, 3]], "id 1 is .* are 0 and 1"),
  ):
    with pytest.raises(ValueError, match=words):
      bad = source({"train": [row, row]}, vector, label=np.array(label), task=task)
      dataset.assemble(bad)


# ---- data sets of one's own


@pytest.fixture(scope="module")
def own(data_dir):
  """A prepared set of one's own: words are sometimes absent, audio has a length, the
  label is a number; two more beside it are off the convention."""
  import tensorflow_datasets as tfds

  from promise_jax.data.builtin import builders

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


def test_own_builder_by_name_and_by_path(data_dir, own):
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


def test_errors_name_what_is_known(data_dir, own, mfeat, tmp_path):
  for name, options, words in (
    ("mfaet", {}, "are mfeat, emoji, watch, synthetic, .*mine_own, odd, unfit"),
    (str(tmp_path / "none"), {}, "no data set, folder or file"),
    (tmp_path, {}, r"must be a file \*.npz or a prepared tensorflow-datasets folder"),
    (EMBEDDED / "mfeat.npz", {}, "mfeat.npz: the array 'fou' is unknown"),
    ("watch", {"fold": 2}, "fold is 2, it must be 0 or 1"),
    ("mfeat", {"fold": 1}, "has no fold, the option is for 'watch'"),
    ("unfit", {}, "features .*target.* no 'label'; expected are inputs, label, id"),
    ("odd", {}, r"modality 'dial' is Scalar.*expected a Text or a Tensor: uint8"),
    ("mfeat", {"seed": 1}, "no option 'seed', .* nonfinite, vocabulary, scale, tags, "),
    ("mfeat", {"tags": True}, "has no tags"),
    ("synthetic", {"tags": True}, "no option 'tags', .* seed"),
  ):
    with pytest.raises(ValueError, match=words):
      data.load(name, data_dir=data_dir, **options)
  with pytest.raises(ValueError, match="no split 'dev', its splits are train, valid"):
    mfeat.split("dev")
