"""BERT (Devlin et al. 2019), as MiniLM and sentence-transformers have it, as a frozen text encoder.

  x_t  = LN(word[id_t] + position[t] + type[0])
  x   <- LN(x + W_o attention(W_q x, W_k x, W_v x))      over the real tokens, in H heads
  x   <- LN(x + W_2 gelu(W_1 x))                         in every layer

LN is layer normalisation behind the sum, gelu the exact one, every W has a bias. A folder in the
layout of Hugging Face has config.json, model.safetensors and tokenizer.json; modules.json,
1_Pooling/config.json and sentence_bert_config.json of sentence-transformers say how tokens become
one vector (the mean of all tokens, or the first one; of length 1 or not) and how many are read.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from promise_jax.data.pretrained import inputs, layers, weights

KINDS = ("text",)


class Bert(NamedTuple):
  """The settings of a BERT."""

  num_layers: int
  num_heads: int
  epsilon: float  # of layer normalisation
  max_steps: int
  pooling: str  # "mean", "first" or, every token for itself, "none"
  normalise: bool  # vectors have length 1


def read_settings(folder: weights.Folder, keep_tokens: bool) -> Bert:
  """The settings in the files of a folder. ValueError for another model than BERT."""
  config = weights.read_json(folder, "config.json")
  if config["model_type"] != "bert" or config.get("hidden_act", "gelu") != "gelu":
    found = f"{config['model_type']} with {config.get('hidden_act', 'gelu')}"
    raise ValueError(f"{folder} has a {found}, expected is a bert with gelu")
  length = weights.read_json(folder, "sentence_bert_config.json").get("max_seq_length")
  pooling = weights.read_json(folder, "1_Pooling/config.json")
  first = pooling.get("pooling_mode_cls_token", False)
  if pooling and not first and not pooling.get("pooling_mode_mean_tokens", False):
    raise ValueError(f"{folder} pools tokens by neither mean nor first token; bert+tokens does not")
  return Bert(
    num_layers=config["num_hidden_layers"],
    num_heads=config["num_attention_heads"],
    epsilon=config["layer_norm_eps"],
    max_steps=min(config["max_position_embeddings"], length or config["max_position_embeddings"]),
    pooling="none" if keep_tokens else "first" if first else "mean",
    normalise="Normalize" in json.dumps(weights.read_json(folder, "modules.json")),
  )


def load(folder: weights.Folder, kind: str, keep_tokens: bool, dtype: jnp.dtype) -> Callable:
  """The function texts [B] -> f32[B, D], or with `keep_tokens` (f32[B, T, D], steps i[B])."""
  settings = read_settings(folder, keep_tokens)
  arrays = weights.read_arrays(folder, dtype)
  params = {name.removeprefix("bert."): array for name, array in arrays.items()}
  tokenizer = inputs.read_tokenizer(folder, settings.max_steps)
  forward = jax.jit(functools.partial(embed, settings))
  forward = functools.partial(forward, params)
  return functools.partial(inputs.encode_texts, tokenizer, forward, longest=settings.max_steps)


def embed(
  settings: Bert, params: Mapping[str, Array], ids: Int[Array, "B T"], mask: Bool[Array, "B T"]
) -> Float[Array, "B ..."]:
  """The vector [B, D] of each text, or of each of its tokens [B, T, D]."""
  norm = functools.partial(layers.normalise, params, epsilon=settings.epsilon)
  dense = functools.partial(layers.project, params)
  place = "embeddings.{}_embeddings.weight".format
  x = params[place("word")][ids] + params[place("position")][None, : ids.shape[1]]
  x = norm("embeddings.LayerNorm", x + params[place("token_type")][None, :1])
  for i in range(settings.num_layers):
    layer = f"encoder.layer.{i}."
    q, k, v = (dense(f"{layer}attention.self.{n}", x) for n in ("query", "key", "value"))
    mixed = layers.attend(q, k, v, settings.num_heads, mask[:, None, None])
    x = norm(
      f"{layer}attention.output.LayerNorm", x + dense(f"{layer}attention.output.dense", mixed)
    )
    hidden = jax.nn.gelu(dense(f"{layer}intermediate.dense", x), approximate=False)
    x = norm(f"{layer}output.LayerNorm", x + dense(f"{layer}output.dense", hidden))
  x = x.astype(jnp.float32)
  if settings.pooling == "none":
    return x
  if settings.pooling == "first":
    x = x[:, 0]
  else:
    kept = mask[..., None].astype(jnp.float32)
    x = (x * kept).sum(axis=1) / kept.sum(axis=1)
  return x / jnp.linalg.norm(x, axis=1, keepdims=True) if settings.normalise else x
