"""Imputers: from the latents that are there to the one that is missing."""

import flax.linen as nn
import jax.numpy as jnp

from promise_jax.types import Array

# Untruncated, as the released code of RedCore has it.
HE = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def start(he: bool):
  """He's initial weights, or the default of flax."""
  return HE if he else nn.initializers.lecun_normal()


class AutoEncoder(nn.Module):
  """One link of the cascade: (u, o) f[B, D] each -> (u + o, its reconstruction)."""

  widths: tuple[int, ...]
  he: bool

  @nn.compact
  def __call__(self, carry, _):
    u, o = carry
    u = u + o
    inner = start(self.he)
    last = HE if self.he else nn.initializers.zeros
    x = u
    for i, width in enumerate(self.widths):
      x = nn.leaky_relu(x, 0.01) if i else x
      x = nn.Dense(width, kernel_init=inner)(x)
    for width in self.widths[-2::-1]:
      x = nn.relu(nn.Dense(width, kernel_init=inner)(x))
    return (u, nn.Dense(u.shape[-1], kernel_init=last)(x)), None


class Imputer(nn.Module):
  """A cascade of residual auto-encoders and two layers, f[B, D] -> f[B, H].

  u_0 is the input and o_0 = 0; u_k = u_{k-1} + o_{k-1}, o_k = Dec_k(Enc_k(u_k)); the
  output is W_2 relu(W_1 (u_K + o_K)), K = `links`, each encoder of `widths` (RedCore's
  released code). It starts with He's weights if `he`, as there, which makes the first
  imputation loss a million; else every o_k starts at 0 (ours).
  """

  hidden: int
  widths: tuple[int, ...] = (256, 128, 64)
  links: int = 5
  he: bool = False

  @nn.compact
  def __call__(self, x: Array) -> Array:
    cascade = nn.scan(
      AutoEncoder,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=self.links,
    )
    (u, o), _ = cascade(self.widths, self.he)((x, jnp.zeros_like(x)), None)
    init = start(self.he)
    x = nn.relu(nn.Dense(x.shape[-1], kernel_init=init)(u + o))
    return nn.Dense(self.hidden, kernel_init=init)(x)
