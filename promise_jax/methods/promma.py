"""ProMMA (arXiv 2604.05558), reconstructed: evaluate an absent modality, then generate.

The paper was known to us by its abstract only. What it says of its four parts is kept,
every formula here is ours, and none of its numbers is aimed at. The host is MPLMM
(`methods/mplmm.py`): with all parts off, this is its network, parameter by parameter.

Evaluator (`gate`): for each absent modality, g in [0, 1] says whether the generated
steps are worth their noise. With generated X and prompts S, or prompts O alone,

  U_m = g (X + S) + (1 - g) O,   as a source of the others scaled by g.

Its label is the benefit of g = 1 over g = 0: by how much the model, run under every
setting of the gates, comes nearer to y* = beta y + (1 - beta) f0(all that is recorded).
f0 is the backbone as it was when the stage began, frozen, and run in the step. Until
`warmup` of the stage is done, g = 1; then g is soft in training, and 0 or 1 in
prediction. Variants: "importance" (label: does f0 change by more than the median if m
is left out), "free" (untrained: f0 of single modalities is the pseudo label), and the
references "on", "off", "random" (as often ON as the evaluator) and "oracle", which
reads the label of the test row and is no method.

Private prompts (`private`), weights (`weigh`) and connection (`connect`) are in
`nn/prompt_parts.py`, what they and the evaluator are trained by in `losses/gate.py`,
`losses/disentangle.py` and `losses/dependence.py`. The loss adds to that of the task
`evaluator` times the cross entropy of the gates, `orthogonal` and `recover` of the
prompts, minus `information` times that of pairs that are there, and `generator` times
the smooth L1 of generated steps to the projected real ones, where the data have them.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_choice
from promise_jax.losses import (
  generation_gate,
  mutual_information,
  prompt_disentanglement,
  supervised,
)
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import common, mplmm
from promise_jax.nn import promma_prompts
from promise_jax.types import Array, Average, Batch, Spec

GATES = ("learned", "importance", "free", "oracle", "on", "off", "random")
PRIVATE = ("local", "static", "none")
WEIGH = ("codes", "attention", "random", "none")
APPLY = ("prompts", "features", "both")
CONNECT = ("all", "last", "static", "none")
AIMS = ("steps", "streams")
JUDGED = ("learned", "importance", "random", "oracle")  # those with an evaluator


@dataclasses.dataclass(frozen=True)
class PrommaConfig(mplmm.MplmmConfig):
  """Settings of `promma` beside those of `mplmm`.

  `gate`, `private`, `weigh`, `apply` (what the weights scale) and `connect` choose the
  parts, "on" and "none" are off (`connect` without `private` has a shared prompt of its
  own); `rank` of the private prompts, `codes` of the weights; `skip`: a private prompt
  goes to the memory layers by the identity too, not only by the maps of the signal
  prompts. `types` False appends nothing. `margin` is what a
  generation must win to be worth it, in units of .1 standard deviation of the targets;
  `aim`: what generated steps are pulled to, the projected "steps" or the "streams",
  both with the prompts that they enter the encoders with. The gates are judged
  in every `judge_every`-th step, which is half of its time; in the others the evaluator
  learns by the loss of the task alone, through the soft gates.
  """

  gate: str = "learned"
  private: str = "local"
  weigh: str = "codes"
  apply: str = "prompts"
  connect: str = "all"
  skip: bool = True
  rank: int = 8
  codes: int = 8
  beta: float = 0.5
  warmup: float = 0.15
  margin: float = 0.0
  aim: str = "steps"
  judge_every: int = 1
  evaluator: float = 0.1
  orthogonal: float = 0.1
  recover: float = 0.1
  information: float = 0.01
  generator: float = 0.1
  fit: float = 0.1
  tune: float = 0.4

  def __post_init__(self):
    """ValueError for a setting without meaning, with what is allowed."""
    mplmm.check(self, "promma")
    known = {"gate": GATES, "private": PRIVATE, "weigh": WEIGH, "apply": APPLY}
    known |= {"aim": AIMS}
    for field, values in (known | {"connect": CONNECT}).items():
      check_choice(f"promma.{field}", getattr(self, field), values)
    for field in ("rank", "codes", "judge_every"):
      check_at_least(f"promma.{field}", getattr(self, field), 1)
    weights = ("evaluator", "orthogonal", "recover", "information", "generator")
    for field in (*weights, "margin"):
      check_at_least(f"promma.{field}", getattr(self, field), 0)
    for field in ("beta", "warmup"):
      if not 0 <= getattr(self, field) <= 1:
        value = getattr(self, field)
        raise ValueError(f"promma.{field} is {value}, it must lie in [0, 1]")
    if self.aim == "streams" and not self.signal:
      raise ValueError("promma.aim is streams and signal False: streams have no prompts")
    if not self.types and (self.private, self.connect) != ("none", "none"):
      raise ValueError(
        f"promma.types is False, private {self.private} and connect {self.connect}: "
        "prompts that are not appended must both be none"
      )


class PrommaNet(mplmm.MplmmNet):
  """The network of MPLMM with the parts of ProMMA, those that are on."""

  config: PrommaConfig

  def setup(self):
    super().setup()
    c = self.config
    if c.gate != "on":
      off = lambda n: (mplmm.START, (self.counts[n], c.width))
      self.off = {n: self.param(f"{n}_off_prompts", *off(n)) for n in self.names}
    if c.gate in JUDGED:
      self.judge = promma_prompts.Evaluator()
    if c.private != "none":
      local = c.private == "local"
      form = (self.names, c.prompts, c.width, c.rank, local)
      self.private = promma_prompts.PrivatePrompts(*form)
    if c.weigh in ("codes", "attention") and len(self.names) > 1:
      self.weights = promma_prompts.Weights(c.width, c.codes)
    if c.connect != "none":
      form = (self.names, c.memory_layers, self.wide, c.connect != "static")
      self.connect = promma_prompts.Connect(*form, last=c.connect == "last")
      if c.private == "none":
        size = (c.prompts, c.width)
        self.shared = self.param("shared_prompts", mplmm.START, size)

  @property
  def typed(self):
    """Whether the prompts are MPLMM's, free for each modality."""
    return self.config.types and self.config.private == "none"

  def __call__(self, batch: Batch) -> Array:
    present = batch.present
    seen, made = self.take(batch, present)
    if self.config.gate in JUDGED:
      self.evaluate(seen, made, present, self.plain(batch, present))
    logits, _ = self.answer(seen, made, present, present * 1.0, batch.id)
    return logits

  def take(self, batch: Batch, present: Array, pattern=None, key=None, recorded=None):
    """What is read of `present` bool[B, M], and what is generated from that. Where
    `recorded` bool[B, M] is given, the projected steps are those of all recorded."""
    noise = {"key": key, "ids": batch.id}
    seen = self.read(batch, present if recorded is None else recorded, pattern, noise)
    if recorded is not None:
      there = dict(zip(self.names, present.T, strict=True))
      raw = {n: missing.zero_absent(x, there[n]) for n, x in seen.raw.items()}
      seen = seen._replace(raw=raw)
    return seen, self.generated(seen, present, pattern)

  def evaluate(self, seen, made, present: Array, answer: Array) -> Array:
    """Logits f[B, M] of the gates; `answer` f[B, C] is that of f0."""
    return self.judge(seen.steps, seen.real, made, present, answer)

  def streams(self, seen, made, present: Array, g: Array | None = None):
    """Those of MPLMM; an absent modality is g of them and 1 - g of its OFF prompts."""
    steps, real = super().streams(seen, made, present)
    if g is None:
      return steps, real
    for i, n in enumerate(self.names):
      part = g[:, i, None, None]
      mixed = part * steps[n] + (1 - part) * self.off[n][None]
      steps[n] = jnp.where(present[:, i, None, None], steps[n], mixed)
      real[n] = jnp.where(present[:, i, None], real[n], True)
    return steps, real

  def mapping(self, present: Array, g: Array | None = None) -> Array:
    """That of MPLMM, of the OFF prompts too, and the identity on each part of W."""
    if g is None:
      total = super().mapping(present)
    else:
      total = 0.0
      for i, n in enumerate(self.names):
        sets = self.there[n], self.made[n], self.off[n]
        there, made, off = ((x.T @ self.maps[n])[None] for x in sets)
        part = g[:, i, None, None]  # at 0 exactly nothing is left of what is generated
        absent = part * made + (1 - part) * off
        total += jnp.where(present[:, i, None, None], there, absent)
    if self.config.skip:
      total += promma_prompts.side_by_side(self.config.width, self.wide)[None]
    return total

  def answer(self, seen, made, present, g, ids=None, key=None):
    """(logits f[B, C], told) under the gates g f[B, M], which count where a modality is
    absent; told has "private" f[B, M, E, H] and "information" {(m, n): f[B]}."""
    c, told = self.config, {}
    noise = {"key": key, "ids": ids}
    g = None if c.gate == "on" else jnp.where(present, 1.0, g)
    steps, real = self.streams(seen, made, present, g)
    visible = real if c.masked else dict.fromkeys(real)
    scale = None if g is None else dict(zip(self.names, g.T, strict=True))
    found, omega = self.related(steps, real, visible, scale, told, noise)
    connect = None
    if c.types:
      if c.private == "none":
        prompts = {n: self.own[n][None] for n in self.names}
      else:
        told["private"] = self.private(steps, visible)
        prompts = {n: told["private"][:, i] for i, n in enumerate(self.names)}
      if c.apply != "features":
        heavy = lambda i, x: omega[:, i, None, None].astype(x.dtype) * x
        prompts = {n: heavy(i, prompts[n]) for i, n in enumerate(self.names)}
      if c.connect != "none":
        shared = self.shared if c.private == "none" else self.private.shared
        connect = self.connect(shared)
      found, real = self.append(found, real, prompts, self.mapping(present, g))
    r = self.backbone.remember(found, real, connect=connect, **noise)
    return self.backbone.head(r, **noise), told

  def related(self, steps, real, visible, scale, told, noise):
    """What the modalities find in each other, and weights f[B, M] of the sources."""
    c, rows = self.config, len(next(iter(steps.values())))
    even = jnp.ones((rows, len(self.names)))
    weigh = c.weigh if len(self.names) > 1 else "none"
    if weigh in ("none", "random"):
      found = self.backbone.cross(steps, real, scale=scale, **noise)
      return found, even if weigh == "none" else random_weights(noise["ids"], even)
    tells = "found" if weigh == "codes" else "attention"
    found, heard = self.backbone.cross(steps, real, scale=scale, tells=tells, **noise)
    if weigh == "codes":
      information = self.weights.information(heard, steps, visible)
    else:
      # It is told without the scale; of a source that is OFF nothing is heard.
      part = dict.fromkeys(self.names, 1.0) if scale is None else scale
      information = {(m, n): part[n] * x.information for (m, n), x in heard.items()}
    told["information"], heat = information, self.weights.heat()
    omega = mutual_information.source_weights(
      mutual_information.source_scores(information, self.names), heat
    )
    if c.apply == "prompts":
      return found, omega
    for m in self.names:
      others = [n for n in self.names if n != m]
      heard = jnp.stack([information[m, n] for n in others], axis=1)
      part = jnp.repeat(mutual_information.source_weights(heard, heat), c.width, axis=1)
      found[m] = part[:, None].astype(found[m].dtype) * found[m]
    return found, omega


