"""Fashion-MNIST in quarters: where its files are found, and that they are the known ones."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

import tiny_runs
from promise_jax.data.builtin import fashion


def test_the_files_are_found_checked_and_cut_in_quarters(tmp_path, monkeypatch):
  rng = np.random.default_rng(0)
  images, labels = rng.integers(0, 256, (3, 28, 28), np.uint8), np.arange(3, dtype="u1")
  manual = tmp_path / fashion.MANUAL_FOLDER
  monkeypatch.setattr(fashion, "SYSTEM_FOLDER", tmp_path / "none")
  with pytest.raises(ValueError, match="neither in .*apt-get install dataset-fashion"):
    fashion.find_files(tmp_path)
  manual.mkdir(parents=True)
  assert fashion.find_files(tmp_path) == manual
  with pytest.raises(ValueError, match="t10k-images-idx3-ubyte.gz: No such file"):
    fashion.read_images(manual, "t10k")
  for kind, header, x in (("images-idx3", 16, images), ("labels-idx1", 8, labels)):
    content = gzip.compress(bytes(header) + x.tobytes())
    (manual / f"t10k-{kind}-ubyte.gz").write_bytes(content)
  with pytest.raises(ValueError, match="images-idx3.* has the SHA-256 .*, expected is"):
    fashion.read_images(manual, "t10k")
  for kind, x in (("images-idx3", images), ("labels-idx1", labels)):
    digest = hashlib.sha256(x.tobytes()).hexdigest()
    monkeypatch.setitem(fashion.SHA256, ("t10k", kind), digest)
  found, known = fashion.read_images(manual, "t10k")
  assert tiny_runs.is_same((found, known), (images, labels))
  picture = np.zeros((28, 28), np.uint8)
  for at in fashion.QUARTERS.values():
    picture[at] += found[1][at]
  np.testing.assert_array_equal(picture, images[1])


@pytest.mark.skipif(
  not Path("/usr/share/datasets/fashion-mnist").is_dir(),
  reason="apt-get install dataset-fashion-mnist",
)
def test_the_packaged_files_have_the_known_digests():
  images, labels = fashion.read_images(fashion.SYSTEM_FOLDER, "t10k")
  assert images.shape == (10_000, 28, 28)
  assert np.bincount(labels).tolist() == [1000] * 10
