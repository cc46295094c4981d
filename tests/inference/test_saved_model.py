"""RUN/model/: models there and back, and what is refused."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import example_batches
import promise_jax
import tiny_runs
from promise_jax import methods
from promise_jax.inference import saved_model
from promise_jax.methods.constant import CONSTANT_VARIANT
from promise_jax.types import Modality
from saved_models import make_arrays, make_model

SPEC = example_batches.spec()._replace(
  standardise={"a": (np.float32([0.1, 1 / 3, 1e-20, 5]), np.float32([1, 2, 1e20, 7]))}
)


def write_fusion(folder) -> saved_model.SavedModel:
  """A model of `fusion` and the constant predictor; returns it as it is read."""
  settings = tiny_runs.VALUES["fusion"]
  model = make_model(SPEC, ("fusion", settings), (CONSTANT_VARIANT, {}))
  arrays = {
    "fusion": make_arrays(methods.build_method("fusion", settings, SPEC)),
    CONSTANT_VARIANT: ({"logits": np.float32([[1, 2, 3], [4, 5, 6]])}, {}),
  }
  saved_model.write_model(folder, model, arrays)
  return saved_model.read_model(folder)


@pytest.mark.usefixtures("compile_once")
@pytest.mark.parametrize(
  ("name", "precision"), [*((name, "float32") for name in methods.METHODS), ("fusion", "bfloat16")]
)
def test_every_method_predicts_the_same_bits_after_a_round_trip(name, precision, tmp_path):
  method = methods.build_method(name, tiny_runs.VALUES[name], SPEC)
  arrays = make_arrays(method)
  model = make_model(SPEC, (name, tiny_runs.VALUES[name]), precision=precision)
  saved_model.write_model(tmp_path / "model", model, {name: arrays})
  read = saved_model.read_model(tmp_path / "model")
  found, *loaded = saved_model.load_variant(tmp_path / "model", read, name)
  assert tiny_runs.is_same(tuple(loaded), arrays)
  assert jax.tree.structure(tuple(loaded)) == jax.tree.structure(tuple(arrays))
  inputs = example_batches.to_inputs(example_batches.mixed_batch(SPEC))
  first = lambda tree: jax.tree.map(lambda x: x[0], tree)
  before = jax.jit(method.predict)(*map(first, arrays), inputs)["logits"]
  after = jax.jit(found.predict)(*map(first, loaded), inputs)["logits"]
  assert np.isfinite(after).all()
  assert tiny_runs.is_same(after, before) == (precision == "float32")


def test_the_description_is_read_as_it_was_written(tmp_path):
  found = write_fusion(tmp_path)
  assert found.version == promise_jax.__version__
  assert (found.seeds, found.best) == ((0, 1), "fusion")
  assert found.prior.tobytes() == np.float32([0, -1 / 6, -1 / 3]).tobytes()
  assert tiny_runs.is_same(found.spec.standardise, SPEC.standardise)
  for scale in found.preprocessing.scale.values():
    assert (scale.low < -1e37).all() and (scale.high > 1e37).all()
  assert found.preprocessing.modalities == SPEC.modalities
  assert found.spec._replace(standardise={}) == SPEC._replace(standardise={})
  assert [v.settings for v in found.variants] == [tiny_runs.VALUES["fusion"], {}]
  method, params, model_state = saved_model.load_variant(tmp_path, found, CONSTANT_VARIANT)
  assert method is None and model_state == {}
  assert params["logits"].tolist() == [[1, 2, 3], [4, 5, 6]]
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    *("fusion.safetensors", "majority.safetensors", "model.json")
  ]


def test_a_model_is_whole_or_not_there(tmp_path, monkeypatch):
  """Also one that is written over another."""
  write_fusion(tmp_path)

  def fail(path, content):
    raise OSError("disk full")

  monkeypatch.setattr(saved_model.files, "write_bytes", fail)
  with pytest.raises(OSError, match="disk full"):
    write_fusion(tmp_path)
  with pytest.raises(ValueError, match="has no model.json"):
    saved_model.read_model(tmp_path)


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("{", "cannot be read"),
    ("[1, 2]", "cannot be read"),
    ("[" * 100_000, "cannot be read"),
    ("\x00\xff", "cannot be read"),
    ('{"version": "9.9"}', "KeyError.*made by version 9.9, this is"),
    ({"new_field": 1, "version": "9.9"}, "new_field.*made by version 9.9, this is"),
    ({"variants": [{"name": "a"}]}, "missing 4 required.*made by version"),
    ('{"sha256": "0", "version": "0.3.0"}', "it is damaged or was changed: its SHA-256"),
  ],
)
def test_a_description_of_something_else_is_refused(text, sentence, tmp_path):
  write_fusion(tmp_path)
  path = tmp_path / "model.json"
  if isinstance(text, dict):
    value = json.loads(path.read_text()) | text
    value.pop("sha256")
    text = json.dumps(saved_model.seal(value))
  path.write_text(text, encoding="latin-1")
  with pytest.raises(ValueError, match=sentence):
    saved_model.read_model(tmp_path)


@pytest.mark.parametrize("change", ["cut", "flip"])
def test_arrays_that_are_damaged_are_refused(change, tmp_path):
  model, path = write_fusion(tmp_path), tmp_path / "fusion.safetensors"
  content = bytearray(path.read_bytes())
  content[-1] ^= 1  # the last bit of a number
  path.write_bytes(content if change == "flip" else content[:100])
  with pytest.raises(ValueError, match="fusion.safetensors cannot be read: its SHA-256"):
    saved_model.load_variant(tmp_path, model, "fusion")


def test_arrays_that_are_gone_and_names_that_are_unknown_are_refused(tmp_path):
  model = write_fusion(tmp_path)
  with pytest.raises(ValueError, match="variant is 'distil', known are fusion, majority"):
    saved_model.load_variant(tmp_path, model, "distil")
  (tmp_path / "fusion.safetensors").unlink()
  with pytest.raises(ValueError, match="fusion.safetensors cannot be read"):
    saved_model.load_variant(tmp_path, model, "fusion")


def test_arrays_that_do_not_fit_the_method_are_refused(tmp_path):
  """Another width, seeds that are not there, another method, settings of another version."""
  model = write_fusion(tmp_path)
  (fusion, constant), version = model.variants, rf"made by version 0.1, this is {model.version}"

  def refuse(sentence, **changed):
    with pytest.raises(ValueError, match=f"{sentence}.*{version}"):
      other = dataclasses.replace(model, version="0.1", **changed)
      saved_model.load_variant(tmp_path, other, "fusion")

  wide = (Modality("a", "vector", (9,)), *SPEC.modalities[1:])
  expected = r"is float32\[2, 4, 8\], float32\[2, 9, 8\] is needed"
  refuse(expected, spec=SPEC._replace(modalities=wide))
  refuse(r"is float32\[2, .* is needed", seeds=(0, 1, 2))
  unknown = dataclasses.replace(fusion, settings=fusion.settings | {"colour": "red"})
  refuse("fusion.colour is not a setting", variants=(unknown, constant))
  another = dataclasses.replace(fusion, method="redcore", settings=tiny_runs.VALUES["redcore"])
  refuse("is missing", variants=(another, constant))
  shutil.copy(tmp_path / "fusion.safetensors", tmp_path / "majority.safetensors")
  with pytest.raises(ValueError, match="majority.safetensors cannot be read: its SHA-256"):
    saved_model.load_variant(tmp_path, model, CONSTANT_VARIANT)
