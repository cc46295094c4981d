"""The network of `robult` and `share`: a branch for each modality, one for several, one head.

  H_A = f_0(x_i for i in A),  S = g_0(H_A)           the modalities A together
  H_i = f_i(x_i),  Z_i = g_0(H_i),  U_i = g_i(H_i)   one modality
  c([U_i; Z_i]) where only i is present, else c(H_A)

f_0 is a linear map of codes of modalities, side by side, with a token for what is absent.

Source of the modules: the authors' picture of Robult's architecture, see `methods.robult`. It has
H_A of all modalities; that f_0 reads subsets, and is linear in codes, is ours.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.nn import mlp, precision
from promise_jax.nn.modality_encoders import ModalityEncoders
from promise_jax.types import Inputs, Modality, Pattern


class Codes(NamedTuple):
  """Codes of a batch, 0 where a row lacks the modality. Z and U are sizes of codes, U + Z = H."""

  latent: Float[Array, "B M H"]  # H_i
  shared: Float[Array, "B M Z"]  # Z_i
  private: Float[Array, "B M U"]  # U_i
  to_fuse: Float[Array, "B M H"]  # what f_0 reads

  @property
  def by_modality(self) -> Float[Array, "B M H"]:
    """[U_i; Z_i], what the head reads of one modality."""
    return jnp.concatenate([self.private, self.shared], axis=-1)

  def hide(self, present: Bool[Array, "B M"]) -> "Codes":
    """These codes without those of modalities that are not `present`."""
    return Codes(*(missing.zero_absent(x, present) for x in self))


class LinearFusion(nn.Module):
  """f_0: a linear map of the codes of all modalities side by side, token t_i for what A lacks.

    f_0(A) = b + sum_i W_i t_i + sum_{i in A} W_i (H_i - t_i)

  So written, W_i multiplies a code once for all subsets A.
  """

  features: int

  @nn.compact
  def __call__(
    self, codes: Float[Array, "B M D"], visible: Bool[Array, "*P B M"], token: Float[Array, "M D"]
  ) -> Float[Array, "*P B H"]:
    shape = token.size, self.features
    kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    kernel = kernel.reshape(*token.shape, self.features)
    unseen = bias + jnp.einsum("md,mdh->h", token, kernel)
    seen = jnp.einsum("bmd,mdh->bmh", codes - token[None], kernel)
    total = jnp.einsum("...bm,bmh->...bh", visible.astype(seen.dtype), seen)
    return total + jnp.expand_dims(unseen, range(visible.ndim - 1))


class BranchNet(precision.Network):
  """The modules f_i, f_0, g_0, g_i, c, and decoders q_i that rebuild H_i from (Z_i, U_i)."""

  modalities: tuple[Modality, ...]
  num_outputs: int
  hidden: int  # size of H_i and H_A
  shared: int  # size of Z_i and S; U_i has the rest of `hidden`
  head_hidden: int
  own_encoders: bool = False  # True: f_0 has encoders of its own; False: it reads all H_i

  def setup(self):
    hidden, private = self.hidden, self.hidden - self.shared
    self.encoders = ModalityEncoders(self.modalities, hidden)
    if self.own_encoders:
      self.fused_encoders = ModalityEncoders(self.modalities, hidden)
    self.token = self.param("token", nn.initializers.normal(0.02), (len(self.modalities), hidden))
    self.fuse = LinearFusion(hidden)
    self.project_shared = mlp.Mlp((hidden, self.shared))
    self.project_private = [mlp.Mlp((hidden, private)) for _ in self.modalities]
    self.decoders = [mlp.Mlp((hidden, hidden)) for _ in self.modalities]
    self.head = mlp.Mlp((self.head_hidden, self.num_outputs))

  def __call__(self, inputs: Inputs, visible: Bool[Array, "P B M"]):
    """What training reads; the first of the subsets `visible` is all that is present.

    Returns codes, logits f[P + M, B, C] of c(H_A) for every subset and of c([U_i; Z_i]) for every
    modality, S f[B, Z], and the rebuilt H_i f[B, M, H].
    """
    codes = self.encode(inputs)
    fused = self.fuse(codes.to_fuse, visible, self.token)
    logits = self.head(jnp.concatenate([fused, codes.by_modality.swapaxes(0, 1)]))
    return codes, logits, self.project_shared(fused[0]), self.decode(codes)

  def encode(self, inputs: Inputs, pattern: Pattern | None = None) -> Codes:
    """All codes of a batch; modalities that a static `pattern` lacks are not computed."""
    pattern = pattern or (True,) * len(self.modalities)
    latent = self.encoders(inputs, pattern)
    blank = jnp.zeros((latent.shape[0], self.hidden - self.shared))
    private = [
      project(latent[:, i]) if pattern[i] else blank
      for i, project in enumerate(self.project_private)
    ]
    to_fuse = self.fused_encoders(inputs, pattern) if self.own_encoders else latent
    codes = Codes(latent, self.project_shared(latent), jnp.stack(private, axis=1), to_fuse)
    return codes.hide(inputs.present)

  def classify(self, codes: Codes, visible: Bool[Array, "*P B M"]) -> Float[Array, "*P B C"]:
    """Logits of the modalities `visible`, which are present, as `predict` has them."""
    return self.head(self.read(codes, visible))

  def read(self, codes: Codes, visible: Bool[Array, "*P B M"]) -> Float[Array, "*P B H"]:
    """What the head reads of the modalities `visible`: [U_i; Z_i] of a row that shows one, 0 of one
    that shows none, else H_A."""
    by_modality = codes.by_modality
    # A sum, as a product of matrices this small took longer.
    alone = sum(
      jnp.where(visible[..., i, None], by_modality[:, i], 0) for i in range(by_modality.shape[1])
    )
    several = jnp.sum(visible, axis=-1, keepdims=True) > 1
    return jnp.where(several, self.fuse(codes.to_fuse, visible, self.token), alone)

  def predict(self, inputs: Inputs, pattern: Pattern | None = None, codes: Codes | None = None):
    """Codes, logits f[B, C], and what the head reads f[B, H]. One modality alone never runs f_0.
    `codes` are those of `encode` if they are known."""
    codes = self.encode(inputs, pattern) if codes is None else codes.hide(inputs.present)
    if pattern is None or sum(pattern) > 1:
      read = self.read(codes, inputs.present)
    else:
      read = jnp.sum(codes.by_modality, axis=1)
    return codes, self.head(read), read

  def decode(self, codes: Codes) -> Float[Array, "B M H"]:
    """H_i from (Z_i, U_i). Z_i gets no gradient, so that the private code must learn."""
    fixed = codes._replace(shared=jax.lax.stop_gradient(codes.shared)).by_modality
    return jnp.stack([q(fixed[:, i]) for i, q in enumerate(self.decoders)], axis=1)
