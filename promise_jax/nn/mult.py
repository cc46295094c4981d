"""MulT (ACL 2019) for M modalities: each attends to every other one, then to itself.

Built to what the released code of MulT and of MPLMM (ACL 2024) does. Encoders of one kind keep
their weights stacked and run as one, on steps that are padded to one length. The weights do not
depend on lengths, so they move from one data set to another.

`released_code` sees padding and absent modalities as steps like others, under a mask that looks
causal. By default (ours) attention sees real steps only, and all of them. In both, a modality is
projected even if it has the width already.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.nn import host, mult_layers, precision, tokens
from promise_jax.nn.dropout import Dropout
from promise_jax.nn.mult_layers import Connection
from promise_jax.types import Inputs, Modality, Pattern

NOISY = ("text",)  # modalities with dropout of their raw features, as in the released code
# Initial weights of PyTorch: uniform up to 1 / sqrt(inputs), and so are biases.
TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(num_inputs: int) -> nn.initializers.Initializer:
  """PyTorch's initial bias of a layer."""
  bound = num_inputs**-0.5
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def torch_dense(num_inputs: int, num_outputs: int, name: str | None = None) -> nn.Dense:
  """A dense layer with PyTorch's initial weights."""
  return nn.Dense(num_outputs, kernel_init=TORCH, bias_init=torch_bias(num_inputs), name=name)


def stacked_encoder(**sizes) -> nn.Module:
  """Encoders with weights of their own, which run as one over axis 1 of their arguments."""
  stacked = nn.vmap(
    mult_layers.Encoder,
    in_axes=1,
    out_axes=1,
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
  )
  return stacked(**sizes)


