"""The twin of `promise_jax.methods.mplmm`, its clean settings, for classes.

Dropout is tied as in the original: one draw for all steps of a row. On the weights of
attention it is the same as dropout on the values, so that attention stays one fused
operation.
"""

import itertools
import math
import re

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bench.twins import layers
from promise_jax.methods import mplmm


def drop(x, rate: float, training: bool):
  """Dropout of f[B, ..., T, H], one draw for all T steps."""
  if not training:
    return x
  return x * F.dropout(torch.ones_like(x[..., :1, :]), rate)


class Attention(nn.Module):
  """MHA(x, y), one packed matrix for queries, keys and values."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads, self.width = heads, width
    self.packed_kernel = nn.Parameter(torch.zeros(width, 3 * width))
    self.packed_bias = nn.Parameter(torch.zeros(3 * width))
    self.out = nn.Linear(width, width)

  def forward(self, x, sources, sees, some):
    width, weight, bias = self.width, self.packed_kernel.T, self.packed_bias
    by_head = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
    if x is sources:
      query, key, value = F.linear(x, weight, bias).chunk(3, -1)
    else:
      query = F.linear(x, weight[:width], bias[:width])
      key, value = F.linear(sources, weight[width:], bias[width:]).chunk(2, -1)
    query, key, value = by_head(query), by_head(key), by_head(value)
    if self.training:
      kept = F.dropout(torch.ones_like(value[..., :1]), 0.1)
      value = value * kept
    out = F.scaled_dot_product_attention(query, key, value, sees)
    return self.out(out.transpose(1, 2).flatten(2)) * some


class Layer(nn.Module):
  """x <- x + MHA(LN x, LN y), x <- x + W_2 relu(W_1 LN x)."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.norm, self.fed = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
    self.Attention_0 = Attention(width, heads)
    self.wide, self.thin = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, x, sources, sees, some):
    query = self.norm(x)
    keys = query if sources is None else self.norm(sources)
    x = x + drop(self.Attention_0(query, keys, sees, some), 0.1, self.training)
    wide = drop(F.relu(self.wide(self.fed(x))), 0.1, self.training)
    return x + drop(self.thin(wide), 0.1, self.training)


class Encoder(nn.Module):
  """Steps f[B, Q, H] ask steps f[B, T, H], or themselves."""

  def __init__(self, width: int, heads: int, count: int):
    super().__init__()
    self.layers = nn.ModuleList(Layer(width, heads) for _ in range(count))
    self.norm = nn.LayerNorm(width, 1e-5)
    half = width // 2
    rate = np.exp(-np.arange(half) * (math.log(1e4) / (half - 1)))
    angle = np.arange(1, 513)[:, None] * rate
    table = np.concatenate([np.sin(angle), np.cos(angle)], 1).astype(np.float32)
    self.register_buffer("table", torch.from_numpy(table))

  def forward(self, x, real, sources=None, sources_real=None):
    there = real if sources is None else sources_real
    sees = torch.where(there, 0.0, -1e30)[:, None, None]
    some = there.any(1)[:, None, None]
    x = drop(self.embed(x, real), 0.25, self.training)
    if sources is not None:
      sources = drop(self.embed(sources, sources_real), 0.25, self.training)
    for layer in self.layers:
      x = layer(x, sources, sees, some)
    return self.norm(x)

  def embed(self, x, real):
    place = (real.cumsum(1) - 1).clamp(min=0)
    return math.sqrt(x.shape[-1]) * x + self.table[place] * real[..., None]


def encoders(count: int, width: int, heads: int, depth: int) -> nn.ModuleList:
  """The encoders of one form."""
  return nn.ModuleList(Encoder(width, heads, depth) for _ in range(count))


class Backbone(nn.Module):
  """MulT."""

  def __init__(self, config, spec):
    super().__init__()
    c, self.names = config, spec.names
    self.pairs = list(itertools.permutations(self.names, 2))
    wide = (len(self.names) - 1) * c.width
    for m in spec.modalities:
      thin = nn.Linear(m.shape[-1], c.width, bias=False)
      self.add_module(f"projection_{m.name}", thin)
    self.cross_encoders = encoders(len(self.pairs), c.width, c.heads, c.layers)
    self.self_encoders = encoders(len(self.names), wide, c.heads, c.memory_layers)
    read = len(self.names) * wide
    self.inner, self.outer = nn.Linear(read, read), nn.Linear(read, read)
    self.output = nn.Linear(read, spec.task.outputs)

  def project(self, raw):
    """{modality: f[B, T, H]}."""
    return {n: getattr(self, f"projection_{n}")(x) for n, x in raw.items()}

  def cross(self, steps, real):
    """{modality: f[B, T, (M - 1) H]} of what each finds in the others."""
    found = {n: [] for n in self.names}
    for (m, n), encode in zip(self.pairs, self.cross_encoders, strict=True):
      found[m].append(encode(steps[m], real[m], steps[n], real[n]))
    return {n: torch.cat(x, -1) for n, x in found.items()}

  def remember(self, steps, real):
    """The last real step of each modality, side by side."""
    ends = []
    for n, encode in zip(self.names, self.self_encoders, strict=True):
      x, there = encode(steps[n], real[n]), real[n]
      place = (there * torch.arange(x.shape[1])).amax(1)
      x = x[torch.arange(len(x)), place]
      ends.append(x * there.any(1)[:, None])
    return torch.cat(ends, -1)

  def head(self, r):
    """Logits f[B, C] of the readout."""
    inner = F.dropout(F.relu(self.inner(r)), 0.1, self.training)
    return self.output(r + self.outer(inner))


