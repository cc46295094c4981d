"""A model of pretrained features reads photos, as long as the weights are there."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
from PIL import Image

import promise_jax
from data.pretrained import test_clip
from inference import saved_runs
from promise_jax import data
from promise_jax.cli import main
from promise_jax.data import pretrained

ENCODERS = """
import numpy as np
def brightness(images):
  return images.reshape(len(images), -1, 3).mean(axis=1) / 100
def letters(texts):
  return np.array([[text.count("a"), len(text)] for text in texts])
"""


@pytest.fixture
def clips(tmp_path, monkeypatch):
  """The path of a table of photos, titles, prices and, in a folder, features by id."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "clip_encoders.py").write_text(ENCODERS)
  folder, rng, rows = tmp_path / "clips", np.random.default_rng(0), []
  for name in ("photos", "audio"):
    (folder / name).mkdir(parents=True)
  for i in range(60):
    photo = f"photos/{i}.png" if i % 4 else ""
    if photo:
      Image.fromarray(rng.integers(0, 255, (5, 7, 3), np.uint8)).save(folder / photo)
    if i % 5:
      np.save(folder / f"audio/clip {i}.npy", rng.normal(size=(i % 3 + 1, 2)))
    title = f"{'a' * (i % 4)} title {i}" if i % 6 else ""
    row = {"id": f"clip {i}", "photo": photo, "title": title, "price": round(rng.random(), 3)}
    rows.append(row | {"mood": "xyz"[i % 3]})
  pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
  return folder / "clips.csv"


def test_the_commands_read_a_table_with_encoders_and_folders(clips, tmp_path, caplog):
  encoders = {"photo": "clip_encoders:brightness", "text": "clip_encoders:letters"}
  dataset = data.load(clips, label="mood", encoders=encoders, features="audio=audio")
  assert dataset.spec.names == ("photo", "text", "attributes", "audio")
  saved_runs.save_model(tmp_path / "run", dataset)
  test, ids = dataset.split("test"), dataset.keys["test"].tolist()
  predictor = promise_jax.load(tmp_path / "run")
  logits = predictor.run(test, test.recorded)["logits"]
  expected = predictor.calibrate(logits, test.recorded)
  new = shutil.copytree(clips.parent, tmp_path / "new") / "rows.csv"
  rows = pd.read_csv(clips).set_index("id").loc[ids].reset_index().drop(columns="mood")
  rows.to_csv(new, index=False)

  def predict(model, path):
    out = tmp_path / "out.csv"
    words = ["predict", str(model), str(path), "--out", str(out), "--allow-missing-files"]
    assert main.main(words) == 0
    found = pd.read_csv(out)
    assert found["id"].tolist() == ids
    np.testing.assert_allclose(found[["p_x", "p_y", "p_z"]], expected, atol=1e-5)

  predict(tmp_path / "run", new)
  # An export reads the features in place of what the encoders read.
  assert main.main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "export")]) == 0
  given = rows.drop(columns=["photo", "title"])
  for i, name in enumerate(("photo", "text")):
    mean, deviation = dataset.spec.standardise[name]
    raw = test.inputs[name] * deviation + mean
    cells = zip(raw.tolist(), test.recorded[:, i], strict=True)
    given[name] = [json.dumps(x) if here else None for x, here in cells]
  given.to_csv(new, index=False)
  caplog.clear()
  predict(tmp_path / "export", new)
  assert "not read" not in caplog.text and "no row has" not in caplog.text


def test_new_rows_pass_through_the_encoder_of_the_run(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  weights, arrays = tmp_path / "weights", saved_runs.make_arrays()
  weights.mkdir()
  safetensors.numpy.save_file(test_clip.make_arrays(), weights / "model.safetensors")
  (weights / "config.json").write_text(json.dumps(test_clip.CONFIG))
  np.savez(tmp_path / "own.npz", **arrays)
  encoders = {"photo": f"clip:{weights}"}
  dataset = data.load(tmp_path / "own.npz", modalities="photo+v", encoders=encoders)
  saved_runs.save_model(tmp_path / "run", dataset)
  predictor = promise_jax.load(tmp_path / "run")
  rows = saved_runs.of_split(arrays, "test")
  found = predictor.predict_proba(rows).to_numpy()
  # The same rows with the features, which is what an export reads.
  cached = dataset.split("test")
  mean, deviation = dataset.spec.standardise["photo"]
  features = cached.inputs["photo"] * deviation + mean
  plain = promise_jax.load(tmp_path / "run")
  object.__setattr__(plain.preprocessing, "encoded", {})
  expected = plain.predict_proba(rows | {"x_photo": features}).to_numpy()
  np.testing.assert_allclose(found, expected, atol=1e-4)
  shutil.rmtree(weights)
  pretrained.find_encoder.cache_clear()
  with pytest.raises(ValueError, match="photo is read by the encoder 'clip:.*no folder or file"):
    predictor.predict_proba(rows)
