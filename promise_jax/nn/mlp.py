"""A small dense network, for projections, decoders and heads."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float


class Mlp(nn.Module):
  """Dense layers of the sizes `features`, with an activation between."""

  features: tuple[int, ...]
  activation: Callable[[Array], Array] = nn.relu

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
    for width in self.features[:-1]:
      x = self.activation(nn.Dense(width)(x))
    return nn.Dense(self.features[-1])(x)
