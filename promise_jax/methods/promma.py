"""ProMMA (arXiv 2604.05558), reconstructed: ask whether a modality is worth generating first.

Only the abstract of the paper was available to us. What it says of its four parts is kept, every
formula is ours, and none of its numbers is aimed at. The parts extend MPLMM (`mplmm.py` has
the letters); without them this is its network, parameter by parameter.

  Evaluator     g_m in [0, 1] for each absent modality, 1 for present ones. With OFF prompts O_m
                  U_m = g_m (G_m + P_missing,m) + (1 - g_m) O_m
                and g_m scales what the other modalities find in m. Until `warmup` of the stage
                is done g = 1; then g is soft in training, and 0 or 1 in prediction.
  Private       one shared prompt, as a private one for each modality and row, in place of the
  prompts       missing-type prompts; Q gets the identity [I I ...] as one more term.
  Source        each modality's prompt is weighted by the mutual information of what the others
  weights       find in it with what they are.
  Connections   each layer of self-attention adds the shared prompt to the appended ones again.

`promma_gates.py` has the labels of the evaluator, `nn/promma_prompts.py` the modules. The loss:

  task loss + gate_weight        cross entropy of the gates
            + orthogonality_weight, recovery_weight    see `losses/prompt_disentanglement.py`
            - information_weight mutual information of pairs that are present
            + generation_weight  smooth L1 of generated steps to recorded ones that are hidden
"""

import dataclasses
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from promise_jax import missing, types
from promise_jax.checks import check_fields
from promise_jax.losses import (
  generation_gate,
  mutual_information,
  prompt_disentanglement,
)
from promise_jax.method import Method, Stage
from promise_jax.methods import common, mplmm, promma_gates
from promise_jax.nn import precision, promma_prompts
from promise_jax.types import Array, Average, Inputs, Spec


@dataclasses.dataclass(frozen=True)
class PrommaConfig(mplmm.MplmmConfig):
  """Settings of `promma`, beside those of `mplmm`."""

  gate: Literal["learned", "on", "off"] = "learned"  # on: always generate, off: never
  private_prompts: bool = True  # False: missing-type prompts, as in MPLMM
  source_weights: bool = True  # False: 1 for every source
  connections: bool = True  # without private prompts the shared one is used here alone
  identity_skip: bool = True  # the identity in Q; False: as in MPLMM
  warmup: float = 0.15  # part of the stage with g = 1
  margin: float = 0.0  # that a generation must win, in 0.1 standard deviations of the targets
  gate_every: int = 1  # steps between labels of the gates, which double the time of a step
  generation_target: Literal["steps", "streams"] = "steps"  # streams: with their prompts
  gate_weight: float = 0.1
  orthogonality_weight: float = 0.1
  recovery_weight: float = 0.1
  information_weight: float = 0.01
  generation_weight: float = 0.1
  fit: float = 0.1
  tune: float = 0.4

  method: ClassVar[str] = "promma"

  def __post_init__(self):
    """Raises ValueError for a setting without meaning."""
    super().__post_init__()
    weights = [f.name for f in dataclasses.fields(self) if f.name.endswith("_weight")]
    lows = dict.fromkeys((*weights, "warmup", "margin"), 0)
    check_fields(self, self.method, gate_every=1, **lows)
    if not (self.generate and self.signal_prompts and self.type_prompts):
      raise ValueError("promma needs generate, signal_prompts and type_prompts of mplmm")


class Forward(NamedTuple):
  """The output of the network, and what the auxiliary losses read."""

  logits: Array  # f[B, C]
  private: Array | None  # f[B, M, E, H]
  information: dict[tuple[str, str], Array]  # {(target, source): f[B]}


