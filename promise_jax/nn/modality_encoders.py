"""One encoder for each modality, and their codes side by side."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from promise_jax.nn import encoders
from promise_jax.types import Inputs, Modality, Pattern


class ModalityEncoders(nn.Module):
  """Encodes every modality of a batch into a code of size `hidden`.

  The code of an absent modality says nothing about the row: its input counts as zeros.
  What a static `pattern` leaves out is not compiled, its code is 0.
  """

  modalities: tuple[Modality, ...]
  hidden: int
  prefix: str = "encode"  # of the names of the parameters

  @nn.compact
  def __call__(
    self, inputs: Inputs, pattern: Pattern | None = None, key: Key[Array, ""] | None = None
  ) -> Float[Array, "B M H"]:
    """Codes of all modalities. `key` switches dropout on."""
    codes = []
    for i, m in enumerate(self.modalities):
      encoder = encoders.Encoder(m, self.hidden, name=f"{self.prefix}_{i}")
      if pattern is not None and not pattern[i]:
        codes.append(jnp.zeros((inputs.present.shape[0], self.hidden)))
      else:
        codes.append(encoders.encode_modality(encoder, m.name, inputs, inputs.present[:, i], key))
    return jnp.stack(codes, axis=1)