def random_weights(ids: Array, even: Array) -> Array:
  """Weights f[B, M] that mean nothing, from the ids of the rows."""
  draw = lambda row: jax.random.normal(jax.random.fold_in(jax.random.key(7), row), (even.shape[1],))
  return mutual_information.source_weights(jax.vmap(draw)(ids), 1.0)


def promma(config: PrommaConfig, spec: Spec) -> Method:
  """ProMMA as a `Method`; model_state has the ends of f0, the moments of the training targets,
  how often the evaluator says ON, and the thresholds of "importance"."""
  net = PrommaNet(spec.modalities, spec.task.outputs, config)
  # What f0 must keep of its own: all that stage "tune" changes of the backbone.
  kept = mplmm.ends if config.frozen else lambda params: params["params"]["backbone"]

  def init(key):
    params = net.init(key, types.example_batch(spec))
    return params, {"f0": kept(params), **empty(spec)}

  def enter(key, params, model_state):
    return mplmm.renewed(config, init, key, params), model_state | {"f0": kept(params)}

  def loss(params, model_state, batch, key, clock):
    return objective(net, spec.task, params, model_state, batch, key, clock)

  def predict(params, model_state, batch, pattern=None):
    present = missing.restrict_to_pattern(batch.present, pattern)
    seen, made = net.apply(params, batch, present, pattern, method="take")
    g = decide(net, spec.task, params, model_state, batch, present, (seen, made), pattern)
    ids = batch.id
    logits, _ = net.apply(params, seen, made, present, g, ids, method="answer")
    return {"logits": logits, "gate": jnp.where(present, 1.0, g)}

  trains = (mplmm.TUNED,) if config.frozen else (".*",)
  tune = Stage("tune", loss, trains, on_start=enter, predict=predict)
  return mplmm.assembled(config, init, net, spec.task, tune)


