"""What the twins share: encoders of the modalities, dense networks, masked means."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from promise_jax.nn.encoders import DROPOUT

# Of an image, made once before training: means of 8 x 8 cells, edges in 8 directions, and a
# histogram of 8^3 colours.
IMAGE_FEATURES = 64 * 3 + 64 * 8 + 512


class Mlp(nn.Sequential):
  """Dense layers with ReLU between them."""

  def __init__(self, num_inputs: int, *widths: int):
    layers = []
    for width in widths:
      layers += [nn.Linear(num_inputs, width), nn.ReLU()]
      num_inputs = width
    super().__init__(*layers[:-1])


class Encoder(nn.Module):
  """Encodes one modality, f[B, H]; what is absent counts as zeros."""

  def __init__(self, modality, hidden: int):
    super().__init__()
    kinds = {"image": Flat, "tokens": Tokens, "sequence": Sequence, "vector": Flat}
    self.name = modality.name
    self.body = kinds[modality.kind](modality, hidden)

  def forward(self, batch, present: torch.Tensor) -> torch.Tensor:
    x = batch.inputs[self.name]
    present = present.view(-1, *(1,) * (x.dim() - 1))
    x = torch.where(present, x, torch.zeros_like(x))
    return self.body(x, batch.length.get(self.name))


class Body(nn.Module):
  """Two dense layers with GELU."""

  def add_mlp(self, num_inputs: int, hidden: int, rate: float, input_rate: float) -> None:
    self.rate, self.input_rate = rate, input_rate
    self.wide = nn.Linear(num_inputs, 2 * hidden)
    self.out = nn.Linear(2 * hidden, hidden)

  def mlp(self, x):
    x = gelu(self.wide(F.dropout(x, self.input_rate, self.training)))
    return gelu(self.out(F.dropout(x, self.rate, self.training)))


class Flat(Body):
  """Of the features of an image, which are dropped too, or of a vector."""

  def __init__(self, modality, hidden: int):
    super().__init__()
    rate, is_image = DROPOUT[modality.kind], modality.kind == "image"
    num_inputs = IMAGE_FEATURES if is_image else modality.shape[-1]
    self.add_mlp(num_inputs, hidden, rate, rate if is_image else 0.0)

  def forward(self, x, length):
    return self.mlp(x)


class Tokens(nn.Module):
  """A bag of embeddings."""

  def __init__(self, modality, hidden: int):
    super().__init__()
    self.embed = nn.Embedding(modality.vocabulary, hidden)

  def forward(self, x, length):
    token_mask = (x > 0).float()
    num_tokens = token_mask.sum(-1, keepdim=True).clamp(min=1)
    weight = F.dropout(token_mask, DROPOUT["tokens"], self.training) / num_tokens.sqrt()
    bag = torch.bmm(weight[:, None], self.embed(x))[:, 0]
    return gelu(F.dropout(bag, DROPOUT["tokens"], self.training))


class Sequence(Body):
  """Windows of 16 steps, one every 4, and a summary of the steps."""

  def __init__(self, modality, hidden: int):
    super().__init__()
    width, rate = modality.shape[-1], DROPOUT["sequence"]
    self.window = nn.Linear(16 * width, hidden)
    self.add_mlp(2 * hidden + 4 * width, hidden, rate, rate)

  def forward(self, x, length):
    x = x * step_mask(x, length)
    num_windows = -(-x.shape[1] // 4)
    padded = F.pad(x, (0, 0, 0, 4 * num_windows + 12 - x.shape[1]))
    windows = padded.unfold(1, 16, 4).transpose(2, 3).flatten(2)
    windows = F.relu(self.window(windows))
    mean, top = summarise(windows, (length + 3) // 4, ("mean", "top"))
    steps = summarise(x, length, ("mean", "deviation", "low", "top"))
    return self.mlp(torch.cat([mean, top, *steps], -1))


def summarise(x, length, wanted: tuple[str, ...]) -> list[torch.Tensor]:
  """Those of mean, deviation, low and top of the first `length` steps that are `wanted`."""
  real, count = step_mask(x, length), length.clamp(min=1)[:, None]
  mean = x.masked_fill(~real, 0).sum(1) / count
  values = {"mean": mean}
  if "deviation" in wanted:
    square = ((x - mean[:, None]) ** 2).masked_fill(~real, 0).sum(1) / count
    values["deviation"] = (square + 1e-6).sqrt()
  if "low" in wanted:
    values["low"] = x.masked_fill(~real, math.inf).amin(1)
  values["top"] = x.masked_fill(~real, -math.inf).amax(1)
  return [values[name].masked_fill((length == 0)[:, None], 0) for name in wanted]


def step_mask(x, length):
  """The first `length` steps, bool[B, T, 1]."""
  return (torch.arange(x.shape[1])[None] < length[:, None])[..., None]


def gelu(x):
  """The GELU of flax, by a hyperbolic tangent."""
  return F.gelu(x, approximate="tanh")


def normalise(x):
  """Unit vectors; zero stays zero."""
  return x * torch.rsqrt(x.square().sum(-1, keepdim=True).clamp(min=1e-12))


def masked_mean(values, mask):
  """The mean of `values` where `mask` is True; 0 if it is nowhere."""
  return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def class_loss(logits, label, mask):
  """Cross entropy f[P, B] of logits f[P, B, C], 0 where `mask` bool[P, B] is False."""
  label = label.long().expand(len(logits), -1)
  error = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
  return error.view_as(mask) * mask
