"""RedCore's variational encoder of one modality, and its classification head.

"RedCore", Sun et al., AAAI 2024, arXiv 2312.10386.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax.nn import encoders, lstm, transformer
from promise_jax.nn.dropout import Dropout
from promise_jax.nn.imputers import choose_init
from promise_jax.types import Inputs, Modality

# Ours. A few hundred steps cannot move logvar far, so it starts low; the bound keeps its
# exponential finite.
LOGVAR_START, LOGVAR_BOUND = -3.0, 10.0


class GaussianEncoder(nn.Module):
  """Encodes one modality as mean and log variance of a Gaussian, f[B, H] each.

  The mean is the code that all methods read (ours), or as in the released code a layer on it.
  """

  modality: Modality
  hidden: int
  encoder: str = "pooled"  # or "transformer" or "lstm"
  num_blocks: int = 3  # of the transformer
  as_released: bool = False  # see `redcore`

  @nn.compact
  def __call__(
    self, inputs: Inputs, present: Bool[Array, " B"]
  ) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    if self.encoder == "transformer":
      sizes = {"hidden": self.hidden, "num_blocks": self.num_blocks}
      body = transformer.Transformer(self.modality, mask_padding=not self.as_released, **sizes)
    else:
      kind = {"pooled": encoders.Encoder, "lstm": lstm.Lstm}[self.encoder]
      body = kind(self.modality, self.hidden)
    name = self.modality.name
    h = body(inputs.inputs[name], present, inputs.length.get(name))
    if self.as_released or self.encoder == "transformer":
      out = nn.Dense(2 * self.hidden, kernel_init=choose_init(self.as_released))(h)
      mean, logvar = jnp.split(out, 2, axis=-1)
    else:
      mean, logvar = h, nn.Dense(self.hidden)(h)
    if not self.as_released:
      logvar = jnp.clip(logvar + LOGVAR_START, -LOGVAR_BOUND, LOGVAR_BOUND)
    return mean, logvar


class Head(nn.Module):
  """One hidden layer, or two as in the released code, f[B, D] -> logits f[B, C]."""

  num_outputs: int
  hidden: int
  dropout: float = 0.0
  as_released: bool = False  # also He's initial weights

  @nn.compact
  def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B C"]:
    init = choose_init(self.as_released)
    for _ in range(2 if self.as_released else 1):
      x = Dropout(self.dropout)(nn.relu(nn.Dense(self.hidden, kernel_init=init)(x)))
    return nn.Dense(self.num_outputs, kernel_init=init)(x)
