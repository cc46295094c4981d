"""`promise_jax.methods.redcore` in PyTorch: the default upper level, for classes."""

import torch
import torch.nn.functional as F

from promise_jax.nn.encoders import DROPOUT
from torch_twins import layers
from torch_twins.layers import dense, norm


def encode_gaussian(p: dict, modality, batch, present, training: bool):
  """Mean and log variance f[B, H] of one modality."""
  if "Encoder_0" in p:
    code = layers.encode(p["Encoder_0"], modality, batch, present, training)
  else:
    x, length = batch.inputs[modality.name], batch.length[modality.name]
    length = torch.where(present, length, 0)
    run = run_transformer if "Transformer_0" in p else run_lstm
    code = run(p, x * layers.step_mask(x, length), length, training)
  ends = dense(p["Dense_0"], code)
  # The mean is the code itself, except of a transformer.
  mean, logvar = ends.chunk(2, -1) if "Transformer_0" in p else (code, ends)
  return mean, (logvar - 3.0).clamp(-10.0, 10.0)


def run_transformer(p: dict, x, length, training: bool):
  """Blocks on the real steps of a sequence; the sigmoid of their mean."""
  h, real = dense(p["Transformer_0"]["Dense_0"], x), layers.step_mask(x, length)
  bias = torch.where(real[..., 0], 0.0, -1e30)[:, None, None]
  for block in p["Transformer_0"]["ScanBlock_0"]:
    h = h + norm(block["LayerNorm_0"], attend(block, norm(block["LayerNorm_1"], h), bias, training))
    wide = F.relu(dense(block["Dense_2"], norm(block["LayerNorm_2"], h)))
    fed = dense(block["Dense_3"], F.dropout(wide, 0.1, training))
    h = h + norm(block["LayerNorm_3"], fed)
  return ((h * real).sum(1) / length.clamp(min=1)[:, None]).sigmoid()


def attend(p: dict, h, bias, training: bool):
  """Attention of 8 heads."""
  by_head = dense(p["Dense_0"], h).unflatten(-1, (8, -1)).transpose(1, 2)
  rate = 0.2 if training else 0.0
  out = F.scaled_dot_product_attention(*by_head.chunk(3, -1), bias, rate)
  return dense(p["Dense_1"], out.transpose(1, 2).flatten(2))


def run_lstm(p: dict, x, length, training: bool):
  """The largest state of each cell of an LSTM over the real steps."""
  h, _ = p["Lstm_0"]["OptimizedLSTMCell_0"](x)
  return F.dropout(layers.step_max(h, length), DROPOUT["sequence"], training)


def impute(p: dict, x):
  """A cascade of residual auto-encoders, (u, o) -> (u + o, its reconstruction), and two layers."""
  u, o = x, torch.zeros_like(x)
  for auto_encoder in p["ScanAutoEncoder_0"]:
    u = o = u + o
    for i in range(6):
      o = dense(auto_encoder[f"Dense_{i}"], F.leaky_relu(o, 0.01) if i in (1, 2) else o)
      o = F.relu(o) if i in (3, 4) else o
  return layers.mlp(p, u + o)


class Twin(layers.Twin):
  def encode(self, batch):
    """Mean and log variance f[B, M, H]."""
    codes = [
      encode_gaussian(self.p[f"encoders_{i}"], m, batch, batch.present[:, i], self.training)
      for i, m in enumerate(self.modalities)
    ]
    return tuple(torch.stack(x, 1) for x in zip(*codes, strict=True))

  def compose(self, z, visible):
    """(r, imputed) f[P, B, M, H] where rows show the modalities `visible` bool[P, B, M]."""
    sources = torch.where(visible[..., None], z.detach(), self.p["absent"])
    imputed = []
    for i in range(len(self.modalities)):
      others = torch.cat([sources[:, :, :i], sources[:, :, i + 1 :]], 2)
      imputed.append(impute(self.p[f"imputers_{i}"], others.flatten(2)))
    imputed = torch.stack(imputed, 2)
    return torch.where(visible[..., None], z, imputed), imputed

  def predict(self, batch):
    """Logits f[B, C]."""
    mean, _ = self.encode(batch)
    r, _ = self.compose(mean, batch.present[None])
    return layers.mlp(self.p["joint_head"], r.flatten(2))[0]

  def loss(self, batch, state, progress, draws):
    """The loss, and the next state of the upper level. `draws` are the noise f[B, M, H] and the
    visible modalities bool[P, B, M], empty: new ones."""
    c, present, labelled = self.config, batch.present, batch.labelled
    mean, logvar = self.encode(batch)
    noise, visible = draws or (torch.randn_like(mean), self.draw_visible(present))
    z = mean + (0.5 * logvar).exp() * noise
    r, imputed = self.compose(z, visible)
    mask = labelled & visible.any(-1)
    error = lambda head, x: layers.class_loss(layers.mlp(self.p[head], x), batch.label, mask).sum()
    total = error("joint_head", r.flatten(2))
    for i, x in enumerate(r.unbind(2)):
      total = total + c.unimodal_weight * error(f"unimodal_heads_{i}", x)
    total = total / mask.sum().clamp(min=1)
    recorded, count = present[..., None], present.sum(0)
    losses = ((imputed - z.detach()) * recorded).square().mean(-1).sum((0, 1))
    losses = losses / (len(visible) * count).clamp(min=1)
    state = move_beta(c, losses.detach(), state, count > 0)
    divergence = (mean.square() + logvar.exp() - 1 - logvar) * recorded
    total = total + c.kl_weight * divergence.sum((1, 2)).mean()
    return total + c.imputation_weight * (state["upper"] * losses).sum(), state

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
  beta, controller = state["upper"], state["controller"]
  average, step = controller
  average = torch.where(seen, 0.3 * average + 0.7 * losses, average)
  mean = average.mean()
  advantage = torch.where(mean > 0, (mean - average) / mean, 0.0)
  moved = (beta - config.beta_step * advantage).clamp(min=0.1)
  beta = torch.where(step % config.beta_every == 0, moved / moved.norm(), beta)
  return {"upper": beta, "controller": controller._replace(mean_loss=average, step=step + 1)}
