"""A data set whose modalities are encoded: 300 rows in groups of two, ids 7 apart."""

import numpy as np

N = 300
SPLIT = np.array(["train"] * 150 + ["valid"] * 100 + ["test"] * 50)
SPLITS = ("train", "valid", "test")
ORDER = np.random.default_rng(3).permutation(N)  # splits are mixed in the file
CLASSES = ("p", "q", "r")


def make(**changed):
  """A photo, a vector and a sequence, each absent somewhere."""
  rng = np.random.default_rng(0)
  arrays = {
    "x_photo": rng.integers(0, 256, (N, 4, 3), dtype=np.uint8),
    "x_v": rng.normal(3, 5, (N, 2)).astype(np.float32),
    "x_s": rng.normal(2, 1, (N, 5, 3)).astype(np.float32),
    "present_photo": np.arange(N) % 4 > 0,
    "length_s": np.arange(N) % 6,  # 0: absent
    "y": np.arange(N) // 2 % 3,
    "classes": np.array(CLASSES),
    "split": SPLIT,
    "id": 7 * np.arange(N) + 5,
    "group": np.arange(N) // 2,
  }
  return {k: v if k == "classes" else v[ORDER] for k, v in (arrays | changed).items()}


def rows_of(split):
  """The rows of `make()` that are in `split`, in the order of the file."""
  return ORDER[SPLIT[ORDER] == split]


def standard(values, train):
  """`values` by mean and standard deviation of `train`, over all axes but the last."""
  flat = train.reshape(-1, train.shape[-1]).astype(np.float64)
  return (values - flat.mean(0)) / flat.std(0)
