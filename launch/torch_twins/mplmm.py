"""`promise_jax.methods.mplmm` on MulT in PyTorch: the default settings, for classes.

All steps of a row share one draw of dropout, as in the original. On attention weights this equals
dropout on the values, so that attention stays one fused operation.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

from promise_jax.nn.mplmm_prompts import source_sets
from promise_jax.nn.mult_layers import EMBEDDING_DROPOUT, INPUT_DROPOUT, LAYER_DROPOUT
from torch_twins import layers
from torch_twins.layers import dense, norm

MAX_STEPS = 512


def drop_features(x, rate: float, training: bool):
  """Dropout of steps f[B, ..., T, H] that all T steps share."""
  return x * F.dropout(torch.ones_like(x[..., :1, :]), rate) if training else x


def attend(p: dict, x, sources, bias, num_heads: int, training: bool):
  """Steps f[B, Q, H] attend to sources f[B, T, H]."""
  width, weight, offset = x.shape[-1], p["packed_kernel"], p["packed_bias"]
  by_head = lambda x: x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
  if x is sources:
    query, key, value = F.linear(x, weight, offset).chunk(3, -1)
  else:
    query = F.linear(x, weight[:width], offset[:width])
    key, value = F.linear(sources, weight[width:], offset[width:]).chunk(2, -1)
  query, key, value = by_head(query), by_head(key), by_head(value)
  if training:
    value = value * F.dropout(torch.ones_like(value[..., :1]), LAYER_DROPOUT)
  out = F.scaled_dot_product_attention(query, key, value, bias)
  return dense(p["Dense_0"], out.transpose(1, 2).flatten(2))


def embed_steps(x, real, table, training: bool):
  """sqrt(H) x + the codes of places, which count the real steps."""
  place = (real.cumsum(1) - 1).clamp(min=0)
  x = math.sqrt(x.shape[-1]) * x + table[place] * real[..., None]
  return drop_features(x, EMBEDDING_DROPOUT, training)


def make_positions(width: int):
  """Sines and cosines f[T, H]."""
  half = width // 2
  rate = np.exp(-np.arange(half) * (math.log(1e4) / (half - 1)))
  angle = np.arange(1, MAX_STEPS + 1)[:, None] * rate
  return torch.tensor(np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32))


class Twin(layers.Twin):
  """The backbone; after the stage "pretrain" with its prompts."""

  def __init__(self, *args):
    super().__init__(*args)
    self.names, width = [m.name for m in self.modalities], self.config.width
    self.pairs = list(itertools.permutations(self.names, 2))
    self.positions = {w: make_positions(w) for w in (width, (len(self.names) - 1) * width)}

  def read(self, batch):
    """Raw steps f[B, T, D], and which are real bool[B, T]."""
    raw, real = {}, {}
    for n, present in zip(self.names, batch.present.T, strict=True):
      x, length = batch.inputs[n], batch.length.get(n, torch.ones_like(batch.id))
      x = x if x.dim() == 3 else x[:, None]
      mask = layers.step_mask(x, length) & present[:, None, None]
      raw[n] = drop_features(x * mask, INPUT_DROPOUT, self.training and n == "text")
      real[n] = mask[..., 0]
    return raw, real

  def predict(self, batch):
    """Logits f[B, C]."""
    raw, real = self.read(batch)
    steps = {n: dense(self.p["backbone"][f"projection_{n}"], x) for n, x in raw.items()}
    if self.stage == "pretrain":
      return self.read_out(self.cross_attend(steps, real), real)
    generated, p, prompt_map = self.generate(raw, batch.present), self.p["signal"], 0
    for i, n in enumerate(self.names):
      present = batch.present[:, i, None, None]
      kinds = ("present_prompts", "missing_prompts", "map")
      own, other, matrix = (p[f"{n}_{kind}"] for kind in kinds)
      steps[n] = torch.where(present, steps[n] + own, generated[n] + other)
      real[n] = torch.where(present[..., 0], real[n], True)
      prompt_map = prompt_map + torch.where(present, own.T @ matrix, other.T @ matrix)
    steps = self.cross_attend(steps, real)
    for n, prompts in zip(self.names, self.p["type_prompts"], strict=True):
      steps[n] = torch.cat([steps[n], prompts @ prompt_map], 1)
      real[n] = F.pad(real[n], (0, len(prompts)), value=True)
    return self.read_out(steps, real)

  def generate(self, raw, present):
    """Steps {modality: f[B, T, H]} from its prompt and the raw steps of the others."""
    is_present, p = dict(zip(self.names, present.T, strict=True)), self.p["generators"]
    generated = {}
    for target in self.names:
      prompt = p[f"{target}_prompts"].expand(len(present), -1, -1)
      others = [n for n in self.names if n != target]
      mapped = {n: F.gelu(dense(p[f"{target}_from_{n}"], raw[n])) for n in others}
      out = torch.zeros(())
      for s in source_sets(self.names, target):
        name = f"{target}_of_{'_'.join(s)}"
        parts = torch.cat([prompt, *(mapped[n] for n in s)], 1)
        is_this_set = torch.stack([is_present[n] == (n in s) for n in others]).all(0)
        new = F.gelu(p[f"{name}_kernel"] @ parts + p[f"{name}_bias"][:, None])
        out = torch.where(is_this_set[:, None, None], new, out)
      generated[target] = out
    return generated

  def cross_attend(self, steps, real):
    """{modality: f[B, T, (M - 1) H]}: what each finds in the others."""
    found = {n: [] for n in self.names}
    for (m, n), p in zip(self.pairs, self.p["backbone"]["cross_encoders"], strict=True):
      found[m].append(self.encode(p, steps[m], real[m], steps[n], real[n]))
    return {n: torch.cat(x, -1) for n, x in found.items()}

  def encode(self, p: dict, x, real, sources=None, sources_real=None):
    """Steps f[B, Q, H] attend to sources f[B, T, H], or to themselves:
    x <- x + MHA(LN x, LN y), x <- x + W_2 relu(W_1 LN x)."""
    table, drop = self.positions[x.shape[-1]], self.drop
    mask = real if sources is None else sources_real
    bias, any_real = torch.where(mask, 0.0, -1e30)[:, None, None], mask.any(1)[:, None, None]
    x = embed_steps(x, real, table, self.training)
    if sources is not None:
      sources = embed_steps(sources, sources_real, table, self.training)
    for layer in p["layers"]:
      query = norm(layer["LayerNorm_0"], x)
      others = query if sources is None else norm(layer["LayerNorm_0"], sources)
      args = query, others, bias, self.config.heads, self.training
      x = x + drop(attend(layer["Attention_0"], *args) * any_real)
      wide = drop(F.relu(dense(layer["Dense_0"], norm(layer["LayerNorm_1"], x))))
      x = x + drop(dense(layer["Dense_1"], wide))
    return norm(p["LayerNorm_0"], x)

  def drop(self, x):
    return drop_features(x, LAYER_DROPOUT, self.training)

  def read_out(self, steps, real):
    """Logits f[B, C] of the last real step of each modality after self-attention."""
    last, p = [], self.p["backbone"]
    for n, encoder in zip(self.names, p["self_encoders"], strict=True):
      x = self.encode(encoder, steps[n], real[n])
      place = (real[n] * torch.arange(x.shape[1])).amax(1)
      last.append(x[torch.arange(len(x)), place] * real[n].any(1)[:, None])
    readout = torch.cat(last, -1)
    inner = F.dropout(F.relu(dense(p["inner"], readout)), LAYER_DROPOUT, self.training)
    return dense(p["output"], readout + dense(p["outer"], inner))

  def loss(self, batch, state, progress, draws):
    """The loss, and the empty model_state."""
    mask = batch.labelled & batch.present.any(1)
    error = layers.class_loss(self.predict(batch)[None], batch.label, mask[None])
    return error.sum() / mask.sum().clamp(min=1), state
