"""Layers of pretrained networks in the layout of PyTorch: weights [out, in], by name."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def project(params: Mapping[str, Array], name: str, x: Float[Array, "*B D"]) -> Float[Array, "..."]:
  """x W' + b; without b where the weights have none."""
  y = x @ params[f"{name}.weight"].T
  bias = params.get(f"{name}.bias")
  return y if bias is None else y + bias.reshape(*(1,) * (y.ndim - 1), -1)


def normalise(
  params: Mapping[str, Array], name: str, x: Float[Array, "*B D"], epsilon: float
) -> Float[Array, "*B D"]:
  """Layer normalisation over the last axis, in float32."""
  wide = x.astype(jnp.float32)
  mean, variance = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
  one = (1,) * (x.ndim - 1)
  scale, shift = (params[f"{name}.{p}"].reshape(*one, -1) for p in ("weight", "bias"))
  return ((wide - mean) / jnp.sqrt(variance + epsilon)).astype(x.dtype) * scale + shift


def attend(
  q: Float[Array, "B T D"],
  k: Float[Array, "B T D"],
  v: Float[Array, "B T D"],
  num_heads: int,
  mask: Bool[Array, "B 1 1 T"] | None = None,
) -> Float[Array, "B T D"]:
  """softmax(q k' / sqrt(D / H)) v in H heads; False in `mask` is not looked at."""
  split = lambda x: x.reshape(*x.shape[:2], num_heads, -1)
  mixed = jax.nn.dot_product_attention(split(q), split(k), split(v), mask=mask)
  return mixed.reshape(q.shape)
