"""MPLMM (ACL 2024): prompts teach a frozen transformer to do without modalities.

The backbone, the host of the prompts, is of two kinds. "mult" is the paper's, a MulT that reads the
steps of sequences (`nn/mult.py`). "tokens", the default, is ours: late fusion of the codes of any
encoder, and a small transformer for the prompts (`nn/token_host.py`).

For each modality m of a row (P are prompts):

  G_m    = generated steps, from P_generate,m and the raw steps of the present modalities (1, 2)
  U_m    = projected steps + P_present,m  where m is present, else  G_m + P_missing,m        (3)
  Q      = sum_m P_m^T M_m  with P_m = P_present,m or P_missing,m as above                   (4)
  Y_m    = [cross-attention of U_m to all other U_n;  P_type,m Q]                            (5)
  logits = head([readout of self-attention over Y_m, for all m])

The numbers are those of the paper's equations. Where its shapes do not fit, those of the
released code are taken; "mult" reads out the last step. Training has up to three stages:

  pretrain  the backbone, on all rows and all that is recorded
  fit       projections and output layer, likewise (ours, off by default)
  tune      prompts, projections and output layer, on rows that lack modalities

The loss is that of the task alone: nothing that a mask hides is looked at. With host "tokens" every
stage has modality dropout, the projections are the encoders, G_m is made from their detached codes,
and `tune` trains the transformer, too. `tune=0` leaves the host without prompts.

What differs between the released code and "mult" here (ours):

                          `released_code=True`       otherwise
  prompts and M_m         start at 0: P_type and     start at random
                          M_m then never learn
  attention               sees padding, under a      sees real steps only
                          mask that looks causal
  dropout                 a draw for each step       one draw for all steps of a row
  projections and output  start afresh in `tune`     continue from the backbone

A row without any modality has zeros as generated steps (ours).
"""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Bool, Float

from promise_jax import missing, types
from promise_jax.checks import check_fields
from promise_jax.method import Method, Stage
from promise_jax.methods import prompt_stages
from promise_jax.nn import host, mplmm_prompts, mult, precision, token_host
from promise_jax.types import Array, Inputs, Modality, Pattern, Spec


@dataclasses.dataclass(frozen=True)
class MplmmConfig:
  """Settings of `mplmm`."""

  host: Literal["tokens", "mult"] = "tokens"  # the network that the prompts enter
  width: int = 64  # H, of the steps between modalities
  heads: int = 4  # of all attention
  layers: int = 1  # across modalities
  memory_layers: int = 1  # within a modality
  # Steps of a modality; longer ones become windows of mean and deviation. 0: all of them with
  # "mult", with "tokens" none beside the code of the encoder.
  max_steps: int = 0
  prompts: int = 16  # E, length of the generative and missing-type prompts
  generate: bool = True  # equations 1 and 2; False: G_m is 0
  signal_prompts: bool = True  # equation 3; False: nothing is added
  type_prompts: bool = True  # equations 4 and 5; False: nothing is appended
  released_code: bool = False  # see the table above; of "mult"
  frozen: bool = True  # False: `tune` trains the whole backbone, too
  pretrain: float = 0.8  # parts of the training steps, 0: no such stage; trains the backbone
  fit: float = 0.0  # trains the ends of the backbone on complete rows
  tune: float = 0.2  # trains prompts and the ends of the frozen backbone

  method: ClassVar[str] = "mplmm"

  def __post_init__(self):
    sizes = dict.fromkeys(("width", "heads", "layers", "memory_layers", "prompts"), 1)
    check_fields(self, self.method, **sizes, max_steps=0, pretrain=0, fit=0, tune=0)
    if self.width % self.heads or self.width % 2 or self.width < 4:
      raise ValueError(
        f"{self.method}.width is {self.width}, it must be even, at least 4 and a multiple of "
        f"the {self.heads} heads"
      )
    if not self.pretrain + self.fit + self.tune:
      raise ValueError(f"{self.method}.pretrain, fit and tune are all 0, one stage is needed")
    if self.released_code and self.host != "mult":
      raise ValueError(
        f"{self.method}.released_code is True, it needs host=mult, found host={self.host}"
      )
    if self.released_code and self.fit:
      raise ValueError(
        f"{self.method}.fit is {self.fit}, with released_code it must be 0: tune would throw "
        "away what fit learns"
      )


