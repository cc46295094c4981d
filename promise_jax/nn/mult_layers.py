"""Parts of MulT: places of steps, layers that ask others or themselves, encoders.

`mult` says what is the released code's here. `Told` and `Connection` are what ProMMA
asks of the layers (arXiv 2604.05558; its equations could not be had, so these are
ours). Unused, neither is part of the program.
"""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import missing
from promise_jax.losses import dependence
from promise_jax.nn import attention, encoders
from promise_jax.types import Array

TELLS = ("found", "attention")
XAVIER = nn.initializers.xavier_uniform()


class Rates(NamedTuple):
  """Dropout, as in MPLMM's released code: of the raw features, of what enters an
  encoder, of attention weights, inside and after the parts of a layer, in the head.

  `tied` (ours): one draw for all steps of a row, and for all its queries: drawing is
  most of the time of a step on CPU, and of compiling it."""

  inputs: float = 0.25
  embedding: float = 0.25
  attention: float = 0.1
  inner: float = 0.1
  residual: float = 0.1
  head: float = 0.1
  tied: bool = False


class Told(NamedTuple):
  """What an encoder tells of its attention, means over its layers.

  `found` f[B, Q, H]: what is added to the stream, after the scale and before dropout,
  whatever stands at steps that are not real. `information` f[B], in nats: how far what
  a query attends to depends on the query, see `dependence.attention_information`;
  without the scale and dropout, None unless asked for ("attention").
  """

  found: Array
  information: Array | None


class Connection(NamedTuple):
  """A prompt that comes back after each of L layers of width W, by a gate of its own.

  With the steps Y f[B, T, W] that layer i gives, the last E of them get gamma prior_i,
  gamma f[B] = tanh(weight_i . mean_t LN(Y) + bias_i); LN has no parameters, and the
  mean is over the real steps, or over all where none are told from the others. `prior`
  f[L, E, W], `weight` f[L, W], `bias` f[L].
  """

  prior: Array
  weight: Array
  bias: Array


def positions(x: Array, real: Array | None = None) -> Array:
  """What tells steps f[B, T, H] apart, f[B, T, H]: at place p = 1, 2, ... the sines,
  then the cosines, of p 10000^(-i / (H/2 - 1)), i = 0 ... H/2 - 1; zeros for padding.

  With `real` bool[B, T] real steps are counted and the others are padding (ours), so
  that no place depends on the amount of padding. Else p is 1 + t, and a step whose
  channel 0 is exactly 0 is padding, as in fairseq. Raises ValueError unless H is even
  and at least 4.
  """
  width = x.shape[-1]
  if width % 2 or width < 4:
    raise ValueError(f"width is {width}, it must be even and at least 4")
  half = width // 2
  rate = np.exp(-np.arange(half) * (math.log(1e4) / (half - 1)))
  angle = np.arange(1, x.shape[1] + 1)[:, None] * rate[None]
  table = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
  if real is None:
    return jnp.where(x[..., :1] != 0, table[None], 0)
  place = jnp.maximum(jnp.cumsum(real, axis=1) - 1, 0)
  return jnp.where(real[..., None], jnp.asarray(table)[place], 0)


def embed(x: Array, real: Array | None = None) -> Array:
  """sqrt(H) x + `positions` of steps f[B, T, H]."""
  return math.sqrt(x.shape[-1]) * x + positions(x, real).astype(x.dtype)


def shifted(queries: int, keys: int) -> np.ndarray:
  """bool[Q, T]: query i sees key j if j <= i + |T - Q|, the mask of the released code.

  It is causal only where both are as long.
  """
  ahead = np.arange(keys)[None] - np.arange(queries)[:, None]
  return ahead <= abs(keys - queries)


