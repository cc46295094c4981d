"""Late fusion on the codes of any encoder, and a small transformer for prompts, as a host. Ours.

Every modality has a code, that of its encoder (`encoders.Encoder`), and, where it has several
steps, up to `max_steps` more tokens: steps of a sequence, words, cells of an image. A modality
that is absent has a learned token in the place of its code. Without prompts the head, an MLP,
reads the codes of all modalities side by side, as in `fusion`. With prompts, first

  cross_attend  every token attends to those of all modalities
  self_attend   every token attends to those of its modality, and to prompts

in layers that all modalities share. Their last weights start at 0 and they are trained with the
prompts: a host that had them from the start lost 3 to 4 points on emoji, of 951 rows.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.nn import encoders, host, mult_layers, precision, tokens
from promise_jax.nn.attention import ZEROS
from promise_jax.nn.dropout import Dropout
from promise_jax.types import Inputs, Modality, Pattern

DROPOUT = 0.1  # of what a layer adds
START = nn.initializers.normal(0.02)


class Tokens(nn.Module):
  """Tokens f[B, T_m, H] of one modality, the code of its encoder first."""

  modality: Modality
  width: int
  max_steps: int

  @nn.compact
  def __call__(self, inputs: Inputs, present: Bool[Array, " B"]):
    """The tokens, and which are real; the others are zeros."""
    m = self.modality
    x, length = inputs.inputs[m.name], inputs.length.get(m.name)
    z, real = encoders.Encoder(m, self.width)(x, present, length)[:, None], present[:, None]
    if self.max_steps and tokens.num_steps(m) > 1:
      embed = nn.Embed(m.vocabulary, self.width)
      steps, steps_real = tokens.read_steps(m, x, present, length, embed)
      steps_real = steps_real & present[:, None]
      if self.max_steps < steps.shape[1]:
        steps, steps_real = tokens.window_statistics(steps, steps_real, self.max_steps)
      steps = steps.astype(precision.param_dtype(self))  # cells of an image are float32
      steps = nn.Dense(self.width)(steps)
      steps += tokens.sinusoidal_positions(*steps.shape[1:]).astype(steps.dtype)[None]
      z, real = jnp.concatenate([z, steps], axis=1), jnp.concatenate([real, steps_real], axis=1)
    embedding = self.param("modality_bias", START, (self.width,))
    return missing.zero_absent(z + embedding[None, None], real), real


class Layer(nn.Module):
  """x <- x + MHA(x), x <- x + FFN(x), over the tokens of M modalities.

  Without a layer norm: the size of a code says how much it has to say.
  """

  heads: int

  @nn.compact
  def __call__(
    self,
    x: Float[Array, "B M T H"],
    real: Bool[Array, "B M T"],
    scale: Float[Array, "B M"] | None = None,
  ) -> tuple[Float[Array, "B M T H"], Float[Array, "B M M T H"]]:
    """The tokens, and what the heads of target m read from source n, [b, m, n].

    Attention to tokens of another modality is in proportion to `scale`: at 0 they do not exist.
    """
    rows, count, length, width = x.shape
    # One draw for all tokens of a row: drawing takes much of the time on CPU.
    drop = lambda x: Dropout(DROPOUT, broadcast_dims=(1, 2))(x)
    packed = nn.Dense(3 * width, use_bias=False)(x)
    packed = packed.reshape(rows, count, length, 3, self.heads, -1)
    query, key, value = (packed[..., i, :, :] for i in range(3))
    logits = jnp.einsum("bmqhd,bnkhd->bhmqnk", query, key) / query.shape[-1] ** 0.5
    logits = logits.astype(jnp.float32)
    visible = real[:, None, None, None]
    if scale is not None:
      # A token weighs scale * exp(logit), and those of the own modality are not scaled.
      scale = jnp.where(jnp.eye(count, dtype=bool)[None], 1.0, scale[:, None])[
        :, None, :, None, :, None
      ]
      visible = visible & (scale > 0)
      logits = logits + jnp.log(jnp.where(scale > 0, scale, 1.0)).astype(jnp.float32)
    logits = jnp.where(visible, logits, -1e30)
    weights = jax.nn.softmax(logits, axis=(-2, -1)).astype(x.dtype)
    attended = jnp.einsum("bhmqnk,bnkhd->bmnqhd", weights, value)
    attended = attended.reshape(rows, count, count, length, width)
    x = x + drop(nn.Dense(width, kernel_init=ZEROS)(attended.sum(2)))
    wide = nn.gelu(nn.Dense(2 * width)(x))
    return x + drop(nn.Dense(width, kernel_init=ZEROS)(wide)), attended


class TokenHost(nn.Module):
  """Logits f[B, C] from the tokens of M modalities. Its parts are those of every host."""

  modalities: tuple[Modality, ...]
  outputs: int
  width: int = 64  # H, a multiple of `heads`
  heads: int = 4
  layers: int = 1  # across modalities
  memory_layers: int = 1  # within a modality
  max_steps: int = 0  # beside the code; longer modalities become `tokens.window_statistics`

  @property
  def num_steps(self) -> dict[str, int]:
    """T_m of each modality: the code, and the steps if there are several."""
    counts = {m.name: tokens.num_steps(m) for m in self.modalities}
    return {n: 1 + min(x, self.max_steps) if x > 1 else 1 for n, x in counts.items()}

  @property
  def memory_width(self) -> int:
    """W, that of all tokens."""
    return self.width

  def setup(self):
    self.projection = {m.name: Tokens(m, self.width, self.max_steps) for m in self.modalities}
    self.embedding_absent = self.param(
      "embedding_absent", START, (len(self.modalities), self.width)
    )
    self.cross_layers = [Layer(self.heads) for _ in range(self.layers)]
    self.self_layers = [Layer(self.heads) for _ in range(self.memory_layers)]
    self.inner, self.output = nn.Dense(self.width), nn.Dense(self.outputs)

  def __call__(self, inputs: Inputs, present: Bool[Array, "B M"]) -> Float[Array, "B C"]:
    """Logits. What is not `present` is not read; a "dropout" rng switches dropout on."""
    return self.head(self.readout(self.encode(inputs, present), present))

  def readout(self, encoded: host.Encoded, present: Bool[Array, "B M"]) -> Float[Array, "B MH"]:
    """What the head reads, see `self_attend`."""
    steps = host.pad_and_stack([encoded.projected[m.name] for m in self.modalities])
    real = host.pad_and_stack([encoded.real[m.name] for m in self.modalities])
    steps, _ = self.mark_absent(steps, real, present)
    return steps[:, :, 0].reshape(present.shape[0], -1)

  def encode(
    self, inputs: Inputs, present: Bool[Array, "B M"], pattern: Pattern | None = None
  ) -> host.Encoded:
    """Tokens of what is `present` and in the static pattern; to prompts they are the raw steps."""
    found, real = {}, {}
    for i, m in enumerate(self.modalities):
      if pattern is None or pattern[i]:
        found[m.name], real[m.name] = self.projection[m.name](inputs, present[:, i])
      else:
        real[m.name] = jnp.zeros((present.shape[0], self.num_steps[m.name]), bool)
    # Generating what is absent must not bend the encoders of what is present.
    return host.Encoded(jax.tree.map(jax.lax.stop_gradient, found), real, found)

  def mark_absent(self, steps, real, present):
    """Adds the learned token of every absent modality to its code, which then exists."""
    first = jnp.where(present[..., None], 0, self.embedding_absent[None])
    steps = steps.at[:, :, 0].add(first.astype(steps.dtype))
    return steps, real.at[:, :, 0].set(True)

  def cross_attend(
    self,
    steps: Float[Array, "B M T H"],
    real: Bool[Array, "B M T"],
    scale: Float[Array, "B M"] | None = None,
  ) -> tuple[Float[Array, "B M T H"], Float[Array, "B P T H"]]:
    """The tokens, and for the P `ordered_pairs` what the target reads of the source, averaged
    over layers. `scale` is a factor of what others read from a modality, see `Layer`."""
    total = 0.0
    for layer in self.cross_layers:
      steps, attended = layer(steps, real, scale)
      total += attended / self.layers
    targets, sources = host.ordered_pairs(len(self.modalities))
    return steps, total[:, targets, sources]

  def self_attend(
    self,
    steps: Float[Array, "B M T H"],
    real: Bool[Array, "B M T"],
    connection: mult_layers.Connection | None = None,
  ) -> Float[Array, "B MH"]:
    """The code of each modality, plus what the prompts behind its tokens have gained on average,
    side by side: prompts start as nothing, as the layers do.

    `connection` has one more axis for the modalities, after that of the layers.
    """
    rows, count, _, width = steps.shape
    fold = lambda x: x.reshape(rows * count, 1, *x.shape[2:])
    before = steps
    for i, layer in enumerate(self.self_layers):
      steps = layer(fold(steps), fold(real))[0].reshape(steps.shape)
      if connection is not None:
        level = jax.tree.map(lambda x, i=i: x[i], connection)
        steps = jax.vmap(mult_layers.connect, (1, 0, 1), 1)(steps, level, real)
    code = steps[:, :, 0]
    length = max(self.num_steps.values())
    if length < steps.shape[2]:
      code = code + (steps - before)[:, :, length:].mean(2)
    return code.reshape(rows, -1)

  def head(self, readout: Float[Array, "B MH"]) -> Float[Array, "B C"]:
    """An MLP with one hidden layer."""
    return self.output(nn.relu(self.inner(readout)))