class PrommaNet(mplmm.MplmmNet):
  """The network of MPLMM with the parts of ProMMA."""

  config: PrommaConfig

  def setup(self):
    super().setup()
    c, names = self.config, self.names
    if c.gate == "on":
      dtype = precision.param_dtype(self)
      self.off_prompts = {n: jnp.zeros(self.steps_shape(n), dtype) for n in names}
    else:
      form = lambda n: (mplmm.START, self.steps_shape(n))
      self.off_prompts = {n: self.param(f"{n}_off_prompts", *form(n)) for n in names}
    if c.gate == "learned":
      self.judge = promma_prompts.Evaluator()
    if c.private_prompts:
      self.private = promma_prompts.PrivatePrompts(names, c.prompts, c.width)
    if c.source_weights and len(names) > 1:
      self.weights = promma_prompts.SourceInformation(c.width)
    if c.connections:
      self.connect = promma_prompts.Connections(names, c.memory_layers, self.memory_width)
      if not c.private_prompts:
        self.shared = self.param("shared_prompts", mplmm.START, (c.prompts, c.width))

  @property
  def has_type_prompts(self):
    return not self.config.private_prompts

  def __call__(self, batch: Inputs) -> Array:
    """Logits f[B, C] through all parameters."""
    present = batch.present
    encoded, generated = self.encode_and_generate(batch, present, present)
    if self.config.gate == "learned":
      self.gate_logits(encoded, generated, present, self.backbone_logits(batch, present))
    return self.forward(encoded, generated, present, present * 1.0, batch.id).logits

  def encode_and_generate(self, batch: Inputs, present, recorded, pattern=None, key=None):
    """(`Encoded`, generated steps). Everything recorded is projected, as a target; the
    generators read what is present."""
    encoded = self.encode(batch, recorded, pattern, key)
    visible = dict(zip(self.names, present.T, strict=True))
    raw = {n: missing.zero_absent(x, visible[n]) for n, x in encoded.raw.items()}
    encoded = encoded._replace(raw=raw)
    return encoded, self.generate(encoded, present, pattern)

  def gate_logits(self, encoded, generated, present: Array, backbone_logits: Array) -> Array:
    """Logits f[B, M] of the gates; `backbone_logits` f[B, C] are those of f0."""
    return self.judge(encoded.projected, encoded.real, generated, present, backbone_logits)

  def forward(self, encoded, generated, present, gates, ids=None, key=None) -> Forward:
    """The pass under `gates` f[B, M], which count where a modality is absent."""
    c, noise = self.config, {"key": key, "ids": ids}
    gates = jnp.where(present, 1.0, gates)
    steps, real = self.gated_steps(encoded, generated, present, gates)
    counted = {n: real[n] | c.released_code for n in self.names}
    scale = dict(zip(self.names, gates.T, strict=True))
    found, attended = self.backbone.cross_attend(steps, real, scale=scale, **noise)
    information = {}
    if c.source_weights and len(self.names) > 1:
      information = self.weights(attended, steps, counted)
    private = self.private(steps, counted) if c.private_prompts else None
    prompts = self.weighted_prompts(private, information)
    found, real = self.append_prompts(found, real, prompts, self.gated_prompt_map(present, gates))
    connections = None
    if c.connections:
      connections = self.connect(self.private.shared if c.private_prompts else self.shared)
    readout = self.backbone.self_attend(found, real, connect=connections, **noise)
    return Forward(self.backbone.head(readout, **noise), private, information)

  def gated_steps(self, encoded, generated, present, gates):
    """U_m of MPLMM; an absent modality is a mixture of its generation and its OFF prompts."""
    steps, real = self.input_steps(encoded, generated, present)
    for i, n in enumerate(self.names):
      g = gates[:, i, None, None]
      mixed = g * steps[n] + (1 - g) * self.off_prompts[n][None]
      steps[n] = jnp.where(present[:, i, None, None], steps[n], mixed)
    return steps, real

  def gated_prompt_map(self, present, gates) -> Array:
    """Q f[B, H, W], where an absent modality has the mixture of missing and OFF prompts."""
    total = 0.0
    for i, n in enumerate(self.names):
      prompts = self.present_prompts[n], self.missing_prompts[n], self.off_prompts[n]
      own, other, off = ((x.T @ self.maps[n])[None] for x in prompts)
      g = gates[:, i, None, None]  # at exactly 0 nothing of the generation is left
      total += jnp.where(present[:, i, None, None], own, g * other + (1 - g) * off)
    if self.config.identity_skip:
      total += promma_prompts.identities(self.config.width, self.memory_width)[None]
    return total

  def weighted_prompts(self, private, information: dict) -> dict[str, Array]:
    """{modality: f[B or 1, E, H]} times the weight of the modality as a source."""
    if private is None:
      prompts = {n: x[None] for n, x in self.type_prompts.items()}
    else:
      prompts = {n: private[:, i] for i, n in enumerate(self.names)}
    if not information:
      return prompts
    scores = mutual_information.source_scores(information, self.names)
    weights = mutual_information.source_weights(scores, self.weights.temperature())
    weights = {n: weights[:, i, None, None] for i, n in enumerate(self.names)}
    return {n: weights[n].astype(x.dtype) * x for n, x in prompts.items()}


