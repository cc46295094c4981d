"""Features of images that need no learning: colours, edges, a histogram of colours.

They are made once, before training (`precompute`), and an MLP reads them.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from promise_jax.method import no_preprocessing
from promise_jax.types import Modality

NUM_LEVELS = 8  # of a channel in the colour histogram


def image_features(x: Array) -> Float[Array, "B F"]:
  """All features of images [B, H, W, C] of any size, side by side.

  On 951 pictures they beat a learned embedding of raw patches by far. Edges and histogram
  have norm 1, and are scaled to entries of order 1.
  """
  x = to_unit_range(x)
  parts = [2 * pool_grid(x) - 1, 16 * edge_histogram(x), 16 * colour_histogram(x)]
  return jnp.concatenate([part.reshape(x.shape[0], -1) for part in parts], -1)


def part_ends(num_channels: int, grid: int = 8, count: int = 8) -> tuple[int, int]:
  """Where the colours and the edges end in the `image_features`; the histogram is last."""
  return grid * grid * num_channels, grid * grid * (num_channels + count)


def make_preprocess(modalities: Sequence[Modality]) -> Callable:
  """The `preprocess` of a method that uses `ModalityEncoders`: images become their features.

  Without images it is `no_preprocessing`, which makes no copy of the rows.
  """
  has_images = any(modality.kind == "image" for modality in modalities)
  return precompute if has_images else no_preprocessing


def precompute(inputs: dict[str, Array]) -> dict[str, Array]:
  """The inputs with the `image_features` of images in their place."""

  def features(x):
    return jax.lax.map(lambda row: image_features(row[None])[0], x, batch_size=128)

  return {name: features(x) if x.ndim == 4 else x for name, x in inputs.items()}


def to_unit_range(x: Array) -> Float[Array, "B H W C"]:
  """Images as f32 in [0, 1], from uint8 in 0..255 or float in [0, 1]."""
  return x.astype(jnp.float32) / (255 if x.dtype == jnp.uint8 else 1)


def pool_grid(x: Float[Array, "B H W C"], grid: int = 8) -> Float[Array, "B grid grid C"]:
  """Means over a grid of equal cells; a pixel on a border counts in both by its overlap."""
  b, h, w, c = x.shape
  if h % grid == 0 and w % grid == 0:
    return x.reshape(b, grid, h // grid, grid, w // grid, c).mean((2, 4))
  half = jnp.einsum("bhwc,hi->biwc", x, cell_weights(h, grid))
  return jnp.einsum("biwc,wj->bijc", half, cell_weights(w, grid))


def cell_weights(size: int, grid: int) -> Float[np.ndarray, "size grid"]:
  """Weights that average `size` pixels in `grid` equal cells."""
  edge, pixel = np.linspace(0, size, grid + 1), np.arange(size)[:, None]
  overlap = np.minimum(pixel + 1, edge[1:]) - np.maximum(pixel, edge[:-1])
  return (np.clip(overlap, 0, None) * grid / size).astype(np.float32)


def edge_histogram(
  x: Float[Array, "B H W C"], count: int = 8, grid: int = 8
) -> Float[Array, "B grid grid count"]:
  """Edges by cell and direction, norm 1 over the image.

  A pixel whose brightness has a gradient of size m at angle a adds m cos(a - k pi /
  count)^4 to direction k: a soft, unsigned histogram of oriented gradients (Dalal and
  Triggs 2005) without an arctangent, normalised over the whole image.
  """
  # By cos^4 t = 3/8 + cos(2t)/2 + cos(4t)/8 the directions are sums of five values a
  # pixel. These are pooled, and not the directions.
  grey = jnp.pad(x.mean(-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
  down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
  right = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
  square, part, twice = down**2 + right**2, right**2 - down**2, 2 * right * down
  over = jax.lax.rsqrt(square + 1e-8)  # 1 / m; a pixel with m = 0 adds nothing
  waves = [square * over, part * over, twice * over]
  waves += [(part**2 - twice**2) * over**3, 2 * part * twice * over**3]
  waves = jnp.stack(waves, axis=-1)
  angle = np.arange(count) * np.pi / count
  mix = (3 / 8 * np.ones(count), np.cos(2 * angle) / 2, np.sin(2 * angle) / 2)
  mix = np.stack((*mix, np.cos(4 * angle) / 8, np.sin(4 * angle) / 8))
  cells = pool_grid(waves, grid) @ mix.astype(np.float32)
  norm = jnp.sqrt((cells**2).sum((1, 2, 3), keepdims=True) + 1e-4)
  return cells / norm


def colour_histogram(x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
  """Square roots of the shares of colours, norm 1. Up to three channels, 8 levels each."""
  level = jnp.clip((x[..., :3] * NUM_LEVELS).astype(jnp.int32), 0, NUM_LEVELS - 1)
  place = NUM_LEVELS ** np.arange(level.shape[-1], dtype=np.int32)[::-1]
  colour = (level * place.reshape(1, 1, 1, -1)).sum(-1).reshape(x.shape[0], -1)
  count = jnp.zeros((x.shape[0], NUM_LEVELS ** len(place)), jnp.int32)
  count = count.at[jnp.arange(x.shape[0])[:, None], colour].add(1)
  return jnp.sqrt(count / colour.shape[1])
