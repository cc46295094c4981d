"""Distillation by several small networks, on mixed rows: for few labels and many unlabelled rows.

Not from a paper (ours), found on validation. K networks, the members, have parameters of their own
and the modules of Robult, without its contrast and reconstruction. They err on different rows, and
their mean p errs less: it teaches them all, and it predicts. With A a subset of the modalities of a
row, and full all of them, the head c_k of member k reads R_A,k:

  p(A) = mean_k c_k(R_A,k),  R_A,k = [U_i; Z_i] if A is {i}, else H_A

  L = mean_k [L_distil of member k, with the teacher p(full), + mix r(t) L_mix of member k]

L_distil is that of `distil`: labels train all subsets, and those that hide something learn from the
teacher. L_mix classifies mixtures of two rows. With a partner m for every row n, s ~ U(0, 1) and
l = max(s, 1 - s), both drawn anew in every step, and a random subset A of the modalities that both
rows have,

  t_n    = y_n if n is labelled, else stop_gradient(p(full) of n)
  L_mix  = mean_n D(l t_n + (1 - l) t_m, c_k(l R_A,k of n + (1 - l) R_A,k of m)).

So predictions become linear between rows, and classes meet where there are few rows. The ramp r and
the divergence D are those of `distil`.

Sources: of the network, the authors' picture of Robult, see `nn.branches`. Of the idea of L_mix,
Verma et al., "Interpolation consistency training for semi-supervised learning", IJCAI 2019, and
"Manifold mixup", ICML 2019; Berthelot et al., "MixMatch", NeurIPS 2019.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from promise_jax import types
from promise_jax.checks import check_fields
from promise_jax.losses import supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common
from promise_jax.methods.distil import DistilConfig, draw_subsets, subset_terms
from promise_jax.nn import image_features
from promise_jax.nn.branches import BranchNet, Codes
from promise_jax.types import Average, Batch, Inputs, Spec, Task


@dataclasses.dataclass(frozen=True)
class ShareConfig(DistilConfig):
  """Settings of `share`: those of `distil`, and two. Z_i has hidden // 2 numbers, U_i the rest."""

  members: int = 4  # K
  mix: float = 2.0  # weight of L_mix

  method: ClassVar[str] = "share"

  def __post_init__(self):
    super().__post_init__()
    check_fields(self, self.method, hidden=2, members=1, mix=0)


def draw_partners(
  key: Key[Array, ""], ids: Int[Array, " B"], where: Bool[Array, " B"]
) -> Int[Array, " B"]:
  """The partner of every row: the next in a random circle of the rows that `where` selects.

  The circle depends on the key and the ids, not on the order of the batch. Copies of a row have the
  next other row. The partner of a row that is not selected means nothing.
  """
  draws = jax.vmap(lambda k: jax.random.bits(k, (), jnp.uint32) >> 1)(common.row_keys(key, ids))
  selected = jnp.where(where, draws, jnp.uint32(2**32 - 1))
  circle = jnp.argsort(selected)
  place = jnp.searchsorted(selected[circle], draws, side="right")
  return circle[place % jnp.maximum(jnp.sum(where), 1)]


def as_logits(probability: Float[Array, "B C"], task: Task) -> Float[Array, "B C"]:
  """The inverse of `supervised.predict_probability`; probabilities of 0 and 1 are clipped."""
  if task.kind == "regression":
    return probability
  p = jnp.clip(probability, 1e-6, 1 - 1e-6)
  return jnp.log(p) if task.kind == "classes" else jnp.log(p) - jnp.log1p(-p)


def mean_prediction(logits: Float[Array, "K B C"], task: Task) -> Float[Array, "B C"]:
  """The mean prediction of K members, as logits.

  The mean of probabilities for classes and for each label, of numbers for regression.
  """
  if task.kind == "regression":
    return jnp.mean(logits, axis=0)
  if task.kind == "classes":
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) - jnp.log(len(logits)), axis=0)
  yes, no = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
  return jax.nn.logsumexp(yes, axis=0) - jax.nn.logsumexp(no, axis=0)


