"""HDF5 files by key give the rows of the npz file of the same arrays; the folder of MMIN."""

import h5py
import npz_files
import numpy as np
import pytest

from promise_jax import data
from promise_jax.data.readers import hdf5


def write(path, arrays, group=False):
  """Texts as h5py takes them: bytes."""
  with h5py.File(path, "w") as file:
    for key, values in arrays.items():
      file[key] = np.char.encode(values) if np.asarray(values).dtype.kind == "U" else values
    if group:
      file.create_group("extra")
  return path


def same(found, expected):
  assert found.spec.names == expected.spec.names and found.spec.task == expected.spec.task
  for split in ("train", "valid", "test"):
    ours, theirs = found.split(split), expected.split(split)
    for m in found.spec.names:
      np.testing.assert_array_equal(ours.inputs[m], theirs.inputs[m])
    for field in ("recorded", "label", "id"):
      np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))


def test_a_file_by_the_names_of_npz_files_gives_the_same_rows(tmp_path, save_npz):
  texts = np.array([f"word {i % 4}" for i in range(npz_files.N)])
  more = {"x_w": texts, "present_v": np.arange(npz_files.N) % 3 > 0, "id": np.arange(12) + 5}
  arrays = dict(sorted(npz_files.plain(**more).items()))  # as h5py sorts its keys
  same(data.load(write(tmp_path / "own.h5", arrays)), data.load(save_npz(arrays)))


def test_keys_are_modalities_and_one_is_the_label(tmp_path, save_npz):
  arrays = npz_files.plain()
  genres = np.random.default_rng(1).integers(0, 2, (12, 3))
  by_key = {"genres": genres, "movie_ids": np.array([f"tt{i}" for i in range(12)])}
  by_key |= {"features": arrays["x_v"], "steps": arrays["x_s"], "split": arrays["split"]}
  path = write(tmp_path / "own.hdf5", by_key, group=True)
  found = data.load(path, label="genres", modalities="features")
  expected = save_npz({"x_features": arrays["x_v"], "y": genres, "split": arrays["split"]})
  same(found, data.load(expected))
  assert found.spec.task.kind == "multilabel"
  both = data.load(path, label="genres", modalities="steps+features")
  assert [m.kind for m in both.spec.modalities] == ["vector", "sequence"]


def test_mm_imdb_has_its_splits(tmp_path, monkeypatch):
  monkeypatch.setattr(hdf5, "MM_IMDB_SPLITS", ("train",) * 6 + ("valid",) * 2 + ("test",) * 4)
  rng = np.random.default_rng(0)
  arrays = {"genres": rng.integers(0, 2, (12, 4)), "features": rng.random((12, 3))}
  arrays |= {"images": rng.random((12, 3, 8, 6)), "vgg_features": rng.random((12, 5))}
  arrays["imdb_ids"] = np.array([f"{i:07}" for i in range(12)])
  found = data.load(write(tmp_path / "imdb.hdf5", arrays), label="genres", task="multilabel")
  assert found.spec.names == ("features", "images", "vgg_features")
  assert found.spec.modalities[1].shape == (8, 6, 3)
  assert found.split("valid").id.tolist() == [6, 7]


@pytest.mark.parametrize(
  ("options", "words"),
  [
    ({}, "label is not given, expected is the key of the labels, one of genres, other, v"),
    ({"label": "kind"}, "label is 'kind', expected is"),
    ({"label": "genres"}, r"the key 'other' is of shape \(5, 2\), expected are arrays of 12 rows"),
    ({"label": "other"}, "the key 'genres' is of shape .* modalities=NAME"),
    ({"label": "genres", "modalities": "w"}, "there is no array x_<modality>"),
  ],
)
def test_what_is_not_understood_is_one_sentence(options, words, tmp_path):
  arrays = {"v": np.ones((12, 2)), "genres": np.arange(12) % 3, "other": np.ones((5, 2))}
  with pytest.raises(ValueError, match=f"own.h5: .*{words}"):
    data.load(write(tmp_path / "own.h5", arrays), **options)


