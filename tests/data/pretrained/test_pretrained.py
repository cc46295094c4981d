"""Encoders by name: where weights are looked for, what is refused, new rows and the cache."""

import importlib.metadata
import json
import pathlib
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import test_clip
from test_new_rows import read_all

from promise_jax import data
from promise_jax.data import describe, pretrained
from promise_jax.data.features import FeatureEncoder
from promise_jax.data.pretrained import weights
from promise_jax.types import Modality

WORDS = ["red", "blue", "hat", "shoe"]


@pytest.fixture
def arrays(save_npz, feature_cache):
  """A photo and a text, of which some are absent."""
  rng = np.random.default_rng(0)
  arrays = {
    "x_photo": rng.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8),
    "x_text": np.array([f"{WORDS[i % 4]} {WORDS[i % 3]}" if i % 5 else "" for i in range(30)]),
    "y": np.arange(30) % 3,
    "split": np.repeat(["train", "valid", "test"], 10),
  }
  save_npz(arrays)
  return arrays


def test_texts_themselves_are_shown(arrays, tmp_path):
  seen = []

  def encode(texts):
    seen.append(texts)
    return np.array([[len(text), len(text.split())] for text in texts])

  found = data.load(tmp_path / "own.npz", encoders={"text": FeatureEncoder(encode, "1")})
  assert seen[0] == [t for t in arrays["x_text"][:10].tolist() if t]
  assert found.spec.modalities[1] == Modality("text", "vector", (2,))
  assert found.split("train").recorded[:, 1].tolist() == [bool(i % 5) for i in range(10)]
  assert found.preprocessing.texts == ("text",)
  lines = describe.describe_data(found, {split: found.split(split) for split in found.splits})
  assert any(line.split()[:4] == ["text", "vector", "2", "numbers"] for line in lines)
  assert "hashed" not in "".join(lines)
  csv = "note,y\n" + "".join(f"{t},{i % 2}\n" for i, t in enumerate(arrays["x_text"])) * 2
  (tmp_path / "own.csv").write_text(csv)
  encoders = {"text": FeatureEncoder(encode, "1")}
  data.load(tmp_path / "own.csv", label="y", columns="note=text", encoders=encoders)
  assert {text for texts in seen[3:] for text in texts} == {t for t in arrays["x_text"] if t}


@pytest.fixture
def images(tmp_path):
  """The name of a tiny CLIP of random weights."""
  folder = tmp_path / "weights"
  folder.mkdir()
  safetensors.numpy.save_file(test_clip.make_arrays(), folder / "model.safetensors")
  (folder / "config.json").write_text(json.dumps(test_clip.CONFIG))
  return f"clip:{folder}"


@pytest.fixture(autouse=True)
def nothing_loaded():
  pretrained.find_encoder.cache_clear()


def test_new_rows_are_encoded_by_the_same_weights(arrays, images, tmp_path, feature_cache):
  dataset = data.load(tmp_path / "own.npz", encoders={"photo": images})
  assert dataset.spec.modalities[0] == Modality("photo", "vector", (test_clip.OUT,))
  assert f"features {test_clip.OUT} of {images}, 30 rows computed" in dataset.notes[0]
  entry = dataset.preprocessing.encoded["photo"]
  assert entry.encoder == images and len(entry.sha256) == 64
  test = {name: x[20:] for name, x in arrays.items() if name != "split"}
  (found, *_), *_ = read_all(test, dataset.preprocessing)
  np.testing.assert_allclose(found["photo"], dataset.split("test").inputs["photo"], atol=1e-4)
  path = pathlib.Path(images.partition(":")[2]) / "model.safetensors"
  changed = test_clip.make_arrays()
  changed["visual_projection.weight"] += 1
  safetensors.numpy.save_file(changed, path)
  pretrained.find_encoder.cache_clear()
  with pytest.raises(ValueError, match="photo is read by .*: its weights are others than in train"):
    read_all(test, dataset.preprocessing)
  path.unlink()
  pretrained.find_encoder.cache_clear()
  with pytest.raises(ValueError, match="photo is read by .* fails: .* has no model.safetensors"):
    read_all(test, dataset.preprocessing)


