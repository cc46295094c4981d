"""RedCore: Gaussian latents, cross-modal imputers, and weights by how hard imputing is.

For modalities that are missing at different rates. "RedCore: Relative Advantage Aware
Cross-modal Representation Learning for Missing Modalities with Imbalanced Missing Rates",
Sun, Zhang, Han, Ruan, Li, AAAI 2024, arXiv 2312.10386. The body of the paper was not available;
the equations are those of the released code.

  q(z|x^m) = N(mu_m, diag exp(logvar_m)),  z^m = mu_m + exp(logvar_m / 2) noise
  zhat^m   = G_m(latents of the other modalities),  r^m = z^m if present, else zhat^m
  logits   = Cls([r^1 .. r^M]),  unimodal logits = Cls_m(r^m)
  L = L_J + unimodal_weight sum_m L_U^m + kl_weight L_KL + imputation_weight sum_m beta_m L_R^m

L_J and L_U^m are the supervised losses of the heads, which through zhat^m train the imputers
too. L_KL is the information bottleneck of the present modalities, L_R^m the distance of zhat^m
from z^m where m is present. beta is set by an upper level (`redcore_upper`).

By default L_R and the heads teach the imputers, and through them no encoder (`detach_latents`,
ours). In the released code they do: a strong modality loses what weak ones cannot predict, because
nothing in the loss opposes that agreement, and RedCore falls behind `fusion`.

  released code, and with `as_released`       default
  mu is a layer on the code of the encoder    mu is that code, as in `fusion`
  heads of two hidden layers                  one, as in `fusion`
  an absent source is the code of zeros       a learned embedding
  latents are sampled at test                 mu at test
  transformers attend to padding              padding is masked
  L_R sums over the latent coordinates        L_R averages over them
  He's initial weights, first L_R ~ 1e6       zhat and residual branches start at 0
  logvar starts at 0, unbounded               starts at -3, within [-10, 10]
  rows with nothing present are supervised    they count in the denominator of L_KL alone
  the gradient of each module is clipped      one clip for all, from the settings

The preset "authors" sets `as_released` and what that code has: transformers, five auto-encoders,
dropout in the heads, imputation_weight .15, latents attached, a growing step of beta, no subsets.
Known limits of both: beta follows the losses of present modalities, not missing rates or the task;
a modality that no row has keeps an average loss of 0, looks easy, and its beta falls.
"""

import dataclasses
import functools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from promise_jax import types
from promise_jax.checks import check_fields, check_that
from promise_jax.losses import bottleneck, supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common, redcore_upper
from promise_jax.nn import image_features, imputers, precision
from promise_jax.nn.gaussian_encoder import GaussianEncoder, Head
from promise_jax.types import Average, Batch, Inputs, Modality, Spec, Task

TEST_NOISE_SEED = 0


@dataclasses.dataclass(frozen=True)
class RedcoreConfig:
  """Settings of `redcore`; defaults tuned on validation rows of all data sets (ours)."""

  hidden: int = 64  # size H of every latent
  encoder: Literal["pooled", "transformer", "lstm"] = "pooled"
  num_blocks: int = 3  # of a transformer
  imputer_hidden: int = 64  # widest layer of an auto-encoder; the next are a half, a quarter
  num_autoencoders: int = 1  # in the cascade of an imputer
  head_hidden: int = 64  # hidden layers of all heads
  head_dropout: float = 0.0  # in the hidden layers of all heads
  vib: bool = True  # False: z = mu and no L_KL
  kl_weight: float = 8e-4  # of L_KL
  imputation_weight: float = 1.0  # of the sum of beta_m L_R^m
  unimodal_weight: float = 1.0  # of the sum of L_U^m
  detach_latents: bool = True  # no gradient of L_R and of zhat to z
  # Random subsets of each row on which heads and imputers are also trained (ours): modality
  # dropout, without which `fusion` is better.
  num_subsets: int = 2
  upper: Literal["relative_advantage", "hypergradient", "none"] = "relative_advantage"
  beta_step: float = 0.1  # for this and the next two see `relative_advantage.controller`
  beta_growth: float = 1.0  # factor of the step at every 500th move
  beta_every: int = 3  # training steps between two moves of beta
  hypergradient_lr: float = 0.02  # learning rate of beta
  hypergradient_from: int = 20  # the first step of the run at which this moves beta
  as_released: bool = False  # the left column of the table above

  def __post_init__(self):
    sizes = dict.fromkeys(
      ("hidden", "num_blocks", "num_autoencoders", "head_hidden", "beta_every"), 1
    )
    weights = dict.fromkeys(("kl_weight", "imputation_weight", "unimodal_weight"), 0)
    steps = {"beta_step": 0, "beta_growth": 0, "hypergradient_lr": 0, "hypergradient_from": 1}
    check_fields(self, "redcore", **sizes, **weights, **steps, imputer_hidden=4, num_subsets=0)
    rate = self.head_dropout
    check_that("redcore.head_dropout", rate, 0 <= rate < 1, "lie in [0, 1)")
    if self.num_subsets and self.as_released:
      raise ValueError(
        f"redcore.num_subsets is {self.num_subsets}, it must be 0 with redcore.as_released: "
        "what stands for an absent source is computed from the row"
      )


