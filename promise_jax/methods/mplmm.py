"""MPLMM (ACL 2024): prompts teach a frozen transformer to do without modalities.

The backbone is a MulT (`nn/mult.py`). For each modality m of a row (P are prompts):

  G_m    = generated steps, from P_generate,m and the raw steps of the present modalities (1, 2)
  U_m    = projected steps + P_present,m  where m is present, else  G_m + P_missing,m        (3)
  Q      = sum_m P_m^T M_m  with P_m = P_present,m or P_missing,m as above                   (4)
  Y_m    = [cross-attention of U_m to all other U_n;  P_type,m Q]                            (5)
  logits = head([last step of self-attention over Y_m, for all m])

The numbers are those of the paper's equations. Where its shapes do not fit, those of the
released code are taken. Training has up to three stages:

  pretrain  the backbone, on complete rows
  fit       projections and output layer, on complete rows (ours, off by default)
  tune      prompts, projections and output layer, on rows that lack modalities

The loss is that of the task alone: nothing that a mask hides is looked at.

What differs between the released code and the default here (ours):

                          `released_code=True`       default
  prompts and M_m         start at 0: P_type and     start at random
                          M_m then never learn
  attention               sees padding, under a      sees real steps only
                          mask that looks causal
  dropout                 a draw for each step       one draw for all steps of a row
  projections and output  start afresh in `tune`     continue from the backbone

A row without any modality has zeros as generated steps (ours).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Bool, Float

from promise_jax import types
from promise_jax.checks import check_fields
from promise_jax.method import Method, Stage
from promise_jax.methods import common
from promise_jax.nn import mplmm_prompts, mult, precision
from promise_jax.types import Array, Inputs, Modality, Pattern, PyTree, Spec

# What depends on the data set: projections, embeddings and the output layer.
DATA_LAYERS = ("projection", "embedding", "output")
FITTED = "params/backbone/(projection|embedding|output).*"
TUNED = "params/(backbone/(projection|embedding|output)|(?!backbone/)).*"


@dataclasses.dataclass(frozen=True)
class MplmmConfig:
  """Settings of `mplmm`."""

  width: int = 30  # H, of the steps between modalities
  heads: int = 5  # of all attention
  layers: int = 2  # of cross-attention
  memory_layers: int = 2  # of self-attention
  max_steps: int = 0  # of a modality; longer ones become windows of mean and deviation (0: no)
  prompts: int = 16  # E, length of the generative and missing-type prompts
  generate: bool = True  # equations 1 and 2; False: G_m is 0
  signal_prompts: bool = True  # equation 3; False: nothing is added
  type_prompts: bool = True  # equations 4 and 5; False: nothing is appended
  released_code: bool = False  # see the table above
  frozen: bool = True  # False: `tune` trains the whole backbone, too
  pretrain: float = 0.5  # parts of the training steps, 0: no such stage; trains the backbone
  fit: float = 0.0  # trains the ends of the backbone on complete rows
  tune: float = 0.5  # trains prompts and the ends of the frozen backbone

  method: ClassVar[str] = "mplmm"

  def __post_init__(self):
    """Raises ValueError for a setting without meaning."""
    sizes = dict.fromkeys(("width", "heads", "layers", "memory_layers", "prompts"), 1)
    check_fields(self, self.method, **sizes, max_steps=0, pretrain=0, fit=0, tune=0)
    if self.width % self.heads or self.width % 2 or self.width < 4:
      raise ValueError(
        f"{self.method}.width is {self.width}, it must be even, at least 4 and a multiple of "
        f"the {self.heads} heads"
      )
    if not self.pretrain + self.fit + self.tune:
      raise ValueError(f"{self.method}.pretrain, fit and tune are all 0, one stage is needed")
    if self.released_code and self.fit:
      raise ValueError(
        f"{self.method}.fit is {self.fit}, with released_code it must be 0: tune would throw "
        "away what fit learns"
      )


class MplmmNet(precision.Network):
  """The backbone and its prompts. W = (M - 1) H is the width of self-attention, H if M = 1."""

  modalities: tuple[Modality, ...]
  outputs: int
  config: MplmmConfig

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(m.name for m in self.modalities)

  @property
  def num_steps(self) -> dict[str, int]:
    return {m.name: mult.count_steps(m, self.config.max_steps) for m in self.modalities}

  @property
  def memory_width(self) -> int:
    return max(len(self.names) - 1, 1) * self.config.width

  is_gated = False  # ProMMA has gates, and may have other prompts than P_type

  @property
  def has_type_prompts(self) -> bool:
    return self.config.type_prompts

  def setup(self):
    c = self.config
    self.backbone = mult.MulT(
      self.modalities,
      self.outputs,
      width=c.width,
      heads=c.heads,
      layers=c.layers,
      memory_layers=c.memory_layers,
      released_code=c.released_code,
      max_steps=c.max_steps,
    )
    if c.generate:
      sizes = self.num_steps, c.width, c.prompts
      self.generators = mplmm_prompts.Generators(*sizes, c.released_code)
    self.signal = mplmm_prompts.SignalPrompts(
      self.num_steps,
      c.width,
      self.memory_width,
      released_code=c.released_code,
      add=c.signal_prompts,
      map=c.type_prompts,
      gated=self.is_gated,
    )
    if self.has_type_prompts:
      start = mplmm_prompts.ZEROS if c.released_code else mplmm_prompts.START
      shape = (len(self.names), c.prompts, c.width)
      self.own_prompts = self.param("type_prompts", start, shape)

  def __call__(self, batch: Inputs):
    """The output through all parameters."""
    return self.prompted_output(batch, batch.present)

  def classify(self, readout: Float[Array, "B MW"]):
    """Logits f[B, C], and beside them what the head reads."""
    return self.backbone.head(readout), readout

  def backbone_output(
    self, batch: Inputs, present: Bool[Array, "B M"], pattern: Pattern | None = None
  ):
    """The output of the backbone alone, which does not see absent modalities."""
    del pattern  # its encoders run for every pattern
    return self.classify(self.backbone.readout(batch, present))

  def prompted_output(
    self, batch: Inputs, present: Bool[Array, "B M"], pattern: Pattern | None = None
  ):
    """The output of the backbone with its prompts."""
    encoded = self.backbone.encode(batch, present, pattern)
    generated = self.generate(encoded, present, pattern)
    steps, real = self.input_steps(encoded, generated, present)
    steps, _ = self.backbone.cross_attend(steps, real)
    if self.config.type_prompts:
      prompts = self.own_prompts[None] @ self.signal.prompt_map(present)[:, None]
      steps, real = mult.append_steps(steps, real, prompts)
    return self.classify(self.backbone.self_attend(steps, real))

  def generate(
    self, encoded: mult.Encoded, present, pattern=None
  ) -> dict[str, Float[Array, "B T H"]]:
    """Generated steps of every modality, from those that are present."""
    if self.config.generate:
      return self.generators(encoded.raw, present, pattern)
    shape = lambda count: (present.shape[0], count, self.config.width)
    dtype = precision.param_dtype(self)
    return {n: jnp.zeros(shape(count), dtype) for n, count in self.num_steps.items()}

  def input_steps(
    self, encoded: mult.Encoded, generated: dict, present, gates=None
  ) -> tuple[Float[Array, "B M T H"], Bool[Array, "B M T"]]:
    """The steps U_m of every modality, and which of them exist."""
    steps = self.signal(encoded.projected, generated, present, gates)
    filled = self.config.generate or self.config.signal_prompts
    real = [
      jnp.where(present[:, i, None], encoded.real[n], filled) for i, n in enumerate(self.names)
    ]
    return mult.pad_and_stack(steps), mult.pad_and_stack(real)


def mplmm(config: MplmmConfig, spec: Spec) -> Method:
  """MPLMM as a `Method`; it has no model_state."""
  net = MplmmNet(spec.modalities, spec.task.outputs, config)
  init = lambda key: (net.init(key, types.example_batch(spec)), {})

  def start_tuning(key, params, model_state):
    return reset_data_layers(config, init, key, params), model_state

  loss, predict = loss_and_predict(net, net.prompted_output, spec.task)
  tune = Stage("tune", loss, on_start=start_tuning, predict=predict)
  return make_method(config, init, net, spec.task, tune)


def loss_and_predict(net: MplmmNet, output_of, task: types.Task):
  """The loss of the task and `predict`, by a method of the network that returns an output."""

  def loss(params, model_state, batch, key, step_info):
    del step_info
    logits, _ = net.apply(params, batch, batch.present, rngs={"dropout": key}, method=output_of)
    term = common.supervised_loss(logits, batch, task)
    return term.value, (model_state, {"supervised": term})

  def predict(params, model_state, inputs, pattern=None):
    del model_state
    inputs = common.keep_pattern(inputs, pattern)
    logits, fused = net.apply(params, inputs, inputs.present, pattern, method=output_of)
    return {"logits": logits, "fused": fused}

  return loss, predict


def make_method(config, init, net: MplmmNet, task: types.Task, tune: Stage) -> Method:
  """The method with those of the three stages that have a part of the training steps."""
  loss, predict = loss_and_predict(net, net.backbone_output, task)
  complete = {"hide": False, "predict": predict}
  stages = (
    Stage("pretrain", loss, ("params/backbone/.*",), config.pretrain, **complete),
    Stage("fit", loss, (FITTED,), config.fit, **complete),
    tune._replace(trainable=(TUNED if config.frozen else ".*",), fraction=config.tune),
  )
  stages = tuple(stage for stage in stages if stage.fraction)
  return Method(init, stages[-1].predict, stages)


def reset_data_layers(config: MplmmConfig, init, key: Array, params: PyTree) -> PyTree:
  """`params` with new data layers, as the released code starts the prompts; ours keeps them."""
  if not config.released_code:
    return params
  backbone = params["params"]["backbone"] | data_layers(init(key)[0])
  return {"params": params["params"] | {"backbone": backbone}}


def data_layers(params: PyTree) -> dict[str, PyTree]:
  """The projections, embeddings and output layer of the backbone, by name."""
  backbone = params["params"]["backbone"]
  return {name: x for name, x in backbone.items() if name.split("_")[0] in DATA_LAYERS}
