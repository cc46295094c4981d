"""Prompts of MPLMM (ACL 2024): generators of absent steps, and signal prompts.

Equations 1 to 4 of the paper in the shapes of its released code, for any number of modalities.
"""

import functools
import itertools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.nn import host, mult
from promise_jax.types import Pattern

START = nn.initializers.normal(0.02)
ZEROS = nn.initializers.zeros
# One matrix a modality or pair, stacked.
STACKED = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))
gelu = functools.partial(nn.gelu, approximate=False)


def source_sets(names: tuple[str, ...], target: str) -> list[tuple[str, ...]]:
  """The non-empty sets of the other modalities, each in the order of `names`."""
  others = [name for name in names if name != target]
  sizes = range(1, len(others) + 1)
  return [s for size in sizes for s in itertools.combinations(others, size)]


class Generators(nn.Module):
  """Steps of an absent modality m from a prompt and the set S of present modalities.

    G_m = gelu(A_{m,S} [P_m; gelu(x_n W_{n->m} + b_{n->m}) for n in S] + a_{m,S})   (1, 2)

  W maps raw features to the width of the model, A mixes along time; the GELU is exact. All
  sets S run and each row takes its own: they are small, and shapes stay static.
  """

  num_steps: dict[str, int]  # T_m of each modality
  width: int  # H
  prompts: int  # length of a prompt
  released_code: bool = False  # prompts start at 0

  @nn.compact
  def __call__(
    self,
    raw: dict[str, Float[Array, "B T D"]],
    present: Bool[Array, "B M"],
    pattern: Pattern | None = None,
  ) -> dict[str, Float[Array, "B T H"]]:
    """Generated steps {modality: [B, T_m, H]} of every row; 0 if nothing else is present.

    `raw` has the modalities of the static pattern, finite even where absent; sets with others are
    not compiled in.
    """
    names, num_steps = tuple(self.num_steps), self.num_steps
    is_present = dict(zip(names, present.T, strict=True))
    start = ZEROS if self.released_code else START
    # In the order of names: a set would make another program in every process.
    kept = tuple(itertools.compress(names, pattern or (True,) * len(names)))
    generated = {}
    for target in names:
      shape = (self.prompts, self.width)
      prompt = self.param(f"{target}_prompts", start, shape)
      prompt = jnp.broadcast_to(prompt, (present.shape[0], *shape))
      others = [n for n in kept if n != target]
      mapped = {n: self.map_channels(raw[n], n, target) for n in others}
      out = jnp.zeros((present.shape[0], num_steps[target], self.width), prompt.dtype)
      for sources in source_sets(names, target):
        size = self.prompts + sum(num_steps[n] for n in sources)
        name = f"{target}_of_{'_'.join(sources)}"
        kernel = self.param(f"{name}_kernel", mult.TORCH, (size, num_steps[target]))
        bias = self.param(f"{name}_bias", mult.torch_bias(size), (num_steps[target],))
        if not set(sources) <= set(kept):
          continue
        same = [is_present[n] == (n in sources) for n in names if n != target]
        is_this_set = functools.reduce(jnp.logical_and, same)
        parts = jnp.concatenate([prompt, *(mapped[n] for n in sources)], axis=1)
        here = is_this_set[:, None, None]
        out = jnp.where(here, jnp.einsum("bsh,st->bth", parts, kernel) + bias[None, :, None], out)
      generated[target] = gelu(out)
    return generated

  def map_channels(self, x, source: str, target: str):
    return gelu(mult.torch_dense(x.shape[-1], self.width, name=f"{target}_from_{source}")(x))


