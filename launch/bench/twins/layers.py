"""What the twins share: loading parameters, encoders, small losses."""

import math

import torch
import torch.nn.functional as F
from torch import nn

KINDS = {"Dense": nn.Linear, "LayerNorm": nn.LayerNorm, "Embed": nn.Embedding}
# Layers that a scan stacks on the first axis, and where the twin has them.
STACKED = {"ScanAutoEncoder": "links", "ScanBlock": "blocks", "layers": "layers"}
STACKED |= {name: name for name in ("cross_encoders", "self_encoders")}
DROPOUT = {"image": 0.5, "tokens": 0.3, "sequence": 0.1, "vector": 0.3}


@torch.no_grad()
def load(module: nn.Module, tree: dict) -> None:
  """Copies the parameters {name: ...} of a flax module into its twin.

  "f_0" is the first of the list `f`, "Dense_0" the first dense layer of the module;
  kernels are transposed. Raises ValueError where the twin has no such part or another
  shape.
  """
  for name, part in tree.items():
    stem, _, number = name.rpartition("_")
    if name in ("kernel", "scale", "embedding"):
      copy(module.weight, part.T if name == "kernel" else part)
    elif not isinstance(part, dict):
      copy(getattr(module, name), part)
    elif name in STACKED or stem in STACKED:
      key = STACKED.get(name) or STACKED[stem]
      for i, child in enumerate(getattr(module, key)):
        load(child, at(part, i))
    elif hasattr(module, name):
      load(getattr(module, name), part)
    elif stem == "OptimizedLSTMCell":
      load_lstm(module.lstm, part)
    elif stem in KINDS:
      same = [m for m in module.children() if isinstance(m, KINDS[stem])]
      load(same[int(number)], part)
    elif number.isdigit() and hasattr(module, stem):
      load(getattr(module, stem)[int(number)], part)
    else:
      raise ValueError(f"the twin {type(module).__name__} has no part {name}")


def load_lstm(lstm: nn.LSTM, part: dict) -> None:
  """Copies the gates of a cell; PyTorch has a second bias, which stays 0."""
  import numpy as np

  gates = lambda side, leaf: np.concatenate([part[side + g][leaf] for g in "ifgo"], -1)
  copy(lstm.weight_ih_l0, gates("i", "kernel").T)
  copy(lstm.weight_hh_l0, gates("h", "kernel").T)
  copy(lstm.bias_hh_l0, gates("h", "bias"))


def copy(weight: torch.Tensor, value) -> None:
  """Fills `weight` with an array of the same shape."""
  if tuple(weight.shape) != tuple(value.shape):
    raise ValueError(f"a twin has {tuple(weight.shape)}, its original {value.shape}")
  weight.copy_(tensor(value))


def at(tree: dict, i: int) -> dict:
  """Entry i of every array."""
  return {k: at(v, i) if isinstance(v, dict) else v[i] for k, v in tree.items()}


def tensor(x) -> torch.Tensor:
  """An array of numpy or JAX as a tensor of its own."""
  import numpy as np

  return torch.from_numpy(np.array(x))


class Mlp(nn.Sequential):
  """Dense layers with ReLU between."""

  def __init__(self, inputs: int, *widths: int):
    layers = []
    for width in widths:
      layers += [nn.Linear(inputs, width), nn.ReLU()]
      inputs = width
    super().__init__(*layers[:-1])


class Encoder(nn.Module):
  """The encoder of one modality, f[B, H]; rows that are not present count as zeros."""

  def __init__(self, modality, hidden: int):
    super().__init__()
    bodies = {"image": Flat, "tokens": Tokens, "sequence": Sequence, "vector": Flat}
    self.name = modality.name
    self.body = bodies[modality.kind](modality, hidden)

  def forward(self, batch: dict, present: torch.Tensor) -> torch.Tensor:
    x = batch.inputs[self.name]
    there = present.view(-1, *(1,) * (x.dim() - 1))
    x = torch.where(there, x, torch.zeros_like(x))
    return self.body(x, batch.length.get(self.name))


