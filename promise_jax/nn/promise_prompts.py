"""PROMISE-style generation of absent modalities from prompts and what is present.

Of PROMISE (AAAI 2026, arXiv 2511.10997) we saw the method figure, not the equations.
From the figure: one set of prompts a modality, put in where that modality is absent;
what is present passes unchanged; everything here is learned. Ours: every formula. The
paper may mean either of the first two; the others are controls:

  query     prompts ask the present tokens by attention (the default),
  memory    present tokens ask the prompts: a codebook,
  mix       no attention, sources and prompts mixed along time: after MPLMM's code,
  constant  the prompts alone,
  zeros     no prompts at all.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from promise_jax import missing
from promise_jax.checks import check_at_least, check_choice
from promise_jax.nn import attention
from promise_jax.types import Array

# Not zeros: prompts that start alike get the same gradients and stay alike.
START = nn.initializers.normal(0.02)


class Generate(nn.Module):
  """Puts generated tokens where a modality is absent, for any number of modalities.

  `tokens` are M arrays f[B, T_m, H], `real` M arrays bool[B, T_m], and `present` is
  bool[B, M]. Returns both lists, of max(T_m, G) steps for G generated ones; tokens that
  are not real are zeros, whatever stood there. All weights belong to the modality that
  is absent; rows do not see each other. `heads`, `layers`, `norm` are those of "query".
  Raises ValueError for an unknown `kind`, and for fewer than 1 prompt.
  """

  kind: str = "query"
  prompts: int = 16
  heads: int = 8
  layers: int = 1
  norm: bool = True

  @nn.compact
  def __call__(
    self, tokens: list[Array], real: list[Array], present: Array
  ) -> tuple[list[Array], list[Array]]:
    check_choice("kind", self.kind, tuple(GENERATORS))
    check_at_least("prompts", self.prompts, 1)
    real = [r & present[:, m, None] for m, r in enumerate(real)]
    tokens = [missing.zero_absent(x, r) for x, r in zip(tokens, real, strict=True)]
    filled = []
    for m, own in enumerate(tokens):
      generate = GENERATORS[self.kind](
        self.prompts, self.heads, self.layers, self.norm, name=f"absent_{m}"
      )
      sources, there = tokens[:m] + tokens[m + 1 :], real[:m] + real[m + 1 :]
      new, new_real = generate(sources, there, own.shape)
      filled.append(insert_generated(own, real[m], new, new_real, present[:, m]))
    return [x for x, _ in filled], [r for _, r in filled]


def insert_generated(
  own: Array, real: Array, new: Array, new_real: Array, present: Array
) -> tuple[Array, Array]:
  """Tokens f[B, max(T, G), H] and which are real: `own` f[B, T, H], `real` bool[B, T]
  in rows `present` bool[B], `new` f[B, G, H], `new_real` bool[B, G] elsewhere."""
  steps = max(own.shape[1], new.shape[1])

  def pad(x):
    return jnp.pad(x, [(0, 0), (0, steps - x.shape[1])] + [(0, 0)] * (x.ndim - 2))

  real = jnp.where(present[:, None], pad(real), pad(new_real))
  tokens = jnp.where(present[:, None, None], pad(own), pad(new))
  return missing.zero_absent(tokens, real), real


class Generator(nn.Module):
  """From `sources`, arrays f[B, T_a, H] with zeros where `there` bool[B, T_a] is False,
  the tokens f[B, G, H] of a modality of `shape` (B, T_m, H), and which are real."""

  prompts: int
  heads: int
  layers: int
  norm: bool

  def pool(self, shape: tuple[int, ...]) -> Array:
    """The K prompts P, the same in every row: f[B, K, H]."""
    rows, _, width = shape
    prompts = self.param("prompts", START, (self.prompts, width))
    return jnp.broadcast_to(prompts[None], (rows, *prompts.shape))


class Query(Generator):
  """K tokens: `layers` of

    u = g + W_O attention(LN(g) W_Q, LN(x) W_K, LN(x) W_V),  g <- u + FFN(LN(u))

  with g = P at first and x = [sources, P]. The prompts among the keys are where
  attention goes without evidence: no row is fully masked. Raises ValueError unless H is
  a multiple of the heads. Without `norm` there is no LN.
  """

  @nn.compact
  def __call__(self, sources, there, shape):
    width = shape[-1]
    g = self.pool(shape)
    x = jnp.concatenate([*sources, g], axis=1)
    there = jnp.concatenate([*there, jnp.ones(g.shape[:2], bool)], axis=1)
    norm = lambda: attention.Norm(self.norm)
    for _ in range(self.layers):
      ask = attention.Attention(self.heads)
      u = g + ask(norm()(g), norm()(x), there)
      wide = nn.gelu(nn.Dense(4 * width)(norm()(u)))
      g = u + nn.Dense(width, kernel_init=attention.ZEROS)(wide)
    return g, jnp.ones(g.shape[:2], bool)


class Memory(Generator):
  """softmax(S W_Q (P W_K)^T / sqrt(H)) P W_V, a token for each token of the sources.

  A row without any source has no real token. Raises ValueError without sources.
  """

  @nn.compact
  def __call__(self, sources, there, shape):
    check_at_least("number of sources", len(sources), 1)
    source, pool = jnp.concatenate(sources, axis=1), self.pool(shape)
    dense = lambda x: nn.Dense(shape[-1], use_bias=False)(x)
    query, key, value = dense(source), dense(pool), dense(pool)
    logits = jnp.einsum("bth,bkh->btk", query, key) / math.sqrt(shape[-1])
    tokens = jnp.einsum("btk,bkh->bth", jax.nn.softmax(logits), value)
    return tokens, jnp.concatenate(there, axis=1)


class Mix(Generator):
  """T_m tokens: gelu(W [gelu(S_a V_a + v_a) for all sources a, P] + w) + c, W in time.

  After MPLMM's released code; c f[T_m, H] says that the modality is absent. Tokens that
  are not there count as zeros.
  """

  @nn.compact
  def __call__(self, sources, there, shape):
    _, steps, width = shape
    mapped = [
      missing.zero_absent(nn.gelu(nn.Dense(width)(x)), r)
      for x, r in zip(sources, there, strict=True)
    ]
    x = jnp.concatenate([*mapped, self.pool(shape)], axis=1)
    mixed = nn.gelu(nn.Dense(steps)(jnp.swapaxes(x, 1, 2)))
    absent = self.param("absent", START, (steps, width))
    return jnp.swapaxes(mixed, 1, 2) + absent[None], jnp.ones(shape[:2], bool)


class Constant(Generator):
  """The prompts as they are."""

  @nn.compact
  def __call__(self, sources, there, shape):
    del sources, there
    pool = self.pool(shape)
    return pool, jnp.ones(pool.shape[:2], bool)


class Zeros(Generator):
  """As many zeros as there would be prompts."""

  def __call__(self, sources, there, shape):
    del sources, there
    shape = shape[0], self.prompts, shape[2]
    return jnp.zeros(shape), jnp.ones(shape[:2], bool)


GENERATORS = {
  "query": Query,
  "memory": Memory,
  "mix": Mix,
  "constant": Constant,
  "zeros": Zeros,
}
