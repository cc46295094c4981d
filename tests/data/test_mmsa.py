"""Sentiment pickles are read back as the rows that they were made of."""

import pickle

import numpy as np
import pytest
from sentiment_files import DIMS, SIZES, STEPS, check_rows, make, make_bert

from promise_jax import data
from promise_jax.data.readers import mmsa, mmsa_labels
from promise_jax.evaluation import measure, sentiment_metrics
from promise_jax.types import Modality, Task

NAN, INF = np.nan, np.inf


@pytest.fixture
def save(tmp_path):
  def write(tree, name="own.pkl", protocol=4):
    (tmp_path / name).write_bytes(pickle.dumps(tree, protocol))
    return tmp_path / name

  return write


@pytest.mark.parametrize("layout", ["unaligned", "aligned", "sims", "mult"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_every_layout_gives_the_true_rows_and_labels(save, layout, protocol):
  files, truth = make(layout)
  found = data.load(save(files, protocol=protocol))
  steps = STEPS if layout in ("unaligned", "sims") else dict.fromkeys(DIMS, 5)
  assert found.spec.modalities == tuple(Modality(m, "sequence", (steps[m], DIMS[m])) for m in DIMS)
  sims = Task("regression", 1, sentiment_metrics.SIMS_LABEL)
  assert found.spec.task == (sims if layout == "sims" else Task("regression", 1, scale=3.0))
  check_rows(found, truth)
  for split, fields in files.items():
    rows = found.split(split)
    label = fields["labels" if layout == "mult" else "regression_labels"]
    np.testing.assert_array_equal(rows.label, label.reshape(-1))
    assert rows.label.dtype == np.float32 and rows.recorded.all()


def test_ids_are_ranks_of_names_and_videos_are_groups(save):
  files, _ = make()
  found = data.load(save(files))
  names = sorted(name for fields in files.values() for name in fields["id"])
  for split, fields in files.items():
    assert [names[i] for i in found.split(split).id] == fields["id"]
    videos = [name.split("$")[0] for name in fields["id"]]
    group = found.group(split).tolist()
    assert split == "train" or found.keys[split].tolist() == fields["id"]
    assert len(set(group)) == len(set(videos)) == len(set(zip(videos, group, strict=True)))
  aligned = data.load(save(make("aligned", seed=1)[0], "aligned.pkl"))
  for split in SIZES:
    np.testing.assert_array_equal(aligned.split(split).id, found.split(split).id)


def test_there_are_no_groups_if_a_video_is_in_two_splits_or_names_lack_videos(save):
  files, _ = make()
  files["test"]["id"][0] = "train0$_$9"
  assert data.load(save(files)).group("train") is None
  files, _ = make("mult")
  found = data.load(save(files))
  assert found.group("train") is None
  assert sorted(np.concatenate([found.split(s).id for s in SIZES])) == list(range(13))
  for fields in files.values():
    del fields["id"]
  found = data.load(save(files))  # without ids rows are numbered
  assert np.concatenate([found.split(s).id for s in SIZES]).tolist() == list(range(13))


def test_zeros_inside_a_clip_are_steps_and_so_are_those_where_another_modality_has_words(save):
  files, _ = make("mult")
  train = files["train"]
  for m in DIMS:
    train[m][0] = 0  # padded in front, 4 steps: a word without vector, two, silence
  train["text"][0, 2:4], train["audio"][0, 1:4], train["vision"][0, 4] = 1, 2, 3
  train["audio"][0, 2] = 0
  found = data.load(save(files))
  assert [found.split("train").length[m][0] for m in DIMS] == [4, 4, 4]
  mean, std = found.spec.standardise["audio"]
  audio = found.split("train").inputs["audio"][0] * std[None] + mean[None]
  np.testing.assert_allclose(audio[:4], [[2] * 3, [0] * 3, [2] * 3, [0] * 3], atol=1e-5)


def test_without_lengths_each_unaligned_modality_has_its_own_padding(save):
  files, truth = make()
  for fields in files.values():
    for name in ("audio_lengths", "vision_lengths", "text_bert"):
      del fields[name]
  check_rows(data.load(save(files)), truth)


def test_the_mask_of_an_aligned_file_bounds_the_text_alone(save):
  files, _ = make("aligned")
  train = files["train"]
  train["text_bert"][:, 1] = [1, 1, 0, 0, 0]
  for m in DIMS:
    train[m][:] = 1
    train[m][:, 4:] = 0
  rows = data.load(save(files)).split("train")
  assert rows.length["text"].tolist() == [2] * 6
  assert rows.length["audio"].tolist() == rows.length["vision"].tolist() == [4] * 6


def test_a_mask_over_other_tokens_is_ignored(save):
  files, truth = make("aligned")
  for fields in files.values():
    fields["text_bert"] = make_bert([9] * len(fields["id"]), 9)
  check_rows(data.load(save(files)), truth)


def test_splits_may_be_padded_to_different_lengths(save):
  files, truth = make()
  for m in STEPS:
    files["test"][m] = np.pad(files["test"][m], ((0, 0), (0, 3), (0, 0)))
  del files["test"]["text_bert"]
  found = data.load(save(files))
  assert [m.shape[0] for m in found.spec.modalities] == [8, 10, 9]
  check_rows(found, truth)


def test_modalities_without_steps_are_vectors(save):
  files, _ = make()
  for fields in files.values():
    fields["text"] = fields["text"][:, 0]
  found = data.load(save(files))
  assert found.spec.modalities[0] == Modality("text", "vector", (4,))
  assert list(found.split("train").length) == ["audio", "vision"]


@pytest.mark.parametrize(
  "convert",
  [
    lambda x: x.astype(">f4"),
    lambda x: x.astype(np.float64),
    lambda x: np.asfortranarray(x),
    lambda x: x.tolist(),
    lambda x: list(x),
    lambda x: x[:, ::-1][:, ::-1],
  ],
)
def test_the_same_numbers_in_other_types_are_read(save, convert):
  files, truth = make()
  for split, fields in files.items():
    for m in DIMS:
      fields[m] = convert(fields[m].astype(np.float16))
      truth[split][m] = [row.astype(np.float16) for row in truth[split][m]]
  check_rows(data.load(save(files)), truth)


def test_nonfinite_values_are_dropped_and_counted(save, caplog):
  files, truth = make()
  train = files["train"]
  long = int(np.argmax(train["audio_lengths"]))
  train["audio"][long, 0, 1], train["audio"][long, 0, 2] = -INF, NAN
  train["vision"][1] = INF
  files["valid"]["audio"][2, :] = -INF
  found = data.load(save(files))
  rows, valid_steps = found.split("train"), len(truth["train"]["vision"][1])
  assert all(np.isfinite(x).all() for x in rows.inputs.values())
  assert found.report["train"]["audio"][:2] == (2, 1)
  assert found.report["train"]["vision"][:4] == (2 * valid_steps, valid_steps, 1, 0)
  assert rows.recorded.tolist() == [[True, True, i != 1] for i in range(6)]
  assert rows.length["vision"][1] == 0
  assert not found.split("valid").recorded[2, 1]
  sentence = "own, train, audio: 2 NaN, inf or huge values dropped, 1 frames lost to them."
  assert caplog.text.count(sentence) == 1
  value = data.load(save(files), nonfinite="value")
  assert value.report["train"]["audio"][:2] == (2, 0)
  with pytest.raises(ValueError, match="'audio': 2 values are NaN or inf"):
    data.load(save(files), nonfinite="error")


def test_a_clip_without_audio_and_a_number_beyond_float32(save):
  files, _ = make()
  files["train"]["audio_lengths"][2] = 0
  files["train"]["vision"] = files["train"]["vision"].astype(np.float64)
  files["train"]["vision"][0, 0, 0] = 1e300
  found = data.load(save(files))
  rows = found.split("train")
  assert rows.recorded[:, 1].tolist() == [i != 2 for i in range(6)]
  assert not rows.inputs["audio"][2].any()
  assert found.report["train"]["vision"].num_nonfinite == 1


def test_polarities_can_be_the_classes(save):
  files, _ = make()
  files["train"]["classification_labels"][:3] = [0, 1, 2]
  found = data.load(save(files), classes=True)
  names = ("negative", "neutral", "positive")
  assert found.spec.task == Task("classes", 3, names)
  np.testing.assert_array_equal(found.split("train").label, files["train"]["classification_labels"])
  assert found.split("train").label.dtype == np.int32


def test_the_range_of_the_labels_decides_unit_and_metrics(save):
  sims, mosi = data.load(save(make("sims")[0], "s.pkl")), data.load(save(make()[0]))
  assert mmsa_labels.SIMS_NAMES == sentiment_metrics.SIMS_LABEL
  for found, unit, own in (
    (sims, "taken for CH-SIMS, unit 1.", sentiment_metrics.SIMS),
    (mosi, "taken for MOSI or MOSEI, unit 3.", sentiment_metrics.SENTIMENT),
  ):
    assert any(unit in line for line in found.notes)
    expected = {"mae", "corr"} | {m.__name__ for m in own}
    assert measure.metrics_for(found.spec.task).keys() == expected
  # A unit that is given decides, but CH-SIMS has no label beyond 1.
  task = data.load(save(make("sims")[0]), scale=3.0).spec.task
  assert task.scale == 3.0 and "acc7" in measure.metrics_for(task)
  task = data.load(save(make()[0]), scale=1.0).spec.task
  assert measure.metrics_for(task).keys() == {"mae", "corr"}


def test_a_split_can_be_read_twice(save):
  source = mmsa.read_mmsa(save(make()[0]))
  first, again = source.rows("valid"), source.rows("valid")
  for m in DIMS:
    for one, other in zip(first.inputs[m], again.inputs[m], strict=True):
      np.testing.assert_array_equal(one, other)
