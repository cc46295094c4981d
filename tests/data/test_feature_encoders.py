"""Encoders: folders of features, and one sentence for what is none or gives no features."""

import numpy as np
import pytest
from encoded_rows import SPLITS, N, rows_of, standard

from promise_jax import data
from promise_jax.data.features import FeatureEncoder
from promise_jax.types import Modality


def as_function(function):
  return {"photo": FeatureEncoder(function, "1")}


@pytest.mark.parametrize(
  ("given", "sentence"),
  [
    ({"sound": "a:b"}, "a modality in encoders is 'sound', known are photo, v, s"),
    ({"photo": len}, r"encoders.photo is .*cannot be hashed, FeatureEncoder\(function, version="),
    ({"photo": 3}, "encoders.photo is '3': an encoder is a pretrained network, a folder, "),
    ({"photo": FeatureEncoder(len, "")}, "encoders.photo is .* an encoder is a pretrained"),
    ({"photo": FeatureEncoder("a", "b")}, "an encoder is a pretrained"),
    ({"photo": "nowhere/at/all"}, "this is no package.module:name, and there is no file nowh"),
    ({"photo": "nowhere_at_all:f"}, "no source file of the module nowhere_at_all on Python's"),
    ({"photo": "nowhere_at.all:f"}, "No module named 'nowhere_at'"),
    ({"photo": "sys:exit"}, "no source file of the module sys on"),
    ({"photo": "colorsys:nothing"}, "module 'colorsys' has no attribute 'nothing'"),
    (
      as_function(lambda x: x[:, 0, 0, 0]),
      r"is '<lambda>, version 1': the features are uint8 of shape \(112,\), expected: f\[112, D\]",
    ),
    (as_function(lambda x: x[:5, 0, 0]), r"shape \(5, 1\), expected: f\[112, D\]"),
    (as_function(lambda x: np.array(["a"])), r"features are <U1 of shape \(1,\), expected"),
    (as_function(lambda x: np.ones((len(x), 2)) * np.inf), "the features have NaN or inf"),
    (as_function(lambda x: np.ones((len(x), len(x)))), r"rows have different \(axes, D\)"),
    (
      as_function(lambda x: (x[..., 0], np.full(len(x), 5))),
      "length, row 0: found 5, expected: 1 to 4",
    ),
    (as_function(lambda x: (x[..., 0], np.ones(3))), r"lengths are float64 of shape \(3,\)"),
  ],
)
def test_a_bad_encoder_is_one_sentence(encoded_npz, feature_cache, given, sentence):
  with pytest.raises(ValueError, match=sentence) as found:
    data.load(encoded_npz, encoders=given)
  assert "\n" not in str(found.value)
  assert "different" in sentence or not feature_cache.exists()  # nothing half made


def test_a_bad_folder_is_one_sentence(encoded_npz, tmp_path):
  folder = tmp_path / "features"
  folder.mkdir()
  for r in range(N):
    np.save(folder / f"{7 * r + 5}.npy", np.ones((2, 3)))

  def refused(sentence, path, value):
    kept = path.read_bytes()
    path.unlink()
    if isinstance(value, bytes):
      path.write_bytes(value)
    elif value is not None:
      np.save(path, value)
    with pytest.raises(ValueError, match=sentence):
      data.load(encoded_npz, encoders={"photo": folder})
    path.write_bytes(kept)

  some = folder / f"{7 * 149 + 5}.npy"  # a train row
  refused(f"is '{folder}': .* there is no file {some}", some, None)
  refused("1048.npy cannot be used, ", some, b"nothing")
  refused("all have one D, and all T or none", some, np.ones(3))
  refused("all have one D", some, np.ones((2, 4)))
  refused(r"1048.npy .* float64 of shape \(1, 0, 3\)", some, np.ones((0, 3)))
  refused("1048.npy .* NaN or inf", some, np.full((2, 3), np.nan))


def test_a_folder_of_features_is_used_and_its_contents_count(encoded_npz, tmp_path, feature_cache):
  folder, rng = tmp_path / "features", np.random.default_rng(1)
  folder.mkdir()
  rows = {r: rng.normal(size=(r % 3 + 1, 2)) for r in range(N) if r % 4}
  for r, value in rows.items():
    np.save(folder / f"{7 * r + 5}.npy", value)
  (folder / "5.npy").write_text("row 0 is absent, so this is not read")
  found = data.load(encoded_npz, encoders={"photo": folder})
  assert f"of the folder {folder}, 225 rows computed" in found.notes[0]
  assert found.spec.modalities[0] == Modality("photo", "sequence", (3, 2))
  train = np.concatenate([rows[r] for r in rows_of("train") if r % 4])
  for split in SPLITS:
    part = found.split(split)
    for i, r in enumerate(rows_of(split)):
      steps = r % 3 + 1 if r % 4 else 0
      assert part.length["photo"][i] == steps
      assert part.recorded[i, 0] == (r % 4 > 0)
      assert not part.inputs["photo"][i, steps:].any()
      if steps:
        expected = standard(rows[r], train)
        np.testing.assert_allclose(part.inputs["photo"][i, :steps], expected, rtol=1e-4, atol=1e-5)
  assert "read from" in data.load(encoded_npz, encoders={"photo": str(folder)}).notes[0]
  np.save(folder / "12.npy", rows[1] + 1)
  assert "computed" in data.load(encoded_npz, encoders={"photo": folder}).notes[0]
  assert len(list(feature_cache.iterdir())) == 4  # of three splits, and of the one that changed
  for r in rows:
    np.save(folder / f"{7 * r + 5}.npy", rows[r][0])
  flat = data.load(encoded_npz, encoders={"photo": folder})
  assert flat.spec.modalities[0] == Modality("photo", "vector", (2,))
