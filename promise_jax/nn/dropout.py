"""Dropout that is on exactly while `apply` is given `rngs={"dropout": key}`."""

import flax.linen as nn
from jaxtyping import Array


class Dropout(nn.Module):
  """Drops elements with probability `rate`, and scales up the rest.

  Prediction gives no key, so that no module needs a flag for training.
  """

  rate: float
  broadcast_dims: tuple[int, ...] = ()  # axes along which all elements share one draw

  @nn.compact
  def __call__(self, x: Array) -> Array:
    dropout = nn.Dropout(self.rate, self.broadcast_dims)
    return dropout(x, deterministic=not self.has_rng("dropout"))
