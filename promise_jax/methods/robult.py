"""Robult-style training: soft positive-unlabelled contrast and latent reconstruction.

For training rows that are complete but mostly unlabelled, and test rows that lack modalities.
One branch reads all modalities, the others read one each. A module g_0 takes from every branch
what it shares with the others, g_i what modality i alone says, and one head c predicts:

  H_0 = f_0(x_1 .. x_M),  S = g_0(H_0)                       all modalities
  H_i = f_i(x_i),  Z_i = g_0(H_i),  U_i = g_i(H_i)            one modality
  logits(A) = c(H_0) if A is complete, c([U_i; Z_i]) if A is {i},
              else the mean of the branches of A, by confidence (`nn.branches`)

  L = L_sup + labelled_weight L_lb + unlabelled_weight L_ulb + reconstruction_weight L_rec
      + teach_weight L_teach

L_sup supervises c(H_0) and every c([U_i; Z_i]) on labelled rows. L_lb and L_ulb contrast S with
every Z_i, as unit vectors, for labelled and for unlabelled anchors (`losses.soft_pu`). L_rec
rebuilds H_i from (Z_i, U_i). L_teach is the divergence of every branch from c(H_0), the teacher,
which gets no gradient from it. S takes part in no prediction. A row that lacks a modality, on
record or by a mask, has no H_0: its branches enter L_sup and L_rec.

Source: "Robult: Leveraging Redundancy and Modality-Specific Features for Robust
Multimodal Learning", Nguyen, Kamboj, Do, IJCAI 2025, arXiv 2509.03477. The body of the
paper was not available. The authors' picture of the architecture (on the page of the second
author) shows f_i, f_0, g_0, g_i, one c for all branches, c(H_0) where all modalities are present
and c(U_i (+) Z_i) where one is. From the abstract and a summary we know the two objectives, from
reviews of an earlier version the names of the first four terms, the RBF kernel beside a
classifier and the protocol. The rest, every formula of a loss, (+) as concatenation, what two or
more modalities of many predict, and L_teach, is ours: results are "Robult-style", not
"reproduced Robult".
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import types
from promise_jax.checks import check_at_least, check_fields
from promise_jax.losses import contrastive, reconstruction, soft_pu, supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common
from promise_jax.nn import image_features
from promise_jax.nn.branches import BranchNet, CombineKind, classify_subsets
from promise_jax.types import Average, Batch, Inputs, Spec, Task


@dataclasses.dataclass(frozen=True)
class RobultConfig:
  """Settings of `robult`; all defaults are ours."""

  hidden: int = 64  # size of H_i and H_0
  shared: int = 32  # size of Z_i and S; U_i has the rest of `hidden`
  head_hidden: int = 64  # hidden layer of c
  own_encoders: bool = False  # True: f_0 has encoders of its own; False: it reads all H_i
  combine: CombineKind = "confidence"  # how the branches of an incomplete row are weighted
  contrast: soft_pu.ContrastKind = "softpu"  # see `soft_pu.contrast_weights`
  detach_shared: bool = True  # False: the contrast trains S, too
  temperature: float = 0.2  # of the contrast
  labelled_weight: float = 1.0  # of L_lb
  unlabelled_weight: float = 1.0  # of L_ulb
  reconstruction_weight: float = 1.0  # of L_rec
  teach_weight: float = 1.0  # of L_teach
  ramp_start: float = 0.1  # until this fraction of training, guesses and the teacher do not count
  ramp_end: float = 0.3  # from this fraction on, they count in full
  regression: soft_pu.RegressionKind = "sign"  # when two regression labels count as one class
  bank_size: int = 1024  # the most labelled rows whose codes the bank holds

  def __post_init__(self):
    sizes = dict.fromkeys(("hidden", "shared", "head_hidden", "bank_size"), 1)
    names = ("labelled_weight", "unlabelled_weight", "reconstruction_weight", "teach_weight")
    weights = dict.fromkeys((*names, "ramp_start"), 0)
    check_fields(self, "robult", **sizes, **weights, temperature=0.01)
    check_at_least("robult.ramp_end", self.ramp_end, self.ramp_start)
    if self.shared >= self.hidden:
      raise ValueError(
        f"robult.shared is {self.shared}, it must be below hidden {self.hidden}: "
        "the private code has the rest"
      )


def supervised_term(
  branch_logits: Float[Array, "B M C"], full_logits: Float[Array, "B C"], batch: Batch, task: Task
) -> Average:
  """L_sup: the mean over c(H_0) and the branches of the mean loss of labelled rows that have it."""
  logits = jnp.concatenate([full_logits[:, None], branch_logits], axis=1)
  complete = jnp.all(batch.present, axis=1, keepdims=True)
  where = jnp.concatenate([complete, batch.present], axis=1) & batch.labelled[:, None]
  error = jax.vmap(lambda x: supervised.task_loss(x, batch.label, task), 1)(logits)
  by_branch = jax.vmap(Average.of)(error, where.T)
  return Average.of(by_branch.value, by_branch.count > 0)


def reconstruction_term(
  rebuilt: Float[Array, "B M H"], latent: Float[Array, "B M H"], present: Bool[Array, "B M"]
) -> Average:
  """L_rec: the mean over the modalities that occur in the batch."""
  error = jax.vmap(reconstruction.latent_reconstruction, in_axes=1)(rebuilt, latent, present)
  return Average.of(error, jnp.any(present, axis=0))


def contrast_terms(
  teacher: Float[Array, "B Z"],
  shared: Float[Array, "B M Z"],
  weights: tuple[Float[Array, "B B"], Float[Array, "B B"]],  # see `soft_pu.pair_weights`
  labelled: Bool[Array, " B"],
  complete: Bool[Array, " B"],
  temperature: float,
) -> dict[str, Average]:
  """L_lb and L_ulb: means over modalities and complete anchors, in both directions."""

  def contrast(anchor, candidate):
    return contrastive.affinity_contrast(anchor, candidate, *weights, complete, temperature)

  by_modality = [shared[:, i] for i in range(shared.shape[1])]
  error = jnp.stack([(contrast(teacher, z) + contrast(z, teacher)) / 2 for z in by_modality])
  rows = jnp.broadcast_to(complete, error.shape)
  return {
    "labelled": Average.of(error, rows & labelled[None]),
    "unlabelled": Average.of(error, rows & ~labelled[None]),
  }


def teach_term(
  branch_logits: Float[Array, "B M C"],
  full_logits: Float[Array, "B C"],
  complete: Bool[Array, " B"],
  task: Task,
) -> Average:
  """L_teach: the mean divergence of the branches of complete rows from c(H_0) of their row."""
  divergence = lambda x: supervised.distillation_loss(x, full_logits, task)
  gap = jax.vmap(divergence, 1)(branch_logits)
  return Average.of(gap, jnp.broadcast_to(complete, gap.shape))


def make_network(config: RobultConfig, spec: Spec) -> BranchNet:
  """The network of these sizes."""
  sizes = config.hidden, config.shared, config.head_hidden
  return BranchNet(spec.modalities, spec.task.outputs, *sizes, config.own_encoders)


def robult_terms(
  config: RobultConfig, spec: Spec, params, bank: soft_pu.Bank, batch: Batch, key, progress
) -> tuple[dict[str, Average], soft_pu.Bank]:
  """The terms of the loss, and the bank updated by the labelled rows of this batch."""
  net, task, batch = make_network(config, spec), spec.task, common.mask_labels(batch)
  rngs = {} if key is None else {"dropout": key}
  codes, branch_logits, full_logits, teacher, rebuilt = net.apply(params, batch, rngs=rngs)
  complete, labelled = jnp.all(batch.present, axis=1), batch.labelled
  terms = {
    "supervised": supervised_term(branch_logits, full_logits, batch, task),
    "reconstruction": reconstruction_term(rebuilt, codes.latent, batch.present),
    "teach": teach_term(branch_logits, full_logits, complete, task),
  }
  teacher, shared = contrastive.normalise(teacher), contrastive.normalise(codes.shared)
  fixed, full_logits = jax.lax.stop_gradient((teacher, full_logits))
  row_arrays = fixed, full_logits, batch.label, labelled, batch.id
  ramp = common.linear_ramp(progress, config.ramp_start, config.ramp_end)
  kinds = {"kind": config.contrast, "regression": config.regression}
  weights = soft_pu.pair_weights(*row_arrays, bank, task=task, where=complete, ramp=ramp, **kinds)
  teacher = fixed if config.detach_shared else teacher
  terms |= contrast_terms(teacher, shared, weights, labelled, complete, config.temperature)
  member, where = soft_pu.label_membership(batch.label, task), labelled & complete
  return terms, soft_pu.update_bank(bank, batch.bank_index, fixed, member, where)


def robult(config: RobultConfig, spec: Spec) -> Method:
  """Robult-style training as a `Method`; `model_state` holds the bank of labelled rows."""
  net = make_network(config, spec)

  def init(key):
    batch = types.example_batch(spec)
    bank_size = max(1, min(config.bank_size, spec.num_labelled))
    bank = soft_pu.init_bank(bank_size, config.shared, spec.task)
    return net.init(key, batch), {"bank": bank}

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    progress = step_info.progress
    terms, bank = robult_terms(config, spec, params, model_state["bank"], batch, key, progress)
    ramp = common.linear_ramp(progress, config.ramp_start, config.ramp_end)
    weights = {
      "supervised": 1.0,
      "labelled": config.labelled_weight,
      "unlabelled": config.unlabelled_weight,
      "reconstruction": config.reconstruction_weight,
      "teach": config.teach_weight and config.teach_weight * ramp,
    }
    return common.weighted_sum(terms, weights), ({"bank": bank}, terms)

  def predict(params, model_state, inputs: Inputs, pattern=None):
    del model_state
    inputs = common.keep_pattern(inputs, pattern)
    codes = net.apply(params, inputs, pattern, method=BranchNet.encode)
    by_branch = net.apply(params, codes, method=BranchNet.classify)
    logits, fused = classify_subsets(codes, *by_branch, inputs.present, config.combine, spec.task)
    return {"logits": logits, "fused": fused, "shared": codes.shared, "private": codes.private}

  return Method(init, predict, (Stage("train", loss),), image_features.precompute)
