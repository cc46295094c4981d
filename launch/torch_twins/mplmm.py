"""`promise_jax.methods.mplmm` in PyTorch: the default settings, for classes.

All steps of a row share one draw of dropout, as in the original. On attention weights this equals
dropout on the values, so that attention stays one fused operation.
"""

import itertools
import math
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from promise_jax.methods import prompt_stages
from promise_jax.nn.mplmm_prompts import source_sets
from promise_jax.nn.mult_layers import EMBEDDING_DROPOUT, INPUT_DROPOUT, LAYER_DROPOUT
from torch_twins import layers

MAX_STEPS = 512


def drop_features(x, rate: float, training: bool):
  """Dropout of steps f[B, ..., T, H] that all T steps share."""
  return x * F.dropout(torch.ones_like(x[..., :1, :]), rate) if training else x


class Attention(nn.Module):
  def __init__(self, width: int, num_heads: int):
    super().__init__()
    self.num_heads, self.width = num_heads, width
    self.packed_kernel = nn.Parameter(torch.zeros(width, 3 * width))
    self.packed_bias = nn.Parameter(torch.zeros(3 * width))
    self.out = nn.Linear(width, width)

  def forward(self, x, sources, bias):
    width, weight, offset = self.width, self.packed_kernel.T, self.packed_bias
    by_head = lambda x: x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
    if x is sources:
      query, key, value = F.linear(x, weight, offset).chunk(3, -1)
    else:
      query = F.linear(x, weight[:width], offset[:width])
      key, value = F.linear(sources, weight[width:], offset[width:]).chunk(2, -1)
    query, key, value = by_head(query), by_head(key), by_head(value)
    if self.training:
      value = value * F.dropout(torch.ones_like(value[..., :1]), LAYER_DROPOUT)
    out = F.scaled_dot_product_attention(query, key, value, bias)
    return self.out(out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
  """x <- x + MHA(LN x, LN y), x <- x + W_2 relu(W_1 LN x)."""

  def __init__(self, width: int, num_heads: int):
    super().__init__()
    self.norm, self.wide_norm = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
    self.attention = Attention(width, num_heads)
    self.wide, self.thin = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, x, sources, bias, any_real):
    drop = lambda x: drop_features(x, LAYER_DROPOUT, self.training)
    query = self.norm(x)
    sources = query if sources is None else self.norm(sources)
    x = x + drop(self.attention(query, sources, bias) * any_real)
    return x + drop(self.thin(drop(F.relu(self.wide(self.wide_norm(x))))))


class Encoder(nn.Module):
  """Steps f[B, Q, H] attend to sources f[B, T, H], or to themselves."""

  def __init__(self, width: int, num_heads: int, num_layers: int):
    super().__init__()
    self.layers = nn.ModuleList(Layer(width, num_heads) for _ in range(num_layers))
    self.norm = nn.LayerNorm(width, 1e-5)
    half = width // 2
    rate = np.exp(-np.arange(half) * (math.log(1e4) / (half - 1)))
    angle = np.arange(1, MAX_STEPS + 1)[:, None] * rate
    table = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
    self.register_buffer("positions", torch.from_numpy(table))

  def forward(self, x, real, sources=None, sources_real=None):
    mask = real if sources is None else sources_real
    bias = torch.where(mask, 0.0, -1e30)[:, None, None]
    any_real = mask.any(1)[:, None, None]
    x = self.embed(x, real)
    sources = None if sources is None else self.embed(sources, sources_real)
    for layer in self.layers:
      x = layer(x, sources, bias, any_real)
    return self.norm(x)

  def embed(self, x, real):
    place = (real.cumsum(1) - 1).clamp(min=0)
    x = math.sqrt(x.shape[-1]) * x + self.positions[place] * real[..., None]
    return drop_features(x, EMBEDDING_DROPOUT, self.training)


class MulT(nn.Module):
  """The backbone."""

  def __init__(self, config, spec):
    super().__init__()
    c, self.names = config, spec.names
    self.pairs = list(itertools.permutations(self.names, 2))
    wide = (len(self.names) - 1) * c.width
    for m in spec.modalities:
      self.add_module(f"projection_{m.name}", nn.Linear(m.shape[-1], c.width, bias=False))
    encoders = lambda count, *sizes: nn.ModuleList(Encoder(*sizes) for _ in range(count))
    self.cross_encoders = encoders(len(self.pairs), c.width, c.heads, c.layers)
    self.self_encoders = encoders(len(self.names), wide, c.heads, c.memory_layers)
    readout = len(self.names) * wide
    self.inner, self.outer = nn.Linear(readout, readout), nn.Linear(readout, readout)
    self.output = nn.Linear(readout, spec.task.outputs)

  def project(self, raw):
    """{modality: f[B, T, H]}."""
    return {n: getattr(self, f"projection_{n}")(x) for n, x in raw.items()}

  def cross_attend(self, steps, real):
    """{modality: f[B, T, (M - 1) H]}: what each finds in the others."""
    found = {n: [] for n in self.names}
    for (m, n), encode in zip(self.pairs, self.cross_encoders, strict=True):
      found[m].append(encode(steps[m], real[m], steps[n], real[n]))
    return {n: torch.cat(x, -1) for n, x in found.items()}

  def self_attend(self, steps, real):
    """The last real step of each modality, side by side."""
    last = []
    for n, encode in zip(self.names, self.self_encoders, strict=True):
      x = encode(steps[n], real[n])
      place = (real[n] * torch.arange(x.shape[1])).amax(1)
      last.append(x[torch.arange(len(x)), place] * real[n].any(1)[:, None])
    return torch.cat(last, -1)

  def head(self, readout):
    """Logits f[B, C]."""
    inner = F.dropout(F.relu(self.inner(readout)), LAYER_DROPOUT, self.training)
    return self.output(readout + self.outer(inner))


