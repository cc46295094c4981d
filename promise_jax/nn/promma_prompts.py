"""What ProMMA puts on MPLMM: evaluator, private prompts, weights, connection.

Of ProMMA (arXiv 2604.05558) the abstract could be had and nothing else: all of these
are reconstructed from what it says a part is for, and every formula is ours. Letters
beside the usual: E length of a prompt, L memory layers, W their width. Layer norms have
no parameters.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import missing
from promise_jax.losses import mutual_information
from promise_jax.nn import mult
from promise_jax.types import Array

START = nn.initializers.normal(0.02)
ZEROS = nn.initializers.zeros
# One matrix a modality, stacked.
STACKED = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))


class Evaluator(nn.Module):
  """Logits f[B, M] of the gates: is it worth generating modality m?

  An MLP, 64 wide, of what is there (`steps` averaged, {modality: f[B, T, H]} with
  `real` bool[B, T]), `present` bool[B, M], which modality is asked about, what would be
  generated (`made`, detached), and `answer` f[B, C], what the frozen backbone says
  without it.
  """

  width: int = 64

  @nn.compact
  def __call__(self, steps, real, made, present, answer) -> Array:
    names, (rows, count) = list(made), present.shape
    there = [
      missing.masked_mean(steps[n], real[n] & present[:, i, None], 1)
      if n in steps
      else jnp.zeros((rows, made[n].shape[-1]), made[n].dtype)
      for i, n in enumerate(names)
    ]
    common = [*there, present.astype(there[0].dtype), answer]
    common = jnp.concatenate(common, axis=1)[:, None]
    common = jnp.broadcast_to(common, (rows, count, common.shape[-1]))
    asked = jnp.broadcast_to(jnp.eye(count, dtype=common.dtype)[None], (rows, count, count))
    made = jnp.stack([jnp.mean(made[n], axis=1) for n in names], axis=1)
    x = jnp.concatenate([common, asked, jax.lax.stop_gradient(made)], axis=-1)
    return nn.Dense(1)(nn.relu(nn.Dense(self.width)(x)))[..., 0]


class PrivatePrompts(nn.Module):
  """One shared prompt, f[E, H], as a private one for each modality.

  P_m = gelu(LN(P_s) W_down) W_up, of low `rank`, and, if `local`, what LN(P_s) finds by
  attention among the steps of the modality: W_c starts at 0, so it starts static.
  """

  names: tuple[str, ...]
  length: int
  width: int
  rank: int = 8
  local: bool = True

  def setup(self):
    count, width = len(self.names), self.width
    weight = lambda name, *shape: self.param(f"{name}_kernel", STACKED, (count, *shape))
    self.shared = self.param("prompts", START, (self.length, width))
    self.down = weight("down", width, self.rank)
    self.up = weight("up", self.rank, width)
    if self.local:
      value = self.param("value_kernel", ZEROS, (count, width, width))
      self.local_kernels = (*(weight(n, width, width) for n in ("query", "key")), value)
    start = mult.TORCH
    self.recover = self.param("recover_kernel", start, (count * width, width))

  def __call__(self, steps: dict, real: dict) -> Array:
    """P f[B, M, E, H] from steps {modality: f[B, T, H]}, `real` bool[B, T] or None."""
    asks = mutual_information.layer_norm(self.shared)
    low = nn.gelu(jnp.einsum("eh,mhr->mer", asks, self.down))
    static = jnp.einsum("mer,mrh->meh", low, self.up)
    rows = len(next(iter(steps.values())))
    if not self.local:
      return jnp.broadcast_to(static[None], (rows, *static.shape))
    found, index = {}, {n: i for i, n in enumerate(self.names)}
    for group in alike(steps):
      own = [jnp.stack([x[index[n]] for n in group]) for x in self.local_kernels]
      args = stacked(steps, group), stacked(real, group)
      each = jax.vmap(self.found, (None, 0, 0, 0))(asks, own, *args)
      found |= dict(zip(group, each, strict=True))
    return static[None] + jnp.stack([found[n] for n in self.names], axis=1)

  def found(self, asks, kernels, x, real):
    query, key, value = kernels
    x = mutual_information.layer_norm(x)
    logits = jnp.einsum("eh,bth->bet", asks @ query, x @ key) / self.width**0.5
    if real is not None:
      logits = jnp.where(real[:, None], logits, -1e30)
    return jax.nn.softmax(logits) @ (x @ value)


def alike(arrays: dict) -> list[list]:
  """The keys of arrays of one shape, a list each: what is done to them runs as one,
  which takes less time and compiles in a part of it."""
  groups = {}
  for name, x in arrays.items():
    groups.setdefault(np.shape(x), []).append(name)
  return list(groups.values())


def stacked(arrays: dict, names: list) -> Array | None:
  """Those of `names` on a new first axis, None where they are None."""
  arrays = [arrays[name] for name in names]
  return None if arrays[0] is None else mult.stack(*arrays)


class Weights(nn.Module):
  """Information f[B] of each cross-attention output about its target, and the heat of
  the weights of sources that are made of it (`losses/dependence.py`)."""

  width: int
  codes: int = 8

  def setup(self):
    shape = (self.width, self.codes)
    self.output = self.param("output_kernel", mult.TORCH, shape)
    self.stream = self.param("stream_kernel", mult.TORCH, shape)
    self.temperature = self.param("log_temperature", lambda _: jnp.float32(np.log(0.1)))

  def information(self, told: dict, steps: dict, real: dict) -> dict:
    """{(target, source): f[B]} by soft codes of temperature .5, from `told` of
    `MulT.cross`, the steps of the targets and which of them are real, or None."""
    information = {}
    for group in alike({pair: x.found for pair, x in told.items()}):
      targets = [target for target, _ in group]
      found = jnp.stack([told[pair].found for pair in group])
      real_here, steps_here = stacked(real, targets), stacked(steps, targets)
      each = jax.vmap(self.one)(found, steps_here, real_here)
      information |= dict(zip(group, each, strict=True))
    return information

  def one(self, found, steps, real):
    codes = mutual_information.soft_codes(found, self.output, 0.5)
    streams = mutual_information.soft_codes(steps, self.stream, 0.5)
    return mutual_information.mutual_information(codes, streams, real)

  def heat(self) -> Array:
    """The temperature f[] of the weights, learned, within [.02, 1]."""
    return jnp.clip(jnp.exp(self.temperature), 0.02, 1.0)


class Connect(nn.Module):
  """What `MulT.remember` adds to the prompt rows after each memory layer: LN(P_s) E_i,
  behind a gate that reads the steps (`dynamic`) or is a learned number, 0 at first."""

  names: tuple[str, ...]
  layers: int
  wide: int
  dynamic: bool = True
  last: bool = False

  @nn.compact
  def __call__(self, shared: Array) -> dict:
    """{modality: mult.Connection} of the shared prompt f[E, H]."""
    count, width = len(self.names), shared.shape[-1]
    repeated = lambda *_: jnp.tile(side_by_side(width, self.wide)[None], (self.layers, 1, 1))
    kernel = self.param("level_kernel", repeated)
    shape = (count, self.layers, self.wide)
    zeros = jnp.zeros(shape, shared.dtype)
    weight = self.param("gate_kernel", ZEROS, shape) if self.dynamic else zeros
    bias = self.param("gate_bias", ZEROS, shape[:2])
    prior = jnp.einsum("eh,lhw->lew", mutual_information.layer_norm(shared), kernel)
    if self.last:
      prior = jnp.where((np.arange(self.layers) == self.layers - 1)[:, None, None], prior, 0)
    return {n: mult.Connection(prior, weight[i], bias[i]) for i, n in enumerate(self.names)}


def side_by_side(width: int, wide: int) -> Array:
  """[I I ...] / sqrt(count) f[H, W]: W = count H."""
  count = wide // width
  return jnp.tile(jnp.eye(width), (1, count)) / count**0.5
