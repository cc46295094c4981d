"""Distillation that fuses only what agrees with the prototypes of a class.

From the idea of DyMo: "Inference-Time Dynamic Modality Selection for Incomplete Multimodal
Classification", Du et al., ICLR 2026, which fuses a modality at inference only if the loss to
class prototypes falls. There the candidates are recovered modalities on a pre-trained
transformer; here they are those that a row has, so that a weak modality cannot drown a strong
one. The rest is ours. Training is that of `distil`. With H_i the code of modality i, running
means over labelled rows give a prototype m_ic of every class and the spread v_i within classes:

  d_ic = |H_i - m_ic|^2 / v_i,    p(c | A) = softmax_c(-sum_{i in A} d_ic / temperature)
  loss(A) = -max_c log p(c | A)

A starts empty. The modality with which the loss is least joins A as long as the loss falls, and
`distil` predicts from A. A class without a labelled row takes no part.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax.checks import check_fields, check_that
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common, distil
from promise_jax.methods.fusion import FusionNet
from promise_jax.types import Batch, Inputs, Spec


@dataclasses.dataclass(frozen=True)
class PrototypesConfig(distil.DistilConfig):
  """Settings of `prototypes`: those of `distil`, and two."""

  temperature: float = 1.0  # of the distances
  decay: float = 0.9  # of the running means

  method: ClassVar[str] = "prototypes"

  def __post_init__(self):
    super().__post_init__()
    check_fields(self, self.method, temperature=0.01)
    check_that("prototypes.decay", self.decay, 0 <= self.decay < 1, "lie in [0, 1)")


def update_sums(
  sums: dict, codes: Float[Array, "B M H"], batch: Batch, decay: float
) -> dict[str, Array]:
  """Running sums over labelled rows: of ones [M, C], of codes [M, C, H], of |H_i|^2 [M]. All
  decay alike, so their ratios are means without a bias."""
  codes, where = jax.lax.stop_gradient(codes), batch.labelled[:, None] & batch.present
  label = common.mask_labels(batch).label
  member = jax.nn.one_hot(label, sums["count"].shape[1])[:, None] * where[..., None]
  square = jnp.where(where, jnp.sum(codes**2, axis=-1), 0)
  new = {
    "count": jnp.sum(member, axis=0),
    "total": jnp.einsum("bmc,bmh->mch", member, codes),
    "square": jnp.sum(square, axis=0),
  }
  return jax.tree.map(lambda old, now: decay * old + (1 - decay) * now, sums, new)


def scale_distances(sums: dict, codes: Float[Array, "B M H"]) -> Float[Array, "B M C"]:
  """d_ic; infinite for a class that no labelled row has shown in this modality."""
  count, total = sums["count"], sums["total"]
  mean = total / jnp.maximum(count, 1e-30)[..., None]
  # Within classes: the mean square, less that of the prototypes.
  spread = sums["square"] - jnp.sum(count[..., None] * mean**2, axis=(1, 2))
  spread = jnp.maximum(spread / jnp.maximum(jnp.sum(count, axis=1), 1e-30), 1e-6)
  square = jnp.sum((codes[:, :, None] - mean[None]) ** 2, axis=-1)
  return jnp.where(count[None] > 0, square / spread[None, :, None], jnp.inf)


def choose_modalities(
  distance: Float[Array, "B M C"], present: Bool[Array, "B M"], temperature: float
) -> Bool[Array, "B M"]:
  """The set A of every row, by M greedy steps; all that is present where no class is known in
  all of it."""
  known = jnp.all(jnp.isfinite(distance) | ~present[..., None], axis=1)  # [B, C]
  distance = jnp.where(known[:, None], distance, 0) / temperature

  def step(carry, _):
    chosen, total, best = carry
    logits = jnp.where(known[:, None], -(total[:, None] + distance), -jnp.inf)
    error = -jnp.max(jax.nn.log_softmax(logits), axis=-1)
    error = jnp.where(present & ~chosen, error, jnp.inf)  # [B, M]
    first = jnp.argmin(error, axis=1)
    joins = jnp.min(error, axis=1) < best
    added = jax.nn.one_hot(first, error.shape[1], dtype=bool) & joins[:, None]
    total = total + jnp.sum(jnp.where(added[..., None], distance, 0), axis=1)
    return (chosen | added, total, jnp.where(joins, jnp.min(error, axis=1), best)), None

  start = (
    jnp.zeros_like(present),
    jnp.zeros_like(distance[:, 0]),
    jnp.full(present.shape[0], jnp.inf),
  )
  (chosen, _, _), _ = jax.lax.scan(step, start, length=present.shape[1])
  any_known = jnp.any(known, axis=1)[:, None]  # onnxruntime has no `where` of two masks
  return (any_known & chosen) | (~any_known & present)


def prototypes(config: PrototypesConfig, spec: Spec) -> Method:
  """The method; `model_state` holds the running sums. ValueError if the task has no classes."""
  if spec.task.kind != "classes":
    raise ValueError(
      f"prototypes needs a task of classes, found {spec.task.kind}: a prototype is the mean code "
      "of a class; use distil"
    )
  base = distil.distil(config, spec)
  net = FusionNet(spec.modalities, spec.task.outputs, config.hidden, config.head_hidden)

  def init(key):
    params, _ = base.init(key)
    count = jnp.zeros((len(spec.modalities), spec.task.outputs))
    total = jnp.zeros((*count.shape, config.hidden))
    return params, {"count": count, "total": total, "square": count[:, 0]}

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    total, (_, terms) = base.stages[0].loss(params, {}, batch, key, step_info)
    codes = net.apply(params, batch).codes  # without dropout, as predictions have them
    return total, (update_sums(model_state, codes, batch, config.decay), terms)

  def predict(params, model_state, inputs: Inputs, pattern=None, codes=None):
    inputs = common.keep_pattern(inputs, pattern)
    codes = net.apply(params, inputs, pattern=pattern, codes=codes).codes
    distance = scale_distances(model_state, codes)
    chosen = choose_modalities(distance, inputs.present, config.temperature)
    token = params["params"]["token"]
    out = net.apply(params, codes, chosen, token, method=FusionNet.classify)
    return {"logits": out.logits, "fused": out.fused}

  return Method(init, predict, (Stage("train", loss),), base.preprocess, base.encode)
