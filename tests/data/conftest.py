"""Files that the tests of readers are about, and prepared data sets."""

import encoded_rows
import numpy as np
import pytest
from PIL import Image

from promise_jax import data


@pytest.fixture
def save_npz(tmp_path):
  """Writes arrays into own.npz and returns its path."""

  def write(arrays):
    np.savez(tmp_path / "own.npz", **arrays)
    return tmp_path / "own.npz"

  return write


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
  """Where data sets are prepared, once for all tests."""
  return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="session")
def mfeat(data_dir):
  return data.load("mfeat", data_dir=data_dir)


@pytest.fixture(scope="session")
def emoji(data_dir):
  return data.load("emoji", data_dir=data_dir)


@pytest.fixture(scope="session")
def watch(data_dir):
  return [data.load("watch", data_dir=data_dir, fold=fold) for fold in (0, 1)]


@pytest.fixture
def feature_cache(tmp_path, monkeypatch):
  """The folder of the features, the only cache that a test sees."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "promise_jax" / "features"


@pytest.fixture
def encoded_npz(save_npz, feature_cache):
  """The data set of `encoded_rows` as an npz file, with an empty cache."""
  return save_npz(encoded_rows.make())


@pytest.fixture
def photos(tmp_path, monkeypatch):
  """A folder with photos/0.png to photos/2.png, and an empty cache."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  (tmp_path / "photos").mkdir()
  for i in range(3):
    Image.new("RGB", (5 + i, 4), "red").save(tmp_path / f"photos/{i}.png")
  return tmp_path
