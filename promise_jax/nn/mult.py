"""MulT (ACL 2019) over M modalities: each asks every other one, then itself.

Built to what the released code of MulT and of MPLMM (ACL 2024) does, for any M. Two
switches make up the presets: "authors" sees padding and absent modalities as steps like
others, under a mask that looks causal; "clean" (ours) attends to real steps only and to
all of them. Two things differ in both: keys and values share one draw of dropout, and
a modality is projected even if it has the width already.

Encoders of one form keep their weights stacked, whatever the lengths: weights move from
one data set to another. Those whose steps have the same lengths run as one.
"""

import itertools
import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import missing, types
from promise_jax.nn import encoders, transformer
from promise_jax.types import Array

PRESETS = {
  "authors": {"causal": True, "masked": False},
  "clean": {"causal": False, "masked": True},
}
XAVIER = nn.initializers.xavier_uniform()
# PyTorch's default for layers: uniform up to 1 / sqrt(inputs).
TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Rates(NamedTuple):
  """Dropout, as in MPLMM's released code: of the raw features, of what enters an
  encoder, of attention weights, inside and after the parts of a layer, in the head."""

  inputs: float = 0.25
  embedding: float = 0.25
  attention: float = 0.1
  inner: float = 0.1
  residual: float = 0.1
  head: float = 0.1


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
  return math.sqrt(x.shape[-1]) * x + positions(x, real)


def shifted(queries: int, keys: int) -> np.ndarray:
  """bool[Q, T]: query i sees key j if j <= i + |T - Q|, the mask of the released code.

  It is causal only where both are as long.
  """
  ahead = np.arange(keys)[None] - np.arange(queries)[:, None]
  return ahead <= abs(keys - queries)


def attend(query, key, value, sees: Array | None, drop) -> Array:
  """softmax(query key^T / sqrt(D)) value for N heads, f[B, Q, N, D].

  `query` f[B, Q, N, D], `key` and `value` f[B, T, N, D]; `sees` bool[B or 1, Q, T] or
  None: what each query may attend to (of nothing: anything finite). `drop` is applied
  to the weights f[B, N, Q, T].
  """
  logits = jnp.einsum("bqhd,bkhd->bhqk", query / math.sqrt(query.shape[-1]), key)
  if sees is not None:
    logits = jnp.where(sees[:, None], logits, -1e30)
  return jnp.einsum("bhqk,bkhd->bqhd", drop(jax.nn.softmax(logits)), value)


class Layer(nn.Module):
  """x <- x + MHA(LN_0 x, LN_0 s), x <- x + W_2 relu(W_1 LN_1 x); the sources s share
  the norm of x, or are x itself if None. A query that sees nothing is given zeros.

  `keys` [B] or None: dropout. The signature is that of a step of `nn.scan`.
  """

  heads: int
  rates: Rates

  @nn.compact
  def __call__(self, x, layer, sources, sees, keys):
    keys = [encoders.fold(encoders.fold(keys, layer), i) for i in range(4)]
    norm = nn.LayerNorm(1e-5)
    asked = norm(x)
    sources = asked if sources is None else norm(sources)
    out = self.attention(asked, sources, sees, keys[0])
    x = x + encoders.drop(out, self.rates.residual, keys[1])
    wide = nn.Dense(4 * x.shape[-1], kernel_init=XAVIER)(nn.LayerNorm(1e-5)(x))
    wide = encoders.drop(nn.relu(wide), self.rates.inner, keys[2])
    out = nn.Dense(x.shape[-1], kernel_init=XAVIER)(wide)
    return x + encoders.drop(out, self.rates.residual, keys[3]), None

  def attention(self, x, sources, sees, keys):
    width = x.shape[-1]
    # One matrix for queries, keys and values: its initial scale is that of the whole.
    kernel = self.param("packed_kernel", XAVIER, (width, 3 * width))
    bias = self.param("packed_bias", nn.initializers.zeros, (3 * width,))
    query = x @ kernel[:, :width] + bias[None, None, :width]
    pair = sources @ kernel[:, width:] + bias[None, None, width:]
    by_head = lambda x: x.reshape(*x.shape[:2], self.heads, -1)
    key, value = map(by_head, jnp.split(pair, 2, axis=-1))
    drop = lambda weight: encoders.drop(weight, self.rates.attention, keys)
    out = attend(by_head(query), key, value, sees, drop).reshape(x.shape)
    out = nn.Dense(width, kernel_init=XAVIER)(out)
    if sees is None:
      return out
    some = jnp.any(sees, axis=-1)
    return missing.select(out, jnp.broadcast_to(some, x.shape[:2]))


class Encoder(nn.Module):
  """Steps f[B, Q, H] ask steps f[B, T, H], or themselves, in `layers` of `Layer`."""

  heads: int
  layers: int
  causal: bool
  rates: Rates = Rates()

  @nn.compact
  def __call__(self, x, sources=None, real=None, sources_real=None, keys=None):
    """f[B, Q, H]. `real` bool[B, Q] and `sources_real` bool[B, T] tell the real steps,
    None leaves them to the rule of fairseq and attends to all; `keys` [B]: dropout."""
    steps = x.shape[1] if sources is None else sources.shape[1]
    sees = jnp.asarray(shifted(x.shape[1], steps))[None] if self.causal else None
    there = real if sources is None else sources_real
    if there is not None:
      there = jnp.broadcast_to(there[:, None], (len(x), x.shape[1], steps))
      sees = there if sees is None else there & sees
    x, sources = (
      None if s is None else encoders.drop(embed(s, r), self.rates.embedding, k)
      for s, r, k in (
        (x, real, encoders.fold(keys, 0)),
        (sources, sources_real, encoders.fold(keys, 1)),
      )
    )
    stack = nn.scan(
      nn.remat(Layer, prevent_cse=False),
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
      length=self.layers,
    )(self.heads, self.rates, name="layers")
    x, _ = stack(x, jnp.arange(self.layers), sources, sees, encoders.fold(keys, 2))
    return nn.LayerNorm(1e-5)(x)


class Encoders(nn.Module):
  """`count` of `form`, weights stacked on the first axis; equal lengths run as one."""

  form: Encoder
  count: int
  width: int

  @nn.compact
  def __call__(self, *lists: list) -> list[Array]:
    """What encoder i makes of the i-th of each list, as in a call of `form`; lists of
    x, sources, real, sources_real, keys. Entries may be None if all of a list are."""
    form = self.form.clone(parent=None, name=None)

    def start(key):
      x = jnp.zeros((1, 1, self.width))
      init = lambda key: form.init(key, x)["params"]
      return jax.vmap(init)(jax.random.split(key, self.count))

    params = self.param("stack", start)
    groups = {}
    for i, x in enumerate(zip(*lists, strict=True)):
      groups.setdefault(tuple(map(np.shape, x[:2])), []).append(i)
    outs = [None] * self.count
    for members in groups.values():
      own = params
      if len(members) < self.count:
        own = jax.tree.map(lambda p: jnp.stack([p[i] for i in members]), params)  # noqa: B023
      stacked = [jax.tree.map(_stack, *(x[i] for i in members)) for x in lists]
      run = jax.vmap(lambda p, *x: form.apply({"params": p}, *x))
      for i, out in zip(members, run(own, *stacked), strict=True):
        outs[i] = out
    return outs


def _stack(*x):
  return jnp.stack(x)
