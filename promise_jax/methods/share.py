"""Distillation with evidence of single modalities: a further development of `distil`.

Not from a paper (ours), found on validation. To the network of `fusion` it adds one
classifier v for all modalities and a gate g: what modalities have in common is read
with common weights, and the gate learns how much of it counts. With H_i the code of
modality i, a learned token where it is absent,

  logits(A) = head([H_i or token]) + sum_{i in A} sigmoid(g(H_i)) v(H_i).

The loss is that of `distil`. With `decay` the teacher is a running mean of the
parameters, which also predicts in the end.

Source of the teacher: Tarvainen and Valpola, "Mean teachers are better role models",
NeurIPS 2017.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from promise_jax import types
from promise_jax.checks import check_at_least, check_fields
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common
from promise_jax.methods.distil import draw_subsets, subset_terms
from promise_jax.methods.fusion import FusionNet, Output
from promise_jax.nn import image_features, mlp, precision
from promise_jax.optim import update_rules
from promise_jax.types import Batch, Inputs, PyTree, Spec


@dataclasses.dataclass(frozen=True)
class ShareConfig:
  """Settings of `share`. Without `evidence` and with `decay` 0 it is `distil`."""

  evidence: bool = True  # the classifier that all modalities have in common
  gated: bool = True  # its gate; False: the evidence of every modality counts in full
  weight: float = 1.0  # of the distillation
  ramp_start: float = 0.1  # the weight rises from 0 between these parts of training
  ramp_end: float = 0.3  # ... and has its full value from here on
  samples: int = 6  # random subsets of a row, where there are too many to use all
  decay: float = 0.97  # of the teacher's running mean; 0: the student teaches itself
  hidden: int = 64  # size of every code
  head_hidden: int = 64  # hidden layer of the head

  def __post_init__(self):
    check_fields(self, "share", samples=1, hidden=1, head_hidden=1, weight=0, ramp_start=0)
    check_at_least("share.ramp_end", self.ramp_end, self.ramp_start)
    if not 0 <= self.decay < 1:
      raise ValueError(f"share.decay is {self.decay}, it must lie in [0, 1)")


class ShareNet(FusionNet):
  """The fusion network, a classifier for single codes, and its gate."""

  config: ShareConfig = ShareConfig()

  def setup(self):
    super().setup()
    if self.config.evidence:
      self.common = mlp.Mlp((self.config.hidden, self.num_outputs))
      self.gate = nn.Dense(1)

  def classify(self, codes, visible, fill) -> Output:
    """The output for codes f[B, M, H] under the masks `visible`."""
    out = super().classify(codes, visible, fill)
    if not self.config.evidence:
      return out
    evidence = self.common(codes)
    if self.config.gated:
      evidence = evidence * nn.sigmoid(self.gate(codes))
    evidence = jnp.broadcast_to(evidence, (*visible.shape, self.num_outputs))
    evidence = jnp.sum(jnp.where(visible[..., None], evidence, 0), axis=-2)
    return out._replace(logits=out.logits + evidence)


def update_teacher(teacher: PyTree, params: PyTree, step: Int[Array, ""], decay: float) -> PyTree:
  """Running mean of the parameters. In the first steps, when the teacher knows little, the
  decay is at most (1 + step) / (10 + step)."""
  keep = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
  teacher = jax.tree.map(lambda t, p: keep * t + (1 - keep) * p, teacher, params)
  return jax.lax.stop_gradient(teacher)


def update_with_teacher(decay: float):
  """The `update` of a stage: a gradient step, then the teacher moves.

  It follows the parameters of before the step, and those of the optimiser, in float32:
  the loss may see rounded ones.
  """

  def make_update(stage, optimizer):
    gradient_step = update_rules.gradient_update(stage, optimizer)

    def update(state, batch: Batch, key, step_info: StepInfo):
      teacher = update_teacher(state.model_state["teacher"], state.params, step_info.step, decay)
      state, metrics = gradient_step(state, batch, key, step_info)
      return state._replace(model_state={"teacher": teacher}), metrics

    return update

  return make_update


def share(config: ShareConfig, spec: Spec) -> Method:
  """The method; `model_state` holds the teacher if there is one."""
  sizes = config.hidden, config.head_hidden
  net = ShareNet(spec.modalities, spec.task.outputs, *sizes, config=config)

  def init(key):
    params = net.init(key, types.example_batch(spec))
    return params, {"teacher": params} if config.decay else {}

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    subset_key, dropout_key = jax.random.split(key)
    visible = draw_subsets(subset_key, batch.id, batch.present, config.samples)
    logits = net.apply(params, batch, visible, rngs={"dropout": dropout_key}).logits
    teacher_logits = logits[0]
    if config.decay:
      teacher = precision.cast_like(model_state["teacher"], params)
      teacher_logits = net.apply(teacher, batch).logits
    terms = subset_terms(logits, teacher_logits, visible, batch, spec.task)
    ramp = common.linear_ramp(step_info.progress, config.ramp_start, config.ramp_end)
    weights = {"supervised": 1.0, "distil": config.weight * ramp}
    return common.weighted_sum(terms, weights), (model_state, terms)

  def predict(params, model_state, inputs: Inputs, pattern=None):
    if config.decay:
      params = precision.cast_like(model_state["teacher"], params)
    out = net.apply(params, common.keep_pattern(inputs, pattern), pattern=pattern)
    return {"logits": out.logits, "fused": out.fused}

  update = update_with_teacher(config.decay) if config.decay else None
  return Method(init, predict, (Stage("train", loss, update=update),), image_features.precompute)
