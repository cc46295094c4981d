"""Layers of MulT: positions of steps, attention, and the encoder that stacks the layers.

As in the released code of MulT (ACL 2019) and MPLMM (ACL 2024), but for two choices that are
ours. Positions count real steps only. Dropout has one draw for all steps of a row: drawing is
most of a training step on a CPU. `released_code` undoes both.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from promise_jax import missing
from promise_jax.losses import mutual_information
from promise_jax.nn import attention
from promise_jax.nn.dropout import Dropout

# Dropout rates of the released code of MPLMM.
INPUT_DROPOUT = 0.25  # of the raw features of text
EMBEDDING_DROPOUT = 0.25  # of what enters an encoder
LAYER_DROPOUT = 0.1  # of attention weights, in layers, and in the head
XAVIER = nn.initializers.xavier_uniform()


class Connection(NamedTuple):
  """A prompt that comes back after each layer; for ProMMA, ours.

  The last E steps of the output Y of layer l get tanh(weight_l . mean_t LN(Y) + bias_l) prior_l,
  with the mean over real steps. LN has no parameters.
  """

  prior: Float[Array, "L E W"]
  weight: Float[Array, "L W"]
  bias: Float[Array, " L"]


def step_dropout(rate: float, tied: bool) -> Dropout:
  """Dropout of steps [..., T, H]. Tied: all steps of a row lose the same features."""
  return Dropout(rate, (-2,) if tied else ())


def position_codes(
  x: Float[Array, "B T H"], real: Bool[Array, "B T"], released_code: bool = False
) -> Float[Array, "B T H"]:
  """Sines, then cosines, of p 10000^(-i / (H/2 - 1)), i = 0 ... H/2 - 1, at place p.

  Places 1, 2, ... count the real steps; other steps get zeros. As in fairseq, `released_code`
  also gives zeros to steps whose channel 0 is exactly 0, which it takes for padding.
  """
  half = x.shape[-1] // 2
  rate = np.exp(-np.arange(half) * (math.log(1e4) / (half - 1)))
  angle = np.arange(1, x.shape[1] + 1)[:, None] * rate[None]
  table = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
  place = jnp.cumsum(real, axis=1) - real
  if released_code:
    real = real & (x[..., 0] != 0)
  return jnp.where(real[..., None], jnp.asarray(table)[place], 0)


def embed_steps(x, real, released_code: bool = False) -> Float[Array, "B T H"]:
  """sqrt(H) x + position codes."""
  return math.sqrt(x.shape[-1]) * x + position_codes(x, real, released_code).astype(x.dtype)


def released_mask(num_queries: int, num_keys: int, gap: Int[Array, " 1"]) -> Bool[Array, "1 Q T"]:
  """Query i sees key j if j <= i + gap, the difference of the two lengths.

  The mask of the released code. It is causal only where both lengths are equal.
  """
  ahead = np.arange(num_keys)[None] - np.arange(num_queries)[:, None]
  return jnp.asarray(ahead)[None] <= gap[:, None, None]


class Attention(nn.Module):
  """Multi-head attention, one packed matrix for queries, keys and values."""

  heads: int
  tied: bool

  @nn.compact
  def __call__(
    self, x: Float[Array, "B Q H"], sources: Float[Array, "B T H"], mask: Bool[Array, "B ... T"]
  ) -> Float[Array, "B Q H"]:
    """The output is 0 for a query whose mask is empty."""
    width = x.shape[-1]
    # Packed, because the initial scale is that of the whole matrix.
    kernel = self.param("packed_kernel", XAVIER, (width, 3 * width))
    bias = self.param("packed_bias", nn.initializers.zeros, (3 * width,))[None, None]
    query = x @ kernel[:, :width] + bias[..., :width]
    key, value = jnp.split(sources @ kernel[:, width:] + bias[..., width:], 2, axis=-1)
    query, key, value = (y.reshape(*y.shape[:2], self.heads, -1) for y in (query, key, value))
    factor = jnp.ones((x.shape[0], self.heads, 1 if self.tied else x.shape[1], sources.shape[1]))
    factor = Dropout(LAYER_DROPOUT)(factor.astype(x.dtype))
    if self.tied:  # one draw for all queries: a lost key is a value of 0, the others are scaled up
      value, factor = value * factor.transpose(0, 3, 1, 2), None
    out = attention.attend(query, key, value, mask, factor).reshape(x.shape)
    out = nn.Dense(width, kernel_init=XAVIER)(out)
    return jnp.where(jnp.any(mask, axis=-1)[..., None], out, 0)


class Layer(nn.Module):
  """x <- x + s MHA(LN_0 x, LN_0 y), then x <- x + W_2 relu(W_1 LN_1 x).

  y are the sources, or x itself; s scales each row. A `Connection` comes last. Returns x and
  what attention has added. The arguments are those of a step of `nn.scan`.
  """

  heads: int
  tied: bool

  @nn.compact
  def __call__(self, x, connection, sources, mask, real, scale):
    drop, norm = step_dropout(LAYER_DROPOUT, self.tied), nn.LayerNorm(1e-5)
    query = norm(x)
    attended = Attention(self.heads, self.tied)(
      query, query if sources is None else norm(sources), mask
    )
    if scale is not None:
      attended = attended * scale[:, None, None]
    x = x + drop(attended)
    wide = nn.relu(nn.Dense(4 * x.shape[-1], kernel_init=XAVIER)(nn.LayerNorm(1e-5)(x)))
    x = x + drop(nn.Dense(x.shape[-1], kernel_init=XAVIER)(drop(wide)))
    return x if connection is None else connect(x, connection, real), attended


def connect(x: Float[Array, "B T W"], connection: Connection, real) -> Float[Array, "B T W"]:
  """Adds the prior of one layer to the last steps."""
  mean = missing.masked_mean(mutual_information.layer_norm(x), real, 1)
  gate = jnp.tanh(mean @ connection.weight + connection.bias)
  more = gate[:, None, None] * connection.prior[None]
  return x + jnp.pad(more, ((0, 0), (x.shape[1] - more.shape[1], 0), (0, 0)))


class Encoder(nn.Module):
  """Steps attend to those of a source, or to themselves, in `layers` layers."""

  heads: int
  layers: int
  released_code: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B Q H"],
    real: Bool[Array, "B Q"],
    sources: Float[Array, "B T H"] | None = None,
    sources_real: Bool[Array, "B T"] | None = None,
    gap: Int[Array, " 1"] | None = None,
    scale: Float[Array, " B"] | None = None,
    connection: Connection | None = None,
  ) -> tuple[Float[Array, "B Q H"], Float[Array, "B Q H"]]:
    """Encoded steps, and what attention has added to them, averaged over layers.

    Args:
      x: the steps.
      real: which of them exist; only these are attended to.
      sources: None for self-attention.
      sources_real: which sources exist.
      gap: see `released_mask`.
      scale: factor of what each row reads from the sources; at 0 they have no effect.
      connection: prompts to add to the last steps after each layer, see `connect`.
    """
    tied = not self.released_code
    drop = step_dropout(EMBEDDING_DROPOUT, tied)
    mask = (real if sources is None else sources_real)[:, None]
    if self.released_code:
      mask = mask & released_mask(x.shape[1], mask.shape[2], gap)
    x = drop(embed_steps(x, real, self.released_code))
    if sources is not None:
      sources = drop(embed_steps(sources, sources_real, self.released_code))
    # Layers are computed again for the gradient, so that weights of attention are not kept: half
    # the memory. Where layers are few, their products are kept and the loop is unrolled; a step
    # of MPLMM (64 rows, three times 50 steps, CPU) then takes 178 ms in place of 235.
    few = self.layers < 3
    policy = jax.checkpoint_policies.dots_saveable if few else None
    layers = nn.scan(
      nn.remat(Layer, prevent_cse=False, policy=policy),
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(0, *(nn.broadcast,) * 4),
      length=self.layers,
      unroll=self.layers if few else 1,
    )
    x, attended = layers(self.heads, tied, name="layers")(x, connection, sources, mask, real, scale)
    return nn.LayerNorm(1e-5)(x), attended.mean(0)
