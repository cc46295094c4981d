"""The twin of `promise_jax.methods.robult` with its default settings, for classes."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.twins import layers
from bench.twins.layers import Encoder, Mlp, normalise


class ModalityEncoders(nn.Module):
  """An encoder for each modality, codes f[B, M, H]."""

  def __init__(self, modalities, hidden):
    super().__init__()
    self.encoder = nn.ModuleList(Encoder(m, hidden) for m in modalities)

  def forward(self, batch, present):
    pairs = zip(self.encoder, present.T, strict=True)
    return torch.stack([encoder(batch, here) for encoder, here in pairs], 1)


class Robult(nn.Module):
  """The network and the loss, its parts called as the original's."""

  def __init__(self, config, spec):
    super().__init__()
    c, each, self.config = config, spec.modalities, config
    self.encoders = ModalityEncoders(each, c.hidden)
    self.fused_encoders = ModalityEncoders(each, c.hidden)
    self.fuse = Mlp(len(each) * c.hidden, c.hidden, c.hidden)
    self.shared_head = Mlp(c.hidden, c.hidden, c.shared)
    self.private_heads = nn.ModuleList(Mlp(c.hidden, c.hidden, c.private) for _ in each)
    both = c.shared + c.private
    self.decoders = nn.ModuleList(Mlp(both, c.hidden, c.hidden) for _ in each)
    wide = c.shared + len(each) * c.private
    self.classifier = Mlp(wide, c.head_hidden, spec.task.outputs)
    # The full pattern and the single ones.
    full = torch.ones(1, len(each), dtype=torch.bool)
    self.register_buffer("shows", torch.cat([full, torch.eye(len(each)) > 0]))

  def branches(self, batch, present):
    """h, z, u f[B, M, .], zeros where a row lacks one, and s f[B, D]."""
    h = self.encoders(batch, present)
    z = normalise(self.shared_head(h))
    pairs = zip(self.private_heads, h.unbind(1), strict=True)
    u = torch.stack([head(x) for head, x in pairs], 1)
    there = present[..., None]
    own = self.fused_encoders(batch, present)
    s = normalise(self.shared_head(self.fuse(own.flatten(1))))
    return h * there, z * there, u * there, s

  def head(self, z, s, u, shown):
    """Logits f[P, B, C] where rows show `shown` bool[P, B, M]."""
    there = shown[..., None]
    mean = (z * there).sum(2) / shown.sum(2, keepdim=True).clamp(min=1)
    shared = torch.where(shown.all(2, keepdim=True), s, normalise(mean))
    private = (normalise(u) * there).flatten(2)
    return self.classifier(torch.cat([shared, private], -1))

  def predict(self, batch):
    """Logits f[B, C]."""
    present = batch.present
    _, z, u, s = self.branches(batch, present)
    return self.head(z, s, u, present[None])[0]

  def loss(self, batch, model_state, progress, draws=None):
    """(loss f[], model_state with this batch in the bank)."""
    present, labelled = batch.present, batch.labelled
    label = torch.where(labelled, batch.label, 0)
    complete = present.all(1)
    h, z, u, s = self.branches(batch, present)
    shown = self.shows[:, None] & present
    logits = self.head(z, s, u, shown)
    total = supervised(logits, label, shown.any(-1) & labelled)
    total = total + self.config.reconstruction_weight * self.rebuilding(h, z, u, present)
    rest = batch | {"labelled": labelled, "label": label, "complete": complete}
    with torch.no_grad():
      weights, model_state = pair_weights(self.config, rest, model_state, s, logits[0], progress)
    return total + contrast(self.config, s.detach(), z, weights, rest), model_state

  def rebuilding(self, h, z, u, present):
    """Relative error of h rebuilt from (z, u), a mean over modalities that occur."""
    pairs = torch.cat([z.detach(), u], -1).unbind(1)
    made = torch.stack([q(x) for q, x in zip(self.decoders, pairs, strict=True)], 1)
    target, there = h.detach(), present[..., None]
    count = present.sum(0).clamp(min=1)[:, None]
    mean = (target * there).sum(0) / count
    square = ((target - mean).square() * there).sum(0)
    variance = (square / count).mean(-1)
    error = ((made - target).square() * there).mean(-1).sum(0) / count[:, 0]
    return layers.mean_where(error / (variance + 1e-3), present.any(0))


