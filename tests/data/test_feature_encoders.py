"""Encoders: one sentence for what is none or gives no features."""

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data.features import FeatureEncoder


def as_function(function):
  return {"photo": FeatureEncoder(function, "1")}


@pytest.mark.parametrize(
  ("given", "sentence"),
  [
    ({"sound": "a:b"}, "a modality in encoders is 'sound', known are photo, v, s"),
    ({"photo": len}, r"encoders.photo is .*cannot be hashed, FeatureEncoder\(function, version="),
    ({"photo": 3}, "encoders.photo is '3': an encoder is a pretrained network .bert, "),
    ({"photo": FeatureEncoder(len, "")}, "encoders.photo is .* an encoder is a pretrained"),
    ({"photo": FeatureEncoder("a", "b")}, "an encoder is a pretrained"),
    ({"photo": "nowhere/at/all"}, "a folder of files <id>.npy is given by the option features"),
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
