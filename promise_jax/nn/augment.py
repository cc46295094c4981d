"""Augmentation on the device: a changed view of the same rows.

PROMISE (AAAI 2026, arXiv 2511.10997) contrasts two views of each row; how it makes the second we
did not see, so everything here is ours. Each kind of modality has a pure function of one row,
and a row draws from its own key, so rows cannot influence each other.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from promise_jax.checks import check_choice
from promise_jax.nn import image_features
from promise_jax.types import Modality

# At strength 1; all shrink to nothing with the strength.
CROP = 0.25  # the side of the window is 1 - CROP to 1 of the image's
FLIP = 0.5  # chance
BRIGHTNESS, CONTRAST, SATURATION = 0.3, 0.3, 0.3  # factors of 1 - this to 1 + this
TOKEN_DROP = 0.15  # chance for each token
FEATURE_DROP = 0.1  # chance for each feature
SPAN = 0.15  # the longest span that is blanked, as a part of the real steps
JITTER = 0.1  # standard deviation of the noise on standardised values
SCALE = 0.1  # a factor of 1 - this to 1 + this
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)


def augment(
  modality: Modality,
  x: Array,
  length: Int[Array, " B"] | None,
  keys: Key[Array, " B"],
  strength: float = 1.0,
) -> Array:
  """A changed view of x [B, ...]; shapes and lengths stay.

  Images are cropped, mirrored and change colours; tokens are dropped, but one stays; sequences
  are scaled, jittered and lose a span; vectors lose features, and so do images that are already
  features f[B, F].

  Args:
    x: Images uint8 in 0..255 or float in [0, 1], which become f32 in [0, 1]; ids of tokens with
      0 as padding; standardised sequences and vectors.
    length: Real steps of sequences; None: all. Padding stays as it is.
    strength: A number in [0, 1] that scales every range and chance.
  """
  check_choice(f"the kind of {modality.name}", modality.kind, tuple(AUGMENTATIONS))
  if not 0 <= strength <= 1:
    raise ValueError(f"strength is {strength}, it must be from 0 to 1")
  is_features = modality.kind == "image" and x.ndim == 2
  augment_row = AUGMENTATIONS["vector" if is_features else modality.kind]
  return jax.vmap(lambda *row: augment_row(*row, strength))(x, length, keys)


def augment_image(x: Array, length, key, strength: float) -> Float[Array, "H W C"]:
  del length
  x = image_features.to_unit_range(x)
  u = jax.random.uniform(key, (7,))
  side = 1 - CROP * strength * u[0]
  x = crop(x, u[1] * (1 - side), u[2] * (1 - side), side, u[3] < FLIP * strength)
  near_one = lambda u, reach: 1 + reach * strength * (2 * u - 1)
  brightness, contrast = near_one(u[4], BRIGHTNESS), near_one(u[5], CONTRAST)
  return recolour(x, brightness, contrast, near_one(u[6], SATURATION))


def crop(x: Float[Array, "H W C"], top, left, side, flip) -> Float[Array, "H W C"]:
  """A window resized to the size of the image, mirrored with `flip`. `top`, `left` and `side` are
  parts of height and width. Bilinear, by two matrix products."""
  rows = interpolation_weights(x.shape[0], top, side, False)
  columns = interpolation_weights(x.shape[1], left, side, flip)
  high = jax.lax.Precision.HIGHEST  # pixels, not activations: no bfloat16 on a TPU
  # In this order: the other takes up to twice as long inside a scan on CPU.
  x = jnp.einsum("jw,hwc->hjc", columns, x, precision=high)
  return jnp.einsum("ih,hjc->ijc", rows, x, precision=high)


def interpolation_weights(size: int, start, part, mirror) -> Float[Array, "size size"]:
  """How much each new pixel takes of each old one along one axis."""
  pixel = jnp.arange(size, dtype=jnp.float32)
  centre = (pixel + 0.5) * part + start * size - 0.5
  centre = jnp.clip(jnp.where(mirror, centre[::-1], centre), 0, size - 1)
  return jnp.maximum(1 - jnp.abs(centre[:, None] - pixel[None]), 0)


def recolour(x: Float[Array, "H W C"], brightness, contrast, saturation) -> Float[Array, "H W C"]:
  """Applies each factor in turn and clips to [0, 1]. Contrast is about the mean of the image,
  saturation about the grey of the pixel, where there are three channels."""
  x = x * brightness
  x = x * contrast + (1 - contrast) * x.mean()
  if x.shape[-1] == 3:
    # By slices: a sum along so short an axis takes several times as long on CPU.
    grey = sum(part * x[..., i] for i, part in enumerate(LUMA))
    x = x * saturation + (1 - saturation) * grey[..., None]
  return jnp.clip(x, 0, 1)


def augment_tokens(x: Int[Array, " T"], length, key, strength: float) -> Int[Array, " T"]:
  del length
  u = jax.random.uniform(key, x.shape)
  # No higher than the highest draw of a real token, so that one stays.
  threshold = jnp.minimum(TOKEN_DROP * strength, jnp.max(jnp.where(x > 0, u, -1)))
  return jnp.where(u >= threshold, x, 0)


def augment_sequence(x: Float[Array, "T D"], length, key, strength: float) -> Float[Array, "T D"]:
  num_steps = len(x) if length is None else length
  num_steps = jnp.clip(num_steps, 0, len(x))  # an absent row may hold any number
  scale_key, noise_key, width_key, start_key = jax.random.split(key, 4)
  longest = jnp.floor(SPAN * strength * num_steps).astype(jnp.int32)
  width = jax.random.randint(width_key, (), 0, longest + 1)
  start = jax.random.randint(start_key, (), 0, num_steps - width + 1)
  factor = 1 + SCALE * strength * jax.random.uniform(scale_key, minval=-1, maxval=1)
  y = x * factor + JITTER * strength * jax.random.normal(noise_key, x.shape)
  step = jnp.arange(len(x))[:, None]
  y = jnp.where((step >= start) & (step < start + width), 0, y)
  return jnp.where(step < num_steps, y.astype(x.dtype), x)


def augment_vector(x: Float[Array, " D"], length, key, strength: float) -> Float[Array, " D"]:
  """Nothing is scaled up for what is dropped: it is a view of the row, not network dropout."""
  del length
  keep = jax.random.bernoulli(key, 1 - FEATURE_DROP * strength, x.shape)
  return jnp.where(keep, x, 0)


AUGMENTATIONS = {
  "image": augment_image,
  "tokens": augment_tokens,
  "sequence": augment_sequence,
  "vector": augment_vector,
}
