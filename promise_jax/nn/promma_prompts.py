"""The parts that ProMMA adds to MPLMM: evaluator, private prompts, weights, connections.

Of ProMMA (arXiv 2604.05558) only the abstract was available to us. Each part does what the
abstract says it is for; every formula is ours. E is the length of a prompt, L the number of
memory layers, W their width. Layer norms (LN) have no parameters.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import missing
from promise_jax.losses import mutual_information
from promise_jax.nn import mult
from promise_jax.types import Array

EVALUATOR_WIDTH = 64
RANK = 8  # of the private prompts
CODES = 8  # soft codes of the mutual information
CODE_TEMPERATURE = 0.5
START = nn.initializers.normal(0.02)
ZEROS = nn.initializers.zeros
# One matrix a modality, stacked.
STACKED = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))


class Evaluator(nn.Module):
  """Predicts for each modality whether generating it is worth its noise."""

  @nn.compact
  def __call__(self, projected, real, generated, present, backbone_logits) -> Array:
    """Logits f[B, M] of the gates, from an MLP.

    Args:
      projected: {modality: f[B, T, H]}, averaged over the present steps.
      real: {modality: bool[B, T]}, which steps are not padding.
      generated: {modality: f[B, T, H]}, detached.
      present: bool[B, M].
      backbone_logits: f[B, C] of the frozen backbone on what is present.
    """
    names, (rows, count) = list(generated), present.shape
    means = [
      missing.masked_mean(projected[n], real[n] & present[:, i, None], 1)
      if n in projected
      else jnp.zeros((rows, generated[n].shape[-1]), generated[n].dtype)
      for i, n in enumerate(names)
    ]
    common = [*means, present.astype(means[0].dtype), backbone_logits]
    common = jnp.concatenate(common, axis=1)[:, None]
    common = jnp.broadcast_to(common, (rows, count, common.shape[-1]))
    modality = jnp.broadcast_to(jnp.eye(count, dtype=common.dtype)[None], (rows, count, count))
    generated = jnp.stack([jnp.mean(generated[n], axis=1) for n in names], axis=1)
    x = jnp.concatenate([common, modality, jax.lax.stop_gradient(generated)], axis=-1)
    return nn.Dense(1)(nn.relu(nn.Dense(EVALUATOR_WIDTH)(x)))[..., 0]


class PrivatePrompts(nn.Module):
  """Decomposes one shared prompt f[E, H] into a private one for each modality and row.

    P_m = gelu(LN(P_s) W_down) W_up + attention(LN(P_s) W_q, LN(U_m) W_k, LN(U_m) W_v)

  U_m are the steps of the modality. W_v starts at 0, so the local part does, too.
  """

  names: tuple[str, ...]
  length: int
  width: int

  def setup(self):
    count, width = len(self.names), self.width
    weight = lambda name, *shape: self.param(f"{name}_kernel", STACKED, (count, *shape))
    self.shared = self.param("prompts", START, (self.length, width))
    self.down = weight("down", width, RANK)
    self.up = weight("up", RANK, width)
    value = self.param("value_kernel", ZEROS, (count, width, width))
    self.local_kernels = (*(weight(n, width, width) for n in ("query", "key")), value)
    # Read by `recovery_loss` alone.
    self.recover = self.param("recover_kernel", mult.TORCH, (count * width, width))

  def __call__(self, steps: dict, real: dict) -> Array:
    """P f[B, M, E, H] from steps {modality: f[B, T, H]} and their masks bool[B, T]."""
    shared = mutual_information.layer_norm(self.shared)
    low = nn.gelu(jnp.einsum("eh,mhr->mer", shared, self.down))
    static = jnp.einsum("mer,mrh->meh", low, self.up)
    local, index = {}, {n: i for i, n in enumerate(self.names)}
    for group in alike(steps):
      own = [jnp.stack([x[index[n]] for n in group]) for x in self.local_kernels]
      args = stacked(steps, group), stacked(real, group)
      each = jax.vmap(self.attend, (None, 0, 0, 0))(shared, own, *args)
      local |= dict(zip(group, each, strict=True))
    return static[None] + jnp.stack([local[n] for n in self.names], axis=1)

  def attend(self, shared, kernels, x, real):
    query, key, value = kernels
    x = mutual_information.layer_norm(x)
    logits = jnp.einsum("eh,bth->bet", shared @ query, x @ key) / self.width**0.5
    logits = jnp.where(real[:, None], logits, -1e30)
    return jax.nn.softmax(logits) @ (x @ value)


def alike(arrays: dict) -> list[list]:
  """The keys of arrays of one shape, a list each: what is done to them runs as one,
  which takes less time and compiles in a part of it."""
  groups = {}
  for name, x in arrays.items():
    groups.setdefault(np.shape(x), []).append(name)
  return list(groups.values())


def stacked(arrays: dict, names: list) -> Array:
  """Those of `names` on a new first axis."""
  return mult.stack(*(arrays[name] for name in names))


class SourceInformation(nn.Module):
  """Mutual information of what a modality finds in a source with the modality's own steps."""

  width: int

  def setup(self):
    shape = (self.width, CODES)
    self.output = self.param("output_kernel", mult.TORCH, shape)
    self.stream = self.param("stream_kernel", mult.TORCH, shape)
    self.log_temperature = self.param("log_temperature", lambda _: jnp.float32(np.log(0.1)))

  def __call__(self, attended: dict, steps: dict, real: dict) -> dict:
    """{(target, source): information f[B]}.

    Args:
      attended: {(target, source): f[B, T, H]}, the outputs of cross-attention.
      steps: {modality: f[B, T, H]} of the targets.
      real: {modality: bool[B, T]}, which steps count.
    """
    information = {}
    for group in alike(attended):
      targets = [target for target, _ in group]
      outputs = jnp.stack([attended[pair] for pair in group])
      real_here, steps_here = stacked(real, targets), stacked(steps, targets)
      each = jax.vmap(self.estimate)(outputs, steps_here, real_here)
      information |= dict(zip(group, each, strict=True))
    return information

  def estimate(self, outputs, steps, real):
    alpha = mutual_information.soft_codes(outputs, self.output, CODE_TEMPERATURE)
    beta = mutual_information.soft_codes(steps, self.stream, CODE_TEMPERATURE)
    return mutual_information.mutual_information(alpha, beta, real)

  def temperature(self) -> Array:
    """The learned temperature f[] of the weights of sources, within [.02, 1]."""
    return jnp.clip(jnp.exp(self.log_temperature), 0.02, 1.0)


class Connections(nn.Module):
  """What each memory layer adds to the prompts: LN(P_s) E_i, scaled by a gate that reads the
  steps. The gates are closed at first."""

  names: tuple[str, ...]
  layers: int
  memory_width: int

  @nn.compact
  def __call__(self, shared: Array) -> dict:
    """{modality: mult.Connection} of the shared prompt f[E, H]."""
    count, width = len(self.names), shared.shape[-1]
    start = lambda *_: jnp.tile(identities(width, self.memory_width)[None], (self.layers, 1, 1))
    kernel = self.param("level_kernel", start)
    shape = (count, self.layers, self.memory_width)
    weight = self.param("gate_kernel", ZEROS, shape)
    bias = self.param("gate_bias", ZEROS, shape[:2])
    prior = jnp.einsum("eh,lhw->lew", mutual_information.layer_norm(shared), kernel)
    return {n: mult.Connection(prior, weight[i], bias[i]) for i, n in enumerate(self.names)}


def identities(width: int, memory_width: int) -> Array:
  """[I I ...] / sqrt(count) f[H, W], with W = count H."""
  count = memory_width // width
  return jnp.tile(jnp.eye(width), (1, count)) / count**0.5
