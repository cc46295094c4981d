"""Copies the parameters of a flax module into its twin."""

import numpy as np
import torch
from torch import nn

LAYERS = {"Dense": nn.Linear, "LayerNorm": nn.LayerNorm, "Embed": nn.Embedding}
WEIGHTS = ("kernel", "scale", "embedding")
# Automatic names of flax, and the attributes of the twins.
ATTRIBUTES = {
  **dict.fromkeys(("Encoder_0", "Transformer_0", "Lstm_0"), "body"),
  "Attention_0": "attention",
  "ScanBlock_0": "blocks",
  "ScanAutoEncoder_0": "auto_encoders",
}


@torch.no_grad()
def load_params(module: nn.Module, params: dict) -> None:
  """Copies `params` {name: array or params of a submodule} into `module`.

  Raises:
    ValueError: the twin lacks a part, or has another shape.
  """
  for name, value in params.items():
    if name in WEIGHTS:
      copy(module.weight, value.T if name == "kernel" else value)
    elif not isinstance(value, dict):
      copy(getattr(module, name), value)
    elif name.startswith("OptimizedLSTMCell"):
      load_lstm(module.lstm, value)
    elif isinstance(part := find_part(module, name), nn.ModuleList):
      # A scan or vmap keeps the parameters of several modules on the first axis.
      for i, child in enumerate(part):
        load_params(child, take_entry(value, i))
    else:
      load_params(part, value)


def find_part(module: nn.Module, name: str) -> nn.Module:
  """The submodule with the flax name `name`: "Dense_0" is the first dense layer, "heads_0" the
  first entry of the list `heads`."""
  name = ATTRIBUTES.get(name, name)
  if hasattr(module, name):
    return getattr(module, name)
  stem, _, number = name.rpartition("_")
  if stem in LAYERS:
    return [m for m in module.children() if isinstance(m, LAYERS[stem])][int(number)]
  if hasattr(module, stem):
    return getattr(module, stem)[int(number)]
  raise ValueError(f"the twin {type(module).__name__} has no part {name}")


def load_lstm(lstm: nn.LSTM, gates: dict) -> None:
  """Copies the gates of a cell. PyTorch has a second bias, which stays 0."""
  join = lambda side, leaf: np.concatenate([gates[side + g][leaf] for g in "ifgo"], axis=-1)
  copy(lstm.weight_ih_l0, join("i", "kernel").T)
  copy(lstm.weight_hh_l0, join("h", "kernel").T)
  copy(lstm.bias_hh_l0, join("h", "bias"))


def copy(weight: torch.Tensor, value: np.ndarray) -> None:
  if tuple(weight.shape) != tuple(value.shape):
    raise ValueError(f"a twin has {tuple(weight.shape)}, its original {value.shape}")
  weight.copy_(torch.from_numpy(np.array(value)))


def take_entry(params: dict, i: int) -> dict:
  """Entry i of every array."""
  return {k: take_entry(v, i) if isinstance(v, dict) else v[i] for k, v in params.items()}
