"""Texts and images as pretrained networks read them, some rows at a time.

Rows are filled up so that few shapes are compiled. Texts need the extra `encoders` (tokenizers).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from promise_jax.data.pretrained import weights

BATCH_TEXTS, BATCH_IMAGES = 64, 32
SHORTEST = 16  # tokens that a text is padded to; beyond it to the next power of two


def read_tokenizer(folder: weights.Folder, max_steps: int) -> Any:
  """The tokenizer of a folder, which cuts texts at `max_steps` tokens and does not pad."""
  try:
    import tokenizers
  except ImportError:
    words = "texts are cut into tokens by the package tokenizers: pip install promise-jax[encoders]"
    raise ValueError(words) from None
  tokenizer = tokenizers.Tokenizer.from_str(weights.read(folder, "tokenizer.json").decode())
  tokenizer.no_padding()
  tokenizer.enable_truncation(max_steps)
  return tokenizer


def encode_texts(
  tokenizer: Any, forward: Callable[[Array, Array], Array], texts: Sequence[str], longest: int
) -> np.ndarray | tuple[np.ndarray, Int[np.ndarray, " B"]]:
  """`forward(ids, mask)` of texts: f32[B, D], or (f32[B, T, D], steps i[B]).

  Texts of like length go together, padded to a power of two, at most to the `longest` that the
  network reads.
  """
  every = [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
  steps = np.array([len(ids) for ids in every])
  order, found = np.argsort(steps, kind="stable"), {}
  for start in range(0, len(order), BATCH_TEXTS):
    rows = order[start : start + BATCH_TEXTS]
    width = min(max(SHORTEST, next_power(int(steps[rows].max()))), longest)
    ids = np.zeros((next_power(len(rows)), width), np.int32)
    mask = np.zeros(ids.shape, bool)
    mask[:, 0] = True  # rows that fill the batch see one token, the others their own
    for i, row in enumerate(rows):
      ids[i, : steps[row]], mask[i, : steps[row]] = every[row], True
    found |= dict(zip(rows.tolist(), np.asarray(forward(ids, mask)), strict=False))
  if found[0].ndim == 1:
    return np.stack([found[i] for i in range(len(texts))])
  features = np.zeros((len(texts), steps.max(), found[0].shape[-1]), np.float32)
  for i, row in found.items():
    features[i, : steps[i]] = row[: steps[i]]
  return features, steps


def encode_images(
  forward: Callable[[Array], Array], images: UInt8[np.ndarray, "B ..."]
) -> Float[np.ndarray, "B ..."]:
  """`forward` of images, `BATCH_IMAGES` at a time."""
  images = images if images.shape[-1] == 3 else np.repeat(images[..., :1], 3, axis=-1)
  found = []
  for start in range(0, len(images), BATCH_IMAGES):
    part = images[start : start + BATCH_IMAGES]
    rows = next_power(len(part))
    padded = np.pad(part, ((0, rows - len(part)), (0, 0), (0, 0), (0, 0)))
    found.append(np.asarray(forward(padded))[: len(part)])
  return np.concatenate(found)


def next_power(count: int) -> int:
  """The least power of two that is not below `count`."""
  return 1 << (count - 1).bit_length()