class RedcoreNet(precision.Network):
  """Encoders q, imputers G_m and heads Cls and Cls_m."""

  modalities: tuple[Modality, ...]
  num_outputs: int
  config: RedcoreConfig

  def setup(self):
    c, num_modalities = self.config, len(self.modalities)
    encoder = lambda m: GaussianEncoder(m, c.hidden, c.encoder, c.num_blocks, c.as_released)
    self.encoders = [encoder(m) for m in self.modalities]
    self.absent = self.param("absent", nn.initializers.normal(0.02), (num_modalities, c.hidden))
    widths = c.imputer_hidden, c.imputer_hidden // 2, c.imputer_hidden // 4
    imputer = lambda: imputers.Imputer(c.hidden, widths, c.num_autoencoders, c.as_released)
    self.imputers = [imputer() for _ in self.modalities] if num_modalities > 1 else []
    head = lambda: Head(self.num_outputs, c.head_hidden, c.head_dropout, c.as_released)
    self.joint_head, self.unimodal_heads = head(), [head() for _ in self.modalities]

  def __call__(self, inputs: Inputs, pattern=None, noise_key=None, z=None):
    """Joint logits f[B, C], unimodal logits f[M, B, C] and composites r f[B, M, H]; `z` are the
    latents if they are known."""
    z = self.latents(inputs, pattern, noise_key)[0] if z is None else z
    imputed = self.impute_all(z, inputs.present)
    r = bottleneck.compose_latents(z, imputed, inputs.present)
    return *self.classify(r), r

  def latents(self, inputs: Inputs, pattern=None, noise_key=None):
    """z, mu, logvar f[B, M, H] each. Without `noise_key` z is mu."""
    c, codes = self.config, []
    blank = jnp.zeros((inputs.present.shape[0], c.hidden))
    for i, encode in enumerate(self.encoders):
      # The code of zeros stands for an absent source in the released code: never left out.
      is_used = pattern is None or pattern[i] or c.as_released
      codes.append(encode(inputs, inputs.present[:, i]) if is_used else (blank, blank))
    mean, logvar = (jnp.stack(x, axis=1) for x in zip(*codes, strict=True))
    if noise_key is None or not c.vib:
      return mean, mean, logvar
    # One key per id, so that a prediction does not depend on its batch.
    keys = common.row_keys(noise_key, inputs.id)
    noise = jax.vmap(lambda k: jax.random.normal(k, mean.shape[1:]))(keys)
    return bottleneck.reparameterise(mean, logvar, noise), mean, logvar

  def impute_all(self, z: Float[Array, "B M H"], visible) -> Float[Array, "B M H"]:
    """zhat: every latent from those of the others; with M = 1 the embedding of absence."""
    z = jax.lax.stop_gradient(z) if self.config.detach_latents else z
    embedding = jnp.broadcast_to(self.absent, z.shape)
    if not self.config.as_released:
      z = jnp.where(visible[..., None], z, embedding)
    if z.shape[1] == 1:
      return embedding
    others = [[z[:, j] for j in range(z.shape[1]) if j != i] for i in range(z.shape[1])]
    pairs = zip(self.imputers, others, strict=True)
    return jnp.stack([impute(jnp.concatenate(x, axis=-1)) for impute, x in pairs], axis=1)

  def classify(self, r: Float[Array, "B M H"]) -> tuple[Float[Array, "B C"], Float[Array, "M B C"]]:
    """Joint and unimodal logits."""
    joint = self.joint_head(r.reshape(r.shape[0], -1))
    return joint, jnp.stack([head(r[:, i]) for i, head in enumerate(self.unimodal_heads)])


