"""One encoder per kind of modality: image, tokens, sequence, vector -> f32[B, H].

The design is ours. There is no convolution: inside `lax.scan` it is about 40 times
slower on CPU, so everything is a matrix product over shifted slices. What needs no
parameters is a pure function (`image_features`, `windows`, `summary`), and for images
it is done once, before training (`prepare`).
The layers are few because the data sets are small; `DROPOUT` was chosen on validation.
"""

import zlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from promise_jax import missing, types
from promise_jax.nn import image_features, precision

DROPOUT = {"image": 0.5, "tokens": 0.3, "sequence": 0.1, "vector": 0.3}


class Encoder(nn.Module):
  """Encodes `modality` into f32[B, hidden]; a row that is not present counts as zeros.

  Images are uint8 in 0..255 or float in [0, 1]; vectors and sequences are standardised
  by the caller. `dropout` is the rate while a key is given (None: that of the kind in
  `DROPOUT`). Learned layers, and what they give, are of the type of their parameters.
  """

  modality: types.Modality
  hidden: int = 64
  dropout: float | None = None

  @nn.compact
  def __call__(self, x, present, length=None, *, key=None, ids=None):
    """x [B, ...], present bool[B], length i32[B] of real steps -> f32[B, H]; images
    may come as the features that `prepare` has made of them.

    `key` switches training noise on: a row draws from `key` folded with the name of
    the modality and with its own id in `ids` i32[B], wherever it is in the batch.
    Raises ValueError for an unknown kind and for a key without ids.
    """
    name, kind = self.modality.name, self.modality.kind
    if kind not in BODIES:
      known = ", ".join(types.KINDS)
      raise ValueError(f"modality {name!r} has kind {kind!r}, known kinds are {known}.")
    if key is not None and ids is None:
      raise ValueError("key is given but ids is None, noise needs the id of each row.")
    x = missing.zero_absent(x, present)
    if kind == "image" and x.ndim == 4:
      # Once more: a black image has features that are not 0.
      x = missing.zero_absent(image_features.image_features(x), present)
    keys = None if key is None else row_dropout_keys(key, name, ids)
    rate = DROPOUT[kind] if self.dropout is None else self.dropout
    dtype = precision.param_dtype(self)
    body = BODIES[kind](self.modality, self.hidden, rate, dtype, name="body")
    return body(x, length, keys)


class Image(nn.Module):
  """An MLP on `image_features`."""

  modality: types.Modality
  hidden: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, length, keys):
    del length
    return _mlp(self, x.astype(self.dtype), keys, self.dropout)


class Tokens(nn.Module):
  """A bag of embeddings: the sum over the n real ids divided by sqrt(n), then GELU."""

  modality: types.Modality
  hidden: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, length, keys):
    del length
    real = (x > 0).astype(self.dtype)
    count = jnp.maximum(real.sum(-1, keepdims=True), 1)
    weight = row_dropout(real, self.dropout, keys) / jnp.sqrt(count)
    embed = nn.Embed(self.modality.vocabulary, self.hidden, dtype=self.dtype)
    bag = jnp.einsum("bt,bth->bh", weight, embed(x))
    return nn.gelu(row_dropout(bag, self.dropout, fold(keys, 1)))