def empty(spec: Spec) -> dict:
  """The statistics before the first batch: count and sums of the targets, ON and
  judged gates, thresholds."""
  names, outputs = spec.names, spec.task.outputs
  none = jnp.zeros((len(names),))
  moments = (jnp.zeros(()), jnp.zeros((outputs,)), jnp.zeros((outputs,)))
  return {"moments": moments, "on": (none, none), "tau": none}


def objective(net, task, params, model_state, batch: Batch, key: Array, clock: StepInfo):
  """The loss f[] of stage "tune", (model_state, terms)."""
  c, names = net.config, tuple(m.name for m in net.modalities)
  noise_key, gate_key = jax.random.split(key)
  present, recorded = batch.present, batch.recorded
  some = jnp.any(present, axis=1)
  absent = ~present & some[:, None]
  take = {"key": noise_key, "recorded": recorded, "method": "take"}
  seen, made = net.apply(params, batch, present, **take)
  warm = (clock.progress < c.warmup) & (c.gate != "off")
  g, judged = jnp.ones(present.shape), None
  if c.gate in JUDGED:
    judge = functools.partial(labels, net, task, params)
    rest = lambda model_state, *_: (jnp.zeros(present.shape), model_state)
    judges = (clock.progress >= c.warmup) & (clock.step % c.judge_every == 0)
    masks = jnp.stack([present, *asked(c, recorded)])
    said = teach(net, params, model_state, batch, masks, jnp.where(judges, len(masks), 1))
    answer = said[0]
    q, model_state = jax.lax.cond(
      judges, judge, rest, model_state, batch, present, recorded, said[1:]
    )
    judged = net.apply(params, seen, made, present, answer, method="evaluate")
    g = jax.nn.sigmoid(judged)
    model_state = model_state | {"on": counted(model_state["on"], judged >= 0, absent & ~warm)}
  elif c.gate == "free":
    g = coins(gate_key, batch.id, present.shape[1], 0.5)
  elif c.gate == "off":
    g = jnp.zeros(present.shape)
  g = jnp.where(warm, 1.0, g)
  answer = {"ids": batch.id, "key": noise_key, "method": "answer"}
  logits, told = net.apply(params, seen, made, present, g, **answer)
  terms = {"sup": common.supervised_loss(logits, batch, task)}
  total = terms["sup"].value
  if judged is not None:
    entropy = generation_gate.gate_cross_entropy(q, judged)
    # What leaving m out does is not known where m was never there.
    known = recorded if c.gate == "importance" else True
    terms["gate"] = Average.of(entropy, absent & judges & known)
    for i, n in enumerate(names):
      on = (judged[:, i] >= 0).astype(jnp.float32)
      terms[f"on/{n}"] = Average.of(on, absent[:, i])
    # The mean of the loss over the steps does not depend on how often it is taken.
    weight = jnp.where(judges, c.evaluator * c.judge_every, 0.0)
    total += weight * terms["gate"].value
  more, weights = added(net, params, seen, made, told, present, recorded)
  for name, weight in weights.items():
    total += weight * more[name].value
  return total, (model_state, terms | more)


