"""Fashion-MNIST as four quarters of a picture, a tfds builder.

70,000 pictures of clothes, 28 x 28 grey pixels, 10 classes; the modalities are the quarters
top_left, top_right, bottom_left and bottom_right, 14 x 14 each. The files are not ours to
pass on; Debian and Ubuntu have them,

  apt-get install dataset-fashion-mnist

elsewhere put the four *-ubyte.gz files of https://github.com/zalandoresearch/fashion-mnist
into downloads/manual/fashion_mnist in the data folder. `load("fashion_quadrants")` prepares
them once. In the order of the files, the first 50,000 of the 60,000 training pictures are
train, the rest valid; ids count through train-* and t10k-*.
"""

import gzip
import hashlib
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from promise_jax.data.builtin import builders
from promise_jax.data.source import name_file_in_errors

SYSTEM_FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
MANUAL_FOLDER = "downloads/manual/fashion_mnist"
NAMES = (
  *("t-shirt or top", "trouser", "pullover", "dress", "coat"),
  *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
QUARTERS = {
  "top_left": (slice(0, 14), slice(0, 14)),
  "top_right": (slice(0, 14), slice(14, 28)),
  "bottom_left": (slice(14, 28), slice(0, 14)),
  "bottom_right": (slice(14, 28), slice(14, 28)),
}
SHA256 = {  # of the unpacked content after the header
  ("train", "images-idx3"): "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
  ("train", "labels-idx1"): "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
  ("t10k", "images-idx3"): "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
  ("t10k", "labels-idx1"): "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
}


class FashionQuadrants(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Four quarters of 70,000 pictures of clothes."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self) -> tfds.core.DatasetInfo:
    return builders.describe(
      self,
      inputs={name: tfds.features.Tensor(shape=(14, 14, 1), dtype=np.uint8) for name in QUARTERS},
      label=tfds.features.ClassLabel(names=list(NAMES)),
      description="Fashion-MNIST (Zalando, MIT licence), quarters of each picture.",
    )

  def _split_generators(self, dl_manager):
    folder = find_files(pathlib.Path(self.data_dir_root))
    train, test = read_images(folder, "train"), read_images(folder, "t10k")
    return {
      "train": self._generate_examples(*train, range(0, 50_000), 0),
      "valid": self._generate_examples(*train, range(50_000, 60_000), 0),
      "test": self._generate_examples(*test, range(0, 10_000), 60_000),
    }

  def _generate_examples(self, images, labels, rows, start):
    for i in rows:
      inputs = {name: images[i][at][..., None] for name, at in QUARTERS.items()}
      yield start + i, {"inputs": inputs, "label": int(labels[i]), "id": start + i}


def find_files(root: pathlib.Path) -> pathlib.Path:
  """The folder of the four files: the manual one, else the system's."""
  for folder in (root / MANUAL_FOLDER, SYSTEM_FOLDER):
    if folder.is_dir():
      return folder
  raise ValueError(
    f"Fashion-MNIST is neither in {SYSTEM_FOLDER} (apt-get install dataset-fashion-mnist) nor "
    f"in {root / MANUAL_FOLDER}."
  )


def read_images(folder: pathlib.Path, part: str) -> tuple[np.ndarray, np.ndarray]:
  """(images u8[N, 28, 28], labels u8[N]) of the files of `part`, checked by their SHA-256."""
  arrays = []
  for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
    path = folder / f"{part}-{kind}-ubyte.gz"
    with name_file_in_errors(path, "a file of Fashion-MNIST"):
      content = gzip.decompress(path.read_bytes())[header:]
    digest = hashlib.sha256(content).hexdigest()
    if digest != (expected := SHA256[part, kind]):
      raise ValueError(f"{path}: its content has the SHA-256 {digest}, expected is {expected}.")
    arrays.append(np.frombuffer(content, np.uint8))
  images, labels = arrays
  return images.reshape(-1, 28, 28), labels


BUILTIN = {"fashion_quadrants": (FashionQuadrants, None)}
