"""The parts that ProMMA adds to MPLMM: evaluator, private prompts, weights, connections.

Of ProMMA (arXiv 2604.05558) only the abstract was available to us. Each part does what the
abstract says it is for; every formula is ours. E is the length of a prompt, L the number of
memory layers, W their width, P the M (M - 1) pairs of modalities. Layer norms (LN) have no
parameters.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.losses import mutual_information
from promise_jax.nn import host, mult
from promise_jax.nn.mplmm_prompts import STACKED, START, ZEROS
from promise_jax.nn.mult_layers import Connection

EVALUATOR_WIDTH = 64
RANK = 8  # of the private prompts
CODES = 8  # soft codes of the mutual information
CODE_TEMPERATURE = 0.5


class Evaluator(nn.Module):
  """Predicts for each modality whether generating it is worth its noise."""

  @nn.compact
  def __call__(
    self,
    projected: dict[str, Float[Array, "B T H"]],
    real: dict[str, Bool[Array, "B T"]],
    generated: dict[str, Float[Array, "B T H"]],
    present: Bool[Array, "B M"],
    backbone_logits: Float[Array, "B C"],
  ) -> Float[Array, "B M"]:
    """Logits of the gates, from an MLP on the means of the steps that are real and present, the
    detached means of the generated ones, which modalities a row has, and the logits of the frozen
    backbone on those."""
    rows, count = present.shape
    means = [
      missing.masked_mean(projected[n], real[n] & present[:, i, None], 1)
      if n in projected
      else jnp.zeros((rows, x.shape[-1]), x.dtype)
      for i, (n, x) in enumerate(generated.items())
    ]
    common = [*means, present.astype(means[0].dtype), backbone_logits]
    common = jnp.concatenate(common, axis=1)[:, None]
    common = jnp.broadcast_to(common, (rows, count, common.shape[-1]))
    modality = jnp.broadcast_to(jnp.eye(count, dtype=common.dtype)[None], (rows, count, count))
    generated = jnp.stack([jnp.mean(x, axis=1) for x in generated.values()], axis=1)
    x = jnp.concatenate([common, modality, jax.lax.stop_gradient(generated)], axis=-1)
    return nn.Dense(1)(nn.relu(nn.Dense(EVALUATOR_WIDTH)(x)))[..., 0]


class PrivatePrompts(nn.Module):
  """Decomposes one shared prompt P_s [E, H] into a private one for each modality and row.

    P_m = gelu(LN(P_s) W_down) W_up + attention(LN(P_s) W_query, LN(U_m) W_key, LN(U_m) W_value)

  U_m are the steps of the modality. W_value starts at 0, and with it the second, local part.
  """

  modalities: int
  length: int
  width: int

  def setup(self):
    weight = lambda name, *shape, start=STACKED: self.param(
      f"{name}_kernel", start, (self.modalities, *shape)
    )
    width = self.width
    self.shared = self.param("prompts", START, (self.length, width))
    self.down, self.up = weight("down", width, RANK), weight("up", RANK, width)
    self.query, self.key = weight("query", width, width), weight("key", width, width)
    self.value = weight("value", width, width, start=ZEROS)
    # Read by `recovery_loss` alone.
    self.recover = self.param("recover_kernel", mult.TORCH, (self.modalities * width, width))

  def __call__(
    self, steps: Float[Array, "B M T H"], real: Bool[Array, "B M T"]
  ) -> Float[Array, "B M E H"]:
    """Private prompts, from the steps of each modality that are real."""
    shared, steps = map(mutual_information.layer_norm, (self.shared, steps))
    low = nn.gelu(jnp.einsum("eh,mhr->mer", shared, self.down))
    static = jnp.einsum("mer,mrh->meh", low, self.up)
    query = jnp.einsum("eh,mhk->mek", shared, self.query) / self.width**0.5
    key = jnp.einsum("bmth,mhk->bmtk", steps, self.key)
    value = jnp.einsum("bmth,mhk->bmtk", steps, self.value)
    logits = jnp.einsum("mek,bmtk->bmet", query, key)
    weights = jax.nn.softmax(jnp.where(real[:, :, None], logits, -1e30))
    return static[None] + weights @ value


class SourceInformation(nn.Module):
  """Mutual information of a modality's steps and what its attention reads from a source."""

  width: int

  def setup(self):
    shape = (self.width, CODES)
    self.output = self.param("output_kernel", mult.TORCH, shape)
    self.stream = self.param("stream_kernel", mult.TORCH, shape)
    self.log_temperature = self.param("log_temperature", lambda _: jnp.float32(np.log(0.1)))

  def __call__(
    self,
    attended: Float[Array, "B P T H"],
    steps: Float[Array, "B M T H"],
    real: Bool[Array, "B M T"],
  ) -> Float[Array, "B M M"]:
    """Information [b, m, n] of target m, whose steps these are, about source n, 0 for m = n.
    `attended` is what attention finds, by `host.ordered_pairs`."""
    count = steps.shape[1]
    targets, sources = host.ordered_pairs(count)
    information = jax.vmap(self.estimate, 1, 1)(attended, steps[:, targets], real[:, targets])
    zeros = jnp.zeros((steps.shape[0], count, count), information.dtype)
    return zeros.at[:, targets, sources].set(information)

  def estimate(self, attended, steps, real):
    alpha = mutual_information.soft_codes(attended, self.output, CODE_TEMPERATURE)
    beta = mutual_information.soft_codes(steps, self.stream, CODE_TEMPERATURE)
    return mutual_information.mutual_information(alpha, beta, real)

  def temperature(self) -> Float[Array, ""]:
    """The learned temperature of the weights of sources, within [0.02, 1]."""
    return jnp.clip(jnp.exp(self.log_temperature), 0.02, 1.0)


class Connections(nn.Module):
  """What each memory layer adds to the prompts: LN(P_s) E_l, by a gate that reads the steps.

  The gates are closed at first.
  """

  modalities: int
  layers: int
  memory_width: int

  @nn.compact
  def __call__(self, shared: Float[Array, "E H"]) -> Connection:
    """A `Connection` whose arrays have an axis for modalities after that of layers."""
    start = lambda *_: jnp.tile(
      identities(shared.shape[1], self.memory_width)[None], (self.layers, 1, 1)
    )
    prior = jnp.einsum(
      "eh,lhw->lew", mutual_information.layer_norm(shared), self.param("level_kernel", start)
    )
    prior = jnp.broadcast_to(prior[:, None], (self.layers, self.modalities, *prior.shape[1:]))
    shape = (self.layers, self.modalities, self.memory_width)
    weight = self.param("gate_kernel", ZEROS, shape)
    return Connection(prior, weight, self.param("gate_bias", ZEROS, shape[:2]))


def identities(width: int, memory_width: int) -> Float[Array, "H W"]:
  """[I I ...] / sqrt(W / H)."""
  count = memory_width // width
  return jnp.tile(jnp.eye(width), (1, count)) / count**0.5
