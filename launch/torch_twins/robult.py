"""`promise_jax.methods.robult` in PyTorch: the default settings, for classes."""

import itertools

import torch
import torch.nn.functional as F

from torch_twins import layers


class Twin(layers.Twin):
  def encode(self, batch):
    """H_i, Z_i, U_i f[B, M, .], 0 where a row lacks the modality."""
    p, latent, private = self.p, [], []
    for i, (m, present) in enumerate(zip(self.modalities, batch.present.T, strict=True)):
      encoder = p["encoders"][f"encoder_{i}"]
      latent.append(layers.encode(encoder, m, batch, present, self.training))
      private.append(layers.mlp(p[f"project_private_{i}"], latent[-1]))
    latent = torch.stack(latent, 1)
    codes = latent, layers.mlp(p["project_shared"], latent), torch.stack(private, 1)
    return tuple(x * batch.present[..., None] for x in codes)

  def fuse(self, latent, visible):
    """H_A f[..., B, H] of the modalities `visible` bool[..., B, M]."""
    filled = torch.where(visible[..., None], latent, self.p["token"])
    return layers.dense(self.p["fuse"], filled.flatten(-2))

  def predict(self, batch):
    """Logits f[B, C]."""
    latent, shared, private = self.encode(batch)
    several = batch.present.sum(1, keepdim=True) > 1
    alone = torch.cat([private, shared], -1).sum(1)
    return layers.mlp(self.p["head"], torch.where(several, self.fuse(latent, batch.present), alone))

  def loss(self, batch, state, progress, draws):
    """The loss, and the bank with the labelled rows of this batch in it."""
    c, p, bank, present, labelled = (
      self.config,
      self.p,
      state["bank"],
      batch.present,
      batch.labelled,
    )
    label, complete = torch.where(labelled, batch.label, 0).long(), present.all(1)
    latent, shared, private = self.encode(batch)
    visible = list_subsets(present)
    fused = self.fuse(latent, visible)
    branches = torch.cat([private, shared], -1).transpose(0, 1)
    logits = layers.mlp(p["head"], torch.cat([fused, branches]))
    fused, full = fused[0], logits[0]
    visible = torch.cat([visible, torch.eye(present.shape[1]).bool()[:, None] & present])
    mask = visible.any(-1) & labelled
    total = layers.class_loss(logits, label, mask).sum() / mask.sum().clamp(min=1)
    # Z_i gets no gradient.
    both = torch.cat([private, shared.detach()], -1).unbind(1)
    rebuilt = torch.stack([layers.mlp(p[f"decoders_{i}"], x) for i, x in enumerate(both)], 1)
    total = total + c.reconstruction_weight * reconstruction_term(rebuilt, latent, present)
    ramp = ((progress - c.ramp_start) / (c.ramp_end - c.ramp_start)).clamp(0, 1)
    hides_some = visible.any(-1) & (visible != present).any(-1)
    total = total + c.teach_weight * ramp * layers.masked_mean(
      teach_error(logits, full), hides_some
    )
    teacher = F.normalize(layers.mlp(p["project_shared"], fused), dim=-1, eps=1e-6).detach()
    shared = F.normalize(shared, dim=-1, eps=1e-6)
    with torch.no_grad():
      member = F.one_hot(label, bank.member.shape[1]).float()
      closeness = bank_proximity(teacher, bank, complete)
      guess = F.one_hot(full.argmax(1), member.shape[1]).float() * closeness
      weights = pair_weights(torch.where(labelled[:, None], member, guess), batch, ramp)
      bank = update_bank(bank, batch.bank_index, teacher, member, labelled & complete)
    error = contrast(teacher, shared, weights, complete, c.temperature)
    rows = complete.expand_as(error)
    total = total + c.labelled_weight * layers.masked_mean(error, rows & labelled)
    total = total + c.unlabelled_weight * layers.masked_mean(error, rows & ~labelled)
    return total, {"bank": bank}


def list_subsets(present):
  """All subsets bool[P, B, M] of what is present, at most four modalities; all of it first."""
  patterns = [p for p in itertools.product([True, False], repeat=present.shape[1]) if any(p)]
  return torch.tensor(patterns)[:, None] & present


