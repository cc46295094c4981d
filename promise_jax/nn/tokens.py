"""A modality as steps for attention: f[B, T, H], and which of them are real.

For PROMISE (AAAI 2026, arXiv 2511.10997), whose figure shows an encoder and tokens; all
else is ours. Encoders: "pooled", that of every method, one step a modality; "steps", a
trained layer on every step, token, or cell of an image; "frozen", where the inputs are
features already and only projected (ids of tokens are embedded all the same).
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from promise_jax import missing
from promise_jax.nn import attention, encoders, precision, transformer
from promise_jax.types import Array, Batch, Modality

ENCODERS = ("pooled", "steps", "frozen")


class Tokeniser(nn.Module):
  """z f[B, T, H] of one modality [B, ...], and which steps are real, bool[B, T]."""

  modality: Modality
  hidden: int
  encoder: str
  norm: bool

  @nn.compact
  def __call__(self, batch: Batch, present: Array, key) -> tuple[Array, Array]:
    """`key` switches the noise of the pooled encoder on. Absent rows are zeros."""
    m = self.modality
    if self.encoder == "pooled":
      body = encoders.Encoder(m, self.hidden)
      z = encoders.encode_modality(body, m.name, batch, present, key)[:, None]
      real = jnp.ones(z.shape[:2], bool)
    else:
      h, real = self.steps(batch, present)
      z = nn.Dense(self.hidden)(attention.Norm(self.norm)(h))
    own = self.param("modality", nn.initializers.normal(0.02), (self.hidden,))
    z = z + own[None, None]
    if z.shape[1] > 1:
      z = z + positions(*z.shape[1:]).astype(z.dtype)[None]
    real = real & present[:, None]
    return missing.zero_absent(z, real), real

  def steps(self, batch: Batch, present: Array) -> tuple[Array, Array]:
    m = self.modality
    x = missing.zero_absent(batch.inputs[m.name], present)
    if m.kind == "tokens":
      return nn.Embed(m.vocabulary, self.hidden)(x), x > 0
    length = batch.length.get(m.name)
    length = None if length is None else missing.zero_absent(length, present)
    h, real = transformer.as_steps(m, x, length)
    h = h.astype(precision.param_dtype(self))  # the cells of an image are float32
    return h if self.encoder == "frozen" else nn.gelu(nn.Dense(self.hidden)(h)), real


def num_tokens(modality: Modality, encoder: str) -> int:
  """T of `Steps` of a modality."""
  if encoder == "pooled" or modality.kind == "vector":
    return 1
  return transformer.CELLS if modality.kind == "image" else modality.shape[0]


def positions(steps: int, width: int) -> np.ndarray:
  """The sines and cosines of "Attention is all you need" (2017), f32[T, H]."""
  rate = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
  angle = np.arange(steps)[:, None] * rate[None]
  even = np.arange(width)[None] % 2 == 0
  return np.where(even, np.sin(angle), np.cos(angle)).astype(np.float32)
