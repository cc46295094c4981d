"""`promise_jax.methods.redcore` in PyTorch: the default upper level, for classes."""

import torch
import torch.nn.functional as F
from torch import nn

from promise_jax.nn.encoders import DROPOUT
from torch_twins import layers


class Block(nn.Module):
  """Attention and a feed-forward part, each between two layer norms, then added."""

  def __init__(self, width: int, num_heads: int):
    super().__init__()
    self.num_heads = num_heads
    # In the order of the original, which calls the outer norm of each part first.
    self.attended, self.query, self.fed, self.made = (nn.LayerNorm(width, 1e-5) for _ in range(4))
    self.packed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.wide, self.thin = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, h, bias):
    h = h + self.attended(self.attend(self.query(h), bias))
    wide = F.dropout(F.relu(self.wide(self.fed(h))), 0.1, self.training)
    return h + self.made(self.thin(wide))

  def attend(self, h, bias):
    by_head = self.packed(h).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
    rate = 0.2 if self.training else 0.0
    out = F.scaled_dot_product_attention(*by_head.chunk(3, -1), bias, rate)
    return self.out(out.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
  """Blocks on the real steps of a sequence; the sigmoid of their mean."""

  def __init__(self, modality, config):
    super().__init__()
    self.name, width = modality.name, config.hidden
    self.project = nn.Linear(modality.shape[-1], width)
    self.blocks = nn.ModuleList(Block(width, 8) for _ in range(config.num_blocks))

  def forward(self, batch, present):
    x, length = batch.inputs[self.name], torch.where(present, batch.length[self.name], 0)
    real = layers.step_mask(x, length)
    h = self.project(x * real)
    bias = torch.where(real[..., 0], 0.0, -1e30)[:, None, None]
    for block in self.blocks:
      h = block(h, bias)
    return ((h * real).sum(1) / length.clamp(min=1)[:, None]).sigmoid()


class Lstm(nn.Module):
  """The largest state of each cell of an LSTM over the real steps."""

  def __init__(self, modality, config):
    super().__init__()
    self.name, self.rate = modality.name, DROPOUT[modality.kind]
    self.lstm = nn.LSTM(modality.shape[-1], config.hidden, batch_first=True)
    nn.init.zeros_(self.lstm.bias_ih_l0).requires_grad_(False)

  def forward(self, batch, present):
    x, length = batch.inputs[self.name], torch.where(present, batch.length[self.name], 0)
    real = layers.step_mask(x, length)
    h, _ = self.lstm(x * real)
    top = h.masked_fill(~real, -torch.inf).amax(1).masked_fill((length == 0)[:, None], 0)
    return F.dropout(top, self.rate, self.training)


class GaussianEncoder(nn.Module):
  """Mean and log variance f[B, H] of one modality."""

  def __init__(self, modality, config):
    super().__init__()
    if config.encoder == "pooled":
      self.body = layers.Encoder(modality, config.hidden)
    else:
      self.body = {"transformer": Transformer, "lstm": Lstm}[config.encoder](modality, config)
    # The mean is the code itself, except of a transformer.
    self.has_mean = config.encoder == "transformer"
    self.ends = nn.Linear(config.hidden, (1 + self.has_mean) * config.hidden)

  def forward(self, batch, present):
    code = self.body(batch, present)
    ends = self.ends(code)
    mean, logvar = ends.chunk(2, -1) if self.has_mean else (code, ends)
    return mean, (logvar - 3.0).clamp(-10.0, 10.0)


class AutoEncoder(nn.Module):
  """(u, o) -> (u + o, its reconstruction)."""

  def __init__(self, width: int, widths: tuple[int, ...]):
    super().__init__()
    sizes = (width, *widths, *widths[-2::-1], width)
    pairs = zip(sizes, sizes[1:], strict=False)
    self.dense = [nn.Linear(a, b) for a, b in pairs]
    for i, layer in enumerate(self.dense):
      self.add_module(f"dense_{i}", layer)
    self.depth = len(widths)

  def forward(self, u, o):
    x = u = u + o
    for i, layer in enumerate(self.dense):
      x = layer(F.leaky_relu(x, 0.01) if 0 < i < self.depth else x)
      if self.depth <= i < len(self.dense) - 1:
        x = F.relu(x)
    return u, x


class Imputer(nn.Module):
  """A cascade of residual auto-encoders and two dense layers."""

  def __init__(self, width: int, config):
    super().__init__()
    c = config
    widths = (c.imputer_hidden, c.imputer_hidden // 2, c.imputer_hidden // 4)
    each = (AutoEncoder(width, widths) for _ in range(c.num_autoencoders))
    self.auto_encoders = nn.ModuleList(each)
    self.wide, self.out = nn.Linear(width, width), nn.Linear(width, c.hidden)

  def forward(self, x):
    u, o = x, torch.zeros_like(x)
    for auto_encoder in self.auto_encoders:
      u, o = auto_encoder(u, o)
    return self.out(F.relu(self.wide(u + o)))


class Twin(nn.Module):
  def __init__(self, config, spec):
    super().__init__()
    c, modalities, self.config = config, spec.modalities, config
    count, num_outputs = len(modalities), spec.task.outputs
    self.encoders = nn.ModuleList(GaussianEncoder(m, c) for m in modalities)
    self.absent = nn.Parameter(torch.zeros(count, c.hidden))
    self.imputers = nn.ModuleList(Imputer((count - 1) * c.hidden, c) for _ in modalities)
    head = lambda size: layers.Mlp(size, c.head_hidden, num_outputs)
    self.joint_head = head(count * c.hidden)
    self.unimodal_heads = nn.ModuleList(head(c.hidden) for _ in modalities)

  def encode(self, batch):
    """Mean and log variance f[B, M, H]."""
    pairs = zip(self.encoders, batch.present.T, strict=True)
    codes = zip(*(encoder(batch, present) for encoder, present in pairs), strict=True)
    return tuple(torch.stack(x, 1) for x in codes)

  def compose(self, z, visible):
    """(r, imputed) f[P, B, M, H] where rows show the modalities `visible` bool[P, B, M]."""
    sources = torch.where(visible[..., None], z.detach(), self.absent)
    imputed = []
    for i, imputer in enumerate(self.imputers):
      others = torch.cat([sources[:, :, :i], sources[:, :, i + 1 :]], 2)
      imputed.append(imputer(others.flatten(2)))
    imputed = torch.stack(imputed, 2)
    return torch.where(visible[..., None], z, imputed), imputed

  def predict(self, batch):
    """Logits f[B, C]."""
    mean, _ = self.encode(batch)
    r, _ = self.compose(mean, batch.present[None])
    return self.joint_head(r.flatten(2))[0]

  def loss(self, batch, state, progress, draws):
    """The loss, and the next state of the upper level. `draws` are the noise f[B, M, H] and the
    visible modalities bool[P, B, M], empty: new ones."""
    c, present, labelled = self.config, batch.present, batch.labelled
    mean, logvar = self.encode(batch)
    noise, visible = draws or (torch.randn_like(mean), self.draw_visible(present))
    z = mean + (0.5 * logvar).exp() * noise
    r, imputed = self.compose(z, visible)
    label, mask = torch.where(labelled, batch.label, 0), labelled & visible.any(-1)
    error = lambda logits: layers.class_loss(logits, label, mask).sum()
    total = error(self.joint_head(r.flatten(2)))
    for head, x in zip(self.unimodal_heads, r.unbind(2), strict=True):
      total = total + c.unimodal_weight * error(head(x))
    total = total / mask.sum().clamp(min=1)
    recorded, count = present[..., None], present.sum(0)
    losses = ((imputed - z.detach()) * recorded).square().mean(-1).sum((0, 1))
    losses = losses / (len(visible) * count).clamp(min=1)
    state = move_beta(c, losses.detach(), state, count > 0)
    divergence = (mean.square() + logvar.exp() - 1 - logvar) * recorded
    total = total + c.kl_weight * divergence.sum((1, 2)).mean()
    return total + c.imputation_weight * (state["beta"] * losses).sum(), state

  def draw_visible(self, present):
    """All that is present, and random non-empty subsets of it."""
    num_choices = (1 << present.sum(1)) - 1
    number = (torch.rand(self.config.num_subsets, len(present)) * num_choices).long() + 1
    rank = (present.cumsum(1) - 1).clamp(min=0)
    kept = present & (((number[..., None] >> rank) & 1) > 0)
    return torch.cat([present[None], kept])


@torch.no_grad()
def move_beta(config, losses, state, seen):
  """Relative advantage moves the weights beta every few steps."""
  average = torch.where(seen, 0.3 * state["average"] + 0.7 * losses, state["average"])
  mean = average.mean()
  advantage = torch.where(mean > 0, (mean - average) / mean, 0.0)
  moved = (state["beta"] - config.beta_step * advantage).clamp(min=0.1)
  is_due = state["step"] % config.beta_every == 0
  beta = torch.where(is_due, moved / moved.norm(), state["beta"])
  return {"beta": beta, "average": average, "step": state["step"] + 1}


def convert_state(model_state) -> dict[str, torch.Tensor]:
  """Beta, the averages and the step of the original."""
  average, step = model_state["controller"]
  state = {"beta": model_state["upper"], "average": average, "step": step}
  return {name: torch.tensor(x) for name, x in state.items()}
