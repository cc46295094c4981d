"""CLIP (Radford et al. 2021), both towers, as a frozen encoder of texts and images.

  text   x = word[id_t] + position[t];  W LN(x)[last token] of the transformer, in which a token
         looks at itself and those before it
  image  x = [class; E patch_1; ...; E patch_n] + position, LN;  W LN(x)[class] of the transformer
  both   x <- x + W_o attention(W_q y, W_k y, W_v y), y = LN(x);  x <- x + W_2 gelu(W_1 LN(x))

gelu is x sigmoid(1.702 x), or the exact one where the folder says so. An image is resized to the
side that the folder names (224) and standardised by the means and deviations of the paper's code. A
folder in the layout of Hugging Face (ViT-B/32 and its like) has config.json, model.safetensors and,
for texts, tokenizer.json.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from promise_jax.data.pretrained import inputs, layers, weights

KINDS = ("text", "image")
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class Tower(NamedTuple):
  """The settings of one tower."""

  num_layers: int
  num_heads: int
  epsilon: float  # of layer normalisation
  exact_gelu: bool
  size: int  # tokens that are read of a text, height and width of an image
  patch: int = 0  # height and width of a patch


def read_tower(config: Mapping[str, Any], kind: str) -> Tower:
  """The tower of a config.json. ValueError for a model of another make."""
  config = config[f"{'text' if kind == 'text' else 'vision'}_config"]
  activation = config.get("hidden_act", "quick_gelu")
  if activation not in ("gelu", "quick_gelu"):
    raise ValueError(f"it has the activation {activation}, expected is gelu or quick_gelu")
  # What config.json leaves out is that of ViT-B/32.
  size = config.get("max_position_embeddings", 77) if kind == "text" else config["image_size"]
  return Tower(
    num_layers=config.get("num_hidden_layers", 12),
    num_heads=config.get("num_attention_heads", 8 if kind == "text" else 12),
    epsilon=config.get("layer_norm_eps", 1e-5),
    exact_gelu=activation == "gelu",
    size=size,
    patch=config.get("patch_size", 0),
  )


def load(folder: weights.Folder, kind: str, keep_tokens: bool, dtype: jnp.dtype) -> Callable:
  """The function texts [B] or images u8[B, h, w, channels] -> f32[B, D]; with `keep_tokens`
  (f32[B, T, D], steps i[B]) of texts, f32[B, T, D] of images."""
  tower = read_tower(weights.read_json(folder, "config.json"), kind)
  params = weights.read_arrays(folder, dtype)
  embed = embed_texts if kind == "text" else embed_images
  forward = jax.jit(functools.partial(embed, tower, keep_tokens))
  forward = functools.partial(forward, params)
  if kind == "image":
    return functools.partial(inputs.encode_images, forward)
  tokenizer = inputs.read_tokenizer(folder, tower.size)
  return functools.partial(inputs.encode_texts, tokenizer, forward, longest=tower.size)


def embed_texts(
  tower: Tower,
  keep_tokens: bool,
  params: Mapping[str, Array],
  ids: Int[Array, "B T"],
  mask: Bool[Array, "B T"],
) -> Float[Array, "B ..."]:
  """The projected vector of the last token of each text, or all tokens before the projection."""
  place = "text_model.embeddings.{}_embedding.weight".format
  x = params[place("token")][ids] + params[place("position")][None, : ids.shape[1]]
  earlier = jnp.tril(jnp.ones((1, 1, ids.shape[1], ids.shape[1]), bool))
  x = transform(tower, params, "text_model.", x, earlier)
  x = layers.normalise(params, "text_model.final_layer_norm", x, tower.epsilon)
  if keep_tokens:
    return x.astype(jnp.float32)
  last = jnp.take_along_axis(x, (mask.sum(axis=1) - 1)[:, None, None], axis=1)[:, 0]
  return layers.project(params, "text_projection", last).astype(jnp.float32)


def embed_images(
  tower: Tower, keep_tokens: bool, params: Mapping[str, Array], images: UInt8[Array, "B h w 3"]
) -> Float[Array, "B ..."]:
  """The projected vector of each image, or all its patches before the projection."""
  side, count = tower.patch, tower.size // tower.patch
  x = jax.image.resize(images / 255, (len(images), tower.size, tower.size, 3), "cubic").clip(0, 1)
  x = (x - MEAN.reshape(1, 1, 1, 3)) / DEVIATION.reshape(1, 1, 1, 3)
  patches = x.reshape(-1, count, side, count, side, 3).transpose(0, 1, 3, 5, 2, 4)
  place = "vision_model.embeddings.{}".format
  kernel = params[place("patch_embedding.weight")]
  x = patches.reshape(len(x), count**2, -1).astype(kernel.dtype) @ kernel.reshape(len(kernel), -1).T
  first = jnp.broadcast_to(params[place("class_embedding")], (len(x), 1, x.shape[-1]))
  x = jnp.concatenate([first, x], axis=1) + params[place("position_embedding.weight")][None]
  x = layers.normalise(params, "vision_model.pre_layrnorm", x, tower.epsilon)  # as it is spelt
  x = transform(tower, params, "vision_model.", x)
  x = layers.normalise(params, "vision_model.post_layernorm", x, tower.epsilon)
  x = x[:, 1:] if keep_tokens else layers.project(params, "visual_projection", x[:, 0])
  return x.astype(jnp.float32)


def transform(
  tower: Tower,
  params: Mapping[str, Array],
  prefix: str,
  x: Float[Array, "B T D"],
  mask: Bool[Array, "1 1 T T"] | None = None,
) -> Float[Array, "B T D"]:
  """The layers of a tower."""
  dense = functools.partial(layers.project, params)
  norm = functools.partial(layers.normalise, params, epsilon=tower.epsilon)
  for i in range(tower.num_layers):
    layer = f"{prefix}encoder.layers.{i}."
    y = norm(f"{layer}layer_norm1", x)
    q, k, v = (dense(f"{layer}self_attn.{name}_proj", y) for name in "qkv")
    mixed = layers.attend(q, k, v, tower.num_heads, mask)
    x = x + dense(f"{layer}self_attn.out_proj", mixed)
    y = dense(f"{layer}mlp.fc1", norm(f"{layer}layer_norm2", x))
    y = jax.nn.gelu(y, approximate=False) if tower.exact_gelu else y * jax.nn.sigmoid(1.702 * y)
    x = x + dense(f"{layer}mlp.fc2", y)
  return x