class MplmmNet(precision.Network):
  """The host, called backbone, and its prompts. W is the width of what the head reads."""

  modalities: tuple[Modality, ...]
  outputs: int
  config: MplmmConfig

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(m.name for m in self.modalities)

  is_gated = False  # ProMMA has gates, and may have other prompts than P_type

  @property
  def has_type_prompts(self) -> bool:
    return self.config.type_prompts

  def setup(self):
    c = self.config
    sizes = ("width", "heads", "layers", "memory_layers", "max_steps")
    sizes = {name: getattr(c, name) for name in sizes}
    args = self.modalities, self.outputs
    if c.host == "mult":
      self.backbone = mult.MulT(*args, **sizes, released_code=c.released_code)
    else:
      self.backbone = token_host.TokenHost(*args, **sizes)
    self.num_steps = self.backbone.num_steps
    if c.generate:
      sizes = self.num_steps, c.width, c.prompts
      if c.host == "mult":
        self.generators = mplmm_prompts.Generators(*sizes, c.released_code)
      else:
        self.generators = mplmm_prompts.TokenGenerators(*sizes)
    self.signal = mplmm_prompts.SignalPrompts(
      self.num_steps,
      c.width,
      self.backbone.memory_width,
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

  def encode(
    self,
    batch: Inputs,
    present: Bool[Array, "B M"],
    pattern: Pattern | None = None,
    codes: host.Encoded | None = None,
  ) -> host.Encoded:
    """What the backbone reads, `codes` of more modalities if they are known (host "tokens")."""
    if codes is None:
      return self.backbone.encode(batch, present, pattern)
    hide = lambda x: {n: missing.zero_absent(x[n], present[:, i]) for i, n in enumerate(self.names)}
    return host.Encoded(*map(hide, codes))

  def backbone_output(self, batch: Inputs, present: Bool[Array, "B M"], pattern=None, codes=None):
    """The output of the backbone alone, which does not see absent modalities."""
    del pattern  # its encoders run for every pattern
    return self.classify(self.backbone.readout(self.encode(batch, present, None, codes), present))

  def prompted_output(self, batch: Inputs, present: Bool[Array, "B M"], pattern=None, codes=None):
    """The output of the backbone with its prompts."""
    encoded = self.encode(batch, present, pattern, codes)
    generated = self.generate(encoded, present, pattern)
    steps, real = self.input_steps(encoded, generated, present)
    steps, _ = self.backbone.cross_attend(steps, real)
    if self.config.type_prompts:
      prompts = self.own_prompts[None] @ self.signal.prompt_map(present)[:, None]
      steps, real = host.append_steps(steps, real, prompts)
    return self.classify(self.backbone.self_attend(steps, real))

  def generate(
    self, encoded: host.Encoded, present, pattern=None
  ) -> dict[str, Float[Array, "B T H"]]:
    """Generated steps of every modality, from those that are present."""
    if self.config.generate:
      return self.generators(encoded.raw, present, pattern)
    rows, width, dtype = present.shape[0], self.config.width, precision.param_dtype(self)
    return {n: jnp.zeros((rows, count, width), dtype) for n, count in self.num_steps.items()}

  def input_steps(
    self, encoded: host.Encoded, generated: dict, present, gates=None
  ) -> tuple[Float[Array, "B M T H"], Bool[Array, "B M T"]]:
    """The steps U_m of every modality, and which of them exist."""
    steps = self.signal(encoded.projected, generated, present, gates)
    filled = self.config.generate or self.config.signal_prompts
    real = []
    for i, n in enumerate(self.names):
      here = present[:, i, None]  # onnxruntime has no `where` of two masks
      real.append((here & encoded.real[n]) | (~here & filled))
    steps, real = host.pad_and_stack(steps), host.pad_and_stack(real)
    return self.backbone.mark_absent(steps, real, present)


def mplmm(config: MplmmConfig, spec: Spec) -> Method:
  """MPLMM as a `Method`; it has no model_state."""
  net = MplmmNet(spec.modalities, spec.task.outputs, config)
  init = lambda key: (net.init(key, types.example_batch(spec)), {})

  def start_tuning(key, params, model_state):
    return prompt_stages.reset_data_layers(config, init, key, params), model_state

  loss, predict = prompt_stages.loss_and_predict(net, net.prompted_output, spec.task)
  encode = prompt_stages.make_encode(net)
  tune = Stage("tune", loss, on_start=start_tuning, predict=predict, encode=encode)
  return prompt_stages.make_method(config, init, net, spec, tune)
