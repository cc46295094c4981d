"""An LSTM as the encoder of one modality. Ours: RedCore's released code has LSTM encoders,
left over from the code it was built on, and does not use them."""

import flax.linen as nn
import jax.numpy as jnp

from promise_jax.nn import encoders, precision, tokens
from promise_jax.nn.dropout import Dropout
from promise_jax.types import Modality


class Lstm(nn.Module):
  """The maximum over time of the hidden states of a forward LSTM, f[B, T, D] -> f[B, H].

  A row that is absent or has no steps is zeros. Steps after the last real one change nothing.
  In training the output has dropout at the rate of the pooled encoder.
  """

  modality: Modality
  hidden: int = 64

  @nn.compact
  def __call__(self, x, present, length=None):
    """Arguments as in `encoders.Encoder`."""
    m, dtype = self.modality, precision.param_dtype(self)
    embed = nn.Embed(m.vocabulary, self.hidden)
    steps, step_mask = tokens.read_steps(m, x, present, length, embed)
    step_mask = (step_mask & present[:, None])[..., None]
    # Not orthogonal, as is usual: two QR factorisations at once on two cores wait for each
    # other's thread for ever (jaxlib 0.10.2).
    init = nn.initializers.lecun_normal()
    cell = nn.OptimizedLSTMCell(self.hidden, recurrent_kernel_init=init, dtype=dtype)
    h = nn.RNN(cell)(steps.astype(dtype))
    top = jnp.max(jnp.where(step_mask, h, -jnp.inf), axis=1)
    top = jnp.where(jnp.any(step_mask, axis=1), top, 0).astype(dtype)
    return Dropout(encoders.DROPOUT[m.kind])(top)