class Layer(nn.Module):
  """x <- x + s MHA(LN_0 x, LN_0 y), x <- x + W_2 relu(W_1 LN_1 x); the sources y share
  the norm of x, or are x itself if None. A query that sees nothing is given zeros.

  `keys` [4, B] or None: dropout. `scale` s f[B] or None: 1. `connection`, of this
  layer, or None; `real` bool[B, Q] is read by it and by what is told. The signature is
  that of a step of `nn.scan`: (x, None or `Told`) if `tells`.
  """

  heads: int
  rates: Rates
  tells: str | None = None

  @nn.compact
  def __call__(self, x, keys, connection, sources, sees, real, scale):
    keys = [None] * 4 if keys is None else keys
    norm = nn.LayerNorm(1e-5)
    asked = norm(x)
    sources = asked if sources is None else norm(sources)
    out, information = self.attention(asked, sources, sees, real, keys[0])
    out = out if scale is None else out * scale[:, None, None]
    told = Told(out, information) if self.tells else None
    x = x + self.drop(out, self.rates.residual, keys[1])
    wide = nn.Dense(4 * x.shape[-1], kernel_init=XAVIER)(nn.LayerNorm(1e-5)(x))
    wide = self.drop(nn.relu(wide), self.rates.inner, keys[2])
    out = nn.Dense(x.shape[-1], kernel_init=XAVIER)(wide)
    x = x + self.drop(out, self.rates.residual, keys[3])
    return x if connection is None else self.connect(x, connection, real), told

  def drop(self, x, rate, keys):
    return encoders.drop(x, rate, keys, self.rates.tied)

  def attention(self, x, sources, sees, real, keys):
    width = x.shape[-1]
    # One matrix for queries, keys and values: its initial scale is that of the whole.
    kernel = self.param("packed_kernel", XAVIER, (width, 3 * width))
    bias = self.param("packed_bias", nn.initializers.zeros, (3 * width,))
    query = x @ kernel[:, :width] + bias[None, None, :width]
    pair = sources @ kernel[:, width:] + bias[None, None, width:]
    by_head = lambda x: x.reshape(*x.shape[:2], self.heads, -1)
    key, value = map(by_head, jnp.split(pair, 2, axis=-1))
    weight = attention.weights(by_head(query), key, sees)
    information = None
    if self.tells == "attention":
      information = dependence.attention_information(weight, real, sees)
    weight = self.drop(weight, self.rates.attention, keys)
    out = attention.weighted(weight, value).reshape(x.shape)
    out = nn.Dense(width, kernel_init=XAVIER)(out)
    if sees is None:
      return out, information
    some = jnp.any(sees, axis=-1)
    return missing.select(out, jnp.broadcast_to(some, x.shape[:2])), information

  def connect(self, x, connection, real):
    norm = nn.LayerNorm(1e-5, use_bias=False, use_scale=False)(x)
    real = jnp.ones(x.shape[:2], bool) if real is None else real
    gate = jnp.tanh(
      missing.masked_mean(norm, real, 1) @ connection.weight + connection.bias
    )
    more = gate[:, None, None] * connection.prior[None]
    before = x.shape[1] - more.shape[1]
    return x + jnp.pad(more, ((0, 0), (before, 0), (0, 0)))


class Encoder(nn.Module):
  """Steps f[B, Q, H] ask steps f[B, T, H], or themselves, in `layers` of `Layer`."""

  heads: int
  layers: int
  causal: bool
  rates: Rates = Rates()
  tells: str | None = None

  @nn.compact
  def __call__(
    self,
    x,
    sources=None,
    real=None,
    sources_real=None,
    keys=None,
    scale=None,
    connection=None,
  ):
    """f[B, Q, H], with `Told` beside it if `tells`. `real` bool[B, Q] and
    `sources_real` bool[B, T] tell the real steps, None leaves them to the rule of
    fairseq and attends to all; `keys` [B]: dropout; `scale` f[B] of what is found in
    the sources; `connection` of all layers."""
    sees = self.sees(x, sources, real if sources is None else sources_real)
    first, second, later = uses(keys, self.layers)
    drop = lambda x, keys: encoders.drop(x, self.rates.embedding, keys, self.rates.tied)
    x = drop(embed(x, real), first)
    if sources is not None:
      sources = embed(sources, sources_real)
      sources = drop(sources, second)
    if connection is None and self.tells != "attention":
      real = None  # not read: no input of the layers
    # For the gradient products are kept and the rest is computed again: on CPU that is
    # a fifth faster than to keep the inputs alone, and no slower than to keep all.
    kept = jax.checkpoint_policies.dots_saveable
    stack = nn.scan(
      nn.remat(Layer, prevent_cse=False, policy=kept),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, 0, *(nn.broadcast,) * 4),
      length=self.layers,
    )(self.heads, self.rates, self.tells, name="layers")
    x, told = stack(x, later, connection, sources, sees, real, scale)
    x = nn.LayerNorm(1e-5)(x)
    return (x, jax.tree.map(lambda t: t.mean(0), told)) if self.tells else x

  def sees(self, x, sources, there):
    size = x.shape[1], (x if sources is None else sources).shape[1]
    sees = shifted(*size)[None] if self.causal else None
    if there is None:
      return sees
    there = jnp.broadcast_to(there[:, None], (len(x), *size))
    return there if sees is None else there & sees


def uses(keys, layers):
  """Of keys [B] those for x, for its sources, and for the layers, [L, 4, B]."""
  if keys is None:
    return None, None, None
  # All at once, outside of the scan: draws take long to compile.
  keys = jax.vmap(encoders.fold, (None, 0))(keys, jnp.arange(2 + 4 * layers))
  return keys[0], keys[1], keys[2:].reshape(layers, 4, -1)
