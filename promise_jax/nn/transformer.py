"""RedCore's encoder: a transformer without positions, f[B, T, D] -> f[B, H].

"RedCore", Sun et al., AAAI 2024, arXiv 2312.10386; blocks of the released code:

  h <- h + LN(MHA(LN(h))),  h <- h + LN(FFN(LN(h)));  output sigmoid(mean over steps)
"""

import flax.linen as nn
import jax.numpy as jnp

from promise_jax import missing
from promise_jax.nn import attention, precision, tokens
from promise_jax.nn.dropout import Dropout
from promise_jax.nn.imputers import HE_NORMAL
from promise_jax.types import Modality


class Block(nn.Module):
  """One block, as a step of `nn.scan`. Dropout: .2 on the attention weights, .1 inside the
  feed-forward part. Its draws are a third of the time on a CPU, so they are coarse."""

  num_heads: int = 8

  @nn.compact
  def __call__(self, h, step_mask):
    h = h + nn.LayerNorm(1e-5)(self.self_attend(nn.LayerNorm(1e-5)(h), step_mask))
    wide = nn.Dense(4 * h.shape[-1], kernel_init=HE_NORMAL)(nn.LayerNorm(1e-5)(h))
    wide = Dropout(0.1, coarse=True)(nn.relu(wide))
    return h + nn.LayerNorm(1e-5)(nn.Dense(h.shape[-1], kernel_init=HE_NORMAL)(wide)), None

  def self_attend(self, h, step_mask):
    num_rows, num_steps, width = h.shape
    packed = nn.Dense(3 * width, kernel_init=nn.initializers.normal(width**-0.5))(h)
    q, k, v = jnp.split(packed.reshape(num_rows, num_steps, self.num_heads, -1), 3, axis=-1)
    mask, factor = None if step_mask is None else step_mask[:, None], None
    if self.has_rng("dropout"):
      ones = jnp.ones((num_rows, self.num_heads, num_steps, num_steps), h.dtype)
      factor = Dropout(0.2, coarse=True)(ones)
    out = attention.attend(q, k, v, mask, factor).reshape(h.shape)
    return nn.Dense(width, kernel_init=HE_NORMAL)(out)


class Transformer(nn.Module):
  """Encodes the steps of one modality. Their order does not matter; an absent row is zeros."""

  modality: Modality
  hidden: int = 128
  num_heads: int = 8
  num_blocks: int = 3
  # False: padding is attended to and averaged, as in the released code.
  mask_padding: bool = True

  @nn.compact
  def __call__(self, x, present, length=None):
    """Arguments as in `encoders.Encoder`."""
    x = missing.zero_absent(x, present)
    length = None if length is None else missing.zero_absent(length, present)
    if self.modality.kind == "tokens":
      step_mask = x > 0
      h = nn.Embed(self.modality.vocabulary, self.hidden)(x) * step_mask[..., None]
    else:
      steps, step_mask = tokens.to_steps(self.modality, x, length)
      steps = steps.astype(precision.param_dtype(self))  # cells of an image are float32
      h = nn.Dense(self.hidden, kernel_init=HE_NORMAL)(steps)
    step_mask = step_mask if self.mask_padding else None
    stack = nn.scan(
      Block,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=self.num_blocks,
      # A loop copies what it keeps for the gradient: a seventh of the time of 3 blocks.
      unroll=self.num_blocks if self.num_blocks < 4 else 1,
    )
    h, _ = stack(self.num_heads)(h, step_mask)
    if step_mask is None:
      return nn.sigmoid(jnp.mean(h, axis=1))
    return nn.sigmoid(missing.masked_mean(h, step_mask, 1))
