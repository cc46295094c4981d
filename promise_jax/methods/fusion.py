"""Late fusion, the control: encoders, one vector for what is absent, one head.

Not from a paper (ours). Every modality is encoded by itself; the code of an absent one
is replaced by zeros, by its running mean over present train rows, or by a learned token
(`absent`); the codes are concatenated and classified. With `dropout` each training row
keeps a random non-empty subset of what it has, drawn uniformly by row and step: strong
enough that a method must beat it before it means anything. The replacement happens at
the output of the encoder, not at the raw input.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_choice
from promise_jax.losses import supervised as losses_supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.nn import encoders, mlp, precision
from promise_jax.types import Array, Batch, Modality, Spec

ABSENT = ("zeros", "mean", "token")


@dataclasses.dataclass(frozen=True)
class FusionConfig:
  """Settings of `fusion`: `hidden` H of every code, `decay` of the running mean."""

  absent: str = "mean"
  dropout: bool = True
  hidden: int = 64
  head_hidden: int = 64
  decay: float = 0.99

  def __post_init__(self):
    """ValueError for a setting without meaning, with what is allowed."""
    check_choice("fusion.absent", self.absent, ABSENT)
    check_at_least("fusion.hidden", self.hidden, 1)
    check_at_least("fusion.head_hidden", self.head_hidden, 1)
    if not 0 <= self.decay < 1:
      raise ValueError(f"fusion.decay is {self.decay}, it must lie in [0, 1)")


class FusionNet(precision.Network):
  """Codes f[B, M, H] of the modalities, and logits f[..., B, C] from filled codes."""

  modalities: tuple[Modality, ...]
  outputs: int
  hidden: int
  head_hidden: int

  def setup(self):
    self.encode = [encoders.Encoder(m, self.hidden) for m in self.modalities]
    shape = (len(self.modalities), self.hidden)
    self.token = self.param("token", nn.initializers.normal(0.02), shape)
    self.head = mlp.Mlp((self.head_hidden, self.outputs))

  def __call__(self, batch: Batch) -> Array:
    codes = self.codes(batch, batch.present)
    return self.classify(self.fill(codes, batch.present, self.token))

  def codes(self, batch: Batch, present: Array, pattern=None, key=None) -> Array:
    """f[B, M, H]; a modality that the static `pattern` lacks is not computed."""
    rows = []
    for i, m in enumerate(self.modalities):
      if pattern is not None and not pattern[i]:
        rows.append(jnp.zeros((present.shape[0], self.hidden)))
      else:
        rows.append(encoders.encode_modality(self.encode[i], m.name, batch, present[:, i], key))
    return jnp.stack(rows, axis=1)

  def fill(self, codes: Array, present: Array, filling: Array) -> Array:
    """Puts `filling` f[M, H] where `present` bool[..., M] is False."""
    shape = (*present.shape, self.hidden)
    codes = jnp.broadcast_to(codes, shape)
    return jnp.where(present[..., None], codes, jnp.broadcast_to(filling, shape))

  def classify(self, codes: Array) -> Array:
    """Logits f[..., B, C] of filled codes f[..., B, M, H]."""
    return self.head(codes.reshape(codes.shape[:-2] + (-1,)))


def make_network(spec: Spec, hidden: int, head_hidden: int) -> FusionNet:
  """The fusion network for the modalities and the task of `spec`."""
  return FusionNet(spec.modalities, spec.task.outputs, hidden, head_hidden)


def random_subset(key: Array, ids: Array, present: Array) -> Array:
  """Keeps a non-empty subset of each row of `present` bool[B, M], all equally likely.

  Counter-based: a row's draw depends on its id i32[B] and the key, not on its place in
  the batch. A row with nothing present stays empty.
  """
  count = present.shape[1]

  def draw(row_id, row):
    bits = jax.random.bits(jax.random.fold_in(key, row_id), (), jnp.uint32)
    # Rank the row's modalities and read the bits of a number in 1 .. 2^n - 1.
    n = jnp.sum(row)
    choices = jnp.maximum((jnp.uint32(1) << n.astype(jnp.uint32)) - 1, 1)
    number = bits % choices + 1
    place = (jnp.cumsum(row) - 1).astype(jnp.uint32)
    return row & ((number >> jnp.clip(place, 0, count)) & 1).astype(bool)

  return jax.vmap(draw)(ids, present)


def update_running_mean(model_state: dict, codes: Array, where: Array, decay: float) -> dict:
  """Running mean of `codes` f[B, M, H] over the rows `where` bool[B, M], without bias:
  both sums decay alike, so a modality that a batch lacks keeps its mean."""
  codes = jax.lax.stop_gradient(codes)
  total = jnp.sum(jnp.where(where[..., None], codes, 0), axis=0)
  return model_state | {
    "total": decay * model_state["total"] + (1 - decay) * total,
    "count": decay * model_state["count"] + (1 - decay) * jnp.sum(where, axis=0),
  }


def fill_vectors(config: FusionConfig, params: types.PyTree, model_state: dict) -> Array:
  """What stands in for an absent code, f[M, H]."""
  if config.absent == "token":
    return params["params"]["token"]
  if config.absent == "mean":
    return model_state["total"] / jnp.maximum(model_state["count"], 1e-30)[:, None]
  return jnp.zeros_like(model_state["total"])


def fusion(config: FusionConfig, spec: Spec) -> Method:
  """The control as a `Method`; model_state holds the running sums of the codes."""
  net = make_network(spec, config.hidden, config.head_hidden)
  task = spec.task

  def init(key):
    return net.init(key, types.example_batch(spec)), init_running_mean(spec, config.hidden)

  def loss(params, model_state, batch: Batch, key, clock: StepInfo):
    del clock
    present = batch.present
    drop_key, encode_key = jax.random.split(key)
    if config.dropout:
      present = random_subset(drop_key, batch.id, present)
    codes = net.apply(params, batch, present, key=encode_key, method="codes")
    filled = net.apply(
      params, codes, present, fill_vectors(config, params, model_state), method="fill"
    )
    logits = net.apply(params, filled, method="classify")
    model_state = update_running_mean(model_state, codes, present, config.decay)
    supervised = losses_supervised.labelled_mean(logits, batch, present, task)
    return supervised.value, (model_state, {"sup": supervised})

  def predict(params, model_state, batch: Batch, pattern=None):
    present = missing.restrict_to_pattern(batch.present, pattern)
    codes = net.apply(params, batch, present, pattern, method="codes")
    filled = net.apply(
      params, codes, present, fill_vectors(config, params, model_state), method="fill"
    )
    return {"logits": net.apply(params, filled, method="classify")}

  return Method(init, predict, (Stage("train", loss),), encoders.precompute_image_features)


def init_running_mean(spec: Spec, hidden: int) -> dict:
  """The running sums before the first batch."""
  count = len(spec.modalities)
  return {"total": jnp.zeros((count, hidden)), "count": jnp.zeros((count,))}