class TokenGenerators(nn.Module):
  """`Generators` for any number of modalities: the 2^(M-1) - 1 matrices A_{m,S} of a target are
  cut from one, A_m, by leaving out the columns of what is absent (ours)."""

  num_steps: dict[str, int]  # T_m of each modality
  width: int  # H
  prompts: int  # length of a prompt

  @nn.compact
  def __call__(
    self,
    raw: dict[str, Float[Array, "B T H"]],
    present: Bool[Array, "B M"],
    pattern: Pattern | None = None,
  ) -> dict[str, Float[Array, "B T H"]]:
    """As those of `Generators`. All targets and sources run as one, padded to one length."""
    del pattern
    rows, count = present.shape
    longest, width = max(self.num_steps.values()), self.width
    zeros = {n: jnp.zeros((rows, t, width)) for n, t in self.num_steps.items()}
    if count == 1:
      return zeros
    targets, sources = host.ordered_pairs(count)
    stacked = host.pad_and_stack([raw.get(n, x) for n, x in zeros.items()])[:, sources]
    channels = self.param("channel_kernel", STACKED, (len(targets), width, width))
    # Without a bias: what is absent, and padding, stays 0.
    mapped = gelu(jnp.einsum("bpth,phk->bptk", stacked, channels))
    prompt = self.param("prompts", START, (count, self.prompts, width))[None]
    prompt = jnp.broadcast_to(prompt, (rows, *prompt.shape[1:]))
    parts = jnp.concatenate([prompt, mapped.reshape(rows, count, -1, width)], axis=2)
    kernel = self.param("time_kernel", ZEROS, (count, parts.shape[2], longest))
    bias = self.param("time_bias", ZEROS, (count, longest))
    out = gelu(jnp.einsum("bmsh,mst->bmth", parts, kernel) + bias[None, ..., None])
    out = missing.zero_absent(out, jnp.any(present, axis=1))
    return {n: out[:, i, : x.shape[1]] for i, (n, x) in enumerate(zeros.items())}


class SignalPrompts(nn.Module):
  """Marks steps as present or generated, and maps prompts to the width W of self-attention.

    U_m = projected + N_m  where m is present, else  g_m (generated + S_m) + (1 - g_m) O_m     (3)
    Q   = sum_m P_m^T M_m  with P_m = N_m where m is present, else g_m S_m + (1 - g_m) O_m     (4)

  In MPLMM the gates g are 1 and there are no OFF prompts O. The gates are ProMMA's (ours).
  """

  num_steps: dict[str, int]  # T_m of each modality
  width: int  # H
  memory_width: int  # W
  released_code: bool = False  # all prompts and maps start at 0
  add: bool = True  # False: U_m has no prompts
  map: bool = True  # False: there is no Q
  gated: bool = False  # whether there are OFF prompts

  def setup(self):
    start = ZEROS if self.released_code else START
    prompts = lambda kind: {
      n: self.param(f"{n}_{kind}_prompts", start, (count, self.width))
      for n, count in self.num_steps.items()
    }
    if self.add or self.map:
      self.present_prompts, self.missing_prompts = prompts("present"), prompts("missing")
    if self.gated:
      self.off_prompts = prompts("off")
    if self.map:
      start = ZEROS if self.released_code else nn.initializers.lecun_normal()
      shape = lambda count: (count, self.memory_width)
      self.maps = {n: self.param(f"{n}_map", start, shape(t)) for n, t in self.num_steps.items()}

  def __call__(
    self,
    projected: dict[str, Float[Array, "B T H"]],
    generated: dict[str, Float[Array, "B T H"]],
    present: Bool[Array, "B M"],
    gates: Float[Array, "B M"] | None = None,
  ) -> list[Float[Array, "B T H"]]:
    """U_m of every modality; `projected` may lack those that are never present."""
    steps = []
    for i, n in enumerate(self.num_steps):
      own, other, off = projected.get(n, 0.0), generated[n], None
      if self.add:
        own, other = own + self.present_prompts[n][None], other + self.missing_prompts[n][None]
      if gates is not None:
        off = self.off_prompts[n][None]
      steps.append(select_steps(i, present, gates, own, other, off))
    return steps

  def prompt_map(
    self, present: Bool[Array, "B M"], gates: Float[Array, "B M"] | None = None
  ) -> Float[Array, "B H W"]:
    """Q, in the shapes of the released code: those of the paper do not fit."""
    total, kinds = 0.0, [self.present_prompts, self.missing_prompts]
    if self.gated:
      kinds.append(self.off_prompts)
    for i, n in enumerate(self.num_steps):
      own, other, *off = ((kind[n].T @ self.maps[n])[None] for kind in kinds)
      total += select_steps(i, present, gates, own, other, *off)
    return total


def select_steps(i: int, present, gates, own, generated, off=None):
  """`own` in rows that have modality i, else the mixture that its gate makes."""
  if gates is not None:
    gate = gates[:, i, None, None]  # at exactly 0 nothing of what is generated is left
    generated = gate * generated + (1 - gate) * off
  return jnp.where(present[:, i, None, None], own, generated)
