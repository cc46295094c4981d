"""Dropout that is on exactly while `apply` is given `rngs={"dropout": key}`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array


class Dropout(nn.Module):
  """Drops elements with probability `rate`, and scales up the rest.

  Prediction gives no key, so that no module needs a flag for training.
  """

  rate: float
  broadcast_dims: tuple[int, ...] = ()  # axes along which all elements share one draw
  # 16 random bits an element in place of 32, all elements with a draw of their own: for large x.
  coarse: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    if self.coarse and self.has_rng("dropout"):
      return self.drop_coarsely(x)
    dropout = nn.Dropout(self.rate, self.broadcast_dims)
    return dropout(x, deterministic=not self.has_rng("dropout"))

  def drop_coarsely(self, x: Array) -> Array:
    """Dropout with `rate` rounded to a multiple of 2^-16, and scaled up by what that leaves."""
    num_kept = round((1 - self.rate) * 2**16)
    # Two elements share the bits of a draw, which is most of the time. The axes of rows stay, so
    # that devices draw for their own rows.
    bits = jax.random.bits(
      self.make_rng("dropout"), (*x.shape[:-1], -(-x.shape[-1] // 2)), jnp.uint32
    )
    halves = jax.lax.bitcast_convert_type(bits, jnp.uint16)
    draws = halves.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    return jnp.where(draws < num_kept, x / (num_kept / 2**16), 0)
