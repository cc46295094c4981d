"""Steps of a modality for attention: sequences as they are, images as cells, vectors as one.

`Tokenizer` is PROMISE's (AAAI 2026, arXiv 2511.10997): its method figure shows an encoder and
tokens; all else is ours.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.nn import attention, encoders, image_features, precision
from promise_jax.types import Inputs, Modality

IMAGE_CELLS = 64  # an 8 x 8 grid


def num_steps(modality: Modality) -> int:
  """T of a modality."""
  fixed = {"vector": 1, "image": IMAGE_CELLS}
  return fixed.get(modality.kind, modality.shape[0])


def to_steps(
  modality: Modality, x: Array, length: Array | None
) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"]]:
  """Steps of an image, sequence or vector, and which are real: those before `length`.

  An image, or its `image_features`, becomes colour and edge features of its cells. Steps that are
  not real are zeros.
  """
  if modality.kind == "image":
    x = x if x.ndim == 2 else image_features.image_features(x)
    cells = lambda x: x.reshape(x.shape[0], IMAGE_CELLS, -1)
    colours, edges, _ = jnp.split(x, image_features.part_ends(modality.shape[2]), axis=1)
    x = jnp.concatenate([cells(colours), cells(edges)], -1)
  elif modality.kind == "vector":
    x = x[:, None]
  step_mask = jnp.ones(x.shape[:2], bool)
  if length is not None:
    step_mask = encoders.step_mask(x, length)[..., 0]
  return jnp.where(step_mask[..., None], x, 0), step_mask


def read_steps(
  modality: Modality,
  x: Array,
  present: Bool[Array, " B"],
  length: Array | None,
  embed: Callable[[Array], Array],
) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"]]:
  """Steps of any modality, and which are real where it is present.

  `embed` maps ids of tokens to vectors. Padding, and cells of an absent image, may not be zeros.
  """
  x = missing.zero_absent(x, present)
  if modality.kind == "tokens":
    return embed(x), x > 0
  length = None if length is None else missing.zero_absent(length, present)
  return to_steps(modality, x, length)


def window_statistics(
  x: Float[Array, "B T D"], real: Bool[Array, "B T"], count: int
) -> tuple[Float[Array, "B N 2D"], Bool[Array, "B N"]]:
  """Mean and standard deviation of the real steps in each of `count` windows.

  Windows differ in length by one at most; one is real if any of its steps is. Ours: a mean
  alone would lose what is faster than a window.
  """
  window = np.arange(x.shape[1]) * count // x.shape[1]
  inside = (window[:, None] == np.arange(count)[None]).astype(np.float32)
  size = (real @ inside)[..., None]

  def mean(x):
    total = jnp.einsum("btd,tn->bnd", jnp.where(real[..., None], x, 0), inside)
    return total / jnp.maximum(size, 1)

  center = mean(x)
  deviation = mean(jnp.square(x - center[:, window]))
  # The derivative of the root at 0 is infinite.
  deviation = jnp.sqrt(deviation + 1e-6) - 1e-3
  out = jnp.concatenate([center, deviation], axis=-1)
  return out.astype(x.dtype), size[..., 0] > 0


def sinusoidal_positions(num_steps: int, width: int) -> np.ndarray:
  """Sines and cosines f32[T, H] of "Attention is all you need" (2017)."""
  rate = 10000.0 ** (-2 * (np.arange(width) // 2) / width)
  angle = np.arange(num_steps)[:, None] * rate[None]
  is_even = np.arange(width)[None] % 2 == 0
  return np.where(is_even, np.sin(angle), np.cos(angle)).astype(np.float32)


class Tokenizer(nn.Module):
  """Tokens of one modality: z = code + e_m, or Dense(LN(step)) + e_m + position.

  `encoder` "pooled" gives one token, the code of the encoder of every method; "steps" projects
  every step (embeds ids of tokens), which is meant for features of a frozen encoder.
  """

  modality: Modality
  hidden: int
  encoder: str = "pooled"
  norm: bool = False  # layer norm before the projection

  @nn.compact
  def __call__(
    self, inputs: Inputs, present: Bool[Array, " B"]
  ) -> tuple[Float[Array, "B T H"], Bool[Array, "B T"]]:
    """Tokens, and which are real."""
    m = self.modality
    x, length = inputs.inputs[m.name], inputs.length.get(m.name)
    if self.encoder == "pooled":
      z = encoders.Encoder(m, self.hidden)(x, present, length)[:, None]
      token_mask = jnp.ones(z.shape[:2], bool)
    else:
      embed = nn.Embed(m.vocabulary, self.hidden)
      steps, token_mask = read_steps(m, x, present, length, embed)
      steps = steps.astype(precision.param_dtype(self))  # cells are float32
      z = nn.Dense(self.hidden)(attention.Norm(self.norm)(steps))
    embedding = self.param("modality", nn.initializers.normal(0.02), (self.hidden,))
    z = z + embedding[None, None]
    if z.shape[1] > 1:
      z = z + sinusoidal_positions(*z.shape[1:]).astype(z.dtype)[None]
    token_mask = token_mask & present[:, None]
    return missing.zero_absent(z, token_mask), token_mask

  def num_tokens(self) -> int:
    """T of the output."""
    return 1 if self.encoder == "pooled" else num_steps(self.modality)
