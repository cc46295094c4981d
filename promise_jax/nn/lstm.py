"""A recurrent encoder: LSTM over the steps of one modality, f[B, T, D] -> f[B, H]."""

import flax.linen as nn
import jax.numpy as jnp

from promise_jax import missing, types
from promise_jax.nn import encoders, precision, transformer


class Lstm(nn.Module):
  """The greatest value over the real steps of each of `hidden` cells of an LSTM
  (Hochreiter and Schmidhuber 1997; forget gates as Gers et al. 2000):

    i, f, o = sigmoid(W x_t + U h_{t-1} + b) each, g = tanh(the same)
    c_t = f c_{t-1} + i g, h_t = o tanh(c_t), from c = h = 0

  Forward only, so that padding at the end changes nothing; a row that is not present,
  or has no steps, is zeros. That there is one, the greatest value, and dropout on it in
  training, as the pooled encoder has it, are ours: the code base of RedCore has LSTM
  encoders that it does not use. The order of the steps matters here, of the
  transformer's it does not.
  """

  modality: types.Modality
  hidden: int = 64

  @nn.compact
  def __call__(self, x, present, length=None, *, key=None, ids=None):
    """x [B, ...], present bool[B], length i32[B] -> f[B, H]; `key` and `ids` i32[B]
    switch dropout on, as in `encoders.Encoder`."""
    m, dtype = self.modality, precision.param_dtype(self)
    x = missing.zero_absent(x, present)
    if m.kind == "tokens":
      steps, real = nn.Embed(m.vocabulary, self.hidden)(x), x > 0
    else:
      steps, real = transformer.as_steps(m, x, length)
    real = (real & present[:, None])[..., None]
    # Not orthogonal, as is usual: of two QR factorisations that meet on two cores each
    # waits for a thread that the other holds, for ever (jaxlib 0.10.2).
    init = nn.initializers.lecun_normal()
    cell = nn.OptimizedLSTMCell(self.hidden, recurrent_kernel_init=init, dtype=dtype)
    h = nn.RNN(cell)(steps.astype(dtype))
    top = jnp.max(jnp.where(real, h, -jnp.inf), axis=1)
    top = jnp.where(jnp.any(real, axis=1), top, 0).astype(dtype)
    keys = None if key is None else encoders.row_dropout_keys(key, m.name, ids)
    return encoders.row_dropout(top, encoders.DROPOUT[m.kind], keys)