def promma(config: PrommaConfig, spec: Spec) -> Method:
  """ProMMA as a `Method`. Its model_state belongs to the evaluator."""
  net, task = PrommaNet(spec.modalities, spec.task.outputs, config), spec.task

  def init_state(params):
    if config.gate != "learned":
      return {}
    moments = generation_gate.init_moments(task.outputs)
    return {"f0": f0_layers(config, params), "moments": moments, "evaluator_trained": False}

  def init(key):
    params = net.init(key, types.example_batch(spec))
    return params, jax.tree.map(jnp.asarray, init_state(params))

  def start_tuning(key, params, model_state):
    if config.gate == "learned":
      model_state = model_state | {"f0": f0_layers(config, params)}
    return mplmm.reset_data_layers(config, init, key, params), model_state

  def loss(params, model_state, batch, key, step_info):
    key, _ = jax.random.split(key)
    present, recorded = batch.present, batch.recorded
    encode = net.encode_and_generate
    encoded, generated = net.apply(params, batch, present, recorded, key=key, method=encode)
    gates, gate_weight, gate_terms = jnp.full(present.shape, float(config.gate == "on")), 0.0, {}
    if config.gate == "learned":
      out = train_gates(net, task, params, model_state, batch, encoded, generated, step_info)
      gates, gate_weight, gate_terms, model_state = out
    args = encoded, generated, present, gates, batch.id, key
    out = net.apply(params, *args, method=net.forward)
    more = auxiliary_terms(net, params, encoded, generated, out, present, recorded)
    weights = {"supervised": 1.0, "gate": gate_weight}
    weights |= {name: getattr(config, f"{name}_weight") for name in more}
    terms = {"supervised": common.supervised_loss(out.logits, batch, task)} | gate_terms | more
    return common.weighted_sum(terms, weights), (model_state, terms)

  def predict(params, model_state, inputs, pattern=None):
    present = common.keep_pattern(inputs, pattern).present
    encode = net.encode_and_generate
    steps = net.apply(params, inputs, present, present, pattern, method=encode)
    gates = promma_gates.predict_gates(net, params, model_state, inputs, present, *steps)
    out = net.apply(params, *steps, present, gates, inputs.id, method=net.forward)
    return {"logits": out.logits, "gate": jnp.where(present, 1.0, gates)}

  tune = Stage("tune", loss, on_start=start_tuning, predict=predict)
  return mplmm.make_method(config, init, net, task, tune)


def f0_layers(config: PrommaConfig, params) -> dict:
  """The layers of the backbone that `tune` changes: f0 needs its own copies."""
  return mplmm.data_layers(params) if config.frozen else params["params"]["backbone"]


def train_gates(net, task, params, model_state, batch, encoded, generated, step_info):
  """(soft gates f[B, M], weight of the gate term, terms, model_state) of a training step."""
  c, present = net.config, batch.present
  absent = ~present & jnp.any(present, axis=1)[:, None]
  warm = step_info.progress < c.warmup
  labelling = ~warm & (step_info.step % c.gate_every == 0)
  masks, needed = jnp.stack([present, batch.recorded]), jnp.stack([True, labelling])
  logits = promma_gates.frozen_backbone_logits(net, params, model_state["f0"], batch, masks, needed)
  label = lambda moments: promma_gates.label_gates(
    net, task, params, moments, batch, logits[1], c.margin
  )
  skip = lambda moments: (jnp.zeros(present.shape), moments)
  labels, moments = jax.lax.cond(labelling, label, skip, model_state["moments"])
  gate_logits = net.apply(params, encoded, generated, present, logits[0], method=net.gate_logits)
  trained = model_state["evaluator_trained"] | jnp.any(absent & ~warm)
  model_state = model_state | {"moments": moments, "evaluator_trained": trained}
  entropy = generation_gate.gate_cross_entropy(labels, gate_logits)
  terms = {"gate": Average.of(entropy, absent & labelling)}
  for i, name in enumerate(net.names):
    is_on = (gate_logits[:, i] >= 0).astype(jnp.float32)
    terms[f"on/{name}"] = Average.of(is_on, absent[:, i])
  # The mean weight over steps does not depend on `gate_every`.
  weight = jnp.where(labelling, c.gate_weight * c.gate_every, 0.0)
  return jnp.where(warm, 1.0, jax.nn.sigmoid(gate_logits)), weight, terms, model_state


def auxiliary_terms(net, params, encoded, generated, out: Forward, present, recorded):
  """The terms {name: Average} beside those of the task and the gates."""
  names, any_present, terms = net.names, jnp.any(present, axis=1), {}
  if out.private is not None:
    prompts = params["params"]["private"]
    shared, kernel = prompts["prompts"], prompts["recover_kernel"]
    overlap = prompt_disentanglement.orthogonality_loss(out.private, shared)
    lost = prompt_disentanglement.recovery_loss(out.private, shared, kernel)
    terms["orthogonality"] = Average.of(overlap, any_present)
    terms["recovery"] = Average.of(lost, any_present)
  if out.information:
    both = lambda m, n: present[:, names.index(m)] & present[:, names.index(n)]
    values = jnp.stack(list(out.information.values()), axis=1)
    where = jnp.stack([both(*pair) for pair in out.information], axis=1)
    terms["information"] = Average.of(-values, where)
  if len(names) > 1:
    hidden = (~present & recorded & any_present[:, None]).T
    gap = lambda n: generation_gap(net.config, params, n, encoded, generated)
    terms["generation"] = Average.of(jnp.stack([gap(n) for n in names]), hidden)
  return terms


def generation_gap(config: PrommaConfig, params, name: str, encoded, generated) -> Array:
  """Smooth L1 f[B] between generated and detached real steps, averaged over real steps."""
  made, steps = generated[name], encoded.projected[name]
  if config.generation_target == "streams":
    # Generated steps alone end in a GELU, which cannot come near to negative numbers.
    made = made + params["params"][f"{name}_missing_prompts"][None]
    steps = steps + params["params"][f"{name}_present_prompts"][None]
  gap = optax.huber_loss(made, jax.lax.stop_gradient(steps))
  return missing.masked_mean(gap, encoded.real[name], (1, 2))
