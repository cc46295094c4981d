"""One encoder for each modality, and their codes side by side."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from promise_jax.nn.encoders import Encoder
from promise_jax.types import Inputs, Modality, Pattern


class ModalityEncoders(nn.Module):
  """Encodes every modality of a batch into a code of size `hidden`.

  The code of an absent modality says nothing about the row: its input counts as zeros.
  What a static `pattern` leaves out is not compiled, its code is 0.
  """

  modalities: tuple[Modality, ...]
  hidden: int

  @nn.compact
  def __call__(self, inputs: Inputs, pattern: Pattern | None = None) -> Float[Array, "B M H"]:
    codes = []
    for i, m in enumerate(self.modalities):
      encoder = Encoder(m, self.hidden, name=f"encoder_{i}")
      if pattern is not None and not pattern[i]:
        codes.append(jnp.zeros((inputs.present.shape[0], self.hidden)))
        continue
      x, length = inputs.inputs[m.name], inputs.length.get(m.name)
      codes.append(encoder(x, inputs.present[:, i], length))
    return jnp.stack(codes, axis=1)