def asked(config: PrommaConfig, recorded: Array) -> list[Array]:
  """What f0 is to see, bool[B, M] each, when gates are judged: all that is recorded,
  and for "importance" that without each modality in turn."""
  count = recorded.shape[1]
  without = [recorded & (np.arange(count) != m)[None] for m in range(count)]
  return [recorded, *(without if config.gate == "importance" else [])]


def labels(net, task, params, model_state, batch, present, recorded, said):
  """The gates' labels q f[B, M], and model_state with the statistics of this batch; `said`
  f[K, B, C] are the logits of f0 on what was `asked`."""
  c, whole, without = net.config, said[0], said[1:]
  if c.gate == "importance":
    moved = generation_gate.distances(whole, without, task)
    # Moved means of a batch's medians are close to the median, and cheap.
    tau = generation_gate.column_medians(moved, recorded & jnp.any(present, axis=1)[:, None])
    tau = jnp.where(model_state["tau"] > 0, 0.95 * model_state["tau"] + 0.05 * tau, tau)
    return generation_gate.importance(whole, without, tau, task), model_state | {"tau": tau}
  where = batch.labelled & jnp.any(present, axis=1)
  label = generation_gate.as_target(supervised.known_label(batch.label, where), task)
  moments = generation_gate.gathered(model_state["moments"], label, where)
  pseudo = supervised.predict_probability(whole, task)
  mixed = c.beta * label + (1 - c.beta) * pseudo
  target = jnp.where(where[:, None], mixed, pseudo)
  errors = tried(net, task, params, batch, present, target)
  unit = generation_gate.deviation(moments)
  q = generation_gate.necessity(generation_gate.benefit(errors, present), unit, c.margin)
  return q, model_state | {"moments": moments}


