"""A model of pretrained features reads photos, as long as the weights are there."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

import promise_jax
from data.pretrained import test_clip
from inference import saved_runs
from promise_jax import data
from promise_jax.data import pretrained


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
  expected = plain.predict_proba(rows | {"photo": features}).to_numpy()
  np.testing.assert_allclose(found, expected, atol=1e-4)
  shutil.rmtree(weights)
  pretrained.find_encoder.cache_clear()
  with pytest.raises(ValueError, match="photo is read by the encoder 'clip:.*no folder or file"):
    predictor.predict_proba(rows)
