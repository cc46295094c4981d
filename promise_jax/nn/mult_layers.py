"""Parts of MulT: places of steps, layers that ask others or themselves, encoders.

`mult` says what is the released code's here. `Connection` is for ProMMA (arXiv 2604.05558)
and ours.
"""

import functools
import math
import zlib
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from promise_jax import missing
from promise_jax.losses import mutual_information
from promise_jax.nn import attention
from promise_jax.types import Array

XAVIER = nn.initializers.xavier_uniform()
SAVED = "product"  # name of what is kept for the gradient
product = functools.partial(checkpoint_name, name=SAVED)


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
  # A product in place of a cumulative sum, which is ten kernels on a CPU.
  before = np.triu(np.ones((x.shape[1],) * 2, np.float32), 1)
  place = (real.astype(jnp.float32) @ before).astype(jnp.int32)
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


def drop(x: Array, rate: float, noise: Array | None, tied: bool) -> Array:
  """Dropout of x [B, ...] by `noise`: what x is multiplied by if `tied`, else a key a
  row; None leaves x as it is."""
  if tied:
    return x if noise is None else x * noise
  return row_dropout(x, rate, noise)


def row_dropout_keys(key, name, ids):
  """One key a row, of `key`, a name and the row's own id i32[B]."""
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def fold(keys, number):
  """Other keys [B] for another use: `number` folded into each."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def row_dropout(x, rate, keys, tied=False):
  """Dropout of x [B, ...] with one key a row; None leaves x as it is. `tied`: the steps of
  x [B, ..., T, H] lose the same features."""
  if keys is None or rate == 0:
    return x
  shape = (*x.shape[1:-2], 1, x.shape[-1]) if tied else x.shape[1:]
  kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys)
  return jnp.where(kept, x / (1 - rate), 0)


class Layer(nn.Module):
  """x <- x + s MHA(LN_0 x, LN_0 y), x <- x + W_2 relu(W_1 LN_1 x); the sources y share
  the norm of x, or are x itself if None. A query that sees nothing is given zeros.

  `noise`, 4 in turn or None: dropout, as in `drop`. `scale` s f[B] or None: 1.
  `connection`, of this layer, or None; it reads `real` bool[B, Q]. The signature is that of
  a step of `nn.scan`: (x, what attention added, after the scale and before dropout).
  """

  heads: int
  rates: Rates

  @nn.compact
  def __call__(self, x, noise, connection, sources, sees, real, scale):
    noise = [None] * 4 if noise is None else noise
    norm = nn.LayerNorm(1e-5)
    asked = norm(x)
    if sources is None:
      sources = asked
    else:  # all layers have the same, standardised already
      gain, bias = (norm.get_variable("params", name) for name in ("scale", "bias"))
      sources = sources * gain[None, None] + bias[None, None]
    out = self.attention(asked, sources, sees, noise[0])
    out = out if scale is None else out * scale[:, None, None]
    attended = out
    x = x + self.drop(out, self.rates.residual, noise[1])
    wide = nn.Dense(4 * x.shape[-1], kernel_init=XAVIER)(nn.LayerNorm(1e-5)(x))
    wide = self.drop(nn.relu(product(wide)), self.rates.inner, noise[2])
    out = product(nn.Dense(x.shape[-1], kernel_init=XAVIER)(wide))
    x = x + self.drop(out, self.rates.residual, noise[3])
    return x if connection is None else self.connect(x, connection, real), attended

  def drop(self, x, rate, noise):
    return drop(x, rate, noise, self.rates.tied)

  def attention(self, x, sources, sees, noise):
    width = x.shape[-1]
    # One matrix for queries, keys and values: its initial scale is that of the whole.
    kernel = self.param("packed_kernel", XAVIER, (width, 3 * width))
    bias = self.param("packed_bias", nn.initializers.zeros, (3 * width,))
    query = product(x @ kernel[:, :width] + bias[None, None, :width])
    pair = product(sources @ kernel[:, width:] + bias[None, None, width:])
    by_head = lambda x: x.reshape(*x.shape[:2], self.heads, -1)
    query, key, value = map(by_head, (query, *jnp.split(pair, 2, axis=-1)))
    rate, factor = self.rates.attention, None
    if self.rates.tied:  # all queries lose the same weights: those of what is lost here
      value = self.drop(value.transpose(0, 2, 3, 1), rate, noise).transpose(0, 3, 1, 2)
    elif noise is not None and rate:
      shape = (len(x), self.heads, query.shape[1], key.shape[1])
      factor = self.drop(jnp.ones(shape, x.dtype), rate, noise)
    out = product(attention.attend(query, key, value, sees, factor)).reshape(x.shape)
    out = product(nn.Dense(width, kernel_init=XAVIER)(out))
    if sees is None:
      return out
    some = jnp.any(sees, axis=-1)
    return missing.zero_absent(out, jnp.broadcast_to(some, x.shape[:2]))

  def connect(self, x, connection, real):
    norm = nn.LayerNorm(1e-5, use_bias=False, use_scale=False)(x)
    real = jnp.ones(x.shape[:2], bool) if real is None else real
    gate = jnp.tanh(missing.masked_mean(norm, real, 1) @ connection.weight + connection.bias)
    more = gate[:, None, None] * connection.prior[None]
    before = x.shape[1] - more.shape[1]
    return x + jnp.pad(more, ((0, 0), (before, 0), (0, 0)))


class Encoder(nn.Module):
  """Steps f[B, Q, H] ask steps f[B, T, H], or themselves, in `layers` of `Layer`."""

  heads: int
  layers: int
  causal: bool
  rates: Rates = Rates()

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
    """f[B, Q, H], and what attention added to it, the mean over layers. `real` bool[B, Q] and
    `sources_real` bool[B, T] tell the real steps, None leaves them to the rule of
    fairseq and attends to all; `keys` [B]: dropout; `scale` f[B] of what is found in
    the sources; `connection` of all layers."""
    sees = self.sees(x, sources, real if sources is None else sources_real)
    first, second, later = self.noise(keys, x, x if sources is None else sources)
    rate, tied = self.rates.embedding, self.rates.tied
    x = drop(embed(x, real), rate, first, tied)
    if sources is not None:
      sources = drop(embed(sources, sources_real), rate, second, tied)
      sources = mutual_information.layer_norm(sources)
    if connection is None:
      real = None  # not read: no input of the layers
    # Of two layers a loop costs more than it saves in compiling.
    unroll = self.layers if self.layers < 3 else 1
    # For the gradient products are kept, but those of every step with every other, and
    # the rest is made again: on CPU that is faster than to keep the inputs, or all.
    kept = jax.checkpoint_policies.save_only_these_names(SAVED)
    stack = nn.scan(
      nn.remat(Layer, prevent_cse=False, policy=kept),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, 0, *(nn.broadcast,) * 4),
      length=self.layers,
      unroll=unroll,
    )(self.heads, self.rates, name="layers")
    x, attended = stack(x, later, connection, sources, sees, real, scale)
    return nn.LayerNorm(1e-5)(x), attended.mean(0)

  def noise(self, keys, x, sources):
    """The noise of x, of its sources, and of the layers, on a first axis. Tied, one
    draw a row has all of it: outside of the scan, and few, they compile in less."""
    if keys is None:
      return None, None, None
    if not self.rates.tied:
      keys = jax.vmap(fold, (None, 0))(keys, jnp.arange(2 + 4 * self.layers))
      return keys[0], keys[1], keys[2:].reshape(self.layers, 4, -1)
    rates, (rows, _, width), asked = self.rates, x.shape, sources.shape[1]
    sizes = np.array([self.heads * asked, width, 4 * width, width])
    count = 2 * width + self.layers * sum(sizes)
    draw = jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)

    def factor(draw, rate):
      kept = draw < 1 - rate
      return jnp.where(kept, 1 / (1 - rate), 0).astype(x.dtype)[..., None, :]

    first, second, later = jnp.split(draw, [width, 2 * width], axis=1)
    later = later.reshape(rows, self.layers, -1).swapaxes(0, 1)
    later = jnp.split(later, np.cumsum(sizes)[:-1], axis=2)
    later[0] = later[0].reshape(self.layers, rows, self.heads, asked)
    each = rates.attention, rates.residual, rates.inner, rates.residual
    later = tuple(map(factor, later, each))
    return factor(first, rates.embedding), factor(second, rates.embedding), later

  def sees(self, x, sources, there):
    size = x.shape[1], (x if sources is None else sources).shape[1]
    sees = shifted(*size)[None] if self.causal else None
    if there is None:
      return sees
    there = there[:, None]
    return there if sees is None else there & sees
