"""Images whose channels come first are the same images with channels last."""

import numpy as np
import pytest
from npz_files import N, plain

from promise_jax import data
from promise_jax.data import dataset, new_rows
from promise_jax.data.readers import records
from promise_jax.types import Modality, Task

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_channels_first_is_read_as_channels_last(
  save_npz, channels, floats, stream, monkeypatch, tmp_path
):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  photo = RNG.integers(0, 256, (N, 5, 4, channels), dtype=np.uint8)
  turned = np.ascontiguousarray(np.moveaxis(photo, 3, 1))
  found = data.load(save_npz(plain(x_photo=turned / 255 if floats else turned)), stream=stream)
  assert found.spec.modalities[-1] == Modality("photo", "image", (5, 4, channels))
  assert "channels come first" in found.guesses["photo"]
  for split, rows in (("train", slice(0, 6)), ("test", slice(9, N))):
    np.testing.assert_array_equal(found.split(split).inputs["photo"][:], photo[rows])
  for new in (photo, turned, list(turned)):
    ((rows, _, _),) = new_rows.read_new_rows({"photo": new}, found.preprocessing)
    cleaned, _ = found.preprocessing.clean(rows)
    np.testing.assert_array_equal(cleaned.inputs["photo"], photo)


def test_what_has_channels_behind_stays(save_npz):
  for shape in ((3, 5, 3), (1, 6, 1), (5, 3, 4)):
    found = data.load(save_npz(plain(x_photo=np.zeros((N, *shape), np.uint8))))
    assert found.spec.modalities[-1].shape == shape and "photo" not in found.guesses


def test_records_with_channels_first():
  photo = RNG.integers(0, 256, (N, 5, 4, 3), dtype=np.uint8)
  rows = [
    {"inputs": {"photo": np.moveaxis(x, 2, 0)}, "label": i % 2, "id": i}
    for i, x in enumerate(photo)
  ]
  photos = Modality("photo", "image", (3, 5, 4))
  source = records.source("photos", {"train": rows}, [photos], Task("classes", 2))
  found = dataset.assemble(source)
  assert found.spec.modalities == (Modality("photo", "image", (5, 4, 3)),)
  np.testing.assert_array_equal(found.split("train").inputs["photo"], photo)