def test_photos_of_a_table_are_decoded_at_the_size_of_the_network(images, photos):
  rows = "".join(f"photos/{i % 3}.png,{i % 2}\n" for i in range(30))
  (photos / "own.csv").write_text("photo,y\n" + rows)
  found = data.load(photos / "own.csv", label="y", encoders={"photo": images})
  assert found.preprocessing.encoded["photo"].raw.shape == (224, 224, 3)
  assert found.split("test").inputs["photo"].shape[1] == test_clip.OUT
  small = data.load(photos / "own.csv", label="y", image_size=8, encoders={"photo": images})
  assert small.preprocessing.encoded["photo"].raw.shape == (8, 8, 3)


def test_token_ids_are_no_texts(arrays, tmp_path):
  (tmp_path / "count.py").write_text("def encode(texts): return [[len(t), 1.0] for t in texts]\n")
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(tmp_path)
    dataset = data.load(tmp_path / "own.npz", encoders={"text": "count:encode"})
    read_all({"text": ["red hat", None]}, dataset.preprocessing)
    with pytest.raises(ValueError, match="text has token ids, expected: texts, which its encoder"):
      read_all({"text": [[3, 4]]}, dataset.preprocessing)


def test_weights_are_found_in_folders_archives_files_and_packages(tmp_path, monkeypatch):
  folder = tmp_path / "one"
  folder.mkdir()
  for name in ("model.safetensors", "config.json"):
    (folder / name).write_bytes(b"{}")
  with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
    archive.writestr("model.safetensors", b"{}")
    archive.writestr("config.json", b"{}")
  assert weights.find(str(folder)) == folder
  assert weights.find(str(folder / "model.safetensors")) == folder
  for place in ("two.zip", "."):
    assert weights.read_json(weights.find(str(tmp_path / place)), "config.json") == {}
  assert weights.hash_files(weights.find(str(tmp_path / "two.zip"))) == weights.hash_files(folder)
  located = importlib.metadata.PackagePath("one/model.safetensors")
  located.dist = type("Dist", (), {"locate_file": lambda self, path: tmp_path / path})()
  monkeypatch.setattr(importlib.metadata, "files", lambda name: [located])
  assert weights.find("a-package") == folder
  (folder / "model.safetensors").unlink()
  with pytest.raises(ValueError, match="one has no model.safetensors and no"):
    weights.find(str(folder))


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("bert", "bert needs the folder or package of its weights, as bert:PATH"),
    ("bert:no-such-package", "no folder or file no-such-package, nor an installed package"),
    ("bert+tokenz:x", "bert\\+ is 'tokenz', known are tokens, bfloat16"),
    ("efficientnet_lite0", "efficientnet_lite0 reads image, this modality is text"),
  ],
)
def test_what_cannot_be_loaded_is_one_sentence(arrays, tmp_path, name, words):
  with pytest.raises(ValueError, match=f"encoders.text is .*: .*{words}") as found:
    data.load(tmp_path / "own.npz", encoders={"text": name})
  assert "\n" not in str(found.value)


def test_a_folder_of_another_layout_is_one_sentence(arrays, tmp_path):
  folder = tmp_path / "other"
  folder.mkdir()
  safetensors.numpy.save_file({"a": np.ones(1)}, folder / "model.safetensors")
  with pytest.raises(ValueError, match="other lacks 'model_type': its layout is not that of bert"):
    data.load(tmp_path / "own.npz", encoders={"text": f"bert:{folder}"})
  (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
  pretrained.find_encoder.cache_clear()
  with pytest.raises(ValueError, match="other lacks .*: its layout is not that of bert"):
    data.load(tmp_path / "own.npz", encoders={"text": f"bert:{folder}"})
