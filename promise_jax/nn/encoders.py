"""One encoder for each kind of modality: image, tokens, sequence or vector -> a code.

The design is ours. The layers are few because the data sets are small. There is no
convolution: inside `lax.scan` it is about 40 times slower on CPU, so everything is a
matrix product. What needs no parameters is a function (`nn.image_features`, `windows`,
`summarise`).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from promise_jax import missing, types
from promise_jax.nn import image_features, precision
from promise_jax.nn.dropout import Dropout

# Rates that did best on validation of the embedded data sets.
DROPOUT = {"image": 0.5, "tokens": 0.3, "sequence": 0.1, "vector": 0.3}


class Encoder(nn.Module):
  """Encodes one modality into a code of size `hidden`; what is not present counts as 0.

  Images are uint8 in 0..255, float in [0, 1], or already `image_features`; vectors and
  sequences are standardised by the caller.
  """

  modality: types.Modality
  hidden: int = 64

  @nn.compact
  def __call__(
    self, x: Array, present: Bool[Array, " B"], length: Int[Array, " B"] | None = None
  ) -> Float[Array, "B H"]:
    """`length` is the number of valid steps of a sequence; None: all are."""
    name, kind = self.modality.name, self.modality.kind
    if kind not in types.KINDS:
      known = ", ".join(types.KINDS)
      raise ValueError(f"modality {name!r} has kind {kind!r}, known kinds are {known}.")
    x = missing.zero_absent(x, present)
    if kind == "image" and x.ndim == 4:
      # Again, because the features of a black image are not 0.
      x = missing.zero_absent(image_features.image_features(x), present)
    dtype = precision.param_dtype(self)
    return Body(self.modality, self.hidden, DROPOUT[kind], dtype, name="body")(x, length)


class Body(nn.Module):
  """What the encoder of each kind has of its own. It computes in `dtype`."""

  modality: types.Modality
  hidden: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, length):
    kind = self.modality.kind
    if kind == "tokens":
      return self.embed_bag(x)
    if kind == "sequence":
      x = self.summarise_windows(x, length)
    # The inputs of a vector are few and standardised, and are not dropped.
    x = Dropout(0.0 if kind == "vector" else self.dropout)(x.astype(self.dtype))
    x = nn.gelu(self.dense(2 * self.hidden)(x))
    return nn.gelu(self.dense(self.hidden)(Dropout(self.dropout)(x)))

  def dense(self, width: int) -> nn.Dense:
    return nn.Dense(width, dtype=self.dtype)

  def embed_bag(self, x):
    """A bag of embeddings: their sum over the n tokens divided by sqrt(n), then GELU."""
    token_mask = (x > 0).astype(self.dtype)
    num_tokens = jnp.maximum(token_mask.sum(-1, keepdims=True), 1)
    weight = Dropout(self.dropout)(token_mask) / jnp.sqrt(num_tokens)
    embed = nn.Embed(self.modality.vocabulary, self.hidden, dtype=self.dtype)
    bag = jnp.einsum("bt,bth->bh", weight, embed(x))
    return nn.gelu(Dropout(self.dropout)(bag))

  def summarise_windows(self, x, length):
    """A summary of the steps and of windows of 16 steps, one every 4.

    A second layer of windows did worse on 10 subjects than the summary of the steps.
    """
    if length is None:
      length = jnp.full(x.shape[0], x.shape[1], jnp.int32)
    x = jnp.where(step_mask(x, length), x, 0).astype(jnp.float32)
    w = windows(x, width=16, stride=4).astype(self.dtype)
    w = nn.relu(self.dense(self.hidden)(w)).astype(jnp.float32)
    # A window counts if its first step is valid.
    mean, _, _, top = summarise(w, -(-length // 4))
    return jnp.concatenate([mean, top, *summarise(x, length)], -1)


def windows(x: Float[Array, "B T D"], width: int, stride: int) -> Float[Array, "B W F"]:
  """Windows of `width` steps from each `stride`-th step, flat; zeros behind the end."""
  num_windows = -(-x.shape[1] // stride)
  x = jnp.pad(x, ((0, 0), (0, num_windows * stride + width - x.shape[1]), (0, 0)))
  parts = [x[:, k : k + num_windows * stride : stride] for k in range(width)]
  return jnp.concatenate(parts, -1)


def summarise(
  x: Float[Array, "B T D"], length: Int[Array, " B"]
) -> tuple[Float[Array, "B D"], ...]:
  """Mean, deviation, minimum and maximum over the valid steps; zeros where there is none."""
  valid, any_valid = step_mask(x, length), (length > 0)[:, None]
  count = jnp.maximum(length, 1)[:, None].astype(x.dtype)
  mean = jnp.where(valid, x, 0).sum(1) / count
  square = jnp.where(valid, (x - mean[:, None]) ** 2, 0).sum(1) / count
  deviation = jnp.sqrt(square + 1e-6)  # the gradient of a root at 0 is infinite
  low = jnp.where(valid, x, jnp.inf).min(1)
  high = jnp.where(valid, x, -jnp.inf).max(1)
  return tuple(jnp.where(any_valid, v, 0) for v in (mean, deviation, low, high))


def step_mask(x: Float[Array, "B T D"], length: Int[Array, " B"]) -> Bool[Array, "B T 1"]:
  """The steps before `length`."""
  return (jnp.arange(x.shape[1])[None] < length[:, None])[..., None]