def supervised(logits, label, where):
  """Mean over patterns of the mean cross entropy over the rows `where` bool[P, B]."""
  again = label.expand(len(logits), -1)
  error = F.cross_entropy(logits.flatten(0, 1), again.flatten(), reduction="none")
  error, count = error.view_as(where), where.sum(1)
  each = (error * where).sum(1) / count.clamp(min=1)
  return layers.mean_where(each, count > 0)


def distance(a, b):
  """Squared distances f[A, B] of unit vectors."""
  return (2 - 2 * a @ b.T).clamp(min=0)


def pair_weights(config, batch, model_state, s, logits, progress):
  """(A, P) f[B, B] of the contrast, and the bank with this batch in it."""
  labelled, complete = batch.labelled, batch["complete"]
  member = F.one_hot(batch.label.long(), model_state["member"].shape[1]).float()
  same = batch.id[:, None] == batch.id
  ramp = (progress - config.ramp_start) / (config.ramp_end - config.ramp_start)
  close = proximity(s, model_state, complete)
  top = F.one_hot(logits.argmax(1), member.shape[1]).float()
  soft = torch.where(labelled[:, None], member, top * close)
  pair = (soft @ soft.T).clamp(0, 1)
  known = labelled[:, None] & labelled
  a = torch.where(known, pair, ramp.clamp(0, 1) * pair).masked_fill(same, 1.0)
  positive = torch.where(labelled[:, None], a, same.float())
  # Rows that bring nothing are written behind the bank.
  size = len(model_state["valid"])
  slot = torch.where(labelled & complete, batch.bank_index % size, size).long()
  put = lambda x, new: F.pad(x, (0, 0, 0, 1)).index_copy(0, slot, new)[:size]
  hit = torch.zeros(size + 1, dtype=torch.bool).index_fill(0, slot, True)[:size]
  model_state = {
    "code": put(model_state["code"], s),
    "member": put(model_state["member"], member),
  } | {"valid": model_state["valid"] | hit}
  return (a, positive), model_state


def proximity(code, model_state, where):
  """Closeness f[B, C] in [0, 1] to the classes of the bank, calibrated."""
  valid = model_state["valid"].float()
  member = model_state["member"] * valid[:, None]
  other = 1 - torch.eye(len(valid))
  within, across = (
    distance(model_state["code"], model_state["code"]),
    distance(code, model_state["code"]),
  )
  pair = (model_state["member"] @ model_state["member"].T > 0) * valid[:, None] * valid * other
  count = pair.sum()
  counted = where[:, None] * valid
  usual = (counted * across).sum() / counted.sum().clamp(min=1)
  fallback = torch.where(counted.sum() > 0, usual, 1.0)
  own = (pair * within).sum() / count.clamp(min=1)
  scale = 2 * torch.where(count > 0, own, fallback).clamp(min=1e-6)
  number = member.sum(0)
  kappa = torch.exp(-across / scale) @ member / number.clamp(min=1)
  among = torch.exp(-within / scale) * other
  total = (member * (among @ member)).sum(0)
  reference = total / (number * (number - 1)).clamp(min=1)
  several = number > 1
  borrowed = (reference * several).sum() / several.sum().clamp(min=1)
  borrowed = torch.where(several.any(), borrowed, 1.0)
  reference = torch.where(several, reference, borrowed)
  return (kappa / reference.clamp(min=1e-3)).clamp(0, 1)


def contrast(config, s, z, weights, batch):
  """The weighted L_lb and L_ulb: both directions between s and every z."""
  a, positive = weights
  where, labelled = batch["complete"], batch.labelled
  forward = torch.einsum("bd,kmd->mbk", s, z) / config.temperature
  both = torch.stack([forward, forward.transpose(1, 2)])  # [2, M, B, B]
  both = both.masked_fill(~where, -torch.inf)
  peak = both.detach().amax(-1, keepdim=True)
  both = both - torch.where(peak.isfinite(), peak, 0)
  both = torch.where(where, both, 0)
  e = torch.where(where, both.exp(), 0)
  negatives = ((1 - a) * e).sum(-1, keepdim=True)
  ratio = both - torch.log(negatives + a * e + 1e-12)
  weight = positive * where
  each = -(weight * ratio).sum(-1) / weight.sum(-1).clamp(min=1)
  pairs = each.mean(0)  # [M, B]
  rows = where.expand_as(pairs)
  known = config.labelled_weight * layers.mean_where(pairs, rows & labelled)
  return known + config.unlabelled_weight * layers.mean_where(pairs, rows & ~labelled)


def carried(model_state) -> dict[str, torch.Tensor]:
  """The bank of the original."""
  return {name: layers.tensor(x) for name, x in model_state["bank"]._asdict().items()}
