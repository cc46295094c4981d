"""The arrays of a good npz file, to be changed."""

import numpy as np

N = 12
SPLIT = np.array(["train"] * 6 + ["valid"] * 3 + ["test"] * 3)


def plain(**changed):
  """A vector, a sequence and 3 classes in 12 rows; None drops an array."""
  rng = np.random.default_rng(0)
  good = {
    "x_v": rng.normal(size=(N, 2)).astype(np.float32),
    "x_s": rng.normal(size=(N, 4, 3)).astype(np.float32),
    "y": np.arange(N) % 3,
    "split": SPLIT,
  }
  return {k: v for k, v in (good | changed).items() if v is not None}


def with_value(values, index, value):
  """A copy with other values at `index`."""
  values = np.array(values)
  values[index] = value
  return values
