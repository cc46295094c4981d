"""ProMMA (arXiv 2604.05558), reconstructed: is an absent modality worth generating?

Only the abstract of the paper was available. The four parts are as it describes them, every formula
is ours, and we do not try to reach its numbers. The parts extend MPLMM; without them the network
has the same parameters as that of MPLMM. `mplmm.py` defines P, Q and G.

  Evaluator    g_m in [0, 1] for each absent modality m, 1 for present ones. With OFF prompts O_m
                 U_m = g_m (G_m + P_missing,m) + (1 - g_m) O_m
               and g_m scales what attention from the other modalities reads in m. g is 1 during
               warm-up, afterwards in [0, 1] in training and 0 or 1 in prediction.
  Private      one shared prompt, decomposed for each modality and row, in place of P_type. Q
  prompts      gets the identity [I I ...] as one more term.
  Source       the prompt of m is weighted by how much the others learn from m: the mutual
  weights      information I of their steps and what their attention reads in m.
  Connections  each layer of self-attention adds the shared prompt to the appended ones.

  loss = task + gate_weight CE(gates) + orthogonality_weight L_orth + recovery_weight L_recover
         - information_weight I + generation_weight smoothL1(G_m, hidden recorded steps)

See `promma_gates.py` for the labels of the gates and `nn/promma_prompts.py` for the modules.
"""

import dataclasses
import functools
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from promise_jax import missing, types
from promise_jax.checks import check_fields
from promise_jax.losses import generation_gate, mutual_information, prompt_disentanglement
from promise_jax.method import Method, Stage
from promise_jax.methods import common, mplmm, promma_gates, prompt_stages
from promise_jax.nn import host, mplmm_prompts, promma_prompts
from promise_jax.types import Average, Batch, Inputs, PyTree, Spec


@dataclasses.dataclass(frozen=True)
class PrommaConfig(mplmm.MplmmConfig):
  """Settings of `promma`, in addition to those of `mplmm`."""

  gate: Literal["learned", "on", "off"] = "learned"  # on: always generate, off: never
  private_prompts: bool = True  # False: missing-type prompts, as in MPLMM
  source_weights: bool = True  # False: all are 1
  connections: bool = True  # learned connections between the layers of the backbone; False: none
  identity_skip: bool = True  # False: Q without the identity, as in MPLMM
  warmup: float = 0.15  # fraction of the stage during which g = 1
  margin: float = 0.0  # benefit at which a label is 1/2, in 0.1 standard deviations of targets
  gate_every: int = 4  # steps between labels for the gates; labels double the time of a step
  generation_target: Literal["steps", "streams"] = "steps"  # streams: steps + prompts
  gate_weight: float = 0.1  # of the loss of the gates
  orthogonality_weight: float = 0.1  # of the overlap of private prompts
  recovery_weight: float = 0.1  # of what private prompts lose of the shared one
  information_weight: float = 0.01  # of the mutual information that sources give
  generation_weight: float = 0.1  # of the gap between generated and real steps

  method: ClassVar[str] = "promma"

  def __post_init__(self):
    super().__post_init__()
    weights = [f.name for f in dataclasses.fields(self) if f.name.endswith("_weight")]
    lows = dict.fromkeys((*weights, "warmup", "margin"), 0)
    check_fields(self, self.method, gate_every=1, **lows)
    if not (self.generate and self.signal_prompts and self.type_prompts):
      raise ValueError("promma needs generate, signal_prompts and type_prompts; mplmm goes without")


class Forward(NamedTuple):
  """The output of the network, and inputs of the auxiliary losses; E is `config.prompts`."""

  logits: Float[Array, "B C"]
  fused: Float[Array, "B MW"]  # what the head reads
  private: Float[Array, "B M E H"] | None  # private prompts
  information: Float[Array, "B M M"] | None  # I of target and source modality