def redcore_terms(
  net: RedcoreNet, task: Task, params, batch: Batch, key: Key[Array, ""]
) -> dict[str, Average]:
  """Terms of the loss: "supervised" L_J, "unimodal" the sum of the L_U^m, "kl", and
  "imputation" with a total and a count f[M]."""
  config = net.config
  subset_key, noise_key, encoder_key, head_key = jax.random.split(key, 4)
  present, labelled = batch.present & batch.row_mask[:, None], batch.labelled & batch.row_mask
  batch = common.mask_labels(batch.replace(present=present, labelled=labelled))
  rngs = {"dropout": encoder_key}
  z, mean, logvar = net.apply(
    params, batch, noise_key=noise_key, rngs=rngs, method=RedcoreNet.latents
  )
  # With M = 1 zhat is a learned embedding, and L_R must not pull z to it.
  is_detached = config.detach_latents or len(net.modalities) == 1
  target = jax.lax.stop_gradient(z) if is_detached else z
  average = not config.as_released
  imputation_loss = functools.partial(bottleneck.imputation_loss, average=average)

  rngs = {"dropout": head_key}  # the same dropout for all subsets
  row_loss = lambda logits: supervised.task_loss(logits, batch.label, task)

  def terms_under(visible):
    imputed = net.apply(params, z, visible, method=RedcoreNet.impute_all)
    r = bottleneck.compose_latents(z, imputed, visible)
    logits, each = net.apply(params, r, rngs=rngs, method=RedcoreNet.classify)
    where = batch.labelled & (jnp.any(visible, axis=1) | config.as_released)
    return {
      "supervised": Average.of(row_loss(logits), where),
      "unimodal": Average.of(jnp.sum(jax.vmap(row_loss)(each), axis=0), where),
      "imputation": imputation_loss(imputed, target, batch.present),
    }

  # P = 1 + num_subsets masks bool[P, B, M]
  visible = common.random_subsets(subset_key, batch.id, batch.present, config.num_subsets)
  terms = jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(terms_under)(visible))
  return terms | {"kl": bottleneck.bottleneck_loss(mean, logvar, batch.present, batch.row_mask)}


def redcore(config: RedcoreConfig, spec: Spec) -> Method:
  """RedCore as a `Method`."""
  net = RedcoreNet(spec.modalities, spec.task.outputs, config)
  kl_weight, unimodal_weight = config.kl_weight * config.vib, config.unimodal_weight
  weights = {"supervised": 1.0, "unimodal": unimodal_weight, "kl": kl_weight}

  def init(key):
    params = net.init(key, types.example_batch(spec))
    return params, redcore_upper.init_state(config, len(spec.modalities))

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    del step_info
    terms = redcore_terms(net, spec.task, params, batch, key)
    losses = terms.pop("imputation")
    model_state, metrics = redcore_upper.move_beta(config, spec.names, model_state, losses)
    imputation = config.imputation_weight * jnp.sum(model_state["upper"] * losses.value)
    return common.weighted_sum(terms, weights) + imputation, (model_state, terms | metrics)

  def held_out_loss(params, batch: Batch, key):
    terms = redcore_terms(net, spec.task, params, batch, key)
    return terms["supervised"].value + unimodal_weight * terms["unimodal"].value

  def encode(params, inputs: Inputs):
    return net.apply(params, inputs, method=RedcoreNet.latents)[0]

  def predict(params, model_state, inputs: Inputs, pattern=None, codes=None):
    del model_state
    inputs = common.keep_pattern(inputs, pattern)
    noise_key = jax.random.key(TEST_NOISE_SEED) if config.as_released else None
    logits, _, r = net.apply(params, inputs, pattern, noise_key, codes)
    return {"logits": logits, "fused": r.reshape(r.shape[0], -1), "composite": r}

  is_pooled = config.encoder == "pooled"
  preprocess = image_features.make_preprocess(spec.modalities if is_pooled else ())
  update = functools.partial(redcore_upper.make_update, config, held_out_loss)
  stages = (Stage("train", loss, update=update),)
  return Method(init, predict, stages, preprocess, None if config.as_released else encode)
