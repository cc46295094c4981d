"""Robult-style training: soft positive-unlabelled contrast and latent reconstruction.

For training rows that are complete but mostly unlabelled, and test rows that lack modalities.
The branch of each modality learns from a branch that reads all modalities; a private code
preserves what this alignment would erase. |x| is x scaled to length 1:

  H_i = f_i(x_i),  Z_i = |c(H_i)|,  U_i = g_i(H_i)         one modality
  H_0 = f_0(x_1 .. x_M),  S = |c(H_0)|                     all of them
  shared(A) = S if A is complete, else |mean_{i in A} Z_i|
  logits(A) = head([shared(A); |U_i| where i in A, else 0])

  L = L_sup + labelled_weight L_lb + unlabelled_weight L_ulb + reconstruction_weight L_rec

L_sup supervises the logits of several subsets A of a labelled row. L_lb and L_ulb contrast S
with every Z_i, for labelled and for unlabelled anchors (`losses.soft_pu`); S, the teacher, gets
no gradient from them. L_rec reconstructs H_i from (Z_i, U_i). Rows that lack a modality enter
L_sup and L_rec only.

Source: "Robult: Leveraging Redundancy and Modality-Specific Features for Robust
Multimodal Learning", Nguyen, Kamboj, Do, IJCAI 2025, arXiv 2509.03477. The body of the
paper was not available. From the abstract and a summary we know the two objectives, f_i, f_0
and g_i; from reviews of an earlier version the names of the four terms, the RBF kernel beside
a classifier and the protocol. The rest, every formula included, is ours: results are
"Robult-style", not "reproduced Robult".
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_fields
from promise_jax.losses import contrastive, reconstruction, soft_pu, supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common
from promise_jax.nn import image_features, mlp, precision
from promise_jax.nn.modality_encoders import ModalityEncoders
from promise_jax.types import Average, Batch, Inputs, Modality, Spec, Task


@dataclasses.dataclass(frozen=True)
class RobultConfig:
  """Settings of `robult`; all defaults are ours."""

  hidden: int = 64  # size of H_i and H_0
  shared: int = 32  # size of Z_i and S
  private: int = 32  # size of U_i, below `hidden`
  head_hidden: int = 64  # hidden layer of the head
  own_encoders: bool = True  # False: f_0 uses the encoders f_i, and the contrast harms it
  contrast: soft_pu.ContrastKind = "softpu"  # see `soft_pu.contrast_weights`
  detach_shared: bool = True  # False: the contrast trains S, too
  temperature: float = 0.2  # of the contrast
  labelled_weight: float = 1.0  # of L_lb
  unlabelled_weight: float = 1.0  # of L_ulb
  reconstruction_weight: float = 1.0  # of L_rec
  supervised_patterns: Literal["full", "singles", "all"] = "singles"  # singles has full, too
  ramp_start: float = 0.1  # until this fraction of training, guessed labels have no weight
  ramp_end: float = 0.3  # from this fraction on, they have full weight
  regression: soft_pu.RegressionKind = "sign"  # when two regression labels count as one class
  bank_size: int = 1024  # the most labelled rows whose codes the bank holds

  def __post_init__(self):
    sizes = dict.fromkeys(("hidden", "shared", "private", "head_hidden", "bank_size"), 1)
    names = ("labelled_weight", "unlabelled_weight", "reconstruction_weight", "ramp_start")
    check_fields(self, "robult", **sizes, **dict.fromkeys(names, 0), temperature=0.01)
    check_at_least("robult.ramp_end", self.ramp_end, self.ramp_start)
    if self.private >= self.hidden:
      raise ValueError(
        f"robult.private is {self.private}, it must be below hidden {self.hidden}: "
        "else the private code can copy its input and reconstruction is trivial"
      )


class Codes(NamedTuple):
  """Codes of a batch, 0 where a row lacks the modality. Z and U are sizes of codes."""

  latent: Float[Array, "B M H"]  # H_i
  shared: Float[Array, "B M Z"]  # Z_i
  private: Float[Array, "B M U"]  # U_i
  fused: Float[Array, "B Z"] | None  # S; None where a static pattern is incomplete


class RobultNet(precision.Network):
  """The modules f_i, f_0, c, g_i, the decoders q_i of L_rec, and the head."""

  modalities: tuple[Modality, ...]
  num_outputs: int
  config: RobultConfig

  def setup(self):
    c = self.config
    self.encoders = ModalityEncoders(self.modalities, c.hidden)
    if c.own_encoders:
      self.fused_encoders = ModalityEncoders(self.modalities, c.hidden)
    self.fuse = mlp.Mlp((c.hidden, c.hidden))
    self.shared_head = mlp.Mlp((c.hidden, c.shared))
    self.private_heads = [mlp.Mlp((c.hidden, c.private)) for _ in self.modalities]
    self.decoders = [mlp.Mlp((c.hidden, c.hidden)) for _ in self.modalities]
    self.classifier = mlp.Mlp((c.head_hidden, self.num_outputs))

  def __call__(self, inputs: Inputs, visible: Bool[Array, "*P B M"]):
    """Logits f[*P, B, C] under the masks `visible`, codes, and the reconstructed H_i."""
    codes = self.encode(inputs)
    return self.classify(codes, visible)[0], codes, self.decode(codes)

  def encode(self, inputs: Inputs, pattern=None) -> Codes:
    """All codes of a batch; modalities that a static `pattern` lacks are not computed."""
    c, pattern_or_full = self.config, pattern or (True,) * len(self.modalities)
    latent = self.encoders(inputs, pattern)
    zeros = lambda size: jnp.zeros((latent.shape[0], size))
    shared, private = [], []
    for i, head in enumerate(self.private_heads):
      shared.append(self.project(latent[:, i]) if pattern_or_full[i] else zeros(c.shared))
      private.append(head(latent[:, i]) if pattern_or_full[i] else zeros(c.private))
    codes = latent, jnp.stack(shared, axis=1), jnp.stack(private, axis=1)
    latent, shared, private = (missing.zero_absent(x, inputs.present) for x in codes)
    fused = None
    if all(pattern_or_full):
      to_fuse = self.fused_encoders(inputs) if c.own_encoders else latent
      fused = self.project(self.fuse(to_fuse.reshape(to_fuse.shape[0], -1)))
    return Codes(latent, shared, private, fused)

  def project(self, latent: Float[Array, "B H"]) -> Float[Array, "B Z"]:
    """|c(H)|, for all branches."""
    return contrastive.normalise(self.shared_head(latent))

  def decode(self, codes: Codes) -> Float[Array, "B M H"]:
    """H_i from (Z_i, U_i). Z_i gets no gradient, so that the private code must learn."""
    both = jnp.concatenate([jax.lax.stop_gradient(codes.shared), codes.private], axis=-1)
    return jnp.stack([q(both[:, i]) for i, q in enumerate(self.decoders)], axis=1)

  def classify(self, codes: Codes, visible: Bool[Array, "*P B M"]):
    """Logits f[*P, B, C] from the codes that are `visible`, and what the head reads of them."""
    expand = lambda x: jnp.broadcast_to(x, (*visible.shape, x.shape[-1]))
    shared = missing.masked_mean(expand(codes.shared), visible[..., None], -2)
    shared = contrastive.normalise(shared)
    if codes.fused is not None:
      shared = jnp.where(jnp.all(visible, axis=-1)[..., None], codes.fused, shared)
    private = expand(contrastive.normalise(codes.private))
    private = jnp.where(visible[..., None], private, 0).reshape(*visible.shape[:-1], -1)
    both = jnp.concatenate([shared, private], axis=-1)
    return self.classifier(both), both


def make_supervised_masks(kind: str, num_modalities: int) -> np.ndarray:
  """The subsets of L_sup as masks bool[P, M], the full one first."""
  if kind == "all":
    return np.array(missing.all_patterns(num_modalities)[::-1])
  full, singles = np.ones((1, num_modalities), bool), np.eye(num_modalities, dtype=bool)
  return full if kind == "full" or num_modalities == 1 else np.concatenate([full, singles])


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


def robult_terms(
  net: RobultNet, task: Task, params, bank: soft_pu.Bank, batch: Batch, key, progress
) -> tuple[dict[str, Average], soft_pu.Bank]:
  """The terms of the loss, and the bank updated by the labelled rows of this batch."""
  config, batch = net.config, common.mask_labels(batch)
  masks = make_supervised_masks(config.supervised_patterns, batch.present.shape[1])
  visible = jnp.asarray(masks)[:, None] & batch.present[None]
  rngs = {} if key is None else {"dropout": key}
  logits, codes, rebuilt = net.apply(params, batch, visible, rngs=rngs)
  terms = {
    "supervised": supervised_term(logits, batch, visible, task),
    "reconstruction": reconstruction_term(rebuilt, codes.latent, batch.present),
  }
  complete, labelled = jnp.all(batch.present, axis=1), batch.labelled
  fused, full_logits = jax.lax.stop_gradient((codes.fused, logits[0]))
  row_arrays = fused, full_logits, batch.label, labelled, batch.id
  ramp = common.linear_ramp(progress, config.ramp_start, config.ramp_end)
  kinds = {"kind": config.contrast, "regression": config.regression}
  weights = soft_pu.pair_weights(*row_arrays, bank, task=task, where=complete, ramp=ramp, **kinds)
  teacher = fused if config.detach_shared else codes.fused
  terms |= contrast_terms(teacher, codes.shared, weights, labelled, complete, config.temperature)
  member, where = soft_pu.label_membership(batch.label, task), labelled & complete
  return terms, soft_pu.update_bank(bank, batch.bank_index, fused, member, where)


def robult(config: RobultConfig, spec: Spec) -> Method:
  """Robult-style training as a `Method`; `model_state` holds the bank of labelled rows."""
  net = RobultNet(spec.modalities, spec.task.outputs, config)
  weights = {
    "supervised": 1.0,
    "labelled": config.labelled_weight,
    "unlabelled": config.unlabelled_weight,
    "reconstruction": config.reconstruction_weight,
  }

  def init(key):
    batch = types.example_batch(spec)
    bank_size = max(1, min(config.bank_size, spec.num_labelled))
    bank = soft_pu.init_bank(bank_size, config.shared, spec.task)
    return net.init(key, batch, batch.present), {"bank": bank}

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    bank, progress = model_state["bank"], step_info.progress
    terms, bank = robult_terms(net, spec.task, params, bank, batch, key, progress)
    return common.weighted_sum(terms, weights), ({"bank": bank}, terms)

  def predict(params, model_state, inputs: Inputs, pattern=None):
    del model_state
    inputs = common.keep_pattern(inputs, pattern)
    codes = net.apply(params, inputs, pattern, method=RobultNet.encode)
    logits, fused = net.apply(params, codes, inputs.present, method=RobultNet.classify)
    return {"logits": logits, "fused": fused, "shared": codes.shared, "private": codes.private}

  return Method(init, predict, (Stage("train", loss),), image_features.precompute)
