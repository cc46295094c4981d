"""The small dense network that projections, decoders and heads share."""

import flax.linen as nn

from promise_jax.types import Array


class Mlp(nn.Module):
  """Dense layers of `features`, ReLU between: f[..., D] -> f[..., features[-1]]."""

  features: tuple[int, ...]

  @nn.compact
  def __call__(self, x: Array) -> Array:
    for width in self.features[:-1]:
      x = nn.relu(nn.Dense(width)(x))
    return nn.Dense(self.features[-1])(x)
