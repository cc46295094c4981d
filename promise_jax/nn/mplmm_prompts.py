"""MPLMM's generators: steps of an absent modality from a prompt and the raw others.

Equations 1 and 2 of MPLMM (ACL 2024), in the shapes of its released code, for any M:
a channel mapping for each ordered pair (source -> target) takes raw features to the
width of the model, then, for each target and each set of modalities that can be there,
a linear map along time mixes the target's prompt with the mapped sources. All of them
run and the rows choose theirs: they are small, and shapes stay static.
"""

import functools
import itertools

import flax.linen as nn
import jax.numpy as jnp

from promise_jax.nn import mult
from promise_jax.types import Array, Pattern


def sources_of(names: tuple[str, ...], target: str) -> list[tuple[str, ...]]:
  """The non-empty sets of the other modalities, each in the order of `names`."""
  others = [name for name in names if name != target]
  sizes = range(1, len(others) + 1)
  return [s for size in sizes for s in itertools.combinations(others, size)]


class Generators(nn.Module):
  """phi(A [P_G ; c(x_n) ...] + b) for every modality, phi the exact GELU.

  `steps` T_m and `start`, the initialiser of the prompts f[E, H], E = `prompts`.
  """

  names: tuple[str, ...]
  steps: tuple[int, ...]
  width: int
  prompts: int
  start: nn.initializers.Initializer

  @nn.compact
  def __call__(
    self, raw: dict[str, Array], present: Array, pattern: Pattern | None = None
  ) -> dict[str, Array]:
    """{modality: f[B, T_m, H]} generated for every row from the raw steps f[B, T, D] of
    the other modalities that are `present` bool[B, M]; zeros where none is.

    `raw` needs only the modalities of the static `pattern`, if one is given; what is
    not present is multiplied into results that no row takes, so it must be finite.
    """
    there = dict(zip(self.names, present.T, strict=True))
    steps = dict(zip(self.names, self.steps, strict=True))
    # In the order of the names: of a set, the order and with it the program would
    # differ from process to process.
    kept = tuple(itertools.compress(self.names, pattern or (True,) * len(self.names)))
    made = {}
    for target in self.names:
      shape = (self.prompts, self.width)
      prompt = self.param(f"{target}_prompts", self.start, shape)
      prompt = jnp.broadcast_to(prompt, (len(present), *shape))
      others = [n for n in kept if n != target]
      mapped = {n: self.channels(raw[n], n, target) for n in others}
      out = jnp.zeros((len(present), steps[target], self.width), prompt.dtype)
      for sources in sources_of(self.names, target):
        size = self.prompts + sum(steps[n] for n in sources)
        mix = self.mixing(target, sources, size, steps[target])
        if not set(sources) <= set(kept):
          continue
        same = [there[n] == (n in sources) for n in self.names if n != target]
        here = functools.reduce(jnp.logical_and, same)
        parts = jnp.concatenate([prompt, *(mapped[n] for n in sources)], axis=1)
        out = jnp.where(here[:, None, None], mix(parts), out)
      made[target] = nn.gelu(out, approximate=False)
    return made

  def channels(self, x, source, target):
    bias = mult.spread(x.shape[-1])
    dense = nn.Dense(
      self.width, kernel_init=mult.TORCH, bias_init=bias, name=f"{target}_from_{source}"
    )
    return nn.gelu(dense(x), approximate=False)

  def mixing(self, target, sources, size, steps):
    name = f"{target}_of_{'_'.join(sources)}"
    kernel = self.param(f"{name}_kernel", mult.TORCH, (size, steps))
    bias = self.param(f"{name}_bias", mult.spread(size), (steps,))

    def mix(x):
      return jnp.einsum("bsh,st->bth", x, kernel) + bias[None, :, None]

    return mix
