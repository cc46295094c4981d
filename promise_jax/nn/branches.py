"""The network of Robult: a branch for each modality, one for all of them, and one head.

  H_0 = f_0(x_1 .. x_M),  S = g_0(H_0)              all modalities
  H_i = f_i(x_i),  Z_i = g_0(H_i),  U_i = g_i(H_i)   one modality
  c(H_0) where all are present, c([U_i; Z_i]) where one is, else several branches combined

Source of the modules: the authors' picture of Robult's architecture, see `methods.robult`. How
branches are combined is ours.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.nn import mlp, precision
from promise_jax.nn.modality_encoders import ModalityEncoders
from promise_jax.types import Inputs, Modality, Pattern, Task

CombineKind = Literal["confidence", "mean"]


class Codes(NamedTuple):
  """Codes of a batch, 0 where a row lacks the modality. Z and U are sizes of codes, U + Z = H."""

  latent: Float[Array, "B M H"]  # H_i
  shared: Float[Array, "B M Z"]  # Z_i
  private: Float[Array, "B M U"]  # U_i
  fused: Float[Array, "B H"] | None  # H_0; None where a static pattern is incomplete

  @property
  def by_modality(self) -> Float[Array, "B M H"]:
    """[U_i; Z_i], what the head reads of one modality."""
    return jnp.concatenate([self.private, self.shared], axis=-1)


class BranchNet(precision.Network):
  """The modules f_i, f_0, g_0, g_i, c, and decoders q_i that rebuild H_i from (Z_i, U_i)."""

  modalities: tuple[Modality, ...]
  num_outputs: int
  hidden: int  # size of H_i and H_0
  shared: int  # size of Z_i and S; U_i has the rest of `hidden`
  head_hidden: int
  own_encoders: bool = False  # True: f_0 has encoders of its own; False: it reads all H_i

  def setup(self):
    hidden, private = self.hidden, self.hidden - self.shared
    self.encoders = ModalityEncoders(self.modalities, hidden)
    if self.own_encoders:
      self.fused_encoders = ModalityEncoders(self.modalities, hidden)
    self.fuse = mlp.Mlp((hidden, hidden))
    self.project_shared = mlp.Mlp((hidden, self.shared))
    self.project_private = [mlp.Mlp((hidden, private)) for _ in self.modalities]
    self.decoders = [mlp.Mlp((hidden, hidden)) for _ in self.modalities]
    self.head = mlp.Mlp((self.head_hidden, self.num_outputs))

  def __call__(self, inputs: Inputs):
    """Codes of a batch, its logits f[B, M, C] by branch and f[B, C] of all modalities, S f[B, Z],
    and the rebuilt H_i f[B, M, H]."""
    codes = self.encode(inputs)
    return codes, *self.classify(codes), self.project_shared(codes.fused), self.decode(codes)

  def encode(self, inputs: Inputs, pattern: Pattern | None = None) -> Codes:
    """All codes of a batch; modalities that a static `pattern` lacks are not computed."""
    pattern = pattern or (True,) * len(self.modalities)
    latent = self.encoders(inputs, pattern)
    zeros = lambda size: jnp.zeros((latent.shape[0], size))
    shared, private = [], []
    for i, project in enumerate(self.project_private):
      shared.append(self.project_shared(latent[:, i]) if pattern[i] else zeros(self.shared))
      private.append(project(latent[:, i]) if pattern[i] else zeros(self.hidden - self.shared))
    codes = latent, jnp.stack(shared, axis=1), jnp.stack(private, axis=1)
    latent, shared, private = (missing.zero_absent(x, inputs.present) for x in codes)
    fused = None
    if all(pattern):
      to_fuse = self.fused_encoders(inputs) if self.own_encoders else latent
      fused = self.fuse(to_fuse.reshape(to_fuse.shape[0], -1))
    return Codes(latent, shared, private, fused)

  def decode(self, codes: Codes) -> Float[Array, "B M H"]:
    """H_i from (Z_i, U_i). Z_i gets no gradient, so that the private code must learn."""
    fixed = codes._replace(shared=jax.lax.stop_gradient(codes.shared)).by_modality
    return jnp.stack([q(fixed[:, i]) for i, q in enumerate(self.decoders)], axis=1)

  def classify(self, codes: Codes):
    """Logits f[B, M, C] from every [U_i; Z_i], and f[B, C] from H_0, or None without it."""
    full = None if codes.fused is None else self.head(codes.fused)
    return self.head(codes.by_modality), full


def measure_confidence(logits: Float[Array, "B M C"], task: Task) -> Float[Array, "B M"]:
  """How much a branch claims to know, in nats: log C minus the entropy of its prediction, of
  labels log 2 minus their mean entropy. Numbers have no entropy, every branch gets 1."""
  if task.kind == "regression":
    return jnp.ones(logits.shape[:-1])
  if task.kind == "classes":
    log_p = jax.nn.log_softmax(logits)
    return jnp.log(float(task.outputs)) + jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
  log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
  return jnp.log(2.0) + jnp.mean(jnp.exp(log_p) * log_p + jnp.exp(log_q) * log_q, axis=-1)


def weigh_branches(
  kind: CombineKind, logits: Float[Array, "B M C"], visible: Bool[Array, "*P B M"], task: Task
) -> Float[Array, "*P B M"]:
  """How much each visible branch counts; the weights of a row add up to 1.

  With "mean" all count alike, with "confidence" by `measure_confidence`, so that a modality of
  noise, whose prediction says nothing, does not pull the others down. The weights have no gradient.
  In a row that shows nothing all branches count.
  """
  weight = (visible | ~jnp.any(visible, axis=-1, keepdims=True)).astype(logits.dtype)
  if kind == "confidence":
    confidence = jnp.maximum(jax.lax.stop_gradient(measure_confidence(logits, task)), 0)
    weight = weight * jnp.broadcast_to(confidence + 1e-3, weight.shape)
  return weight / jnp.sum(weight, axis=-1, keepdims=True)


def classify_subsets(
  codes: Codes,
  branch_logits: Float[Array, "B M C"],
  full_logits: Float[Array, "B C"] | None,
  visible: Bool[Array, "*P B M"],
  kind: CombineKind,
  task: Task,
) -> tuple[Float[Array, "*P B C"], Float[Array, "*P B H"]]:
  """Logits of rows that show the modalities `visible`, and what the head reads of these rows.

  Of a complete row c(H_0) and H_0, of one modality c([U_i; Z_i]) and [U_i; Z_i], else the means of
  these over the visible modalities, weighted as `kind` says.
  """
  weight = weigh_branches(kind, branch_logits, visible, task)
  weighted_mean = lambda x: jnp.einsum("...bm,bmd->...bd", weight, x)
  logits, read = weighted_mean(branch_logits), weighted_mean(codes.by_modality)
  if full_logits is None:
    return logits, read
  complete = jnp.all(visible, axis=-1)[..., None]
  choose = lambda full, part: jnp.where(complete, jnp.broadcast_to(full, part.shape), part)
  return choose(full_logits, logits), choose(codes.fused, read)
