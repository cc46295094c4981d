"""PROMISE-style: prompts generate what is absent, contrast on two levels ties it in.

Reconstructed from the method figure of PROMISE (AAAI 2026, arXiv 2511.10997): its body was not
available and there is no code. From the figure: the order of the blocks, what is learned, one set
of prompts for each modality, which elements pull and push, two views, no prompts where a modality
is present. Ours: every equation, size and weight. No result of the paper is known.

  z^m = tokens of modality m                        `nn.tokens`
  R^m = z^m if present, else generated              `nn.promise_prompts`
  FNCL of phi_F(mean R^m): elements of one row pull, those of other rows push
  CCCL of phi_C(mean R^m), inside each modality: rows of one class pull
  Y^m = layers in which R^m attends to the R of the others;  Z^m = layers of self-attention
  logits = W' dropout(tanh(W [mean Z^1 .. mean Z^M]))
  L = L_task + fncl_weight L_FNCL + cccl_weight L_CCCL, over all rows and views

Views are the row as it is and augmented ones. With `hide_views` (ours, not in the figure) an
augmented view also loses a part of what the row has: prompts learn from complete rows too, and
what they generate has its real twin in the first view.

  the figure                                  default here (for few rows)
  frozen encoder                              trained encoders
  cross and self layers, augmentation         none: on validation of emoji and mfeat they cost more
                                              than they gave
  2 views, weights and temperature unknown    3 views, weights 1, temperature .5, 2 prompts
The preset "clip" has all blocks of the figure, at the sizes of CLIP features.
"""

import dataclasses
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_fields, check_that
from promise_jax.losses import hierarchical_contrast, supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common
from promise_jax.nn import attention, augment, image_features, mlp, precision
from promise_jax.nn.dropout import Dropout
from promise_jax.nn.promise_prompts import Generate
from promise_jax.nn.tokens import Tokenizer
from promise_jax.optim import optimizer, update_rules
from promise_jax.types import Average, Batch, Inputs, Modality, Spec


@dataclasses.dataclass(frozen=True)
class PromiseConfig:
  hidden: int = 64  # width of every token
  encoder: Literal["pooled", "steps"] = "pooled"  # see `tokens.Tokenizer`
  # How absent tokens are generated; "none" masks them out.
  generate: Literal["query", "memory", "mix", "constant", "zeros", "none"] = "query"
  num_prompts: int = 2  # of each modality
  num_heads: int = 4  # of all attention
  num_cross_layers: int = 0  # layers in which modalities attend to one another
  num_self_layers: int = 0  # layers in which each modality attends to itself
  # Layer norms, in the layers and before the projection of tokens. On few rows they make much
  # of codes that are near zero because little was seen.
  norm: bool = False
  code_size: int = 32  # of what is contrasted
  fncl_weight: float = 1.0  # of the contrast of instances; 0: not computed
  cccl_weight: float = 1.0  # of the contrast of classes; 0: not computed
  temperature: float = 0.5  # of both contrasts
  num_views: int = 3  # views of a row; the first is the row as it is
  augment_strength: float = 0.0  # of all views but the first, in [0, 1]
  hide_views: bool = True  # all views but the first lose modalities
  dropout: float = 0.1  # in the layers and before the head
  prompt_lr_factor: float = 1.0  # multiplies the learning rate of prompts

  def __post_init__(self):
    ones = dict.fromkeys(("hidden", "num_prompts", "num_heads", "code_size", "num_views"), 1)
    zeros = ("num_cross_layers", "num_self_layers", "fncl_weight", "cccl_weight")
    check_fields(self, "promise", **ones, **dict.fromkeys(zeros, 0), prompt_lr_factor=0)
    hidden, temperature, strength = self.hidden, self.temperature, self.augment_strength
    is_multiple = hidden % self.num_heads == 0
    check_that("promise.hidden", hidden, is_multiple, "be a multiple of num_heads")
    check_that("promise.temperature", temperature, temperature > 0, "be above 0")
    check_that("promise.augment_strength", strength, 0 <= strength <= 1, "lie in [0, 1]")
    check_that("promise.dropout", self.dropout, 0 <= self.dropout < 1, "lie in [0, 1)")