def test_a_group_and_a_damaged_file_are_refused(tmp_path):
  path = write(tmp_path / "own.h5", {"y": np.arange(12) % 3}, group=True)
  with pytest.raises(ValueError, match="'extra' is a group, expected .*; the keys are extra, y"):
    data.load(path)
  path.write_bytes(b"\x89HDF\r\n\x1a\n half")
  with pytest.raises(ValueError, match="own.h5: this is no HDF5 file, or one that is cut short"):
    data.load(path)


@pytest.fixture
def mmin(tmp_path):
  """A folder of 20 utterances in two folds; utterance 3 has no sound, 12 nothing but text."""
  rng = np.random.default_rng(0)
  names = np.array([f"Ses01F_{i:02}" for i in range(20)])
  for letter, name, size in (("A", "comparE", 4), ("V", "denseface", 3), ("L", "bert_large", 5)):
    (tmp_path / letter).mkdir()
    lacking = {"A": (3, 12), "V": (12,), "L": ()}[letter]
    with h5py.File(tmp_path / letter / f"{name}.h5", "w") as file:
      for i in range(20):
        if i not in lacking:
          file[names[i]] = rng.normal(size=(1 + i % 5, size)).astype(np.float32)
  with h5py.File(tmp_path / "A" / "comparE_mean_std.h5", "w") as file:
    file["1/mean"] = np.zeros(4)
  for fold in (1, 2):
    folder = tmp_path / "target" / str(fold)
    folder.mkdir(parents=True)
    for word, part in (("trn", slice(0, 12)), ("val", slice(12, 16)), ("tst", slice(16, 20))):
      index = np.roll(np.arange(20), 4 * (fold - 1))[part]
      np.save(folder / f"{word}_label.npy", np.eye(4)[index % 4])
      np.save(folder / f"{word}_int2name.npy", names[index].astype("S")[:, None])
  return tmp_path


def test_the_folder_of_mmin(mmin, caplog):
  found = data.load(mmin)
  assert found.spec.names == ("text", "audio", "vision") and found.spec.task.outputs == 4
  train = found.split("train")
  assert train.inputs["audio"].shape == (12, 5, 4) and train.label.tolist() == [0, 1, 2, 3] * 3
  assert (~train.recorded).tolist() == [[False, i == 3, False] for i in range(12)]
  assert train.length["text"].tolist() == [1 + i % 5 for i in range(12)]
  with h5py.File(mmin / "V" / "denseface.h5") as file:
    raw = file["Ses01F_07"][()]
  mean, std = found.spec.standardise["vision"]
  np.testing.assert_allclose(train.inputs["vision"][7, :3] * std + mean, raw, 1e-4, 1e-5)
  assert found.split("valid").recorded[0].tolist() == [True, False, False]
  assert found.keys["valid"][0].startswith("Ses01F_")
  other = data.load(mmin, fold=2)
  assert other.split("train").id.tolist() == [16, 17, 18, 19, *range(8)]
  assert "fold 1 of 1, 2; fold=N chooses another" in found.notes[0]


def test_a_folder_of_mmin_that_lacks_something_is_one_sentence(mmin):
  with pytest.raises(ValueError, match="fold is '7', known are 1, 2"):
    data.load(mmin, fold=7)
  np.save(mmin / "target" / "2" / "val_label.npy", np.ones(3))
  with pytest.raises(ValueError, match=r"val_label.npy: found are float64 \(3,\), expected: 4 cl"):
    data.load(mmin, fold=2)
  for wrong in (1e9, -1, 0.5, np.nan):
    np.save(mmin / "target" / "2" / "val_label.npy", np.array([0, wrong, 1, 2]))
    with pytest.raises(ValueError, match="val_label.npy, row 1: found .* whole numbers from 0 to"):
      data.load(mmin, fold=2)
  (mmin / "A" / "wav2vec.h5").write_bytes(b"")
  with pytest.raises(ValueError, match="A: found are comparE.h5, wav2vec.h5, expected is one file"):
    data.load(mmin)
