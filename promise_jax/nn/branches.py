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
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.nn import mlp, precision
from promise_jax.nn.modality_encoders import ModalityEncoders
from promise_jax.types import Inputs, Modality, Pattern, Task

CombineKind = Literal["logits", "probabilities", "confidence"]


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
  """The modules f_i, f_0, g_0, g_i, c, and decoders q_i that rebuild H_i from (Z_i, U_i).

  It has parameters of those that the first call needs.
  """

  modalities: tuple[Modality, ...]
  num_outputs: int
  hidden: int  # size of H_i and H_0
  shared: int  # size of Z_i and S; U_i has the rest of `hidden`
  head_hidden: int
  own_encoders: bool = True  # False: f_0 reads the codes H_i

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

  def __call__(self, inputs: Inputs, rebuild: bool = True):
    """Codes of a batch, its logits f[B, M, C] by branch and f[B, C] of all modalities, S f[B, Z],
    and the rebuilt H_i f[B, M, H], or None without `rebuild`."""
    codes = self.encode(inputs)
    rebuilt = self.decode(codes) if rebuild else None
    return codes, *self.classify(codes), self.project_shared(codes.fused), rebuilt

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


def branch_entropy(logits: Float[Array, "B M C"], task: Task) -> Float[Array, "B M"]:
  """How unsure each branch is, in nats: of the classes, or a mean over labels. Numbers have no
  entropy, every branch gets 1."""
  if task.kind == "classes":
    log_p = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
  if task.kind == "multilabel":
    log_p, log_q = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return -jnp.mean(jnp.exp(log_p) * log_p + jnp.exp(log_q) * log_q, axis=-1)
  return jnp.ones(logits.shape[:-1])


def branch_weights(
  kind: CombineKind, logits: Float[Array, "B M C"], visible: Bool[Array, "*P B M"], task: Task
) -> Float[Array, "*P B M"]:
  """How much each visible branch counts; the weights of a row add up to 1.

  Equal weights, or with "confidence" in proportion to 1 / entropy, without a gradient. In a row
  that shows nothing all branches count.
  """
  weight = (visible | ~jnp.any(visible, axis=-1, keepdims=True)).astype(logits.dtype)
  if kind == "confidence":
    entropy = jax.lax.stop_gradient(branch_entropy(logits, task))
    weight = weight / (jnp.broadcast_to(entropy, weight.shape) + 0.01)
  return weight / jnp.sum(weight, axis=-1, keepdims=True)


def combine_logits(
  kind: CombineKind, logits: Float[Array, "B M C"], weight: Float[Array, "*P B M"], task: Task
) -> Float[Array, "*P B C"]:
  """Logits of the weighted mean of the probabilities, or with "logits" the mean of the logits.

  Of numbers it is the weighted mean, whatever the kind.
  """
  spread = lambda x: jnp.broadcast_to(x, (*weight.shape, x.shape[-1]))
  if kind == "logits" or task.kind == "regression":
    return jnp.sum(weight[..., None] * spread(logits), axis=-2)
  mean = lambda log_p: logsumexp(spread(log_p), axis=-2, b=weight[..., None])
  if task.kind == "classes":
    return mean(jax.nn.log_softmax(logits))
  return mean(jax.nn.log_sigmoid(logits)) - mean(jax.nn.log_sigmoid(-logits))


def classify_subsets(
  codes: Codes,
  branch_logits: Float[Array, "B M C"],
  full_logits: Float[Array, "B C"] | None,
  visible: Bool[Array, "*P B M"],
  kind: CombineKind,
  task: Task,
) -> tuple[Float[Array, "*P B C"], Float[Array, "*P B H"]]:
  """Logits of rows that show the modalities `visible`, and what the head reads of these rows:
  H_0, [U_i; Z_i], or for several of many the mean of those, weighted as their predictions."""
  weight = branch_weights(kind, branch_logits, visible, task)
  logits = combine_logits(kind, branch_logits, weight, task)
  read = jnp.einsum("...bm,bmh->...bh", weight, codes.by_modality)
  if full_logits is None:
    return logits, read
  complete = jnp.all(visible, axis=-1)[..., None]
  choose = lambda full, part: jnp.where(complete, jnp.broadcast_to(full, part.shape), part)
  return choose(full_logits, logits), choose(codes.fused, read)
