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

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.checks import check_at_least, check_choice
from promise_jax.nn import attention, host

KINDS = ("query", "memory", "mix", "constant", "zeros")
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
    check_choice("kind", self.kind, KINDS)
    check_at_least("prompts", self.num_prompts, 1)
    masks = [mask & present[:, m, None] for m, mask in enumerate(token_masks)]
    tokens = [missing.zero_absent(x, mask) for x, mask in zip(tokens, masks, strict=True)]
    filled = []
    for m, recorded in enumerate(tokens):
      sizes = self.kind, self.num_prompts, self.num_heads, self.norm
      sources, source_masks = tokens[:m] + tokens[m + 1 :], masks[:m] + masks[m + 1 :]
      generate = Generator(*sizes, name=f"absent_{m}")
      generated, generated_mask = generate(sources, source_masks, recorded.shape)
      longest = max(recorded.shape[1], generated.shape[1])
      pad = functools.partial(host.pad_steps, length=longest)
      row_has = present[:, m]
      here = row_has[:, None]  # onnxruntime has no `where` of two masks
      mask = (here & pad(masks[m])) | (~here & pad(generated_mask))
      x = jnp.where(row_has[:, None, None], pad(recorded), pad(generated))
      filled.append((missing.zero_absent(x, mask), mask))
    return [x for x, _ in filled], [mask for _, mask in filled]


class Generator(nn.Module):
  """From the `sources`, zeros where `source_masks` are False, the tokens f[B, G, H] of a modality
  of `shape` (B, T_m, H), and which are real."""

  kind: str
  num_prompts: int
  num_heads: int
  norm: bool

  @nn.compact
  def __call__(self, sources, source_masks, shape):
    if self.kind in ("constant", "zeros"):
      zeros = jnp.zeros((shape[0], self.num_prompts, shape[2]))
      prompts = zeros if self.kind == "zeros" else self.prompts(shape)
      return prompts, jnp.ones(prompts.shape[:2], bool)
    generate = {"query": self.query, "memory": self.remember, "mix": self.mix}[self.kind]
    return generate(sources, source_masks, shape)

  def prompts(self, shape: tuple[int, ...]) -> Float[Array, "B K H"]:
    """The K learned prompts, the same in every row."""
    num_rows, _, width = shape
    prompts = self.param("prompts", PROMPT_INIT, (self.num_prompts, width))
    return jnp.broadcast_to(prompts[None], (num_rows, *prompts.shape))

  def query(self, sources, source_masks, shape):
    """K tokens: u = P + attention(LN P, LN x), then u + FFN(LN u), with x = [sources, P].

    The prompts among the keys are where attention goes without evidence: no row is fully masked.
    """
    prompts = self.prompts(shape)
    x = jnp.concatenate([*sources, prompts], axis=1)
    prompt_mask = jnp.ones(prompts.shape[:2], bool)
    x_mask = jnp.concatenate([*source_masks, prompt_mask], axis=1)
    norm = lambda: attention.Norm(self.norm)
    u = prompts + attention.Attention(self.num_heads)(norm()(prompts), norm()(x), x_mask)
    wide = nn.gelu(nn.Dense(4 * shape[-1])(norm()(u)))
    return u + nn.Dense(shape[-1], kernel_init=attention.ZEROS)(wide), prompt_mask

  def remember(self, sources, source_masks, shape):
    """softmax(S W_Q (P W_K)^T / sqrt(H)) P W_V: a token for each token S of the sources.

    A row without any source has no real token.
    """
    check_at_least("number of sources", len(sources), 1)
    source, prompts = jnp.concatenate(sources, axis=1), self.prompts(shape)
    dense = lambda x: nn.Dense(shape[-1], use_bias=False)(x)
    query, key, value = dense(source), dense(prompts), dense(prompts)
    logits = jnp.einsum("bth,bkh->btk", query, key) / math.sqrt(shape[-1])
    tokens = jnp.einsum("btk,bkh->bth", jax.nn.softmax(logits), value)
    return tokens, jnp.concatenate(source_masks, axis=1)

  def mix(self, sources, source_masks, shape):
    """T_m tokens: gelu(W [gelu(S_a V_a + v_a) for every source a, P] + w) + c, W along time.

    After MPLMM's released code; c f[T_m, H] says that the modality is absent.
    """
    _, num_tokens, width = shape
    pairs = zip(sources, source_masks, strict=True)
    mapped = [missing.zero_absent(nn.gelu(nn.Dense(width)(x)), mask) for x, mask in pairs]
    x = jnp.concatenate([*mapped, self.prompts(shape)], axis=1)
    mixed = nn.gelu(nn.Dense(num_tokens)(jnp.swapaxes(x, 1, 2)))
    absent = self.param("absent", PROMPT_INIT, (num_tokens, width))
    return jnp.swapaxes(mixed, 1, 2) + absent[None], jnp.ones(shape[:2], bool)
