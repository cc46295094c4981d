"""Modalities in folders of <id>.npy give what the same arrays in a file give."""

import numpy as np
import pandas as pd
import pytest

from promise_jax import data
from promise_jax.data import new_rows, preprocessing
from promise_jax.data.readers.lost_files import FileOptions

COUNT = 40
IDS = [f"clip {i}" for i in range(COUNT)]
LOST = (3, 21, 35)


@pytest.fixture
def arrays(rng):
  """Labels, splits, a vector each, and sequences of 1 to 6 steps."""
  audio = [rng.normal(size=(1 + i % 6, 3)).astype(np.float32) for i in range(COUNT)]
  split = np.array(["train", "train", "valid", "test"] * 10)
  y = np.arange(COUNT) // 4 % 2
  return y, split, rng.normal(size=(COUNT, 4)).astype(np.float32), audio


@pytest.fixture
def folder(tmp_path, arrays):
  """tmp_path with audio/<id>.npy, of which some lack, and scene/<id>.npy."""
  for i, name in enumerate(IDS):
    for modality, values in (("audio", arrays[3][i]), ("scene", arrays[2][i])):
      (tmp_path / modality).mkdir(exist_ok=True)
      if modality == "scene" or i not in LOST:
        np.save(tmp_path / modality / f"{name}.npy", values)
  (tmp_path / "audio" / "clip 3.npy").write_bytes(b"no array")
  return tmp_path


def write_npz(path, arrays, **more):
  y, split, *_ = arrays
  np.savez(path, y=y, split=split, **more)
  return path


def write_csv(path, arrays, **more):
  y, split, *_ = arrays
  frame = pd.DataFrame({"clip": IDS, "split": split, "mood": np.array(["sad", "glad"])[y], **more})
  frame.to_csv(path, index=False)
  return path


def load_all(folder, arrays, **options):
  """The same rows by an npz file without inputs, and by a table."""
  npz = write_npz(folder / "own.npz", arrays, id=np.array(IDS))
  table = write_csv(folder / "own.csv", arrays)
  features = "audio=audio,scene=scene"
  yield data.load(npz, features=features, **options)
  yield data.load(table, label="mood", features=features, columns="clip=id", **options)


@pytest.mark.parametrize("stream", [False, True])
def test_they_give_the_rows_of_a_file_with_the_arrays(folder, arrays, stream, monkeypatch, caplog):
  monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
  padded = np.stack([np.pad(x, [(0, 6 - len(x)), (0, 0)]) for x in arrays[3]])
  present = ~np.isin(np.arange(COUNT), LOST)
  inputs = {"x_audio": padded, "length_audio": [len(x) for x in arrays[3]], "x_scene": arrays[2]}
  by_hand = data.load(write_npz(folder / "hand.npz", arrays, present_audio=present, **inputs))
  for found in load_all(folder, arrays, stream=stream):
    assert found.spec.names == ("audio", "scene")
    lines = " ".join(found.notes)
    assert "audio: 3 numbers a step, padded to the longest train row, of the files <id>" in lines
    for name in ("train", "valid", "test"):
      ours, theirs = found.split(name), by_hand.split(name)
      np.testing.assert_array_equal(ours.recorded, theirs.recorded)
      np.testing.assert_array_equal(ours.length["audio"], theirs.length["audio"])
      for m in ("audio", "scene"):
        read = ours.inputs[m][np.arange(len(ours.id))]
        np.testing.assert_allclose(read, theirs.inputs[m], 1e-5, 1e-6)
  assert "'train', audio: 1 of 20 files are missing or cannot be read, as clip 21" in caplog.text


def test_new_rows_find_their_files_by_id(folder, arrays, tmp_path_factory):
  other = tmp_path_factory.mktemp("other")
  (folder / "audio").rename(other / "audio")
  (folder / "scene").rename(other / "scene")
  (folder / "audio").symlink_to(other / "audio")
  (folder / "scene").symlink_to(other / "scene")
  for found in load_all(folder, arrays):
    fitted = preprocessing.from_json(found.preprocessing.to_json())
    rows = pd.DataFrame({"clip": ["clip 7", "clip 21"], "id": ["clip 7", "clip 21"]})
    files = FileOptions(str(other), allow_missing=True)
    (new,) = new_rows.read_new_rows(rows, fitted, file_options=files)
    assert new.rows.recorded.tolist() == [[True, True], [False, True]]
    np.testing.assert_array_equal(new.rows.inputs["audio"][0], arrays[3][7])
    marked = rows.assign(present_audio=[False, True])
    (absent,) = new_rows.read_new_rows(marked, fitted, file_options=files)
    assert absent.rows.recorded.tolist() == [[False, True], [False, True]]
    split, _ = fitted.clean(new.rows)
    assert split.length["audio"].tolist() == [2, 0]
    refused = "the new rows, audio: 2 of 3 files are missing.*allow_missing_files"
    with pytest.raises(ValueError, match=refused):
      many = rows.iloc[[0, 1, 1]]
      list(new_rows.read_new_rows(many, fitted, file_options=FileOptions(str(other))))


@pytest.mark.parametrize(
  ("features", "words"),
  [
    ("audio=nowhere", "features, audio: expected are files <id>.npy.*there is none"),
    ("x=audio", "features has 'x', expected is a name.*they have x"),
    ("sound=empty", "own.npz, split 'train', sound: 19 of 20 files.*clip 1.npy; more than 20%"),
    ("sound=cubes", r"features, sound: expected .*clip 0.npy has the shape \(2, 2, 2\)"),
  ],
)
def test_what_does_not_fit_is_refused(features, words, folder, arrays):
  for name, values in (("empty", np.ones(2)), ("cubes", np.ones((2, 2, 2)))):
    (folder / name).mkdir()
    np.save(folder / name / "clip 0.npy", values)
  path = write_npz(folder / "own.npz", arrays, id=np.array(IDS), x_x=arrays[2])
  with pytest.raises(ValueError, match=words):
    data.load(path, features=features).split("train")


def test_ids_that_repeat_or_lead_out_of_the_folder_are_refused(folder, arrays):
  for bad, words in (("clip 0", "id, row 1: found 'clip 0'"), ("../own", "own.npy' lies outside")):
    ids = np.array([IDS[0], bad, *IDS[2:]])
    path = write_npz(folder / "own.npz", arrays, id=ids, x_x=arrays[2])
    with pytest.raises(ValueError, match=words):
      data.load(path, features="audio=audio").split("train")