class Output(NamedTuple):
  logits: Float[Array, "B C"]
  fused: Float[Array, "B H"]  # what the head reads
  instance_code: Float[Array, "B M D"]  # phi_F
  class_code: Float[Array, "B M D"]  # phi_C


class PromiseNet(precision.Network):
  """The whole network. Rows, which may be views of one row, do not see each other."""

  modalities: tuple[Modality, ...]
  num_outputs: int
  config: PromiseConfig

  def setup(self):
    c, each = self.config, self.modalities
    self.tokenizers = [Tokenizer(m, c.hidden, c.encoder, c.norm) for m in each]
    if c.generate != "none":
      self.generate = Generate(c.generate, c.num_prompts, c.num_heads, c.norm)
    self.instance_projection = mlp.Mlp((c.hidden, c.code_size), nn.gelu)
    self.class_projection = mlp.Mlp((c.hidden, c.code_size), nn.gelu)
    sizes = c.num_heads, c.dropout, c.norm
    self.cross_layers = [attention.Layers(c.num_cross_layers, *sizes) for _ in each]
    self.self_layers = [attention.Layers(c.num_self_layers, *sizes) for _ in each]
    self.norms = [attention.Norm(c.norm) for _ in each]
    self.pool, self.drop = nn.Dense(c.hidden), Dropout(c.dropout)
    self.head = nn.Dense(self.num_outputs)

  def __call__(self, inputs: Inputs, pattern=None, tokens=None) -> Output:
    """What the static `pattern` lacks is not encoded. `tokens`: what `tokenize` gives, if known."""
    tokens, masks = self.tokenize(inputs, pattern) if tokens is None else tokens
    if self.config.generate != "none":
      tokens, masks = self.generate(tokens, masks, inputs.present)
    logits, fused = self.classify(tokens, masks)
    means = [missing.masked_mean(x, m, 1) for x, m in zip(tokens, masks, strict=True)]
    means = jnp.stack(means, axis=1)
    return Output(logits, fused, self.instance_projection(means), self.class_projection(means))

  def tokenize(self, inputs: Inputs, pattern=None):
    """Tokens f[B, T_m, H] of every modality, and which are real."""
    pairs = []
    for i, encode in enumerate(self.tokenizers):
      if pattern is None or pattern[i]:
        pairs.append(encode(inputs, inputs.present[:, i]))
      else:
        shape = inputs.present.shape[0], encode.num_tokens()
        pairs.append((jnp.zeros((*shape, self.config.hidden)), jnp.zeros(shape, bool)))
    return [x for x, _ in pairs], [mask for _, mask in pairs]

  def classify(self, tokens, masks) -> tuple[Float[Array, "B C"], Float[Array, "B H"]]:
    means = []
    for i in range(len(self.modalities)):
      y = tokens[i]
      if len(tokens) > 1:
        others = jnp.concatenate(tokens[:i] + tokens[i + 1 :], axis=1)
        others_mask = jnp.concatenate(masks[:i] + masks[i + 1 :], axis=1)
        y = self.cross_layers[i](y, others_mask, others)
      z = self.self_layers[i](y, masks[i])
      means.append(missing.masked_mean(self.norms[i](z), masks[i], 1))
    pooled = jnp.tanh(self.pool(jnp.concatenate(means, axis=-1)))
    return self.head(self.drop(pooled)), pooled