def teach_error(logits, teacher):
  """The divergence f[P, B] from the teacher f[B, C], which gets no gradient."""
  target = F.log_softmax(teacher.detach(), -1)
  return (target.exp() * (target - F.log_softmax(logits, -1))).sum(-1)


def reconstruction_term(rebuilt, latent, present):
  """The squared error relative to the variance, a mean over modalities that occur."""
  target, mask = latent.detach(), present[..., None]
  count = present.sum(0).clamp(min=1)[:, None]
  mean = (target * mask).sum(0) / count
  variance = (((target - mean).square() * mask).sum(0) / count).mean(-1)
  error = ((rebuilt - target).square() * mask).mean(-1).sum(0) / count[:, 0]
  return layers.masked_mean(error / (variance + 1e-3), present.any(0))


def pair_weights(members, batch, ramp):
  """(affinity, positive) f[B, B] of the contrast."""
  labelled, same = batch.labelled, batch.id[:, None] == batch.id
  pair = (members @ members.T).clamp(0, 1)
  affinity = torch.where(labelled[:, None] & labelled, pair, ramp * pair)
  affinity = affinity.masked_fill(same, 1.0)
  return affinity, torch.where(labelled[:, None], affinity, same.float())


def squared_distance(a, b):
  """f[A, B] of unit vectors."""
  return (2 - 2 * a @ b.T).clamp(min=0)


def bank_proximity(code, bank, mask):
  """Closeness f[B, C] in [0, 1] of a code to the classes of the bank."""
  valid = bank.valid.float()
  member = bank.member * valid[:, None]
  others = 1 - torch.eye(len(valid))
  within = squared_distance(bank.code, bank.code)
  across = squared_distance(code, bank.code)
  pair = (bank.member @ bank.member.T > 0) * valid[:, None] * valid * others
  count, counted = pair.sum(), mask[:, None] * valid
  fallback = (counted * across).sum() / counted.sum().clamp(min=1)
  fallback = torch.where(counted.sum() > 0, fallback, 1.0)
  bandwidth = torch.where(count > 0, (pair * within).sum() / count.clamp(min=1), fallback)
  scale = 2 * bandwidth.clamp(min=1e-6)
  number = member.sum(0)
  kernel = torch.exp(-across / scale) @ member / number.clamp(min=1)
  among = torch.exp(-within / scale) * others
  typical = (member * (among @ member)).sum(0) / (number * (number - 1)).clamp(min=1)
  has_pairs = number > 1
  borrowed = (typical * has_pairs).sum() / has_pairs.sum().clamp(min=1)
  borrowed = torch.where(has_pairs.any(), borrowed, 1.0)
  typical = torch.where(has_pairs, typical, borrowed)
  return (kernel / typical.clamp(min=1e-3)).clamp(0, 1)


def update_bank(bank, index, code, member, mask):
  """Writes the rows of `mask` into their slots; the others go to a slot behind the last."""
  size = len(bank.valid)
  slot = torch.where(mask, index % size, size).long()
  write = lambda old, new: F.pad(old, (0, 0, 0, 1)).index_copy(0, slot, new)[:size]
  written = torch.zeros(size + 1, dtype=torch.bool).index_fill(0, slot, True)[:size]
  written = bank.valid | written
  return bank._replace(
    code=write(bank.code, code), member=write(bank.member, member), valid=written
  )


def contrast(fused, shared, weights, mask, temperature: float):
  """Errors f[M, B] of the contrast of S with every Z_i, the mean of both directions."""
  affinity, positive = weights
  forward = torch.einsum("bd,kmd->mbk", fused, shared) / temperature
  both = torch.stack([forward, forward.transpose(1, 2)])  # [2, M, B, B]
  both = both.masked_fill(~mask, -torch.inf)
  peak = both.detach().amax(-1, keepdim=True)
  both = torch.where(mask, both - torch.where(peak.isfinite(), peak, 0), 0)
  e = torch.where(mask, both.exp(), 0)
  negatives = ((1 - affinity) * e).sum(-1, keepdim=True)
  ratio = both - torch.log(negatives + affinity * e + 1e-12)
  weight = positive * mask
  error = -(weight * ratio).sum(-1) / weight.sum(-1).clamp(min=1)
  return error.mean(0)