def teach(net, params, model_state, batch: Batch, masks: Array, count=None) -> Array:
  """Logits f[K, B, C] of f0 where it sees `masks` bool[K, B, M], without gradient; of
  the first `count`, which may be traced (None: K), the others are zeros."""
  params = jax.lax.stop_gradient(params)["params"]
  params = {"params": params | {"backbone": params["backbone"] | model_state["f0"]}}
  one = lambda mask: net.apply(params, batch, mask, method="plain")
  if count is None:
    return jax.lax.map(one, masks)
  like = jax.eval_shape(one, masks[0])
  none = jnp.zeros((len(masks), *like.shape), like.dtype)
  put = lambda k, said: said.at[k].set(one(masks[k]))
  return jax.lax.fori_loop(0, count, put, none)


def tried(net, task, params, batch, present, target, pattern=None) -> Array:
  """Errors f[G, B] of the model against `target` f[B, C] under every setting of the
  gates, without noise or gradient."""
  params = jax.lax.stop_gradient(params)
  seen, made = net.apply(params, batch, present, pattern, method="take")

  def one(setting):
    g, ids = generation_gate.gates(setting, present), batch.id
    logits, _ = net.apply(params, seen, made, present, g, ids, method="answer")
    return generation_gate.prediction_error(logits, target, task)

  return jax.lax.map(one, jnp.asarray(generation_gate.gate_settings(present.shape[1])))