def make_views(config: PromiseConfig, spec: Spec, batch: Batch, key: Key[Array, ""]) -> Inputs:
  """B * V rows: each row as it is, followed by its changed views. Every view has its own id."""
  num_rows, num_views = len(batch.id), config.num_views
  hide_key, augment_key = jax.random.split(key)
  repeat = lambda x: jnp.repeat(x, num_views, axis=0)
  view = jnp.arange(num_views, dtype=jnp.uint32)
  ids = (batch.id.astype(jnp.uint32)[:, None] * num_views + view[None]).reshape(-1)
  present = [batch.present]
  for v in range(1, num_views):
    subset = common.random_subset(jax.random.fold_in(hide_key, v), batch.id, batch.present)
    present.append(subset if config.hide_views else batch.present)
  length = {name: repeat(x) for name, x in batch.length.items()}
  inputs = {name: repeat(x) for name, x in batch.inputs.items()}
  if config.augment_strength and num_views > 1:
    is_first = jnp.tile(view == 0, num_rows)
    augment_keys = jax.random.split(augment_key, len(spec.modalities))
    for m, modality_key in zip(spec.modalities, augment_keys, strict=True):
      x, keys = inputs[m.name], common.row_keys(modality_key, ids)
      changed = augment.augment(m, x, length.get(m.name), keys, config.augment_strength)
      x = image_features.to_unit_range(x) if m.kind == "image" else x
      inputs[m.name] = jnp.where(is_first.reshape(-1, *(1,) * (x.ndim - 1)), x, changed)
  return Inputs(inputs, length, jnp.stack(present, axis=1).reshape(len(ids), -1), ids)


def promise_terms(
  net: PromiseNet, spec: Spec, params, batch: Batch, key: Key[Array, ""]
) -> dict[str, Average]:
  """Terms of the loss: "supervised" over rows and views, "fncl" and "cccl" if they weigh."""
  config = net.config
  view_key, net_key = jax.random.split(key)
  views = make_views(config, spec, batch, view_key)
  out = net.apply(params, views, rngs={"dropout": net_key})
  batch = common.mask_labels(batch)
  repeat = lambda x: jnp.repeat(x, config.num_views, axis=0)
  row_loss = supervised.task_loss(out.logits, repeat(batch.label), spec.task)
  has_input = jnp.any(views.present, axis=1)
  terms = {"supervised": Average.of(row_loss, repeat(batch.labelled) & has_input)}

  def by_row(x):  # [B * V, M, ...] -> [B, M, V, ...]
    return jnp.swapaxes(x.reshape(len(batch.id), config.num_views, *x.shape[1:]), 1, 2)

  # Generated elements count too, in every row that has something to generate them from.
  where = views.present
  if config.generate != "none":
    where = jnp.broadcast_to(has_input[:, None], where.shape)
  where, temperature = by_row(where), config.temperature
  if config.fncl_weight:
    terms["fncl"] = hierarchical_contrast.instance_contrast(
      by_row(out.instance_code), where, batch.id, temperature=temperature
    )
  if config.cccl_weight:
    labels = batch.label, batch.labelled, spec.task.kind
    terms["cccl"] = hierarchical_contrast.class_contrast(
      by_row(out.class_code), where, batch.id, *labels, temperature=temperature
    )
  return terms


def promise(config: PromiseConfig, spec: Spec) -> Method:
  """PROMISE-style training as a `Method` without a model_state."""
  if config.generate == "memory":
    check_at_least("promise.generate is memory: modalities", len(spec.modalities), 2)
  net = PromiseNet(spec.modalities, spec.task.outputs, config)
  weights = {"supervised": 1.0, "fncl": config.fncl_weight, "cccl": config.cccl_weight}

  def init(key):
    return net.init(key, types.example_batch(spec)), {}

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    del step_info
    terms = promise_terms(net, spec, params, batch, key)
    return common.weighted_sum(terms, weights), (model_state, terms)

  def update(stage, tx):
    tx = optimizer.scale_updates_of(tx, "prompts", config.prompt_lr_factor)
    return update_rules.gradient_update(stage, tx)

  encode = lambda params, inputs: net.apply(params, inputs, method=PromiseNet.tokenize)

  def predict(params, model_state, inputs: Inputs, pattern=None, codes=None):
    del model_state
    out = net.apply(params, common.keep_pattern(inputs, pattern), pattern, codes)
    return {"logits": out.logits, "fused": out.fused}

  reads_images = config.encoder == "steps" or (config.augment_strength and config.num_views > 1)
  preprocess = image_features.make_preprocess(() if reads_images else spec.modalities)
  # Without `Generate` nothing hides the tokens of what is absent.
  encode = encode if config.generate != "none" else None
  return Method(init, predict, (Stage("train", loss, update=update),), preprocess, encode)