def share(config: ShareConfig, spec: Spec) -> Method:
  """The method, without model state; the leaves of `params` are stacked over members [K, ...]."""
  task = spec.task
  sizes = config.hidden, config.hidden // 2, config.head_hidden
  net = BranchNet(spec.modalities, task.outputs, *sizes)

  def init(key):
    batch = types.example_batch(spec)
    start = lambda k: net.init(k, batch, method=BranchNet.predict)
    return jax.vmap(start)(jax.random.split(key, config.members)), {}

  def mix_term(params, codes: Codes, teacher, batch: Batch, key) -> Average:
    """L_mix, over the rows that have a modality in common with their partner. `codes` are those of
    all members, [K, B, M, ...]."""
    partner_key, ratio_key, subset_key = jax.random.split(key, 3)
    there = jnp.any(batch.present, axis=1)
    partner = draw_partners(partner_key, batch.id, there)
    both = batch.present & batch.present[partner]
    visible = common.random_subset(subset_key, batch.id, both)
    keys = common.row_keys(ratio_key, batch.id)
    ratio = jax.vmap(lambda k: jax.random.uniform(k, minval=0.5))(keys)
    label = supervised.label_probability(common.mask_labels(batch).label, task)
    guess = supervised.predict_probability(jax.lax.stop_gradient(teacher), task)

    def mix(x):
      return jax.vmap(lambda r, a, b: r * a + (1 - r) * b)(ratio, x, x[partner])

    target = as_logits(mix(jnp.where((batch.labelled & there)[:, None], label, guess)), task)

    def error(params, codes):
      # R_A is affine in the codes, and l + (1 - l) = 1: to mix codes is to mix R_A.
      logits = net.apply(params, jax.tree.map(mix, codes), visible, method=BranchNet.classify)
      return supervised.distillation_loss(logits, target, task)

    where = there & jnp.any(both, axis=1)
    return Average.of(jnp.mean(jax.vmap(error)(params, codes), axis=0), where)

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    subset_key, dropout_key, mix_key = jax.random.split(key, 3)
    visible = draw_subsets(subset_key, batch.id, batch.present, config.samples)

    def classify(params, key):
      codes = net.apply(params, batch, rngs={"dropout": key}, method=BranchNet.encode)
      return codes, net.apply(params, codes, visible, method=BranchNet.classify)

    codes, logits = jax.vmap(classify)(params, jax.random.split(dropout_key, config.members))
    teacher = mean_prediction(logits[:, 0], task)
    terms = jax.vmap(lambda x: subset_terms(x, teacher, visible, batch, task))(logits)
    terms = jax.tree.map(lambda x: jnp.sum(x, axis=0), terms)
    terms["mix"] = mix_term(params, codes, teacher, batch, mix_key)
    ramp = common.linear_ramp(step_info.progress, config.ramp_start, config.ramp_end)
    weights = {
      "supervised": 1.0,
      "distil": config.weight * ramp,
      "mix": config.mix and config.mix * ramp,
    }
    return common.weighted_sum(terms, weights), (model_state, terms)

  def encode(params, inputs: Inputs):
    return jax.vmap(lambda p: net.apply(p, inputs, method=BranchNet.encode))(params)

  def predict(params, model_state, inputs: Inputs, pattern=None, codes=None):
    del model_state
    inputs = common.keep_pattern(inputs, pattern)
    run = lambda p, codes: net.apply(p, inputs, pattern, codes, method=BranchNet.predict)
    _, logits, fused = jax.vmap(run)(params, codes)
    return {"logits": mean_prediction(logits, task), "fused": jnp.concatenate([*fused], axis=-1)}

  preprocess = image_features.make_preprocess(spec.modalities)
  return Method(init, predict, (Stage("train", loss),), preprocess, encode)