class PrommaNet(mplmm.MplmmNet):
  """The network of MPLMM with the parts of ProMMA."""

  config: PrommaConfig

  @property
  def is_gated(self) -> bool:
    return self.config.gate != "on"

  @property
  def has_type_prompts(self) -> bool:
    return not self.config.private_prompts

  def setup(self):
    super().setup()
    c, count = self.config, len(self.names)
    if c.gate == "learned":
      self.evaluator = promma_prompts.Evaluator()
    if c.private_prompts:
      self.private = promma_prompts.PrivatePrompts(count, c.prompts, c.width)
    # A single step has no information about itself.
    self.weighs_sources = c.source_weights and count > 1 and max(self.num_steps.values()) > 1
    if self.weighs_sources:
      self.source_information = promma_prompts.SourceInformation(c.width)
    if c.connections:
      self.connections = promma_prompts.Connections(
        count, c.memory_layers, self.backbone.memory_width
      )
    if c.connections and not c.private_prompts:
      shape = (c.prompts, c.width)
      self.shared = self.param("shared_prompts", mplmm_prompts.START, shape)

  def __call__(self, batch: Inputs) -> Float[Array, "B C"]:
    """Logits; it uses all parameters, so `init` makes them."""
    present = batch.present
    steps = self.encode_and_generate(batch, present, present)
    if self.config.gate == "learned":
      self.gate_logits(*steps, present, self.backbone_output(batch, present)[0])
    return self.forward(*steps, present, present * 1.0).logits

  def encode_and_generate(
    self, batch: Inputs, present: Bool[Array, "B M"], recorded: Bool[Array, "B M"], pattern=None
  ) -> tuple[host.Encoded, dict[str, Array]]:
    """Projects the recorded steps, targets of generation; generates G from the present ones."""
    encoded = self.backbone.encode(batch, recorded, pattern)
    is_present = dict(zip(self.names, present.T, strict=True))
    raw = {n: missing.zero_absent(x, is_present[n]) for n, x in encoded.raw.items()}
    encoded = encoded._replace(raw=raw)
    return encoded, self.generate(encoded, present, pattern)

  def gate_logits(self, encoded, generated, present, backbone_logits) -> Float[Array, "B M"]:
    """Logits of the gates; `backbone_logits` f[B, C] are those of f0, see `promma_gates`."""
    return self.evaluator(encoded.projected, encoded.real, generated, present, backbone_logits)

  def forward(self, encoded, generated, present, gates: Float[Array, "B M"]) -> Forward:
    """The forward pass; `gates` are used where a modality is absent."""
    c = self.config
    gates = jnp.where(present, 1.0, gates) if self.is_gated else None
    steps, real = self.input_steps(encoded, generated, present, gates)
    encoded_steps, attended = self.backbone.cross_attend(steps, real, gates)
    private = self.private(steps, real) if c.private_prompts else None
    information = None
    prompts = self.own_prompts[None] if private is None else private
    if self.weighs_sources:
      information = self.source_information(attended, steps, real)
      scores = mutual_information.source_scores(information)
      temperature = self.source_information.temperature()
      weights = mutual_information.source_weights(scores, temperature)
      prompts = weights[:, :, None, None].astype(prompts.dtype) * prompts
    prompt_map = self.signal.prompt_map(present, gates)
    if c.identity_skip:
      prompt_map += promma_prompts.identities(c.width, self.backbone.memory_width)[None]
    encoded_steps, real = host.append_steps(encoded_steps, real, prompts @ prompt_map[:, None])
    connection = None
    if c.connections:
      connection = self.connections(self.private.shared if c.private_prompts else self.shared)
    output = self.classify(self.backbone.self_attend(encoded_steps, real, connection))
    return Forward(*output, private, information)


