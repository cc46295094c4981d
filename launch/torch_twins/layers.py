"""What the twins share: their parameters, encoders of the modalities, dense layers.

The parameters `p` of a layer are {name: parameter, or parameters of a part}, named as in flax.
"""

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from promise_jax.nn.encoders import DROPOUT

# A scan or vmap keeps the parameters of several modules on the first axis.
STACKED = ("ScanBlock_0", "ScanAutoEncoder_0", "cross_encoders", "self_encoders", "layers")


class Twin:
  """A method for one stage; `params` are arrays of flax. A subclass has `predict` and `loss`."""

  def __init__(self, config, spec, params: dict, stage: str):
    self.config, self.modalities, self.stage = config, spec.modalities, stage
    self.p, self.training = to_parameters(params), False

  def parameters(self) -> list[nn.Parameter]:
    """All of them, also those of an LSTM, which is a module."""
    leaves = jax.tree.leaves(self.p)
    lists = [[*x.parameters()] if isinstance(x, nn.Module) else [x] for x in leaves]
    return sum(lists, [])


def to_parameters(params, name: str = ""):
  """Arrays as parameters of PyTorch, which keeps matrices transposed."""
  if name in STACKED:
    leaves, structure = jax.tree.flatten(params)
    return [to_parameters(structure.unflatten(part)) for part in zip(*leaves, strict=True)]
  if name == "OptimizedLSTMCell_0":
    return make_lstm(params)
  if isinstance(params, dict):
    return {key: to_parameters(value, key) for key, value in params.items()}
  return nn.Parameter(torch.tensor(params.T if name.endswith("kernel") else params))


def make_lstm(gates: dict) -> nn.LSTM:
  """The LSTM of a cell. PyTorch has a second bias, which stays 0."""
  join = lambda side, leaf: np.concatenate([gates[side + g][leaf] for g in "ifgo"], axis=-1)
  arrays = {"weight_ih_l0": join("i", "kernel").T, "weight_hh_l0": join("h", "kernel").T}
  arrays |= {"bias_hh_l0": join("h", "bias"), "bias_ih_l0": 0 * join("h", "bias")}
  lstm = nn.LSTM(arrays["weight_ih_l0"].shape[1], len(gates["hi"]["bias"]), batch_first=True)
  lstm.load_state_dict({name: torch.tensor(x) for name, x in arrays.items()})
  lstm.bias_ih_l0.requires_grad_(False)
  return lstm


def dense(p: dict, x):
  return F.linear(x, p["kernel"], p.get("bias"))


def norm(p: dict, x):
  return F.layer_norm(x, x.shape[-1:], p["scale"], p["bias"], 1e-5)


def mlp(p: dict, x):
  """Two dense layers with ReLU between them."""
  return dense(p["Dense_1"], F.relu(dense(p["Dense_0"], x)))


def gelu(x):
  """The GELU of flax, by a hyperbolic tangent."""
  return F.gelu(x, approximate="tanh")


def encode(p: dict, modality, batch, present, training: bool):
  """A code f[B, H] of one modality; what is absent counts as zeros."""
  x, p, kind = batch.inputs[modality.name], p["body"], modality.kind
  x = torch.where(present.view(-1, *(1,) * (x.dim() - 1)), x, torch.zeros_like(x))
  rate, first = DROPOUT[kind], 0
  if kind == "tokens":
    return bag_tokens(p["Embed_0"]["embedding"], x, rate, training)
  if kind == "sequence":
    x, first = pool_steps(p["Dense_0"], x, batch.length[modality.name]), 1
  x = F.dropout(x, 0.0 if kind == "vector" else rate, training)
  x = F.dropout(gelu(dense(p[f"Dense_{first}"], x)), rate, training)
  return gelu(dense(p[f"Dense_{first + 1}"], x))


def bag_tokens(table, x, rate: float, training: bool):
  """A bag of embeddings."""
  token_mask = (x > 0).float()
  num_tokens = token_mask.sum(-1, keepdim=True).clamp(min=1)
  weight = F.dropout(token_mask, rate, training) / num_tokens.sqrt()
  bag = torch.bmm(weight[:, None], F.embedding(x, table))[:, 0]
  return gelu(F.dropout(bag, rate, training))


def pool_steps(window: dict, x, length):
  """A summary of windows of 16 steps, one every 4, and of the steps."""
  real = step_mask(x, length)
  x = x * real
  num_windows = -(-x.shape[1] // 4)
  padded = F.pad(x, (0, 0, 0, 4 * num_windows + 12 - x.shape[1]))
  windows = padded.unfold(1, 16, 4).transpose(2, 3).flatten(2)
  windows, num_real = F.relu(dense(window, windows)), (length + 3) // 4
  mean = step_mean(x, length)
  deviation = (step_mean((x - mean[:, None]) ** 2, length) + 1e-6).sqrt()
  low = x.masked_fill(~real, torch.inf).amin(1)
  deviation, low = (y.masked_fill((length == 0)[:, None], 0) for y in (deviation, low))
  of_windows = step_mean(windows, num_real), step_max(windows, num_real)
  return torch.cat([*of_windows, mean, deviation, low, step_max(x, length)], -1)


def step_mean(x, length):
  """The mean of the first `length` steps f[B, T, D], 0 of none."""
  return x.masked_fill(~step_mask(x, length), 0).sum(1) / length.clamp(min=1)[:, None]


def step_max(x, length):
  """The largest values of the first `length` steps, 0 of none."""
  top = x.masked_fill(~step_mask(x, length), -torch.inf).amax(1)
  return top.masked_fill((length == 0)[:, None], 0)


def step_mask(x, length):
  """The first `length` steps, bool[B, T, 1]."""
  return (torch.arange(x.shape[1])[None] < length[:, None])[..., None]


def masked_mean(values, mask):
  """The mean of `values` where `mask` is True; 0 if it is nowhere."""
  return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def class_loss(logits, label, mask):
  """Cross entropy f[P, B] of logits f[P, B, C], 0 where `mask` bool[P, B] is False."""
  label = torch.where(mask, label, 0).long()
  error = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
  return error.view_as(mask) * mask
