"""PROMISE's prompts: tokens for an absent modality, generated from what is present.

PROMISE (AAAI 2026, arXiv 2511.10997). We had its method figure and not the equations. From the
figure: one set of learned prompts for each modality, used where that modality is absent; what is
present passes unchanged. Ours: every formula. The paper may mean either of the first two kinds;
the others are baselines.

  query     prompts attend to the present tokens (the default)
  memory    present tokens attend to the prompts, a codebook
  mix       sources and prompts mixed along time, without attention (after MPLMM's code)
  constant  the prompts alone
  zeros     as many zeros as there would be prompts
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.checks import check_at_least, check_choice
from promise_jax.nn import attention

# Not zeros: prompts that start equal get equal gradients and stay equal.
PROMPT_INIT = nn.initializers.normal(0.02)

Tokens = list[Float[Array, "B T H"]]  # of each modality, T may differ
TokenMasks = list[Bool[Array, "B T"]]  # which tokens are real


class Generate(nn.Module):
  """Puts generated tokens where a modality is absent.

  Each modality has weights of its own. Rows do not see each other.
  """

  kind: str = "query"
  num_prompts: int = 16
  num_heads: int = 8  # of "query"
  norm: bool = True  # layer norm in "query"

  @nn.compact
  def __call__(
    self, tokens: Tokens, token_masks: TokenMasks, present: Bool[Array, "B M"]
  ) -> tuple[Tokens, TokenMasks]:
    """Tokens of every modality, max(T_m, G) of them for G generated ones, and which are real;
    the others are zeros, whatever stood there."""
    check_choice("kind", self.kind, tuple(GENERATORS))
    check_at_least("prompts", self.num_prompts, 1)
    masks = [mask & present[:, m, None] for m, mask in enumerate(token_masks)]
    tokens = [missing.zero_absent(x, mask) for x, mask in zip(tokens, masks, strict=True)]
    filled = []
    for m, recorded in enumerate(tokens):
      sizes = self.num_prompts, self.num_heads, self.norm
      generate = GENERATORS[self.kind](*sizes, name=f"absent_{m}")
      sources, source_masks = tokens[:m] + tokens[m + 1 :], masks[:m] + masks[m + 1 :]
      generated, generated_mask = generate(sources, source_masks, recorded.shape)
      filled.append(insert_generated(recorded, masks[m], generated, generated_mask, present[:, m]))
    return [x for x, _ in filled], [mask for _, mask in filled]


def insert_generated(
  recorded: Float[Array, "B T H"],
  recorded_mask: Bool[Array, "B T"],
  generated: Float[Array, "B G H"],
  generated_mask: Bool[Array, "B G"],
  present: Bool[Array, " B"],
):
  """Tokens f[B, max(T, G), H], and which are real: the generated ones in rows that are not
  present."""
  num_tokens = max(recorded.shape[1], generated.shape[1])

  def pad(x):
    return jnp.pad(x, [(0, 0), (0, num_tokens - x.shape[1])] + [(0, 0)] * (x.ndim - 2))

  here = present[:, None]  # onnxruntime has no `where` of two masks
  mask = (here & pad(recorded_mask)) | (~here & pad(generated_mask))
  tokens = jnp.where(present[:, None, None], pad(recorded), pad(generated))
  return missing.zero_absent(tokens, mask), mask


class Generator(nn.Module):
  """From the `sources`, zeros where `source_masks` are False, the tokens f[B, G, H] of a modality
  of `shape` (B, T_m, H), and which are real."""

  num_prompts: int
  num_heads: int
  norm: bool

  def prompts(self, shape: tuple[int, ...]) -> Float[Array, "B K H"]:
    """The K learned prompts, the same in every row."""
    num_rows, _, width = shape
    prompts = self.param("prompts", PROMPT_INIT, (self.num_prompts, width))
    return jnp.broadcast_to(prompts[None], (num_rows, *prompts.shape))


class Query(Generator):
  """K tokens: u = P + attention(LN P, LN x), then u + FFN(LN u), with x = [sources, P].

  The prompts among the keys are where attention goes without evidence: no row is fully masked.
  """

  @nn.compact
  def __call__(self, sources, source_masks, shape):
    prompts = self.prompts(shape)
    x = jnp.concatenate([*sources, prompts], axis=1)
    prompt_mask = jnp.ones(prompts.shape[:2], bool)
    x_mask = jnp.concatenate([*source_masks, prompt_mask], axis=1)
    norm = lambda: attention.Norm(self.norm)
    attend = attention.Attention(self.num_heads)
    u = prompts + attend(norm()(prompts), norm()(x), x_mask)
    wide = nn.gelu(nn.Dense(4 * shape[-1])(norm()(u)))
    return u + nn.Dense(shape[-1], kernel_init=attention.ZEROS)(wide), prompt_mask


class Memory(Generator):
  """softmax(S W_Q (P W_K)^T / sqrt(H)) P W_V: a token for each token S of the sources.

  A row without any source has no real token.
  """

  @nn.compact
  def __call__(self, sources, source_masks, shape):
    check_at_least("number of sources", len(sources), 1)
    source, prompts = jnp.concatenate(sources, axis=1), self.prompts(shape)
    dense = lambda x: nn.Dense(shape[-1], use_bias=False)(x)
    query, key, value = dense(source), dense(prompts), dense(prompts)
    logits = jnp.einsum("bth,bkh->btk", query, key) / math.sqrt(shape[-1])
    tokens = jnp.einsum("btk,bkh->bth", jax.nn.softmax(logits), value)
    return tokens, jnp.concatenate(source_masks, axis=1)


class Mix(Generator):
  """T_m tokens: gelu(W [gelu(S_a V_a + v_a) for every source a, P] + w) + c, W along time.

  After MPLMM's released code; c f[T_m, H] says that the modality is absent.
  """

  @nn.compact
  def __call__(self, sources, source_masks, shape):
    _, num_tokens, width = shape
    pairs = zip(sources, source_masks, strict=True)
    mapped = [missing.zero_absent(nn.gelu(nn.Dense(width)(x)), mask) for x, mask in pairs]
    x = jnp.concatenate([*mapped, self.prompts(shape)], axis=1)
    mixed = nn.gelu(nn.Dense(num_tokens)(jnp.swapaxes(x, 1, 2)))
    absent = self.param("absent", PROMPT_INIT, (num_tokens, width))
    return jnp.swapaxes(mixed, 1, 2) + absent[None], jnp.ones(shape[:2], bool)


class Constant(Generator):
  """The prompts as they are."""

  @nn.compact
  def __call__(self, sources, source_masks, shape):
    prompts = self.prompts(shape)
    return prompts, jnp.ones(prompts.shape[:2], bool)


class Zeros(Generator):
  """As many zeros as there would be prompts."""

  def __call__(self, sources, source_masks, shape):
    shape = shape[0], self.num_prompts, shape[2]
    return jnp.zeros(shape), jnp.ones(shape[:2], bool)


GENERATORS = {
  "query": Query,
  "memory": Memory,
  "mix": Mix,
  "constant": Constant,
  "zeros": Zeros,
}
