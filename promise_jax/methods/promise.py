"""PROMISE-style: prompts generate what is absent, contrast on two levels ties it in.

After the method figure of PROMISE (AAAI 2026, arXiv 2511.10997); its body was not
available and there is no code. From the figure: the order of the blocks, what is
learned, one set of prompts a modality, which elements pull and push, two views, no
prompts where a modality is present. Ours: every equation, size and weight. So it is
reconstructed from the figure, and no result of the paper is known.

  z^m = E_m(x^m) + e_m, or Dense(LN(h^m)) + e_m + positions, of steps h^m (`nn.steps`)
  R^m = z^m if present, else generated     `nn.prompts`, from what is present
  FNCL of norm(phi_F(mean R^m)): elements of one row pull, those of other rows push
  CCCL of norm(phi_C(mean R^m)), inside each modality: rows of one class pull
  Y^m = layers in which R^m asks the R of the others;  Z^m = layers that ask themselves
  logits = W' dropout(tanh(W [mean Z^1 .. mean Z^M]))
  L = L_task + fncl L_FNCL + cccl L_CCCL, L_task the mean over the views

LN is there only with `norm`, which is off by default. Encoder features get no gradient
where the encoder is "frozen", because they are data; by default encoders are trained.

Views: the row as it is and augmented ones (`augment`), of which prediction sees the
first alone. With `hide` (ours, not in the figure) an augmented view may also lose a
part of what the row has: it is generated on complete rows too, and its real twin in the
first view is one of its positives. Else prompts learn from incomplete rows only.

The default is for few rows, and departs from the figure: encoders, frozen there, are
trained; on validation of emoji and mfeat both kinds of layers and the augmentation cost
more than they gave, so it has none of them (Y = Z = R; views differ by what they hide
and by the noise of the encoders); contrasts have a weight of 1 and a temperature of .5,
there are 3 views and 2 prompts. The preset "clip" has all blocks, at the sizes of CLIP
features.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_choice
from promise_jax.losses import hierarchical_contrast, supervised
from promise_jax.method import Method, Stage, StepInfo, no_preprocessing
from promise_jax.methods import common
from promise_jax.nn import attention, augment, encoders, image_features, precision, promise_prompts
from promise_jax.nn import tokens as nn_tokens
from promise_jax.optim import optimizer, update_rules
from promise_jax.types import Array, Average, Batch, Inputs, Modality, Spec

GENERATE = (*promise_prompts.GENERATORS, "none")
PROJECT = ("separate", "shared", "identity")


@dataclasses.dataclass(frozen=True)
class PromiseConfig:
  """Settings, all ours; sizes, weights, views and what is left out by validation.

  `hidden` d; `encoder` as in `nn.steps`. `generate` as in `nn.prompts`, or "none": what
  is absent is masked out; `prompts` K, `generator_layers` of "query". `cross_layers`,
  `self_layers`, how many; `heads` of all layers; `norm`: layer norm in them and before
  the projection. `fncl`, `cccl` the weights (0: not computed), `temperature`,
  `positives` of FNCL, `project` phi: two networks, one for both, or none, of `code`
  outputs; `label_width` in units of a regression label. `views`, of which all but the
  first are augmented with `strength` in [0, 1] and, with `hide`, lose modalities.
  `fuse` "concat" or "sum"; `dropout`; `prompt_rate` multiplies the learning rate of the
  prompts, which have no weight decay. `block` of `hierarchical.contrast`."""

  hidden: int = 64
  encoder: str = "pooled"
  generate: str = "query"
  prompts: int = 2
  heads: int = 4
  generator_layers: int = 1
  cross_layers: int = 0
  self_layers: int = 0
  norm: bool = False
  code: int = 32
  fncl: float = 1.0
  cccl: float = 1.0
  temperature: float = 0.5
  positives: str = "all"
  project: str = "separate"
  label_width: float = 0.5
  views: int = 3
  strength: float = 0.0
  hide: bool = True
  fuse: str = "concat"
  dropout: float = 0.1
  prompt_rate: float = 1.0
  block: int = 1024

  def __post_init__(self):
    """ValueError for a setting without meaning, with what is allowed."""
    check_choice("promise.encoder", self.encoder, nn_tokens.ENCODERS)
    check_choice("promise.generate", self.generate, GENERATE)
    check_choice("promise.positives", self.positives, hierarchical_contrast.POSITIVES)
    check_choice("promise.project", self.project, PROJECT)
    check_choice("promise.fuse", self.fuse, ("concat", "sum"))
    least = {
      **dict.fromkeys(("hidden", "prompts", "heads", "generator_layers"), 1),
      **dict.fromkeys(("code", "views", "block"), 1),
      **dict.fromkeys(("cross_layers", "self_layers", "fncl", "cccl"), 0),
      "prompt_rate": 0,
    }
    for field, low in least.items():
      check_at_least(f"promise.{field}", getattr(self, field), low)
    if self.hidden % self.heads:
      raise ValueError(
        f"promise.hidden is {self.hidden}, it must be a multiple of promise.heads, {self.heads}"
      )
    for field in ("temperature", "label_width"):
      if not getattr(self, field) > 0:
        value = getattr(self, field)
        raise ValueError(f"promise.{field} is {value}, it must be above 0")
    if not 0 <= self.strength <= 1:
      raise ValueError(f"promise.strength is {self.strength}, it must lie in [0, 1]")
    if not 0 <= self.dropout < 1:
      raise ValueError(f"promise.dropout is {self.dropout}, it must lie in [0, 1)")


class Project(nn.Module):
  """phi, f[..., H] -> f[..., D]; None as `outputs` leaves it as it is."""

  outputs: int | None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    if self.outputs is None:
      return x
    x = nn.gelu(nn.Dense(x.shape[-1])(x))
    return nn.Dense(self.outputs)(x)


class PromiseNet(precision.Network):
  """All that is learned. Rows, which may be views of one row, do not see each other."""

  modalities: tuple[Modality, ...]
  outputs: int
  config: PromiseConfig

  def setup(self):
    c, each = self.config, self.modalities
    self.encode = [nn_tokens.Tokeniser(m, c.hidden, c.encoder, c.norm) for m in each]
    if c.generate != "none":
      sizes = c.prompts, c.heads, c.generator_layers, c.norm
      self.fill = promise_prompts.Generate(c.generate, *sizes)
    width = None if c.project == "identity" else c.code
    self.instance = Project(width)
    self.label = Project(width) if c.project == "separate" else self.instance
    layers = lambda count: attention.Layers(count, c.heads, c.dropout, c.norm)
    self.cross = [layers(c.cross_layers) for _ in each]
    self.own = [layers(c.self_layers) for _ in each]
    self.last = [attention.Norm(c.norm) for _ in each]
    self.pool = nn.Dense(c.hidden)
    self.head = nn.Dense(self.outputs)

  def __call__(self, batch: Batch) -> tuple:
    tokens, real = self.filled(batch, batch.present)
    return self.codes(tokens, real), self.classify(tokens, real)

  def filled(self, batch: Batch, present: Array, pattern=None, key=None) -> tuple:
    """R, M arrays f[B, T_m, H], and which of it is real, M arrays bool[B, T_m]; what
    the static `pattern` lacks is not encoded."""
    tokens, real = [], []
    for i, (encode, m) in enumerate(zip(self.encode, self.modalities, strict=True)):
      if pattern is None or pattern[i]:
        z, there = encode(batch, present[:, i], key)
      else:
        there = jnp.zeros((len(present), nn_tokens.num_tokens(m, self.config.encoder)), bool)
        z = jnp.zeros((*there.shape, self.config.hidden))
      tokens, real = [*tokens, z], [*real, there]
    if self.config.generate == "none":
      return tokens, real
    return self.fill(tokens, real, present)

  def codes(self, tokens: list[Array], real: list[Array]) -> tuple[Array, Array]:
    """What FNCL and CCCL compare, f[B, M, D] each."""
    means = zip(tokens, real, strict=True)
    mean = jnp.stack([missing.masked_mean(x, r, 1) for x, r in means], axis=1)
    return self.instance(mean), self.label(mean)

  def classify(self, tokens: list[Array], real: list[Array], ids=None, key=None):
    """Logits f[B, C]; `key` and the `ids` [B] of the rows switch dropout on."""
    c, means = self.config, []
    draws = lambda name: None if key is None else encoders.row_dropout_keys(key, name, ids)
    for i, m in enumerate(self.modalities):
      y = tokens[i]
      if len(tokens) > 1:
        others = jnp.concatenate(tokens[:i] + tokens[i + 1 :], axis=1)
        there = jnp.concatenate(real[:i] + real[i + 1 :], axis=1)
        y = self.cross[i](y, there, others, draws(f"cross {m.name}"))
      z = self.own[i](y, real[i], None, draws(f"own {m.name}"))
      means.append(missing.masked_mean(self.last[i](z), real[i], 1))
    fused = sum(means) if c.fuse == "sum" else jnp.concatenate(means, axis=-1)
    pooled = encoders.row_dropout(jnp.tanh(self.pool(fused)), c.dropout, draws("head"))
    return self.head(pooled)


def views(config: PromiseConfig, spec: Spec, batch: Batch, key: Array) -> Inputs:
  """The inputs, length, present and id of B * V rows: row after row as it is, and its
  augmented views. A view has an id of its own, u32: V times that of the row, and on."""
  count = config.views
  hide_key, noise_key = jax.random.split(key)
  ids, present = batch.id, batch.present
  tags = ids.astype(jnp.uint32)[:, None] * count + jnp.arange(count, dtype=jnp.uint32)[None]
  shown = [present]
  for v in range(1, count):
    part = common.random_subset(jax.random.fold_in(hide_key, v), ids, present)
    shown.append(part if config.hide else present)
  inputs = {}
  for m in spec.modalities:
    x, length = batch.inputs[m.name], batch.length.get(m.name)
    seen = [jnp.repeat(x, count, axis=0).reshape(-1, count, *x.shape[1:])]
    if config.strength and count > 1:
      keys = encoders.row_dropout_keys(noise_key, m.name, tags[:, 1:].reshape(-1))
      again = [y if y is None else jnp.repeat(y, count - 1, axis=0) for y in (x, length)]
      new = augment.augment(m, *again, keys, config.strength)
      first = image_features.to_unit_range(x) if m.kind == "image" else x
      seen = [first[:, None], new.reshape(-1, count - 1, *x.shape[1:])]
    inputs[m.name] = jnp.concatenate(seen, axis=1).reshape(-1, *x.shape[1:])
  return Inputs(
    inputs=inputs,
    length={n: jnp.repeat(x, count, axis=0) for n, x in batch.length.items()},
    present=jnp.stack(shown, axis=1).reshape(-1, present.shape[1]),
    id=tags.reshape(-1),
  )


def promise_terms(
  config: PromiseConfig, net: PromiseNet, spec: Spec, params, batch: Batch, key: Array
) -> dict[str, Average]:
  """The terms of the loss: "sup" over rows and views, "fncl" and "cccl" where they have
  a weight."""
  view_key, net_key = jax.random.split(key)
  rows = views(config, spec, batch, view_key)
  shown, ids = rows.present, rows.id
  apply = lambda name, *args, **more: net.apply(params, *args, **more, method=name)
  tokens, real = apply("filled", rows, shown, key=net_key)
  logits = apply("classify", tokens, real, ids, net_key)
  known = batch.labelled
  label = supervised.known_label(batch.label, known)
  again = lambda x: jnp.repeat(x, config.views, axis=0)
  error = supervised.task_loss(logits, again(label), spec.task)
  where = again(known) & jnp.any(shown, axis=1)
  terms = {"sup": Average.of(error, where)}
  if not config.fncl + config.cccl:
    return terms
  counts = shown if config.generate == "none" else jnp.any(shown, 1, keepdims=True)
  by_row = lambda x: jnp.swapaxes(x.reshape(len(label), config.views, *x.shape[1:]), 1, 2)
  counts = by_row(jnp.broadcast_to(counts, shown.shape))
  instance, of_class = map(by_row, apply("codes", tokens, real))
  shared = {"temperature": config.temperature, "block": config.block}
  if config.fncl:
    terms["fncl"] = hierarchical_contrast.instance_contrast(
      instance,
      counts,
      batch.id,
      positives=config.positives,
      text=text_index(config, spec),
      **shared,
    )
  if config.cccl:
    terms["cccl"] = hierarchical_contrast.class_contrast(
      of_class,
      counts,
      batch.id,
      label,
      known,
      spec.task.kind,
      width=config.label_width,
      **shared,
    )
  return terms


def text_index(config: PromiseConfig, spec: Spec) -> int:
  """The modality whose views pull each other in "fig_edges": the first of tokens, or
  called "text". ValueError where it is asked for and there is none."""
  for i, m in enumerate(spec.modalities):
    if m.kind == "tokens" or m.name == "text":
      return i
  if config.positives == "fig_edges":
    raise ValueError(
      "promise.positives is fig_edges, which needs a modality of tokens or one called "
      f"text, found {', '.join(spec.names)}"
    )
  return 0


def promise(config: PromiseConfig, spec: Spec) -> Method:
  """PROMISE-style training as a `Method`; it keeps no model_state."""
  net = PromiseNet(spec.modalities, spec.task.outputs, config)
  text_index(config, spec)
  if config.generate == "memory":
    check_at_least("promise.generate is memory: modalities", len(spec.modalities), 2)
  weight = {"sup": 1.0, "fncl": config.fncl, "cccl": config.cccl}

  def init(key):
    return net.init(key, types.example_batch(spec)), {}

  def loss(params, model_state, batch: Batch, key, clock: StepInfo):
    del clock
    terms = promise_terms(config, net, spec, params, batch, key)
    total = sum(weight[name] * term.value for name, term in terms.items())
    return total, (model_state, terms)

  def update(stage, tx):
    return update_rules.gradient_update(
      stage, optimizer.scale_updates_of(tx, "prompts", config.prompt_rate)
    )

  def predict(params, model_state, batch: Batch, pattern=None):
    del model_state
    present = missing.restrict_to_pattern(batch.present, pattern)
    filled = net.apply(params, batch, present, pattern, method="filled")
    return {"logits": net.apply(params, *filled, method="classify")}

  raw = config.encoder != "pooled" or (config.strength and config.views > 1)
  prepare = no_preprocessing if raw else image_features.precompute
  return Method(init, predict, (Stage("train", loss, update=update),), prepare)
