"""Attention by several heads, and pre-norm layers that ask themselves or others."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from promise_jax import missing
from promise_jax.nn.dropout import Dropout
from promise_jax.types import Array

# What is added to a residual stream starts at nothing: on few rows, a layer of random
# weights costs more than it learns to give.
ZEROS = nn.initializers.zeros
# The name of what is worth keeping for the gradient where layers are made again.
PRODUCT = "product"


def attend(query: Array, key: Array, value: Array, sees: Array | None = None, drop=None) -> Array:
  """softmax(query key^T / sqrt(D)) value for N heads, f[B, Q, N, D].

  `query` f[B, Q, N, D], `key` and `value` f[B, T, N, D]; `sees` bool[B or 1, Q or 1, T]
  or None: what each query may attend to (nothing: all alike). `drop`, if given, is
  applied to the weights f[B, N, Q, T].
  """
  weight = weights(query, key, sees)
  return weighted(weight if drop is None else drop(weight), value)


def weights(query: Array, key: Array, sees: Array | None = None) -> Array:
  """The softmax of `attend`, f[B, N, Q, T]."""
  logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
  if sees is not None:
    logits = jnp.where(sees[:, None], logits, -1e30)
  return jax.nn.softmax(logits)


def weighted(weight: Array, value: Array) -> Array:
  """Sums f[B, Q, N, D] of `value` f[B, T, N, D] by weights f[B, N, Q, T]."""
  return jnp.einsum("bhqk,bkhd->bqhd", weight, value)


@jax.custom_vjp
def sparing(
  query: Array,
  key: Array,
  value: Array,
  sees: Array | None = None,
  factor: Array | None = None,
) -> Array:
  """What `attend` gives, its weights made again for the gradient and not kept, as in
  "Self-attention does not need O(n^2) memory" (Rabe and Staats, 2021).

  `factor` f[B, N, Q, T] or None: of the weights, for dropout; it has no gradient. This
  can be differentiated twice in reverse, not forwards. Products are laid out as XLA
  multiplies them fastest on a CPU: steps last, and what keys all queries see as one
  more feature.
  """
  return _forward(query, key, value, sees, factor)[0]


def _forward(query, key, value, sees, factor):
  weight = _times(_weights(query, key, sees), factor)
  out = jnp.einsum("bhqk,bhdk->bhqd", weight, _steps_last(value))
  out = checkpoint_name(_by_head(out), PRODUCT)
  return out, (query, key, value, sees, factor, out)


def _backward(saved, change):
  query, key, value, sees, factor, out = saved
  weight = _weights(query, key, sees)
  by_key = lambda x, weight: jnp.einsum("bhdq,bhqk->bhdk", _steps_last(x), weight)
  to_value = by_key(change, _times(weight, factor))
  if sees is not None:  # what sees nothing has weights, but not by its logits
    change = jnp.where(jnp.any(sees, axis=-1)[..., None, None], change, 0)
  # The gradient by the logits is weight (change . value - its mean under the weights),
  # and that mean is change . out, whatever the factor.
  mean = jnp.sum(change * out, axis=-1).transpose(0, 2, 1)[..., None]
  own = jnp.einsum("bhqd,bhkd->bhqk", _by_head(change), _by_head(value))
  logits = weight * (_times(own, factor) - mean)
  to_query = jnp.einsum("bhqk,bhdk->bhqd", logits, _steps_last(key))
  to_key = by_key(_scaled(query), logits)
  back = (x.transpose(0, 3, 1, 2) for x in (to_key, to_value))
  return _scaled(_by_head(to_query)), *back, None, None


sparing.defvjp(_forward, _backward)


def _weights(query, key, sees):
  query, key = _by_head(_scaled(query)), _by_head(key)
  if sees is not None and sees.shape[1] == 1:
    some = jnp.any(sees, axis=-1)[..., None, None]  # else the keys tell nothing
    query = jnp.where(some, query, 0)
    hidden = jnp.where(sees, 0, -1e30).astype(key.dtype)[..., None]
    more = jnp.ones_like(query[..., :1]), jnp.broadcast_to(hidden, key[..., :1].shape)
    pairs = zip((query, key), more, strict=True)
    query, key = (jnp.concatenate(pair, axis=-1) for pair in pairs)
  logits = jnp.einsum("bhqd,bhkd->bhqk", query, key)
  if sees is not None and sees.shape[1] != 1:
    logits = jnp.where(sees[:, None], logits, -1e30)
  return jax.nn.softmax(logits)


def _times(x, factor):
  return x if factor is None else x * factor


def _scaled(x):
  return x / math.sqrt(x.shape[-1])


def _by_head(x):
  """f[B, T, N, D] as f[B, N, T, D], or back."""
  return x.transpose(0, 2, 1, 3)


def _steps_last(x):
  """f[B, T, N, D] as f[B, N, D, T]."""
  return x.transpose(0, 2, 3, 1)


class Attention(nn.Module):
  """Steps f[B, Q, H] ask steps f[B, T, H], of which bool[B, T] are there -> f[B, Q, H].

  A row with nothing to ask gets zeros, and at the start all do: the last weights start
  at 0. Raises ValueError unless H is a multiple of the heads.
  """

  heads: int

  @nn.compact
  def __call__(self, x: Array, sources: Array, there: Array) -> Array:
    width = x.shape[-1]
    if width % self.heads:
      raise ValueError(f"width is {width}, not a multiple of the {self.heads} heads")
    # No bias: to the softmax, one of the keys makes no difference.
    split = (self.heads, width // self.heads)
    dense = lambda x: nn.DenseGeneral(split, use_bias=False)(x)
    out = attend(dense(x), dense(sources), dense(sources), there[:, None])
    out = nn.Dense(width, kernel_init=ZEROS)(out.reshape(x.shape))
    return missing.zero_absent(out, jnp.any(there, axis=1))


class Norm(nn.Module):
  """Layer norm, or nothing unless `on`: on few rows it makes much of codes that are
  near zero because little was seen."""

  on: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return nn.LayerNorm()(x) if self.on else x


class Layer(nn.Module):
  """x <- x + MHA(LN x, LN s), x <- x + FFN(LN x); s the sources, or x itself if None.

  Without `norm` there is no LN. Both parts have dropout. The signature is that of a step of
  `nn.scan`.
  """

  heads: int
  dropout: float
  norm: bool = True

  @nn.compact
  def __call__(self, x, sources, there):
    # One draw for all steps of a row: drawing is dear on CPU.
    dropout = lambda x: Dropout(self.dropout, broadcast_dims=(-2,))(x)
    query = Norm(self.norm)(x)
    sources = query if sources is None else Norm(self.norm)(sources)
    x = x + dropout(Attention(self.heads)(query, sources, there))
    wide = nn.gelu(nn.Dense(4 * x.shape[-1])(Norm(self.norm)(x)))
    return x + dropout(nn.Dense(x.shape[-1], kernel_init=ZEROS)(wide)), None


class Layers(nn.Module):
  """`count` of `Layer` in turn, each with weights of its own, as one scan."""

  count: int
  heads: int
  dropout: float = 0.0
  norm: bool = True

  @nn.compact
  def __call__(self, x: Array, there: Array, sources: Array | None = None) -> Array:
    """x f[B, Q, H] attends to itself, or to `sources` f[B, T, H], where `there` bool[B, T]."""
    if not self.count:
      return x
    stack = nn.scan(
      Layer,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=self.count,
    )
    return stack(self.heads, self.dropout, self.norm)(x, sources, there)[0]