def decide(net, task, params, model_state, batch, present, taken, pattern) -> Array:
  """The hard gates f[B, M] of a prediction; 1 before a gate has been judged, as in
  training until then."""
  c, count = net.config, present.shape[1]
  if c.gate in ("on", "off"):
    return jnp.full(present.shape, float(c.gate == "on"))
  if c.gate == "random":
    on, judged = model_state["on"]
    chance = jnp.where(judged > 0, on / jnp.maximum(judged, 1), 1)
    return coins(jax.random.key(0), batch.id, count, chance)
  if c.gate in ("learned", "importance"):
    (answer,) = teach(net, params, model_state, batch, present[None])
    judged = net.apply(params, *taken, present, answer, method="evaluate")
    warm = jnp.sum(model_state["on"][1]) == 0
    return jnp.where(warm | (judged >= 0), 1.0, 0.0)
  if c.gate == "oracle":
    if "label" not in batch:
      raise ValueError("promma.gate is oracle, which reads labels; the batch has none")
    target = generation_gate.as_target(batch.label, task)
    errors = tried(net, task, params, batch, present, target, pattern)
    best = jnp.asarray(generation_gate.gate_settings(count))[jnp.argmin(errors, axis=0)]
    return jax.vmap(lambda row, there: generation_gate.gates(row, there[None])[0])(best, present)
  alone = present[None] & jnp.eye(count, dtype=bool)[:, None]
  said = jax.vmap(lambda x: supervised.predict_probability(x, task))(
    teach(net, params, model_state, batch, alone)
  )
  there = present.T[..., None]
  target = jnp.sum(jnp.where(there, said, 0), axis=0)
  target /= jnp.maximum(jnp.sum(there, axis=0), 1)
  errors = tried(net, task, params, batch, present, target, pattern)
  return (generation_gate.benefit(errors, present) > 0).astype(jnp.float32)


def added(net, params, seen, made, told, present, recorded):
  """The terms beside that of the task, each a `Mean`, and their weights."""
  c, names = net.config, tuple(m.name for m in net.modalities)
  some, more = jnp.any(present, axis=1), {}
  if "private" in told:
    prompts = params["params"]["private"]
    shared, kernel = prompts["prompts"], prompts["recover_kernel"]
    overlap = prompt_disentanglement.orthogonality_loss(told["private"], shared)
    lost = prompt_disentanglement.recovery_loss(told["private"], shared, kernel)
    more["orthogonal"] = Average.of(overlap, some)
    more["recover"] = Average.of(lost, some)
  if c.weigh == "codes" and "information" in told:
    index = {n: i for i, n in enumerate(names)}
    pairs = [
      (x, present[:, index[m]] & present[:, index[n]]) for (m, n), x in told["information"].items()
    ]
    values, where = (jnp.stack(x, axis=1) for x in zip(*pairs, strict=True))
    more["information"] = Average.of(-values, where)
  if c.generate and len(names) > 1:
    wanted = (~present & recorded & some[:, None]).T
    pair = made, seen.steps
    made, steps = aimed(params, *pair) if c.aim == "streams" else pair
    gaps = [generated_gap(made[n], steps[n], seen.real[n]) for n in names]
    more["generator"] = Average.of(jnp.stack(gaps), wanted)
  return more, {name: getattr(c, name) for name in more}


def aimed(params, made: dict, steps: dict) -> tuple[dict, dict]:
  """Generated and real steps {modality: f[B, T, H]} with their signal prompts: alone,
  what a GELU has made cannot come near to steps of both signs."""
  own = params["params"]
  with_prompts = lambda x, kind: {n: x[n] + own[f"{n}_{kind}_prompts"][None] for n in x}
  return with_prompts(made, "missing"), with_prompts(steps, "present")


def generated_gap(made: Array, steps: Array, real: Array) -> Array:
  """Smooth L1 f[B] between generated and detached real steps, the mean over those."""
  gap = optax.huber_loss(made, jax.lax.stop_gradient(steps))
  return missing.masked_mean(gap, real, (1, 2))


def coins(key: Array, ids: Array, count: int, chance) -> Array:
  """f[B, M] of 0 and 1, 1 with `chance` f[] or f[M], by the ids of the rows."""
  draw = lambda row: jax.random.uniform(jax.random.fold_in(key, row), (count,))
  chance = jnp.broadcast_to(chance, (count,))[None]
  return (jax.vmap(draw)(ids) < chance).astype(jnp.float32)


def counted(on: tuple, yes: Array, where: Array) -> tuple:
  """How many gates were ON, and judged, f[M] each; each time the past fades by 1 %."""
  new = jnp.sum(yes & where, axis=0), jnp.sum(where, axis=0)
  return tuple(0.99 * old + x for old, x in zip(on, new, strict=True))
