"""Robult-style training: soft positive-unlabelled contrast and latent reconstruction.

For training rows that are complete but mostly unlabelled, and test rows that lack modalities.
A branch f_0 reads several modalities, the others read one each. A module g_0 takes from every
branch what it shares with the others, g_i what modality i alone says, and one head c predicts:

  H_A = f_0(x_i for i in A),  S = g_0(H_A)            the modalities A together
  H_i = f_i(x_i),  Z_i = g_0(H_i),  U_i = g_i(H_i)     one modality
  logits(A) = c([U_i; Z_i]) if A is {i}, else c(H_A)

  L = L_sup + teach_weight L_teach + labelled_weight L_lb + unlabelled_weight L_ulb
      + reconstruction_weight L_rec

L_sup and L_teach are those of `distil`, over subsets A of a row and over its single modalities:
L_sup supervises c(H_A) and c([U_i; Z_i]) on labelled rows, L_teach is their divergence from c(H)
of all that the row has, which gets no gradient from it. L_lb and L_ulb contrast S of complete
rows with every Z_i, as unit vectors, for labelled and for unlabelled anchors (`losses.soft_pu`).
L_rec rebuilds H_i from (Z_i, U_i). S takes part in no prediction.

Source: "Robult: Leveraging Redundancy and Modality-Specific Features for Robust
Multimodal Learning", Nguyen, Kamboj, Do, IJCAI 2025, arXiv 2509.03477. The body of the
paper was not available. The authors' picture of the architecture (on the page of the second
author) shows f_i, f_0, g_0, g_i, one c for all branches, c(H) where all modalities are present and
c(U_i (+) Z_i) where one is. From the abstract and a summary we know the two objectives, from
reviews of an earlier version the names of the first four terms, the RBF kernel beside a
classifier and the protocol. The rest, every formula of a loss, (+) as concatenation, that f_0
reads two or more modalities of many, and L_teach, is ours: results are "Robult-style", not
"reproduced Robult".
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import types
from promise_jax.checks import check_at_least, check_fields
from promise_jax.losses import contrastive, reconstruction, soft_pu
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common
from promise_jax.methods.distil import draw_subsets, subset_terms
from promise_jax.nn import image_features
from promise_jax.nn.branches import BranchNet
from promise_jax.types import Average, Batch, Inputs, Spec


@dataclasses.dataclass(frozen=True)
class RobultConfig:
  """Settings of `robult`; all defaults are ours."""

  hidden: int = 64  # size of H_i and H_0
  shared: int = 32  # size of Z_i and S; U_i has the rest of `hidden`
  head_hidden: int = 64  # hidden layer of c
  own_encoders: bool = False  # True: f_0 has encoders of its own; False: it reads all H_i
  samples: int = 6  # random subsets of a row for f_0, where there are too many to use all
  contrast: soft_pu.ContrastKind = "softpu"  # see `soft_pu.contrast_weights`
  detach_shared: bool = True  # False: the contrast trains S, too
  temperature: float = 0.2  # of the contrast
  labelled_weight: float = 0.1  # of L_lb
  unlabelled_weight: float = 0.1  # of L_ulb
  reconstruction_weight: float = 0.1  # of L_rec
  teach_weight: float = 1.0  # of L_teach
  ramp_start: float = 0.1  # until this fraction of training, guesses and the teacher do not count
  ramp_end: float = 0.3  # from this fraction on, they count in full
  regression: soft_pu.RegressionKind = "sign"  # when two regression labels count as one class
  bank_size: int = 1024  # the most labelled rows whose codes the bank holds

  def __post_init__(self):
    sizes = dict.fromkeys(("hidden", "shared", "head_hidden", "samples", "bank_size"), 1)
    names = ("labelled_weight", "unlabelled_weight", "reconstruction_weight", "teach_weight")
    weights = dict.fromkeys((*names, "ramp_start"), 0)
    check_fields(self, "robult", **sizes, **weights, temperature=0.01)
    check_at_least("robult.ramp_end", self.ramp_end, self.ramp_start)
    if self.shared >= self.hidden:
      raise ValueError(
        f"robult.shared is {self.shared}, it must be below hidden {self.hidden}: "
        "the private code has the rest"
      )


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

  # In turn: mapped over modalities, rows change devices, and a step took 5 to 8 % longer.
  by_modality = [shared[:, i] for i in range(shared.shape[1])]
  error = jnp.stack([(contrast(teacher, z) + contrast(z, teacher)) / 2 for z in by_modality])
  rows = jnp.broadcast_to(complete, error.shape)
  return {
    "labelled": Average.of(error, rows & labelled[None]),
    "unlabelled": Average.of(error, rows & ~labelled[None]),
  }


def make_network(config: RobultConfig, spec: Spec) -> BranchNet:
  """The network of these sizes."""
  sizes = config.hidden, config.shared, config.head_hidden
  return BranchNet(spec.modalities, spec.task.outputs, *sizes, config.own_encoders)


def robult_terms(
  config: RobultConfig, spec: Spec, params, bank: soft_pu.Bank, batch: Batch, key, progress
) -> tuple[dict[str, Average], soft_pu.Bank]:
  """The terms of the loss, and the bank updated by the labelled rows of this batch."""
  net, task, batch = make_network(config, spec), spec.task, common.mask_labels(batch)
  subset_key, dropout_key = (None, None) if key is None else jax.random.split(key)
  rngs = {} if key is None else {"dropout": dropout_key}
  visible = draw_subsets(subset_key, batch.id, batch.present, config.samples)
  codes, logits, teacher, rebuilt = net.apply(params, batch, visible, rngs=rngs)
  complete, labelled, full_logits = jnp.all(batch.present, axis=1), batch.labelled, logits[0]
  alone = jnp.eye(len(spec.modalities), dtype=bool)[:, None] & batch.present[None]
  subsets = jnp.concatenate([visible, alone])
  terms = subset_terms(logits, full_logits, subsets, batch, task)
  terms["teach"] = terms.pop("distil")
  terms["reconstruction"] = reconstruction_term(rebuilt, codes.latent, batch.present)
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
    return net.init(key, batch, batch.present[None]), {"bank": bank}

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

  def encode(params, inputs: Inputs):
    return net.apply(params, inputs, method=BranchNet.encode)

  def predict(params, model_state, inputs: Inputs, pattern=None, codes=None):
    del model_state
    inputs = common.keep_pattern(inputs, pattern)
    codes, logits, fused = net.apply(params, inputs, pattern, codes, method=BranchNet.predict)
    return {"logits": logits, "fused": fused, "shared": codes.shared, "private": codes.private}

  preprocess = image_features.make_preprocess(spec.modalities)
  return Method(init, predict, (Stage("train", loss),), preprocess, encode)
