"""The twin of `promise_jax.methods.redcore`, preset "clean", for classes."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.twins import layers


class Block(nn.Module):
  """Attention and a feed-forward part, each between two layer norms, then added."""

  def __init__(self, width: int, heads: int):
    super().__init__()
    self.heads = heads
    # In the order of the original: the outer norm of each part comes first in one.
    self.attended, self.asked, self.fed, self.made = (nn.LayerNorm(width, 1e-5) for _ in range(4))
    self.packed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
    self.wide, self.thin = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

  def forward(self, h, sees):
    h = h + self.attended(self.attend(self.asked(h), sees))
    wide = F.dropout(F.relu(self.wide(self.fed(h))), 0.1, self.training)
    return h + self.made(self.thin(wide))

  def attend(self, h, sees):
    by_head = self.packed(h).unflatten(-1, (self.heads, -1)).transpose(1, 2)
    rate = 0.2 if self.training else 0.0
    out = F.scaled_dot_product_attention(*by_head.chunk(3, -1), sees, rate)
    return self.out(out.transpose(1, 2).flatten(2))


class Transformer(nn.Module):
  """`blocks` of `Block` on the real steps of a sequence; sigmoid of their mean."""

  def __init__(self, modality, config):
    super().__init__()
    self.name, width = modality.name, config.hidden
    self.project = nn.Linear(modality.shape[-1], width)
    self.blocks = nn.ModuleList(Block(width, 8) for _ in range(config.num_blocks))

  def forward(self, batch, present):
    x, length = batch.inputs[self.name], batch.length[self.name]
    length = torch.where(present, length, 0)
    real = torch.arange(x.shape[1])[None] < length[:, None]
    h = self.project(x * real[..., None])
    sees = torch.where(real, 0.0, -1e30)[:, None, None]
    for block in self.blocks:
      h = block(h, sees)
    mean = (h * real[..., None]).sum(1) / length.clamp(min=1)[:, None]
    return mean.sigmoid()


class Lstm(nn.Module):
  """The greatest value over the real steps of each cell of an LSTM."""

  def __init__(self, modality, config):
    super().__init__()
    self.name, self.rate = modality.name, layers.DROPOUT[modality.kind]
    self.lstm = nn.LSTM(modality.shape[-1], config.hidden, batch_first=True)
    nn.init.zeros_(self.lstm.bias_ih_l0).requires_grad_(False)

  def forward(self, batch, present):
    x, length = batch.inputs[self.name], batch.length[self.name]
    length = torch.where(present, length, 0)[:, None]
    real = (torch.arange(x.shape[1])[None] < length)[..., None]
    h, _ = self.lstm(x * real)
    top = h.masked_fill(~real, -torch.inf).amax(1).masked_fill(length == 0, 0)
    return F.dropout(top, self.rate, self.training)


class Gaussian(nn.Module):
  """(mu, logvar) f[B, D] of one modality."""

  def __init__(self, modality, config):
    super().__init__()
    self.config = config
    if config.encoder == "transformer":
      self.Transformer_0 = body = Transformer(modality, config)
    elif config.encoder == "lstm":
      self.Lstm_0 = body = Lstm(modality, config)
    else:
      self.Encoder_0 = body = layers.Encoder(modality, config.hidden)
    self.run, self.ends = [body], nn.Linear(config.hidden, 2 * config.hidden)

  def forward(self, batch, present):
    mean, logvar = self.ends(self.run[0](batch, present)).chunk(2, -1)
    return mean, (logvar - 3.0).clamp(-10.0, 10.0)


class Link(nn.Module):
  """One link of the cascade: (u, o) -> (u + o, its reconstruction)."""

  def __init__(self, width: int, widths: tuple[int, ...]):
    super().__init__()
    sizes = (width, *widths, *widths[-2::-1], width)
    for i, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False)):
      self.add_module(f"layer{i}", nn.Linear(a, b))
    self.down = len(widths)

  def forward(self, u, o):
    u = u + o
    every, x = list(self.children()), u
    for i, layer in enumerate(every):
      x = layer(F.leaky_relu(x, 0.01) if 0 < i < self.down else x)
      if self.down <= i < len(every) - 1:
        x = F.relu(x)
    return u, x


class Imputer(nn.Module):
  """A cascade of residual auto-encoders and two layers."""

  def __init__(self, width: int, config):
    super().__init__()
    c = config
    widths = (c.imputer_hidden, c.imputer_hidden // 2, c.imputer_hidden // 4)
    self.links = nn.ModuleList(Link(width, widths) for _ in range(c.num_autoencoders))
    self.wide, self.out = nn.Linear(width, width), nn.Linear(width, c.hidden)

  def forward(self, x):
    u, o = x, torch.zeros_like(x)
    for link in self.links:
      u, o = link(u, o)
    return self.out(F.relu(self.wide(u + o)))


class Redcore(nn.Module):
  """The encoders, imputers and heads, and the loss with its moving weights."""

  def __init__(self, config, spec):
    super().__init__()
    c, each, self.config = config, spec.modalities, config
    count, outputs = len(each), spec.task.outputs
    self.encoders = nn.ModuleList(Gaussian(m, c) for m in each)
    self.absent = nn.Parameter(torch.zeros(count, c.hidden))
    inputs = (count - 1) * c.hidden
    self.imputers = nn.ModuleList(Imputer(inputs, c) for _ in each)
    head = lambda size: layers.Mlp(size, c.head_hidden, c.head_hidden, outputs)
    self.joint_head = head(count * c.hidden)
    self.unimodal_heads = nn.ModuleList(head(c.hidden) for _ in each)

  def latents(self, batch):
    """mu, logvar f[B, M, D]."""
    pairs = zip(self.encoders, batch.present.T, strict=True)
    codes = zip(*(encode(batch, there) for encode, there in pairs), strict=True)
    return tuple(torch.stack(x, 1) for x in codes)

  def composite(self, z, shown):
    """(r, zhat) f[P, B, M, D] where rows show `shown` bool[P, B, M]."""
    sources = torch.where(shown[..., None], z, self.absent)
    made = []
    for i, impute in enumerate(self.imputers):
      rest = torch.cat([sources[:, :, :i], sources[:, :, i + 1 :]], 2)
      made.append(impute(rest.flatten(2)))
    made = torch.stack(made, 2)
    return torch.where(shown[..., None], z, made), made

  def predict(self, batch):
    """Logits f[B, C]."""
    mean, _ = self.latents(batch)
    r, _ = self.composite(mean, batch.present[None])
    return self.joint_head(r.flatten(2))[0]

  def loss(self, batch, model_state, progress, draws=None):
    """(loss f[], the weights, averages and step after it); `draws` is the noise
    f[B, M, D] of the latents and what is shown bool[P, B, M], None: new ones."""
    c, present, labelled = self.config, batch.present, batch.labelled
    mean, logvar = self.latents(batch)
    noise, shown = draws or (torch.randn_like(mean), self.shows(present))
    z = mean + (0.5 * logvar).exp() * noise
    r, made = self.composite(z, shown)
    label = torch.where(labelled, batch.label, 0)
    where = labelled & shown.any(-1)  # [P, B]
    count = where.sum().clamp(min=1)
    each = [(self.joint_head(r.flatten(2)), 1.0)]
    parts = zip(self.unimodal_heads, r.unbind(2), strict=True)
    each += [(head(x), c.unimodal_weight) for head, x in parts]
    again = label.expand(len(shown), -1).flatten()
    error = lambda x: F.cross_entropy(x.flatten(0, 1), again, reduction="none")
    total = sum(w * (error(x).view_as(where) * where).sum() for x, w in each) / count
    there = present[..., None]
    gap = ((made - z) * there).square().mean(-1).sum((0, 1))
    seen = present.sum(0)
    losses = gap / (len(shown) * seen).clamp(min=1)
    model_state = controlled(c, losses.detach(), model_state, seen > 0)
    divergence = (mean.square() + logvar.exp() - 1 - logvar) * there
    total = total + c.kl_weight * divergence.sum((1, 2)).mean()
    return total + c.imputation_weight * (model_state["beta"] * losses).sum(), model_state

  def shows(self, present):
    """All that is present and `subsets` random non-empty parts of it."""
    size = (self.config.num_subsets, len(present))
    choices = (1 << present.sum(1)) - 1
    number = (torch.rand(size) * choices).long() + 1
    place = (present.cumsum(1) - 1).clamp(min=0)
    kept = present & (((number[..., None] >> place) & 1) > 0)
    return torch.cat([present[None], kept])


@torch.no_grad()
def controlled(config, losses, model_state, seen):
  """Relative advantage moves beta every `every`-th step."""
  average = 0.3 * model_state["average"] + 0.7 * losses
  average = torch.where(seen, average, model_state["average"])
  mean = average.mean()
  gain = torch.where(mean > 0, (mean - average) / mean, 0.0)
  moved = (model_state["beta"] - config.beta_step * gain).clamp(min=0.1)
  now = model_state["step"] % config.beta_every == 0
  beta = torch.where(now, moved / moved.norm(), model_state["beta"])
  return {"beta": beta, "average": average, "step": model_state["step"] + 1}


def carried(model_state) -> dict[str, torch.Tensor]:
  """The weights, averages and step of the original."""
  average, step = model_state["controller"]
  parts = {"beta": model_state["upper"], "average": average, "step": step}
  return {name: layers.tensor(x) for name, x in parts.items()}
