"""Robult-style training, re-derived: soft PU contrast and latent reconstruction.

"Robult: Leveraging Redundancy and Modality-Specific Features for Robust Multimodal
Learning", Nguyen, Kamboj, Do, IJCAI 2025, arXiv 2509.03477. The body of the paper was
not available. Seen, in its abstract and a summary: two objectives (a soft
positive-unlabelled contrastive loss, a latent reconstruction loss), a shared latent
space H_i = f_i(X_i), H_0 = f_0(X_1..X_M), private codes U_i = g_i(H_i). Seen in the
reviews of an earlier version (a submission to ICLR 2025): the terms L_sup, L_lb, L_ulb,
L_rec, an RBF kernel beside a classifier, training on complete rows of which few are
labelled. Everything else here, every formula included, is ours, reconstructed from
those facts; results are "Robult-style", not "reproduced Robult".

  H_i = f_i(x_i), H_0 = f_0(x_1..x_M), Z_i = |c(H_i)|, S = |c(H_0)|, U_i = g_i(H_i)
  shared(A) = S if A is complete, else |mean_{i in A} Z_i|
  logits(A) = head([shared(A); 1_A(i) |U_i| ...])
  L = L_sup + lb L_lb + ulb L_ulb + rec L_rec (+ cov, off)

where |x| is x on the unit sphere. L_sup averages the supervised loss over the patterns
of `sup`; L_lb and L_ulb contrast S (detached: it teaches) with every Z_i, on labelled
and unlabelled anchors; L_rec asks (Z_i, U_i) to rebuild H_i. By default f_0 has
encoders of its own (ours): shared ones let the contrast harm the fused branch. Training
rows that are not complete take part in L_sup and L_rec only; the patterns of L_sup are
intersected with what a row has.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_choice
from promise_jax.losses import contrastive, reconstruction, soft_pu, supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.nn import encoders, image_features, mlp, precision
from promise_jax.types import Array, Average, Batch, Modality, Spec

SUPERVISE = ("full", "singles", "all")
REGRESSION = ("sign", "round", "gaussian")


@dataclasses.dataclass(frozen=True)
class RobultConfig:
  """Settings; all defaults are ours.

  `hidden` d_h, `shared` d_z, `private` d_u < d_h; `contrast`, `gate`, `calibrate` as in
  `losses.positive_unlabelled`; `stop_s` keeps the contrast from training S; `tau` the
  temperature; `lb`, `ulb`, `rec`, `cov` the weights of the terms; `sup` the patterns of
  L_sup: "full", "singles" (full and single ones), "all"; guessed memberships of
  unlabelled rows come in between `ramp_start` and `ramp_end`, in parts of training;
  `regression` how labels become classes for the contrast; `bank` the most labelled
  references kept.
  """

  hidden: int = 64
  shared: int = 32
  private: int = 32
  head_hidden: int = 64
  own_encoders: bool = True
  contrast: str = "softpu"
  gate: str = "hard"
  calibrate: bool = True
  stop_s: bool = True
  tau: float = 0.2
  lb: float = 1.0
  ulb: float = 1.0
  rec: float = 1.0
  cov: float = 0.0
  sup: str = "singles"
  ramp_start: float = 0.1
  ramp_end: float = 0.3
  regression: str = "sign"
  bank: int = 1024

  def __post_init__(self):
    """ValueError for a setting without meaning, with what is allowed."""
    check_choice("robult.contrast", self.contrast, soft_pu.CONTRASTS)
    check_choice("robult.gate", self.gate, soft_pu.GATES)
    check_choice("robult.sup", self.sup, SUPERVISE)
    check_choice("robult.regression", self.regression, REGRESSION)
    for field in ("hidden", "shared", "private", "head_hidden", "bank"):
      check_at_least(f"robult.{field}", getattr(self, field), 1)
    for field in ("lb", "ulb", "rec", "cov", "ramp_start"):
      check_at_least(f"robult.{field}", getattr(self, field), 0)
    check_at_least("robult.tau", self.tau, 0.01)
    check_at_least("robult.ramp_end", self.ramp_end, self.ramp_start)
    if self.private >= self.hidden:
      raise ValueError(
        f"robult.private is {self.private}, it must be below hidden {self.hidden}: "
        "else the private code can copy its input and reconstruction is trivial"
      )


class RobultNet(precision.Network):
  """The networks f_i, f_0, c, g_i, q_i and the head."""

  modalities: tuple[Modality, ...]
  outputs: int
  config: RobultConfig

  def setup(self):
    c = self.config
    self.f = [encoders.Encoder(m, c.hidden) for m in self.modalities]
    if c.own_encoders:
      self.f0_encode = [encoders.Encoder(m, c.hidden) for m in self.modalities]
    self.f0_fuse = mlp.Mlp((c.hidden, c.hidden))
    self.c = mlp.Mlp((c.hidden, c.shared))
    self.g = [mlp.Mlp((c.hidden, c.private)) for _ in self.modalities]
    self.q = [mlp.Mlp((c.hidden, c.hidden)) for _ in self.modalities]
    self.classify = mlp.Mlp((c.head_hidden, self.outputs))

  def __call__(self, batch: Batch) -> tuple:
    out = self.branches(batch, batch.present)
    rebuilt = self.decode(out["z"], out["u"])
    return rebuilt, self.head(out["z"], out["s"], out["u"], batch.present)

  def branches(self, batch: Batch, present: Array, pattern=None, key=None) -> dict:
    """h, z, u: tuples over modalities of f[B, .], zeros where a row lacks one, and s
    f[B, d_z] (None where the static `pattern` is incomplete). What `pattern` lacks is
    not computed."""
    c, rows = self.config, present.shape[0]
    runs = pattern or (True,) * len(self.modalities)
    blank = tuple(jnp.zeros((rows, d)) for d in (c.hidden, c.shared, c.private))
    codes = [
      self.branch(i, batch, present[:, i], key) if run else blank for i, run in enumerate(runs)
    ]
    h, z, u = zip(*codes, strict=True)
    s = self.fused(h, batch, present, key) if all(runs) else None
    return {"h": h, "z": z, "u": u, "s": s}

  def branch(self, i: int, batch: Batch, present: Array, key) -> tuple:
    """(H_i, Z_i, U_i) of modality i, zeros in the rows without it."""
    h = encoders.encode_modality(self.f[i], self.modalities[i].name, batch, present, key)
    codes = h, contrastive.normalise(self.c(h)), self.g[i](h)
    return tuple(missing.zero_absent(x, present) for x in codes)

  def fused(self, h: tuple, batch: Batch, present: Array, key) -> Array:
    """S f[B, d_z], from encoders of its own or from `h`."""
    if self.config.own_encoders:
      h = [
        encoders.encode_modality(f, m.name, batch, present[:, i], key)
        for i, (f, m) in enumerate(zip(self.f0_encode, self.modalities, strict=True))
      ]
    return contrastive.normalise(self.c(self.f0_fuse(jnp.concatenate(h, axis=-1))))

  def decode(self, z: tuple, u: tuple) -> tuple:
    """H_i rebuilt from (Z_i, U_i), a tuple of f[B, d_h]; no gradient to Z_i."""
    detached = [jax.lax.stop_gradient(x) for x in z]
    pairs = zip(self.q, detached, u, strict=True)
    return tuple(q(jnp.concatenate([a, b], axis=-1)) for q, a, b in pairs)

  def head(self, z: tuple, s: Array | None, u: tuple, shown: Array) -> Array:
    """Logits f[B, C] when each row shows `shown` bool[B, M] (ours)."""
    codes = jnp.stack(z, axis=1)  # [B, M, d_z]
    shared = contrastive.normalise(missing.masked_mean(codes, shown[..., None], 1))
    if s is not None:
      shared = jnp.where(jnp.all(shown, axis=1)[:, None], s, shared)
    private = jnp.stack([contrastive.normalise(x) for x in u], axis=1)
    private = jnp.where(shown[..., None], private, 0)
    flat = private.reshape(private.shape[0], -1)
    return self.classify(jnp.concatenate([shared, flat], axis=-1))


def supervised_patterns(sup: str, count: int) -> np.ndarray:
  """The patterns F of L_sup bool[P, M], the full one first (ours)."""
  if sup == "all":
    return np.array(missing.all_patterns(count)[::-1])
  full = np.ones((1, count), bool)
  singles = np.eye(count, dtype=bool)[: 0 if sup == "full" or count == 1 else None]
  return np.concatenate([full, singles])


def label_member(label: Array, spec: Spec, config: RobultConfig) -> Array:
  """The classes of a label for the contrast, f[B, C] in {0, 1} (ours)."""
  task = spec.task
  if task.kind == "multilabel":
    return label
  if task.kind == "classes":
    return jax.nn.one_hot(label, task.outputs)
  if config.regression == "round":
    place = jnp.clip(jnp.round(3 * label / task.scale), -3, 3) + 3
    return jax.nn.one_hot(place.astype(jnp.int32), 7)
  return jax.nn.one_hot((label >= 0).astype(jnp.int32), 2)


def init_model_state(config: RobultConfig, spec: Spec) -> dict:
  """The bank before the first batch: one slot per labelled row, at most `bank`."""
  member = jax.eval_shape(lambda: label_member(types.example_batch(spec).label, spec, config))
  size = max(1, min(config.bank, spec.num_labelled))
  return {"bank": soft_pu.init_bank(size, config.shared, member.shape[1])}


def pair_weights(
  config: RobultConfig,
  spec: Spec,
  bank: soft_pu.Bank,
  batch: Batch,
  out: dict,
  complete: Array,
  progress: Array,
) -> tuple[Array, Array, soft_pu.Bank]:
  """A and P f[B, B] of the contrast and the bank with this batch in it.

  `out` holds the detached fused code "s" and the logits "full" of all that a row has.
  """
  task, labelled, label = spec.task, batch.labelled, batch.label
  same = batch.id[:, None] == batch.id[None]
  ramp = soft_pu.linear_ramp(progress, config.ramp_start, config.ramp_end)
  exclusive = task.kind != "multilabel"
  member = label_member(label, spec, config)
  if task.kind == "regression" and config.regression == "gaussian":
    value = jnp.where(labelled, label, supervised.predict_value(out["full"], task))
    # A sentiment label spans [-3, 3], and half a unit of it is near.
    width = 0.5 * task.scale / 3
    pairs = soft_pu.gaussian_affinity(value, labelled, same, ramp, width)
  else:
    if task.kind == "regression":
      guess = label_member(supervised.predict_value(out["full"], task), spec, config)
    else:
      guess = supervised.predict_probability(out["full"], task)
    close = soft_pu.bank_proximity(out["s"], bank, complete, config.calibrate)
    soft = soft_pu.class_membership(
      guess, close, member, labelled, gate=config.gate, exclusive=exclusive
    )
    pairs = soft_pu.pair_affinity(soft, labelled, same, ramp, exclusive=exclusive)
  affinity, positive = soft_pu.contrast_weights(config.contrast, pairs, labelled, same)
  bank = soft_pu.update_bank(bank, batch.bank_index, out["s"], member, labelled & complete)
  return affinity, positive, bank


def contrast_terms(
  config: RobultConfig,
  s: Array,
  z: tuple,
  weights: tuple[Array, Array],
  labelled: Array,
  complete: Array,
) -> dict[str, types.Average]:
  """L_lb and L_ulb (ours), means over (modality, anchor) pairs of complete rows."""
  teacher = jax.lax.stop_gradient(s) if config.stop_s else s
  loss = functools.partial(
    contrastive.affinity_contrast,
    affinity=weights[0],
    positive=weights[1],
    where=complete,
    temperature=config.tau,
  )
  pairs = jnp.stack([(loss(teacher, x) + loss(x, teacher)) / 2 for x in z])  # [M, B]
  rows = jnp.broadcast_to(complete, pairs.shape)
  return {
    "lb": Average.of(pairs, rows & labelled[None]),
    "ulb": Average.of(pairs, rows & ~labelled[None]),
  }


def supervised_term(logits: Array, label: Array, where: Array, task) -> types.Average:
  """L_sup: mean over patterns of the mean over the rows `where` bool[P, B] of each;
  `logits` f[P, B, C]."""
  error = jax.vmap(lambda row: supervised.task_loss(row, label, task))(logits)
  each = jax.vmap(Average.of)(error, where)
  counted = each.count > 0
  return Average.of(each.total / jnp.maximum(each.count, 1), counted)


def private_terms(
  config: RobultConfig, rebuilt: tuple, out: dict, present: Array
) -> dict[str, types.Average]:
  """L_rec and, if it has a weight, the covariance penalty "cov": means over the
  modalities that occur in `present` bool[B, M]; `rebuilt` is a tuple of f[B, d_h]."""
  occurs = jnp.any(present, axis=0)
  columns = list(present.T)
  rec = map(reconstruction.latent_reconstruction, rebuilt, out["h"], columns)
  terms = {"rec": Average.of(jnp.stack(list(rec)), occurs)}
  if config.cov:
    cov = map(reconstruction.cross_covariance, out["z"], out["u"], columns)
    terms["cov"] = Average.of(jnp.stack(list(cov)), occurs)
  return terms


def robult_terms(
  net: RobultNet, spec: Spec, params, model_state, batch: Batch, key, progress: Array
) -> tuple[dict[str, types.Average], dict]:
  """The terms "sup", "lb", "ulb", "rec" (and "cov") of the loss, and the new model_state."""
  config = net.config
  present = batch.present
  complete = jnp.all(present, axis=1)
  labelled = batch.labelled
  label = supervised.known_label(batch.label, labelled)
  batch = batch.replace(labelled=labelled, label=label)
  out = net.apply(params, batch, present, key=key, method="branches")
  shown = jnp.asarray(supervised_patterns(config.sup, present.shape[1]))[:, None]
  shown = shown & present[None]  # [P, B, M]
  codes = (out["z"], out["s"], out["u"])
  logits = jax.vmap(lambda x: net.apply(params, *codes, x, method="head"))(shown)
  seen = jnp.any(shown, axis=-1) & labelled[None]
  terms = {"sup": supervised_term(logits, label, seen, spec.task)}
  rebuilt = net.apply(params, out["z"], out["u"], method="decode")
  terms |= private_terms(config, rebuilt, out, present)
  if config.contrast == "none":
    return terms, model_state
  fixed = jax.lax.stop_gradient({"s": out["s"], "full": logits[0]})
  a, p, bank = pair_weights(config, spec, model_state["bank"], batch, fixed, complete, progress)
  terms |= contrast_terms(config, out["s"], out["z"], (a, p), labelled, complete)
  return terms, model_state | {"bank": bank}


def robult(config: RobultConfig, spec: Spec) -> Method:
  """Robult-style training as a `Method`; model_state holds the bank of labelled references."""
  net = RobultNet(spec.modalities, spec.task.outputs, config)
  weight = {"sup": 1.0, "lb": config.lb, "ulb": config.ulb, "rec": config.rec}
  weight |= {"cov": config.cov}

  def init(key):
    return net.init(key, types.example_batch(spec)), init_model_state(config, spec)

  def loss(params, model_state, batch: Batch, key, clock: StepInfo):
    terms, model_state = robult_terms(net, spec, params, model_state, batch, key, clock.progress)
    total = sum(weight[k] * v.value for k, v in terms.items() if weight[k])
    return total, (model_state, terms)

  def predict(params, model_state, batch: Batch, pattern=None):
    del model_state
    present = missing.restrict_to_pattern(batch.present, pattern)
    out = net.apply(params, batch, present, pattern, method="branches")
    codes = (out["z"], out["s"], out["u"])
    logits = net.apply(params, *codes, present, method="head")
    return {"logits": logits, "shared": out["z"], "private": out["u"]}

  return Method(init, predict, (Stage("train", loss),), image_features.precompute)