class MulT(nn.Module):
  """Logits f[B, C] from the steps of M modalities.

  Its parts are those of every `host`.
  """

  modalities: tuple[Modality, ...]
  outputs: int
  width: int = 30  # H, even, at least 4, and a multiple of `heads`
  heads: int = 5
  layers: int = 5  # of each of the M (M - 1) encoders between modalities, of width H
  memory_layers: int = 5  # of each of the M encoders within them, of width W
  released_code: bool = False
  max_steps: int = 0  # longer modalities become `window_statistics`; 0: none do

  @property
  def num_steps(self) -> dict[str, int]:
    """T_m, the steps that the network reads of each modality."""
    counts = {m.name: tokens.num_steps(m) for m in self.modalities}
    return {name: min(count, self.max_steps or count) for name, count in counts.items()}

  @property
  def memory_width(self) -> int:
    """W, of self-attention."""
    return max(len(self.modalities) - 1, 1) * self.width

  def setup(self):
    count, width = len(self.modalities), self.width
    dense = lambda: nn.Dense(width, use_bias=False, kernel_init=TORCH)
    self.projection = {m.name: dense() for m in self.modalities}
    self.embedding = {
      m.name: nn.Embed(m.vocabulary, width) for m in self.modalities if m.kind == "tokens"
    }
    form = {"heads": self.heads, "released_code": self.released_code}
    if count > 1:
      self.cross_encoders = stacked_encoder(layers=self.layers, **form)
    self.self_encoders = stacked_encoder(layers=self.memory_layers, **form)
    readout = count * self.memory_width
    self.inner, self.outer = torch_dense(readout, readout), torch_dense(readout, readout)
    self.output = torch_dense(readout, self.outputs)
    self.input_dropout = mult_layers.step_dropout(mult_layers.INPUT_DROPOUT, not self.released_code)
    self.head_dropout = Dropout(mult_layers.LAYER_DROPOUT)

  def __call__(self, inputs: Inputs, present: Bool[Array, "B M"]) -> Float[Array, "B C"]:
    """Logits. What is not `present` is not read; a "dropout" rng switches dropout on."""
    return self.head(self.readout(self.encode(inputs, present), present))

  def readout(self, encoded: host.Encoded, present: Bool[Array, "B M"]) -> Float[Array, "B MW"]:
    """What the head reads, see `self_attend`."""
    del present  # `encoded` says it
    steps = host.pad_and_stack([encoded.projected[m.name] for m in self.modalities])
    real = host.pad_and_stack([encoded.real[m.name] for m in self.modalities])
    steps, _ = self.cross_attend(steps, real)
    return self.self_attend(steps, real)

  def encode(
    self, inputs: Inputs, present: Bool[Array, "B M"], pattern: Pattern | None = None
  ) -> host.Encoded:
    """Reads and projects what is `present` and in the static pattern."""
    raw, real = {}, {}
    for i, m in enumerate(self.modalities):
      raw[m.name], real[m.name] = self.read(m, inputs, present[:, i])
      if pattern is not None and not pattern[i]:
        raw.pop(m.name)
    return host.Encoded(raw, real, {name: self.projection[name](x) for name, x in raw.items()})

  def read(self, modality: Modality, inputs: Inputs, present: Bool[Array, " B"]):
    """Raw steps f[B, T, D] of a modality, and which of them exist, bool[B, T].

    Absent steps and padding are zeros. By default they do not exist; to the released code they
    do. Tokens are embedded (ours).
    """
    name = modality.name
    raw, length = inputs.inputs[name], inputs.length.get(name)
    x, real = tokens.read_steps(modality, raw, present, length, self.embedding.get(name))
    real = real & present[:, None]
    x = missing.zero_absent(x, real)
    if 0 < self.max_steps < x.shape[1]:
      x, real = tokens.window_statistics(x, real, self.max_steps)
    x = x.astype(precision.param_dtype(self))  # the cells of an image are float32
    x = self.input_dropout(x) if name in NOISY else x
    return x, real | self.released_code

  def mark_absent(self, steps, real, present):
    """Both unchanged: there is nothing of an absent modality."""
    del present
    return steps, real

  def cross_attend(
    self,
    steps: Float[Array, "B M T H"],
    real: Bool[Array, "B M T"],
    scale: Float[Array, "B M"] | None = None,
  ) -> tuple[Float[Array, "B M T W"], Float[Array, "B P T H"]]:
    """Cross-attention of each modality to every other one, concatenated in their order.

    Returns the encoded steps, W = (M - 1) H, and for each of the P `ordered_pairs` what attention
    has added to the target, averaged over layers. `scale` is a factor of what attention reads from
    a modality, in every layer. At 0 the result does not depend on its steps, which must be finite.
    """
    rows, count, num_steps, width = steps.shape
    if count == 1:
      return steps, jnp.zeros((rows, 0, num_steps, width), steps.dtype)
    targets, sources = host.ordered_pairs(count)
    scale = None if scale is None else scale[:, sources]
    lengths = np.array(list(self.num_steps.values()))
    gap = jnp.asarray(np.abs(lengths[sources] - lengths[targets]))[None]
    args = steps[:, targets], real[:, targets], steps[:, sources], real[:, sources], gap, scale
    encoded, attended = self.cross_encoders(*args)
    encoded = encoded.reshape(rows, count, count - 1, num_steps, width).swapaxes(2, 3)
    return encoded.reshape(rows, count, num_steps, -1), attended

  def self_attend(
    self,
    steps: Float[Array, "B M T W"],
    real: Bool[Array, "B M T"],
    connection: Connection | None = None,
  ) -> Float[Array, "B MW"]:
    """The last existing step of each modality after self-attention, concatenated.

    A modality without any step has zeros. `connection` has one more axis for the modalities,
    after that of the layers.
    """
    gap = jnp.zeros((1, steps.shape[1]), int)
    x, _ = self.self_encoders(steps, real, None, None, gap, None, connection)
    last = x.shape[2] - 1 - jnp.argmax(real[..., ::-1], axis=2)
    x = jnp.take_along_axis(x, last[..., None, None], axis=2)[:, :, 0]
    return missing.zero_absent(x, jnp.any(real, axis=2)).reshape(x.shape[0], -1)

  def head(self, readout: Float[Array, "B MW"]) -> Float[Array, "B C"]:
    """W_o (r + W_b relu(W_a r)) of the readout r."""
    inner = self.head_dropout(nn.relu(self.inner(readout)))
    return self.output(readout + self.outer(inner))
