"""Augmentation on the device: a second, changed view of the same rows.

A PROMISE-style method (AAAI 2026, arXiv 2511.10997) contrasts two views of each row.
How the paper makes the second one we did not see, so everything here is ours. Features
of a frozen backbone are sequences or vectors like any other.

Each kind has a pure function of ONE row, `augment` maps it over the batch: rows cannot
see each other, and a row draws from its own key alone. All shapes are static, so it
runs in a jitted step, under `lax.scan`, `lax.map` and `vmap`.
"""

import jax
import jax.numpy as jnp

from promise_jax.checks import check_choice
from promise_jax.nn import image_features
from promise_jax.types import Array, Modality

# At strength 1; all shrink to nothing with the strength.
CROP = 0.25  # the side of the window is 1 - CROP to 1 of that of the image
FLIP = 0.5  # chance
BRIGHTNESS, CONTRAST, SATURATION = 0.3, 0.3, 0.3  # factors of 1 - this to 1 + this
TOKEN_DROP = 0.15  # chance of each token
FEATURE_DROP = 0.1  # chance of each feature
SPAN = 0.15  # the longest span that is blanked, as a part of the real steps
JITTER = 0.1  # standard deviation of the noise, where that of the data is 1
SCALE = 0.1  # a factor of 1 - this to 1 + this
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)


def augment(
  modality: Modality,
  x: Array,
  length: Array | None,
  keys: Array,
  strength: float = 1.0,
) -> Array:
  """A changed view of x [B, ...]; shapes and lengths stay as they are.

  image     uint8[B, H, W, C] in 0..255 or f[B, H, W, C] in [0, 1] -> f32 in [0, 1]:
            cropped, mirrored, other colours. Prepared features f[B, F] of images
            (`image_features.precompute`) lose features as a vector does.
  tokens    i32[B, T], some become 0 (padding); of a row that has any, one is left.
  sequence  f[B, T, D], standardised, with `length` i32[B] real steps (None: all).
            Scaled, jittered, a span set to 0; steps from `length` on stay.
  vector    f[B, D], standardised, some features set to 0, their mean. Nothing is
            scaled up for it: it is a view of the row, not dropout in a network.

  `keys` has one key a row, [B], as `encoders.row_keys` makes them, of a key that
  nothing else draws from. `strength` in [0, 1], a Python number, scales every range
  and chance; 0 changes nothing, but images become floats. Raises ValueError for
  an unknown kind and for a strength outside [0, 1].
  """
  check_choice(f"the kind of {modality.name}", modality.kind, tuple(VIEWS))
  if not 0 <= strength <= 1:
    raise ValueError(f"strength is {strength}, it must be from 0 to 1")
  features = modality.kind == "image" and x.ndim == 2
  change = VIEWS["vector" if features else modality.kind]
  one = lambda x, length, key: change(x, length, key, strength)
  return jax.vmap(one)(x, length, keys)


def image(x: Array, length: Array | None, key: Array, strength: float) -> Array:
  """One image [H, W, C] -> f32[H, W, C] in [0, 1]."""
  del length
  x = image_features.to_unit_range(x)
  u = jax.random.uniform(key, (7,))
  side = 1 - CROP * strength * u[0]
  x = crop(x, u[1] * (1 - side), u[2] * (1 - side), side, u[3] < FLIP * strength)
  near_one = lambda u, reach: 1 + reach * strength * (2 * u - 1)
  brightness, contrast = near_one(u[4], BRIGHTNESS), near_one(u[5], CONTRAST)
  return recolour(x, brightness, contrast, near_one(u[6], SATURATION))


def crop(x: Array, top: Array, left: Array, side: Array, flip: Array) -> Array:
  """A window of f[H, W, C], brought to the size of the image again; with `flip` bool[]
  left and right change places.

  `top`, `left` and `side` f[] are parts of height and width, top + side and left + side
  at most 1. Bilinear, by two matrix products: no convolution, see `nn.encoders`.
  """
  rows = weights(x.shape[0], top, side, False)
  columns = weights(x.shape[1], left, side, flip)
  high = jax.lax.Precision.HIGHEST  # pixels, not activations: no bfloat16 on a TPU
  # In this order: the other takes up to twice as long inside a scan on CPU.
  x = jnp.einsum("jw,hwc->hjc", columns, x, precision=high)
  return jnp.einsum("ih,hjc->ijc", rows, x, precision=high)


def weights(size: int, start: Array, part: Array, mirror: Array | bool) -> Array:
  """f32[size, size]: how much each new pixel takes of each old one along one axis."""
  pixel = jnp.arange(size, dtype=jnp.float32)
  place = (pixel + 0.5) * part + start * size - 0.5  # of the centres of new pixels
  place = jnp.clip(jnp.where(mirror, place[::-1], place), 0, size - 1)
  return jnp.maximum(1 - jnp.abs(place[:, None] - pixel[None]), 0)


def recolour(x: Array, brightness: Array, contrast: Array, saturation: Array) -> Array:
  """f[H, W, C] with each factor f[] applied in turn, clipped to [0, 1] at the end.

  Contrast is the distance from the mean of the image, saturation that from the grey of
  the pixel, where there are three channels.
  """
  x = x * brightness
  x = x * contrast + (1 - contrast) * x.mean()
  if x.shape[-1] == 3:
    # By slices: a sum along so short an axis takes several times as long on CPU.
    grey = sum(part * x[..., i] for i, part in enumerate(LUMA))
    x = x * saturation + (1 - saturation) * grey[..., None]
  return jnp.clip(x, 0, 1)


def tokens(x: Array, length: Array | None, key: Array, strength: float) -> Array:
  """One row of ids i32[T]; 0 is padding."""
  del length
  u = jax.random.uniform(key, x.shape)
  # No higher than the luckiest real token, so that one stays.
  bar = jnp.minimum(TOKEN_DROP * strength, jnp.max(jnp.where(x > 0, u, -1)))
  return jnp.where(u >= bar, x, 0)


def sequence(x: Array, length: Array | None, key: Array, strength: float) -> Array:
  """One sequence f[T, D] of `length` i32[] real steps."""
  steps = len(x) if length is None else length
  steps = jnp.clip(steps, 0, len(x))  # an absent row may hold any number
  scale, noise, width, start = jax.random.split(key, 4)
  longest = jnp.floor(SPAN * strength * steps).astype(jnp.int32)
  width = jax.random.randint(width, (), 0, longest + 1)
  start = jax.random.randint(start, (), 0, steps - width + 1)
  factor = 1 + SCALE * strength * jax.random.uniform(scale, minval=-1, maxval=1)
  y = x * factor + JITTER * strength * jax.random.normal(noise, x.shape)
  step = jnp.arange(len(x))[:, None]
  y = jnp.where((step >= start) & (step < start + width), 0, y)
  return jnp.where(step < steps, y.astype(x.dtype), x)


def vector(x: Array, length: Array | None, key: Array, strength: float) -> Array:
  """One row of features f[D]."""
  del length
  kept = jax.random.bernoulli(key, 1 - FEATURE_DROP * strength, x.shape)
  return jnp.where(kept, x, 0)


VIEWS = {"image": image, "tokens": tokens, "sequence": sequence, "vector": vector}