def promma(config: PrommaConfig, spec: Spec) -> Method:
  """ProMMA as a `Method`. Its model_state holds what the evaluator needs."""
  net = PrommaNet(spec.modalities, spec.task.outputs, config)

  def init(key):
    params = net.init(key, types.example_batch(spec))
    if config.gate != "learned":
      return params, {}
    f0, moments = f0_layers(config, params), generation_gate.init_moments(spec.task.outputs)
    return params, {"f0": f0, "moments": moments, "evaluator_trained": jnp.asarray(False)}

  def start_tuning(key, params, model_state):
    if config.gate == "learned":
      model_state = model_state | {"f0": f0_layers(config, params)}
    return prompt_stages.reset_data_layers(config, init, key, params), model_state

  def loss(params, model_state, batch, key, step_info):
    present = batch.present
    apply = functools.partial(net.apply, params, rngs={"dropout": key})
    steps = apply(batch, present, batch.recorded, method=net.encode_and_generate)
    gates, gate_weight, gate_terms = jnp.full(present.shape, float(config.gate == "on")), 0.0, {}
    if config.gate == "learned":
      out = promma_gates.train_gates(net, spec.task, params, model_state, batch, *steps, step_info)
      gates, gate_weight, gate_terms, model_state = out
    out = apply(*steps, present, gates, method=net.forward)
    auxiliary = auxiliary_terms(net, params, batch, *steps, out)
    weights = {"supervised": 1.0, "gate": gate_weight}
    weights |= {name: getattr(config, f"{name}_weight") for name in auxiliary}
    terms = {"supervised": common.supervised_loss(out.logits, batch, spec.task)}
    terms |= gate_terms | auxiliary
    return common.weighted_sum(terms, weights), (model_state, terms)

  def predict(params, model_state, inputs, pattern=None):
    inputs = common.keep_pattern(inputs, pattern)
    present, encode = inputs.present, net.encode_and_generate
    steps = net.apply(params, inputs, present, present, pattern, method=encode)
    gates = promma_gates.predict_gates(net, params, model_state, inputs, *steps)
    out = net.apply(params, *steps, present, gates, method=net.forward)
    gates = jnp.where(present, 1.0, gates)
    return {"logits": out.logits, "fused": out.fused, "gate": gates}

  tune = Stage("tune", loss, on_start=start_tuning, predict=predict)
  return prompt_stages.make_method(config, init, net, spec, tune)


def f0_layers(config: PrommaConfig, params: PyTree) -> PyTree:
  """Copies for f0, the backbone at the start of a stage, of the layers that `tune` changes."""
  return prompt_stages.data_layers(params) if config.frozen else params["params"]["backbone"]


def auxiliary_terms(
  net: PrommaNet, params: PyTree, batch: Batch, encoded, generated, out: Forward
) -> dict[str, Average]:
  """The terms beside those of the task and the gates."""
  present, count, terms = batch.present, len(net.names), {}
  any_present = jnp.any(present, axis=1)
  if out.private is not None:
    prompts = params["params"]["private"]
    shared, kernel = prompts["prompts"], prompts["recover_kernel"]
    overlap = prompt_disentanglement.orthogonality_loss(out.private, shared)
    error = prompt_disentanglement.recovery_loss(out.private, shared, kernel)
    terms["orthogonality"] = Average.of(overlap, any_present)
    terms["recovery"] = Average.of(error, any_present)
  if out.information is not None:
    pairs = present[:, :, None] & present[:, None] & ~np.eye(count, dtype=bool)[None]
    terms["information"] = Average.of(-out.information, pairs)
  if count > 1:
    hidden = ~present & batch.recorded & any_present[:, None]
    gaps = [generation_gap(net.config, params, n, encoded, generated) for n in net.names]
    terms["generation"] = Average.of(jnp.stack(gaps, axis=1), hidden)
  return terms


def generation_gap(
  config: PrommaConfig, params: PyTree, name: str, encoded, generated
) -> Float[Array, " B"]:
  """Smooth L1 between generated and detached real steps, averaged over real steps."""
  estimate, target = generated[name], encoded.projected[name]
  if config.generation_target == "streams":
    # Without prompts, generated steps are outputs of a GELU, which are never below -0.17.
    signal = params["params"]["signal"]
    estimate = estimate + signal[f"{name}_missing_prompts"][None]
    target = target + signal[f"{name}_present_prompts"][None]
  gap = optax.huber_loss(estimate, jax.lax.stop_gradient(target))
  return missing.masked_mean(gap, encoded.real[name], (1, 2))
