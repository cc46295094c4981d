"""A small dense network, for projections, decoders and heads."""

import flax.linen as nn
from jaxtyping import Array, Float


class Mlp(nn.Module):
  """Dense layers of the sizes `features`, with ReLU between."""

  features: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
    for width in self.features[:-1]:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.features[-1])(x)