class Sequence(nn.Module):
  """Windows of 16 steps, every 4th; their summary and that of the steps; an MLP.

  A window counts when its first step is real; steps from `length` on are zeros. A
  second layer of windows did worse on 10 subjects than the summary of the steps.
  """

  modality: types.Modality
  hidden: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, length, keys):
    if length is None:
      length = jnp.full(len(x), x.shape[1], jnp.int32)
    x = jnp.where(step_mask(x, length), x, 0).astype(jnp.float32)
    w = windows(x, width=16, stride=4).astype(self.dtype)
    w = nn.relu(nn.Dense(self.hidden, dtype=self.dtype)(w)).astype(jnp.float32)
    mean, _, _, top = summary(w, -(-length // 4))
    f = jnp.concatenate([mean, top, *summary(x, length)], -1)
    return _mlp(self, f.astype(self.dtype), keys, self.dropout)


class Vector(nn.Module):
  """An MLP; the few and standardised features themselves are not dropped."""

  modality: types.Modality
  hidden: int
  dropout: float
  dtype: Any

  @nn.compact
  def __call__(self, x, length, keys):
    del length
    return _mlp(self, x.astype(self.dtype), keys, 0.0)


BODIES = {"image": Image, "tokens": Tokens, "sequence": Sequence, "vector": Vector}


def encode_modality(encoder, name, batch, present, key):
  """Code f[B, H] of one modality of a batch; `key` None means no noise."""
  x, length = batch.inputs[name], batch.length.get(name)
  return encoder(x, present, length, key=key, ids=batch.id)


def row_dropout_keys(key, name, ids):
  """One key a row, of `key`, the name of the modality and the row's own id i32[B]: a
  row draws the same wherever it is in the batch."""
  key = jax.random.fold_in(key, zlib.crc32(name.encode()))
  return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def fold(keys, number):
  """Other keys [B] for another use: `number` folded into each; None stays None."""
  return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def row_dropout(x, rate, keys, tied=False, halves=False):
  """Dropout of x [B, ...] with one key a row; `keys` None leaves x as it is. `tied`: of
  x [B, ..., T, H] a row's steps lose the same features. `halves`: half the draws, for
  large x, 16 bits an element; `rate` is then rounded to a 65,536th."""
  if keys is None or rate == 0:
    return x
  shape = (*x.shape[1:-2], 1, x.shape[-1]) if tied else x.shape[1:]
  draw = _kept_by_halves if halves else jax.random.bernoulli
  kept = jax.vmap(lambda key: draw(key, 1 - rate, shape))(keys)
  return jnp.where(kept, x / (1 - rate), 0)


def _kept_by_halves(key, chance, shape):
  words = jax.random.bits(key, (*shape[:-1], -(-shape[-1] // 2)), jnp.uint32)
  halves = jax.lax.bitcast_convert_type(words, jnp.uint16)  # the low half comes first
  halves = halves.reshape(*shape[:-1], -1)[..., : shape[-1]]
  return halves < min(round(chance * 2**16), 2**16 - 1)


def windows(x, width, stride):
  """Windows of f[B, T, D] from each `stride`-th step, f[B, ceil(T/stride), width*D]."""
  steps = -(-x.shape[1] // stride)
  x = jnp.pad(x, ((0, 0), (0, steps * stride + width - x.shape[1]), (0, 0)))
  parts = [x[:, k : k + steps * stride : stride] for k in range(width)]
  return jnp.concatenate(parts, -1)


def summary(x, length):
  """Mean, deviation, minimum and maximum of f[B, T, D] over the first `length` steps.

  Each is f[B, D], and zero for a row without steps.
  """
  real, some = step_mask(x, length), (length > 0)[:, None]
  count = jnp.maximum(length, 1)[:, None].astype(x.dtype)
  mean = jnp.where(real, x, 0).sum(1) / count
  square = jnp.where(real, (x - mean[:, None]) ** 2, 0).sum(1) / count
  deviation = jnp.sqrt(square + 1e-6)  # the gradient of the root at 0 is infinite
  ends = jnp.where(real, x, jnp.inf).min(1), jnp.where(real, x, -jnp.inf).max(1)
  return tuple(jnp.where(some, v, 0) for v in (mean, deviation, *ends))


def step_mask(x, length):
  """Which steps of f[B, T, D] come before `length` i32[B], bool[B, T, 1]."""
  return (jnp.arange(x.shape[1])[None] < length[:, None])[..., None]


def _mlp(module, f, keys, rate):
  h = nn.Dense(2 * module.hidden, dtype=module.dtype)(row_dropout(f, rate, keys))
  h = row_dropout(nn.gelu(h), module.dropout, fold(keys, 1))
  return nn.gelu(nn.Dense(module.hidden, dtype=module.dtype)(h))
