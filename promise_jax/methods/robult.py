"""Robult-style training: soft positive-unlabelled contrast and latent reconstruction.

For training rows that are complete but mostly unlabelled, and test rows that lack modalities.
One branch reads all modalities, the others read one each. A module g_0 takes from every branch
what it shares with the others, g_i what modality i alone says, and one head c predicts:

  H_0 = f_0(x_1 .. x_M),  S = g_0(H_0)                       all modalities
  H_i = f_i(x_i),  Z_i = g_0(H_i),  U_i = g_i(H_i)            one modality
  logits(A) = c(H_0) if A is complete, c([U_i; Z_i]) if A is {i},
              else the branches of A combined (`nn.branches`)

  L = L_sup + labelled_weight L_lb + unlabelled_weight L_ulb + reconstruction_weight L_rec
      + teach_weight L_teach

L_sup supervises c(H_0) and every c([U_i; Z_i]) on labelled rows. L_lb and L_ulb contrast S with
every Z_i, as unit vectors, for labelled and for unlabelled anchors (`losses.soft_pu`). L_rec
rebuilds H_i from (Z_i, U_i). L_teach is the divergence of every branch from c(H_0), the teacher,
which gets no gradient from it. S and g_0, g_i take no part where a row is complete. A row that
lacks a modality, on record or by a mask, has no H_0: it enters L_sup and L_rec by its branches.

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
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from promise_jax import missing, types
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
  own_encoders: bool = True  # False: f_0 reads the codes H_i
  combine: CombineKind = "logits"  # how branches of an incomplete row are combined
  decoder: Literal["mlp", "identity"] = "mlp"  # identity: [U_i; Z_i] itself shall be H_i
  contrast: soft_pu.ContrastKind = "softpu"  # see `soft_pu.contrast_weights`
  detach_shared: bool = True  # False: the contrast trains S, too
  temperature: float = 0.2  # of the contrast
  labelled_weight: float = 1.0  # of L_lb
  unlabelled_weight: float = 1.0  # of L_ulb
  reconstruction_weight: float = 1.0  # of L_rec
  teach_weight: float = 0.0  # of L_teach
  supervised_patterns: Literal["singles", "all"] = "singles"  # singles has the complete row, too
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


def make_supervised_masks(kind: str, num_modalities: int) -> np.ndarray:
  """The subsets of L_sup as masks bool[P, M], the full one first."""
  if kind == "all" or num_modalities == 1:
    return np.array(missing.all_patterns(num_modalities)[::-1])
  return np.concatenate([np.ones((1, num_modalities), bool), np.eye(num_modalities, dtype=bool)])


def supervised_term(
  logits: Float[Array, "P B C"], batch: Batch, visible: Bool[Array, "P B M"], task: Task
) -> Average:
  """L_sup: the mean over subsets A of the mean loss of labelled rows with a modality of A."""
  error = jax.vmap(lambda x: supervised.task_loss(x, batch.label, task))(logits)
  where = jnp.any(visible, axis=-1) & batch.labelled[None]
  by_pattern = jax.vmap(Average.of)(error, where)
  return Average.of(by_pattern.value, by_pattern.count > 0)


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
  branch_logits: Float[Array, "B M C"], teacher: Float[Array, "B C"], where, task: Task
) -> Average:
  """L_teach: the divergence of the branches `where` bool[B, M] from c(H_0) of their row."""
  gap = jax.vmap(lambda x: supervised.distillation_loss(x, teacher, task), 1, 1)(branch_logits)
  return Average.of(gap, where)


def make_network(config: RobultConfig, spec: Spec) -> BranchNet:
  """The network of these sizes."""
  sizes = config.hidden, config.shared, config.head_hidden
  return BranchNet(spec.modalities, spec.task.outputs, *sizes, config.own_encoders)


def robult_terms(
  config: RobultConfig, spec: Spec, params, bank: soft_pu.Bank, batch: Batch, key, progress
) -> tuple[dict[str, Average], soft_pu.Bank]:
  """The terms of the loss, and the bank updated by the labelled rows of this batch."""
  net, task, batch = make_network(config, spec), spec.task, common.mask_labels(batch)
  masks = make_supervised_masks(config.supervised_patterns, batch.present.shape[1])
  visible = jnp.asarray(masks)[:, None] & batch.present[None]
  rngs = {} if key is None else {"dropout": key}
  rebuild = config.decoder == "mlp"
  codes, *by_branch, teacher, rebuilt = net.apply(params, batch, rebuild, rngs=rngs)
  rebuilt = rebuilt if rebuild else codes.by_modality
  logits, _ = classify_subsets(codes, *by_branch, visible, config.combine, task)
  complete, labelled = jnp.all(batch.present, axis=1), batch.labelled
  every_branch = jnp.broadcast_to(complete[:, None], batch.present.shape)
  terms = {
    "supervised": supervised_term(logits, batch, visible, task),
    "reconstruction": reconstruction_term(rebuilt, codes.latent, batch.present),
    "teach": teach_term(by_branch[0], logits[0], every_branch, task),
  }
  teacher, shared = contrastive.normalise(teacher), contrastive.normalise(codes.shared)
  fixed, full_logits = jax.lax.stop_gradient((teacher, logits[0]))
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
    return net.init(key, batch, config.decoder == "mlp"), {"bank": bank}

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
