"""RedCore's imputer: from the latents of the other modalities to the one that is missing.

"RedCore", Sun et al., AAAI 2024, arXiv 2312.10386; the cascade is the released code's.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

# Not truncated, as in the released code.
HE_NORMAL = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def choose_init(he_init: bool):
  """He's initial weights, or the default of flax."""
  return HE_NORMAL if he_init else nn.initializers.lecun_normal()


class AutoEncoder(nn.Module):
  """One auto-encoder of the cascade: (u, o) -> (u + o, its reconstruction), all f[B, D]."""

  widths: tuple[int, ...]
  he_init: bool

  @nn.compact
  def __call__(self, carry, _):
    u, o = carry
    x = u = u + o
    init = choose_init(self.he_init)
    for i, width in enumerate(self.widths):
      x = nn.leaky_relu(x, 0.01) if i else x
      x = nn.Dense(width, kernel_init=init)(x)
    for width in self.widths[-2::-1]:
      x = nn.relu(nn.Dense(width, kernel_init=init)(x))
    # From He's weights the first imputation losses are about a million. Ours starts at 0:
    # the cascade is the identity at first.
    last = HE_NORMAL if self.he_init else nn.initializers.zeros
    return (u, nn.Dense(u.shape[-1], kernel_init=last)(x)), None


class Imputer(nn.Module):
  """A cascade of residual auto-encoders and two layers.

  u_0 = x, o_0 = 0;  u_k = u_{k-1} + o_{k-1},  o_k = Dec_k(Enc_k(u_k))
  output = W_2 relu(W_1 (u_K + o_K))
  """

  hidden: int  # size of the output
  widths: tuple[int, ...] = (256, 128, 64)  # of the layers of each Enc_k
  num_autoencoders: int = 5  # K
  he_init: bool = False  # the initial weights of the released code

  @nn.compact
  def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B H"]:
    cascade = nn.scan(
      AutoEncoder,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      length=self.num_autoencoders,
    )
    (u, o), _ = cascade(self.widths, self.he_init)((x, jnp.zeros_like(x)), None)
    init = choose_init(self.he_init)
    x = nn.relu(nn.Dense(x.shape[-1], kernel_init=init)(u + o))
    # Ours starts at 0 here as well: heads first read nothing of what is absent.
    last = HE_NORMAL if self.he_init else nn.initializers.zeros
    return nn.Dense(self.hidden, kernel_init=last)(x)
