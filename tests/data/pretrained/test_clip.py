"""CLIP: both towers by their equations in numpy, on random weights of tiny sizes."""

import json
import math

import numpy as np
import pytest
import safetensors.numpy

from promise_jax.data import pretrained
from promise_jax.data.pretrained import clip

TEXT, IMAGE, OUT, WORDS, STEPS, SIZE, PATCH = 8, 12, 5, 30, 7, 6, 2
HEADS, LAYERS = {"text_model": 2, "vision_model": 3}, 2
CONFIG = {
  "text_config": {
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": STEPS,
  },
  "vision_config": {
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 3,
    "image_size": SIZE,
    "patch_size": PATCH,
    "hidden_act": "gelu",
  },
}


def make_arrays():
  """Random weights in the layout of Hugging Face."""
  rng, vision = np.random.default_rng(0), "vision_model.embeddings."
  shapes = {
    "text_model.embeddings.token_embedding.weight": (WORDS, TEXT),
    "text_model.embeddings.position_embedding.weight": (STEPS, TEXT),
    "text_projection.weight": (OUT, TEXT),
    f"{vision}class_embedding": (IMAGE,),
    f"{vision}patch_embedding.weight": (IMAGE, 3, PATCH, PATCH),
    f"{vision}position_embedding.weight": ((SIZE // PATCH) ** 2 + 1, IMAGE),
    "visual_projection.weight": (OUT, IMAGE),
  }
  norms = {"text_model.final_layer_norm": TEXT}
  norms |= dict.fromkeys(("vision_model.pre_layrnorm", "vision_model.post_layernorm"), IMAGE)
  for tower, width in (("text_model", TEXT), ("vision_model", IMAGE)):
    for i in range(LAYERS):
      layer = f"{tower}.encoder.layers.{i}."
      norms |= {f"{layer}layer_norm1": width, f"{layer}layer_norm2": width}
      square = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
      sizes = dict.fromkeys(square, (width, width))
      sizes |= {"mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width)}
      for name, size in sizes.items():
        shapes |= {f"{layer}{name}.weight": size, f"{layer}{name}.bias": size[:1]}
  shapes |= {f"{n}.{p}": (width,) for n, width in norms.items() for p in ("weight", "bias")}
  return {name: (0.5 * rng.normal(size=s)).astype(np.float32) for name, s in shapes.items()}


def norm(p, name, x):
  return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def transform(p, tower, x, gelu, is_causal):
  """The layers of a tower, one token and one head at a time; x is a list of vectors."""
  dense = lambda name, v: p[f"{name}.weight"] @ v + p[f"{name}.bias"]
  size = len(x[0]) // HEADS[tower]
  for i in range(LAYERS):
    at = f"{tower}.encoder.layers.{i}."
    y = [norm(p, f"{at}layer_norm1", v) for v in x]
    q, k, v = ([dense(f"{at}self_attn.{n}_proj", t) for t in y] for n in "qkv")
    for t in range(len(x)):
      parts, last = [], t + 1 if is_causal else len(x)
      for h in range(HEADS[tower]):
        cut = slice(h * size, (h + 1) * size)
        e = np.array([math.exp(q[t][cut] @ k[s][cut] / math.sqrt(size)) for s in range(last)])
        parts.append(sum(w * v[s][cut] for s, w in enumerate(e / e.sum())))
      x[t] = x[t] + dense(f"{at}self_attn.out_proj", np.concatenate(parts))
    hidden = [gelu(dense(f"{at}mlp.fc1", norm(p, f"{at}layer_norm2", v))) for v in x]
    x = [a + dense(f"{at}mlp.fc2", b) for a, b in zip(x, hidden, strict=True)]
  return x


def test_the_text_tower_is_that_of_the_equations():
  p, rows = make_arrays(), [[3, 5, 1, 19, 29], [7, 29]]
  ids, mask = np.full((2, STEPS), 4), np.zeros((2, STEPS), bool)  # padding may hold anything
  for i, row in enumerate(rows):
    ids[i, : len(row)], mask[i, : len(row)] = row, True
  quick = lambda v: v / (1 + np.exp(-1.702 * v))
  tower = clip.read_tower(CONFIG, "text")
  found = clip.embed_texts(tower, False, p, ids, mask)
  every = clip.embed_texts(tower, True, p, ids, mask)
  place = "text_model.embeddings.{}_embedding.weight".format
  for i, row in enumerate(rows):
    x = [p[place("token")][w] + p[place("position")][t].astype(float) for t, w in enumerate(row)]
    x = transform(p, "text_model", x, quick, is_causal=True)
    x = [norm(p, "text_model.final_layer_norm", v) for v in x]
    np.testing.assert_allclose(every[i, : len(row)], x, rtol=1e-3, atol=1e-4)
    want = p["text_projection.weight"] @ x[-1]
    np.testing.assert_allclose(found[i], want, rtol=1e-3, atol=1e-4)


def test_the_image_tower_is_that_of_the_equations():
  p = make_arrays()
  image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
  tower = clip.read_tower(CONFIG, "image")
  found = clip.embed_images(tower, False, p, image[None])
  every = clip.embed_images(tower, True, p, image[None])
  mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
  pixels, at = (image / 255 - mean) / deviation, "vision_model.embeddings."
  x = [p[f"{at}class_embedding"]]
  for row in range(0, SIZE, PATCH):
    for column in range(0, SIZE, PATCH):
      patch = pixels[row : row + PATCH, column : column + PATCH]
      kernel = p[f"{at}patch_embedding.weight"].astype(float)  # [out, channel, y, x]
      x.append(np.einsum("ocyx,yxc->o", kernel, patch))
  positions = p[f"{at}position_embedding.weight"]
  x = [norm(p, "vision_model.pre_layrnorm", v + positions[t]) for t, v in enumerate(x)]
  gelu = np.vectorize(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)
  x = transform(p, "vision_model", x, gelu, is_causal=False)
  x = [norm(p, "vision_model.post_layernorm", v) for v in x]
  np.testing.assert_allclose(every[0], x[1:], rtol=1e-3, atol=1e-4)
  want = p["visual_projection.weight"] @ x[0]
  np.testing.assert_allclose(found[0], want, rtol=1e-3, atol=1e-4)


def test_a_folder_is_read_and_other_makes_are_refused(tmp_path):
  safetensors.numpy.save_file(make_arrays(), tmp_path / "model.safetensors")
  (tmp_path / "config.json").write_text(json.dumps(CONFIG))
  images = np.random.default_rng(0).integers(0, 256, (3, 9, 8, 3), dtype=np.uint8)
  found = pretrained.find_encoder(f"clip:{tmp_path}", "image").load()(images)
  assert found.shape == (3, OUT) and np.isfinite(found).all()
  rough = pretrained.find_encoder(f"clip+bfloat16:{tmp_path}", "image").load()(images)
  assert rough.dtype == np.float32 and 0 < abs(rough - found).max() < 0.2
  with pytest.raises(ValueError, match="clip needs the folder or package of its weights"):
    pretrained.find_encoder("clip", "image")
  other = {"vision_config": CONFIG["vision_config"] | {"hidden_act": "relu"}}
  with pytest.raises(ValueError, match="the activation relu, expected is gelu or quick_gelu"):
    clip.read_tower(other, "image")
