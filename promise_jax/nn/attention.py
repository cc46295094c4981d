"""Multi-head attention, and pre-norm layers of self- or cross-attention."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.nn.dropout import Dropout

# The last weights of what is added to a residual stream start at 0: on few rows, a layer of
# random weights costs more than it learns to give.
ZEROS = nn.initializers.zeros


def attend(
  query: Float[Array, "B Q N D"],
  key: Float[Array, "B T N D"],
  value: Float[Array, "B T N D"],
  mask: Bool[Array, "*B Q T"] | None = None,
  weight_factor: Float[Array, "B N Q T"] | None = None,
) -> Float[Array, "B Q N D"]:
  """softmax(query key^T / sqrt(D)) value, in N heads. A query that may attend to nothing weighs all
  keys alike.

  Args:
    query, key, value: of Q steps that attend to T sources.
    mask: which keys a query may attend to, bool[B or 1, Q or 1, T].
    weight_factor: multiplies the weights, for dropout. It gets no gradient.

  It has reverse derivatives of any order, and no forward ones (`jax.jvp`).
  """
  by_head = lambda x: x.transpose(0, 2, 1, 3)
  mask = None if mask is None else mask[:, None]
  return by_head(attend_by_head(*map(by_head, (query, key, value)), mask, weight_factor))


@jax.custom_vjp
def attend_by_head(query, key, value, mask, factor) -> Float[Array, "B N Q D"]:
  """`attend` of f[B, N, T, D]. The weights are not kept for the gradient but computed again, as in
  "Self-attention does not need O(n^2) memory" (Rabe and Staats, 2021), but all at once."""
  weights = scale(weigh_keys(query, key, mask), factor)
  return jnp.einsum("bhqk,bhdk->bhqd", weights, value.mT)


def weigh_keys(query, key, mask) -> Float[Array, "B N Q T"]:
  """The softmax, before any dropout."""
  logits = jnp.einsum("bhqd,bhkd->bhqk", query / math.sqrt(query.shape[-1]), key)
  return jax.nn.softmax(logits if mask is None else jnp.where(mask, logits, -1e30))


def scale(weights, factor):
  return weights if factor is None else weights * factor


def keep_arguments(*args):
  out = attend_by_head(*args)
  return out, (*args, out)


def differentiate(kept, gradient):
  """The gradients by query, key and value. That of a softmax needs the mean of its gradient under
  the weights, which is gradient . out (FlashAttention, Dao et al., 2022). On a CPU products are
  fastest where the long axes, those of steps, are the last."""
  query, key, value, mask, factor, out = kept
  weights = weigh_keys(query, key, mask)
  by_weight = scale(jnp.einsum("bhqd,bhkd->bhqk", gradient, value), factor)
  by_logit = weights * (by_weight - jnp.sum(gradient * out, axis=-1, keepdims=True))
  by_logit = by_logit if mask is None else jnp.where(mask, by_logit, 0)
  sum_queries = lambda x, y: jnp.einsum("bhdq,bhqk->bhdk", x.mT, y).mT
  by_query = jnp.einsum("bhqk,bhdk->bhqd", by_logit, key.mT) / math.sqrt(query.shape[-1])
  by_key = sum_queries(query / math.sqrt(query.shape[-1]), by_logit)
  return by_query, by_key, sum_queries(gradient, scale(weights, factor)), None, None


attend_by_head.defvjp(keep_arguments, differentiate)


class Attention(nn.Module):
  """Steps x attend to `sources`. A row without any source gets zeros, and so do all rows at the
  start: the last weights start at 0."""

  num_heads: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B Q H"],
    sources: Float[Array, "B T H"],
    sources_mask: Bool[Array, "B T"],
  ) -> Float[Array, "B Q H"]:
    width = x.shape[-1]
    if width % self.num_heads:
      raise ValueError(f"width is {width}, not a multiple of the {self.num_heads} heads")
    # No bias: to the softmax, a bias of the keys makes no difference.
    shape = (self.num_heads, width // self.num_heads)
    dense = lambda x: nn.DenseGeneral(shape, use_bias=False)(x)
    out = attend(dense(x), dense(sources), dense(sources), sources_mask[:, None])
    out = nn.Dense(width, kernel_init=ZEROS)(out.reshape(x.shape))
    return missing.zero_absent(out, jnp.any(sources_mask, axis=1))


class Norm(nn.Module):
  """Layer norm, or nothing unless `on`."""

  on: bool

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return nn.LayerNorm()(x) if self.on else x


class Layer(nn.Module):
  """x <- x + MHA(LN x, LN s), x <- x + FFN(LN x), as a step of `nn.scan`. Both parts have
  dropout."""

  num_heads: int
  dropout: float
  norm: bool = True

  @nn.compact
  def __call__(self, x, sources, sources_mask):
    # One draw for all steps of a row: drawing takes much of the time on CPU.
    dropout = lambda x: Dropout(self.dropout, broadcast_dims=(-2,))(x)
    query = Norm(self.norm)(x)
    sources = query if sources is None else Norm(self.norm)(sources)
    x = x + dropout(Attention(self.num_heads)(query, sources, sources_mask))
    wide = nn.gelu(nn.Dense(4 * x.shape[-1])(Norm(self.norm)(x)))
    return x + dropout(nn.Dense(x.shape[-1], kernel_init=ZEROS)(wide)), None


class Layers(nn.Module):
  """`num_layers` of `Layer`, as one scan."""

  num_layers: int
  num_heads: int
  dropout: float = 0.0
  norm: bool = True

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B Q H"],
    sources_mask: Bool[Array, "B T"],
    sources: Float[Array, "B T H"] | None = None,
  ) -> Float[Array, "B Q H"]:
    """x attends to `sources`, or to itself."""
    if not self.num_layers:
      return x
    stack = nn.scan(
      Layer,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=(nn.broadcast, nn.broadcast),
      length=self.num_layers,
    )
    return stack(self.num_heads, self.dropout, self.norm)(x, sources, sources_mask)[0]