class Ends(nn.Module):
  """The last layers of all encoders of continuous features."""

  def __init__(self, inputs: int, hidden: int, first: float, rate: float):
    super().__init__()
    self.first, self.rate = first, rate
    self.wide, self.out = nn.Linear(inputs, 2 * hidden), nn.Linear(2 * hidden, hidden)

  def forward(self, x):
    h = gelu(self.wide(F.dropout(x, self.first, self.training)))
    return gelu(self.out(F.dropout(h, self.rate, self.training)))


class Flat(Ends):
  """A vector, or the features that are made of an image once, before training."""

  def __init__(self, modality, hidden: int):
    image, rate = modality.kind == "image", DROPOUT[modality.kind]
    # 8 x 8 cells of mean colours and of 8 directions, a histogram of 8^3 colours.
    size = 64 * 3 + 64 * 8 + 512 if image else modality.shape[-1]
    super().__init__(size, hidden, rate if image else 0.0, rate)

  def forward(self, x, length):
    return super().forward(x)


class Tokens(nn.Module):
  """A bag of embeddings."""

  def __init__(self, modality, hidden: int):
    super().__init__()
    self.embed = nn.Embedding(modality.vocabulary, hidden)

  def forward(self, x, length):
    real = (x > 0).float()
    count = real.sum(-1, keepdim=True).clamp(min=1)
    weight = F.dropout(real, DROPOUT["tokens"], self.training) / count.sqrt()
    bag = torch.bmm(weight[:, None], self.embed(x))[:, 0]
    return gelu(F.dropout(bag, DROPOUT["tokens"], self.training))


class Sequence(nn.Module):
  """Windows of 16 steps, every 4th, and the summary of the steps."""

  def __init__(self, modality, hidden: int):
    super().__init__()
    width, rate = modality.shape[-1], DROPOUT["sequence"]
    self.window = nn.Linear(16 * width, hidden)
    ends = Ends(2 * hidden + 4 * width, hidden, rate, rate)
    self.wide, self.out, self.ends = ends.wide, ends.out, ends

  def forward(self, x, length):
    x = x * (torch.arange(x.shape[1])[None] < length[:, None])[..., None]
    steps = -(-x.shape[1] // 4)
    padded = F.pad(x, (0, 0, 0, 4 * steps + 12 - x.shape[1]))
    parts = padded.unfold(1, 16, 4).transpose(2, 3).flatten(2)
    w = F.relu(self.window(parts))
    mean, _, _, top = summary(w, (length + 3) // 4, ("mean", "top"))
    every = summary(x, length, ("mean", "deviation", "low", "top"))
    return self.ends(torch.cat([mean, top, *every], -1))


def summary(x, length, wanted: tuple[str, ...]) -> tuple:
  """Mean, deviation, least and greatest of the first `length` steps, those `wanted`."""
  real = (torch.arange(x.shape[1])[None] < length[:, None])[..., None]
  some, count = (length > 0)[:, None], length.clamp(min=1)[:, None]
  mean = x.masked_fill(~real, 0).sum(1) / count
  out = dict.fromkeys(("mean", "deviation", "low", "top"))
  out["mean"] = mean
  if "deviation" in wanted:
    square = ((x - mean[:, None]) ** 2).masked_fill(~real, 0).sum(1) / count
    out["deviation"] = (square + 1e-6).sqrt()
  if "low" in wanted:
    out["low"] = x.masked_fill(~real, math.inf).amin(1)
  if "top" in wanted:
    out["top"] = x.masked_fill(~real, -math.inf).amax(1)
  return tuple(None if v is None else v.masked_fill(~some, 0) for v in out.values())


def gelu(x):
  """The GELU of flax, by a hyperbolic tangent."""
  return F.gelu(x, approximate="tanh")


def normalise(x):
  """Unit vectors; zero stays zero."""
  return x * torch.rsqrt(x.square().sum(-1, keepdim=True).clamp(min=1e-12))


def mean_where(values, where):
  """The mean of `values` over the entries `where`; 0 where there are none."""
  return torch.where(where, values, 0).sum() / where.sum().clamp(min=1)
