"""Distillation that shares only what is shared: a variant of Robult-style training.

Not from a paper (ours), found on validation; the plain method is `robult`. The network
of `distil`, and beside its head evidence from one classifier v for all modalities: what
they share is read with shared weights. A gate g learns from the data how much of that
evidence counts; what is a modality's own is left to the head. With H_i = f_i(x_i), a
learned token where absent,

  logits(A) = head([H_i or token]) + sum_{i in A} sigmoid(g(H_i)) v(H_i)
  L = L_sup + weight r(t) L_distil + pull (L_lb + L_ulb).

L_sup supervises every subset A of what a labelled row has; L_distil pulls the
prediction of each, in labelled and unlabelled rows, to that of a teacher from all that
is present; r is the ramp of `distil`. With `decay` the teacher is a running mean of the
parameters, which also predicts in the end (Tarvainen and Valpola, "Mean teachers are
better role models", NeurIPS 2017). L_lb and L_ulb (off by default: they won nothing
beside the rest) are the soft positive-unlabelled contrast of `robult` between
S = |c(f_0(H))| and every |c(H_i)|, on a projection c that nothing else reads, each pair
times

  w_ni = exp(-D(teacher_n, logits_n({i}))),

with D the loss of distillation, detached: rows are pulled together as far as a modality
alone predicts what all of them predict. S learns through f_0 only, so that the contrast
reaches an encoder through its own modality alone.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from promise_jax import missing, types
from promise_jax.checks import check_at_least
from promise_jax.losses import contrastive, soft_pu, supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import distil, fusion, robult
from promise_jax.nn import encoders, mlp, precision
from promise_jax.optim import update_rules
from promise_jax.types import Array, Average, Batch, PyTree, Spec


@dataclasses.dataclass(frozen=True)
class ShareConfig:
  """Settings, all defaults ours. Without `evidence` there is no common classifier,
  with `decay` 0 the student is its own teacher, with `pull` 0 there is no contrast: all
  three make `distil`.

  `weight`, `ramp_start`, `ramp_end`, `samples` as in `distil`; `decay` of the running
  mean; `pull` the weight of the contrast, `shared` the size of its codes, `tau` its
  temperature, `bank` the most labelled references kept; `gated` switches both gates.
  """

  evidence: bool = True
  gated: bool = True
  weight: float = 1.0
  ramp_start: float = 0.1
  ramp_end: float = 0.3
  samples: int = 6
  decay: float = 0.97
  pull: float = 0.0
  tau: float = 0.2
  shared: int = 32
  bank: int = 1024
  hidden: int = 64
  head_hidden: int = 64

  def __post_init__(self):
    """ValueError for a setting without meaning, with what is allowed."""
    for field in ("samples", "shared", "bank", "hidden", "head_hidden"):
      check_at_least(f"share.{field}", getattr(self, field), 1)
    for field in ("weight", "ramp_start", "pull"):
      check_at_least(f"share.{field}", getattr(self, field), 0)
    check_at_least("share.tau", self.tau, 0.01)
    check_at_least("share.ramp_end", self.ramp_end, self.ramp_start)
    if not 0 <= self.decay < 1:
      raise ValueError(f"share.decay is {self.decay}, it must lie in [0, 1)")


class ShareNet(fusion.FusionNet):
  """The fusion network, the common classifier with its gate, and the projection."""

  config: ShareConfig = ShareConfig()

  def setup(self):
    super().setup()
    c = self.config
    if c.evidence:
      self.common = mlp.Mlp((c.hidden, self.outputs))
      self.gate = nn.Dense(1)
    if c.pull:
      self.fuse = mlp.Mlp((c.hidden, c.hidden))
      self.project = mlp.Mlp((c.hidden, c.shared))

  def __call__(self, batch: Batch) -> tuple:
    codes = self.codes(batch, batch.present)
    out = self.logits(codes, batch.present)
    return out, self.shared(codes, batch.present) if self.config.pull else None

  def logits(self, codes: Array, shown: Array) -> Array:
    """f[..., B, C] of codes f[B, M, H] where rows show `shown` bool[..., B, M]."""
    joint = self.classify(self.fill(codes, shown, self.token))
    if not self.config.evidence:
      return joint
    each = self.common(codes)
    if self.config.gated:
      each = each * nn.sigmoid(self.gate(codes))
    each = jnp.broadcast_to(each, (*shown.shape, self.outputs))
    return joint + jnp.sum(jnp.where(shown[..., None], each, 0), axis=-2)

  def shared(self, codes: Array, present: Array) -> tuple[Array, Array]:
    """S f[B, d_z], without gradient to the encoders, and Z f[B, M, d_z]: unit rows."""
    filled = jax.lax.stop_gradient(self.fill(codes, present, self.token))
    fused = self.fuse(filled.reshape(filled.shape[0], -1))
    return tuple(contrastive.normalise(self.project(x)) for x in (fused, codes))


def running_mean(mean: PyTree, params: PyTree, step: Array, decay: float) -> PyTree:
  """`mean` moved to `params`, by more in the first steps i32[], when little is known:
  the decay is at most (1 + step) / (10 + step)."""
  keep = jnp.minimum(decay, (1 + step) / (10 + step)).astype(jnp.float32)
  moved = jax.tree.map(lambda m, p: keep * m + (1 - keep) * p, mean, params)
  return jax.lax.stop_gradient(moved)


def agreement(single: Array, teacher: Array, task: types.Task) -> Array:
  """w f[M, B] in (0, 1]: how far the logits `single` f[M, B, C] of one modality predict
  what `teacher` f[B, C] does; 1 where they agree. No gradient."""
  gap = jax.vmap(lambda row: supervised.distillation_loss(row, teacher, task))(single)
  return jax.lax.stop_gradient(jnp.exp(-gap))


def contrast_terms(
  config: ShareConfig,
  spec: Spec,
  model_state: dict,
  batch: Batch,
  codes: tuple[Array, Array],
  teacher: Array,
  gate: Array,
  progress: Array,
) -> tuple[dict[str, types.Average], dict]:
  """ "lb", "ulb", "gate" and model_state with the new bank: the contrast of `codes` (S, Z), the
  pairs of modality and anchor times `gate` f[M, B]. Means over complete rows."""
  s, z = codes
  rule = contrast_settings(config)
  complete = jnp.all(batch.present, axis=1)
  fixed = jax.lax.stop_gradient({"s": s, "full": teacher})
  a, p, bank = robult.pair_weights(
    rule, spec, model_state["bank"], batch, fixed, complete, progress
  )

  def loss(anchor, candidate):
    return contrastive.affinity_contrast(anchor, candidate, a, p, complete, config.tau)

  each = [z[:, i] for i in range(z.shape[1])]
  pairs = gate * jnp.stack([(loss(s, x) + loss(x, s)) / 2 for x in each])
  rows = jnp.broadcast_to(complete, pairs.shape)
  terms = {
    "lb": Average.of(pairs, rows & batch.labelled[None]),
    "ulb": Average.of(pairs, rows & ~batch.labelled[None]),
    "gate": Average.of(gate, rows),
  }
  return terms, model_state | {"bank": bank}


def contrast_settings(config: ShareConfig) -> robult.RobultConfig:
  """What the soft positive-unlabelled weights of `robult` read."""
  same = ("shared", "bank", "ramp_start", "ramp_end")
  return robult.RobultConfig(**{field: getattr(config, field) for field in same})


def share_terms(
  net: ShareNet,
  spec: Spec,
  params,
  model_state: dict,
  batch: Batch,
  key,
  progress: Array,
) -> tuple[dict[str, types.Average], dict]:
  """The terms "sup", "distil" (and "lb", "ulb", "gate") and model_state with the new bank."""
  config, task = net.config, spec.task
  subset_key, encode_key = jax.random.split(key)
  present = batch.present
  labelled = batch.labelled
  label = supervised.known_label(batch.label, labelled)
  codes = net.apply(params, batch, present, key=encode_key, method="codes")
  shown = distil.draw_subsets(subset_key, batch.id, present, config.samples)
  logits = net.apply(params, codes, shown, method="logits")  # [P, B, C]
  teacher = logits[0]
  if config.decay:
    slow = precision.cast_like(model_state["teacher"], params)
    quiet = net.apply(slow, batch, present, method="codes")
    teacher = net.apply(slow, quiet, present, method="logits")
  teacher = jax.lax.stop_gradient(teacher)
  some = jnp.any(shown, axis=-1)
  less = some & jnp.any(shown != present[None], axis=-1)
  error = jax.vmap(lambda row: supervised.supervised_loss(row, label, task))(logits)
  gap = jax.vmap(lambda row: supervised.distillation_loss(row, teacher, task))(logits)
  terms = {
    "sup": Average.of(error, some & labelled[None]),
    "distil": Average.of(gap, less),
  }
  if not config.pull:
    return terms, model_state
  alone = jnp.eye(present.shape[1], dtype=bool)[:, None] & present[None]  # [M, B, M]
  gate = jnp.ones(alone.shape[:2])
  if config.gated:
    gate = agreement(net.apply(params, codes, alone, method="logits"), teacher, task)
  batch = batch.replace(present=present, labelled=labelled, label=label)
  both = net.apply(params, codes, present, method="shared")
  found, model_state = contrast_terms(
    config, spec, model_state, batch, both, teacher, gate, progress
  )
  return terms | found, model_state


def share(config: ShareConfig, spec: Spec) -> Method:
  """The variant as a `Method`; model_state holds the teacher and the bank, if they are on."""
  sizes = config.hidden, config.head_hidden
  net = ShareNet(spec.modalities, spec.task.outputs, *sizes, config)

  def init(key):
    params = net.init(key, types.example_batch(spec))
    model_state = {"teacher": params} if config.decay else {}
    if config.pull:
      model_state |= robult.init_model_state(contrast_settings(config), spec)
    return params, model_state

  def loss(params, model_state, batch: Batch, key, clock: StepInfo):
    terms, model_state = share_terms(net, spec, params, model_state, batch, key, clock.progress)
    ramp = soft_pu.linear_ramp(clock.progress, config.ramp_start, config.ramp_end)
    weight = {"sup": 1.0, "distil": config.weight * ramp}
    weight |= {"lb": config.pull, "ulb": config.pull, "gate": 0.0}
    total = sum(weight[k] * v.value for k, v in terms.items())
    return total, (model_state, terms)

  def follow(stage, tx):
    step = update_rules.gradient_update(stage, tx)

    def update(state, batch: Batch, key, clock: StepInfo):
      # Of the parameters themselves: the loss may be given rounded ones.
      mean = state.model_state["teacher"], state.params, clock.step, config.decay
      state, metrics = step(state, batch, key, clock)
      return state._replace(
        model_state=state.model_state | {"teacher": running_mean(*mean)}
      ), metrics

    return update

  def predict(params, model_state, batch: Batch, pattern=None):
    if config.decay:
      params = precision.cast_like(model_state["teacher"], params)
    present = missing.restrict_to_pattern(batch.present, pattern)
    codes = net.apply(params, batch, present, pattern, method="codes")
    return {"logits": net.apply(params, codes, present, method="logits")}

  stage = Stage("train", loss, update=follow if config.decay else None)
  return Method(init, predict, (stage,), encoders.precompute_image_features)
