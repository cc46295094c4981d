"""RedCore's encoder: a transformer without positions, f[B, T, D] -> f[B, H]."""

import flax.linen as nn
import jax.numpy as jnp

from promise_jax import missing, types
from promise_jax.nn import attention, encoders, image_features, precision
from promise_jax.nn.imputers import HE
from promise_jax.types import Array

CELLS = 64  # steps of an image


def as_steps(modality: types.Modality, x: Array, length: Array | None) -> tuple:
  """(f[B, T, D], real bool[B, T]) of an image, sequence or vector [B, ...].

  An image is the 64 cells of `encoders.Image` (ours), a vector one step. Steps from
  `length` i32[B] on are zeros.
  """
  if modality.kind == "image":
    x = image_features.to_unit_range(x)
    cells = [2 * image_features.pool_grid(x) - 1, 16 * image_features.edge_histogram(x)]
    x = jnp.concatenate(cells, -1).reshape(len(x), CELLS, -1)
  elif modality.kind == "vector":
    x = x[:, None]
  real = jnp.ones(x.shape[:2], bool)
  if length is not None:
    real = encoders.step_mask(x, length)[..., 0]
  return jnp.where(real[..., None], x, 0), real


class Block(nn.Module):
  """Attention and a feed-forward part, each between two layer norms, then added.

  h <- h + LN(MHA(LN(h))), h <- h + LN(FFN(LN(h))): RedCore's released code. `real`
  bool[B, T] or None: which steps may be attended to. `keys` [B] or None: training
  noise, dropout .2 on the attention weights and .1 in the feed-forward part.
  """

  heads: int = 8

  @nn.compact
  def __call__(self, h, layer, real, keys):
    keys = encoders.fold(keys, layer)
    h = h + nn.LayerNorm(1e-5)(self.attend(nn.LayerNorm(1e-5)(h), real, keys))
    wide = nn.Dense(4 * h.shape[-1], kernel_init=HE)(nn.LayerNorm(1e-5)(h))
    wide = encoders.row_dropout(nn.relu(wide), 0.1, encoders.fold(keys, 1), halves=True)
    return h + nn.LayerNorm(1e-5)(nn.Dense(h.shape[-1], kernel_init=HE)(wide)), None

  def attend(self, h, real, keys):
    rows, steps, width = h.shape
    packed = nn.Dense(3 * width, kernel_init=nn.initializers.normal(width**-0.5))(h)
    q, k, v = jnp.split(packed.reshape(rows, steps, self.heads, -1), 3, axis=-1)
    sees, factor = None if real is None else real[:, None], None
    if keys is not None:
      ones = jnp.ones((rows, self.heads, steps, steps), h.dtype)
      factor = encoders.row_dropout(ones, 0.2, keys, halves=True)
    out = attention.sparing(q, k, v, sees, factor).reshape(h.shape)
    return nn.Dense(width, kernel_init=HE)(out)


class Transformer(nn.Module):
  """`blocks` of `Block` on the steps of one modality; sigmoid of their mean, f[B, H].

  With `mask_padding` only real steps are attended to and averaged (ours); without it,
  as in the released code, padding takes part in both. There are no positions: the
  order of the steps does not matter. A row that is not present counts as zeros.
  """

  modality: types.Modality
  hidden: int = 128
  heads: int = 8
  blocks: int = 3
  mask_padding: bool = True

  @nn.compact
  def __call__(self, x, present, length=None, *, key=None, ids=None):
    """x [B, ...], present bool[B], length i32[B] -> f32[B, H]; `key` and `ids` i32[B]
    switch dropout on, as in `encoders.Encoder`."""
    x = missing.zero_absent(x, present)
    length = None if length is None else missing.zero_absent(length, present)
    if self.modality.kind == "tokens":
      real = x > 0
      h = nn.Embed(self.modality.vocabulary, self.hidden)(x) * real[..., None]
    else:
      steps, real = as_steps(self.modality, x, length)
      steps = steps.astype(precision.param_dtype(self))  # an image's are float32
      h = nn.Dense(self.hidden, kernel_init=HE)(steps)
    real = real if self.mask_padding else None
    keys = None
    if key is not None:
      keys = encoders.row_dropout_keys(key, self.modality.name, ids)
    # A loop copies what it keeps for the gradient: a seventh of the time, of 3 blocks.
    unroll = self.blocks if self.blocks < 4 else 1
    stack = nn.scan(
      Block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast),
      length=self.blocks,
      unroll=unroll,
    )
    h, _ = stack(self.heads)(h, jnp.arange(self.blocks), real, keys)
    if real is None:
      return nn.sigmoid(jnp.mean(h, axis=1))
    return nn.sigmoid(missing.masked_mean(h, real, 1))