class Generators(nn.Module):
  """Steps of a modality from its prompt and the raw steps of the others."""

  def __init__(self, config, spec):
    super().__init__()
    self.names, width = spec.names, config.width
    sizes = {m.name: m.shape[-1] for m in spec.modalities}
    steps = {m.name: num_steps(m) for m in spec.modalities}
    self.source_sets = {}
    for target in self.names:
      add_parameter(self, f"{target}_prompts", config.prompts, width)
      others = [n for n in self.names if n != target]
      for n in others:
        self.add_module(f"{target}_from_{n}", nn.Linear(sizes[n], width))
      self.source_sets[target] = source_sets(self.names, target)
      for s in self.source_sets[target]:
        num_rows = config.prompts + sum(steps[n] for n in s)
        name = f"{target}_of_{'_'.join(s)}"
        add_parameter(self, f"{name}_kernel", num_rows, steps[target])
        add_parameter(self, f"{name}_bias", steps[target])

  def forward(self, raw, present):
    is_present = dict(zip(self.names, present.T, strict=True))
    generated = {}
    for target, sets in self.source_sets.items():
      prompt = getattr(self, f"{target}_prompts").expand(len(present), -1, -1)
      others = [n for n in self.names if n != target]
      mapped = {n: F.gelu(getattr(self, f"{target}_from_{n}")(raw[n])) for n in others}
      out = torch.zeros(())
      for s in sets:
        name = f"{target}_of_{'_'.join(s)}"
        kernel, bias = getattr(self, f"{name}_kernel"), getattr(self, f"{name}_bias")
        parts = torch.cat([prompt, *(mapped[n] for n in s)], 1)
        is_this_set = torch.stack([is_present[n] == (n in s) for n in others]).all(0)
        new = F.gelu(kernel.T @ parts + bias[:, None])
        out = torch.where(is_this_set[:, None, None], new, out)
      generated[target] = out
    return generated


class Twin(nn.Module):
  """The backbone and its prompts; without prompts it is the first stage."""

  def __init__(self, config, spec, with_prompts: bool):
    super().__init__()
    self.names, self.with_prompts = spec.names, with_prompts
    self.backbone, self.generators = MulT(config, spec), Generators(config, spec)
    self.signal = nn.Module()
    for m in spec.modalities:
      width, memory_width = config.width, (len(self.names) - 1) * config.width
      for kind in ("present_prompts", "missing_prompts"):
        add_parameter(self.signal, f"{m.name}_{kind}", num_steps(m), width)
      add_parameter(self.signal, f"{m.name}_map", num_steps(m), memory_width)
    add_parameter(self, "type_prompts", len(self.names), config.prompts, config.width)
    pattern = prompt_stages.TUNED if with_prompts else "params/backbone/.*"
    for name, p in self.named_parameters():
      path = "params/" + name.replace(".", "/")
      p.requires_grad_(re.fullmatch(pattern, path) is not None)

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
    steps, backbone = self.backbone.project(raw), self.backbone
    if not self.with_prompts:
      return backbone.head(backbone.self_attend(backbone.cross_attend(steps, real), real))
    generated, prompt_map = self.generators(raw, batch.present), 0
    for i, n in enumerate(self.names):
      present = batch.present[:, i, None, None]
      kinds = ("present_prompts", "missing_prompts", "map")
      own, other, matrix = (getattr(self.signal, f"{n}_{kind}") for kind in kinds)
      steps[n] = torch.where(present, steps[n] + own, generated[n] + other)
      real[n] = torch.where(present[..., 0], real[n], True)
      prompt_map = prompt_map + torch.where(present, own.T @ matrix, other.T @ matrix)
    steps = backbone.cross_attend(steps, real)
    for n, prompts in zip(self.names, self.type_prompts, strict=True):
      steps[n] = torch.cat([steps[n], prompts @ prompt_map], 1)
      real[n] = F.pad(real[n], (0, len(prompts)), value=True)
    return backbone.head(backbone.self_attend(steps, real))

  def loss(self, batch, state, progress, draws):
    """The loss, and the empty model_state."""
    mask = batch.labelled & batch.present.any(1)
    label = torch.where(mask, batch.label, 0)
    error = layers.class_loss(self.predict(batch)[None], label, mask[None])
    return error.sum() / mask.sum().clamp(min=1), state


def num_steps(modality) -> int:
  return modality.shape[0] if modality.kind == "sequence" else 1


def add_parameter(module: nn.Module, name: str, *shape: int) -> None:
  module.register_parameter(name, nn.Parameter(torch.zeros(shape)))