class Generators(nn.Module):
  """Steps of a modality from its prompt and the raw others."""

  def __init__(self, config, spec):
    super().__init__()
    self.names, width = spec.names, config.width
    size = {m.name: m.shape[-1] for m in spec.modalities}
    steps = {m.name: m.shape[0] if m.kind == "sequence" else 1 for m in spec.modalities}
    self.sources = {}
    for target in self.names:
      self.new(f"{target}_prompts", config.prompts, width)
      others = [n for n in self.names if n != target]
      for n in others:
        self.add_module(f"{target}_from_{n}", nn.Linear(size[n], width))
      sizes = range(1, len(others) + 1)
      sets = [s for k in sizes for s in itertools.combinations(others, k)]
      self.sources[target] = sets
      for s in sets:
        rows = config.prompts + sum(steps[n] for n in s)
        name = f"{target}_of_{'_'.join(s)}"
        self.new(f"{name}_kernel", rows, steps[target])
        self.new(f"{name}_bias", steps[target])

  def new(self, name, *shape):
    self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

  def forward(self, raw, present):
    there = dict(zip(self.names, present.T, strict=True))
    made = {}
    for target, sets in self.sources.items():
      prompt = getattr(self, f"{target}_prompts").expand(len(present), -1, -1)
      others = [n for n in self.names if n != target]
      mapped = {n: F.gelu(getattr(self, f"{target}_from_{n}")(raw[n])) for n in others}
      out = torch.zeros(())
      for s in sets:
        name = f"{target}_of_{'_'.join(s)}"
        kernel, bias = getattr(self, f"{name}_kernel"), getattr(self, f"{name}_bias")
        parts = torch.cat([prompt, *(mapped[n] for n in s)], 1)
        new = F.gelu(kernel.T @ parts + bias[:, None])
        here = torch.stack([there[n] == (n in s) for n in others]).all(0)
        out = torch.where(here[:, None, None], new, out)
      made[target] = out
    return made


class Mplmm(nn.Module):
  """The backbone and its prompts; `plain` without prompts: the first stage."""

  def __init__(self, config, spec, plain: bool = False):
    super().__init__()
    self.names, self.plain = spec.names, plain
    self.backbone, self.generators = Backbone(config, spec), Generators(config, spec)
    wide = (len(self.names) - 1) * config.width
    shape = (len(self.names), config.prompts, config.width)
    self.type_prompts, self.signal = nn.Parameter(torch.zeros(shape)), nn.Module()
    for m in spec.modalities:
      count = m.shape[0] if m.kind == "sequence" else 1
      shapes = dict.fromkeys(("present_prompts", "missing_prompts"), (count, config.width))
      for kind, shape in (shapes | {"map": (count, wide)}).items():
        self.signal.register_parameter(f"{m.name}_{kind}", nn.Parameter(torch.zeros(shape)))
    for name, p in self.named_parameters():
      path = "params/" + name.replace(".", "/")
      tuned = re.fullmatch(mplmm.TUNED, path) is not None
      p.requires_grad_(name.startswith("backbone") if plain else tuned)

  def read(self, batch):
    """Raw steps f[B, T, D] of what is there, and which are real bool[B, T]."""
    raw, real = {}, {}
    for n, there in zip(self.names, batch.present.T, strict=True):
      x, length = batch.inputs[n], batch.length.get(n)
      x = x if x.dim() == 3 else x[:, None]
      length = torch.ones_like(batch.id) if length is None else length
      real[n] = (torch.arange(x.shape[1])[None] < length[:, None]) & there[:, None]
      x = x * real[n][..., None]
      raw[n] = drop(x, 0.25, self.training and n == "text")
    return raw, real

  def predict(self, batch):
    """Logits f[B, C]."""
    raw, real = self.read(batch)
    steps, b = self.backbone.project(raw), self.backbone
    if self.plain:
      return b.head(b.remember(b.cross(steps, real), real))
    present, made, mapping = batch.present, self.generators(raw, batch.present), 0
    of = lambda name, kind: getattr(self.signal, f"{name}_{kind}")
    for i, n in enumerate(self.names):
      there = present[:, i, None, None]
      own, other = of(n, "present_prompts"), of(n, "missing_prompts")
      steps[n] = torch.where(there, steps[n] + own, made[n] + other)
      real[n] = torch.where(there[..., 0], real[n], True)
      maps = of(n, "map")
      mapping = mapping + torch.where(there, own.T @ maps, other.T @ maps)
    found = b.cross(steps, real)
    for n, prompts in zip(self.names, self.type_prompts, strict=True):
      new = prompts @ mapping
      found[n] = torch.cat([found[n], new], 1)
      real[n] = F.pad(real[n], (0, new.shape[1]), value=True)
    return b.head(b.remember(found, real))

  def loss(self, batch, model_state, progress, draws=None):
    """(loss f[], model_state)."""
    logits = self.predict(batch)
    where = batch.labelled & batch.present.any(1)
    label = torch.where(where, batch.label, 0).long()
    error = F.cross_entropy(logits, label, reduction="none")
    return layers.mean_where(error, where), model_state
