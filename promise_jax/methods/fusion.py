"""Late fusion with modality dropout: the baseline that every method must beat.

Not from a paper (ours). With H_m the code of modality m and fill_m what replaces it,

  logits = head([H_m if m is present, else fill_m  for every m]).

The replacement is made at the output of the encoders, not at the raw input: zeros, the
running mean of the code over present training rows, or a learned token. With `dropout`
each training row keeps a random non-empty subset of its modalities.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from promise_jax import missing, types
from promise_jax.checks import check_fields, check_that
from promise_jax.method import Init, Loss, Method, Stage, StepInfo
from promise_jax.methods import common
from promise_jax.nn import image_features, mlp, precision
from promise_jax.nn.modality_encoders import ModalityEncoders
from promise_jax.types import Batch, Inputs, Modality, Pattern, Spec


@dataclasses.dataclass(frozen=True)
class FusionConfig:
  """Settings of `fusion`."""

  fill: Literal["zeros", "mean", "token"] = "mean"  # what replaces an absent code
  dropout: bool = True  # modality dropout in training
  hidden: int = 64  # size of every code
  head_hidden: int = 64  # hidden layer of the head
  decay: float = 0.99  # of the running mean

  def __post_init__(self):
    check_fields(self, "fusion", hidden=1, head_hidden=1)
    check_that("fusion.decay", self.decay, 0 <= self.decay < 1, "lie in [0, 1)")


class Output(NamedTuple):
  logits: Float[Array, "*P B C"]
  codes: Float[Array, "B M H"]
  fused: Float[Array, "*P B MH"]  # what the head reads: codes, filled where not visible


class FusionNet(precision.Network):
  """Encoders, a learned token for each absent code, and a head on all codes.

  `distil` and `prototypes` use it too. A row can be classified under several masks at once:
  it is encoded once.
  """

  modalities: tuple[Modality, ...]
  num_outputs: int
  hidden: int
  head_hidden: int

  def setup(self):
    self.encoders = ModalityEncoders(self.modalities, self.hidden)
    shape = (len(self.modalities), self.hidden)
    self.token = self.param("token", nn.initializers.normal(0.02), shape)
    self.head = mlp.Mlp((self.head_hidden, self.num_outputs))

  def __call__(
    self,
    inputs: Inputs,
    visible: Bool[Array, "*P B M"] | None = None,
    fill: Float[Array, "M H"] | None = None,
    pattern: Pattern | None = None,
    codes: Float[Array, "B M H"] | None = None,
  ) -> Output:
    """`visible` is what the head sees (default: all that is present), `fill` what replaces
    the rest (default: the learned token), `codes` those of `encode` if they are known."""
    codes = self.encoders(inputs, pattern) if codes is None else codes
    visible = inputs.present if visible is None else visible
    return self.classify(codes, visible, self.token if fill is None else fill)

  def encode(self, inputs: Inputs) -> Float[Array, "B M H"]:
    """The codes of all that is present."""
    return self.encoders(inputs)

  def classify(self, codes, visible, fill) -> Output:
    """The output for codes f[B, M, H], with `fill` f[M, H] where `visible` is False."""
    fused = missing.join_filled(codes, visible, fill)
    return Output(self.head(fused), codes, fused)


def make_method(
  net: FusionNet, init: Init, loss: Loss, fill: Callable = lambda model_state: None
) -> Method:
  """The method that predicts by `net`, with `fill(model_state)` in place of what is absent."""

  def encode(params, inputs: Inputs):
    return net.apply(params, inputs, method=FusionNet.encode)

  def predict(params, model_state, inputs: Inputs, pattern=None, codes=None):
    inputs = common.keep_pattern(inputs, pattern)
    out = net.apply(params, inputs, None, fill(model_state), pattern, codes)
    return {"logits": out.logits, "fused": out.fused}

  preprocess = image_features.make_preprocess(net.modalities)
  return Method(init, predict, (Stage("train", loss),), preprocess, encode)


def update_running_mean(
  model_state: dict, codes: Float[Array, "B M H"], where: Bool[Array, "B M"], decay: float
) -> dict:
  """Running sum and count of the codes. Both decay alike: the mean has no bias, and a
  modality that a batch lacks keeps its mean."""
  codes = jax.lax.stop_gradient(codes)
  total = jnp.sum(jnp.where(where[..., None], codes, 0), axis=0)
  return {
    "total": decay * model_state["total"] + (1 - decay) * total,
    "count": decay * model_state["count"] + (1 - decay) * jnp.sum(where, axis=0),
  }


def fusion(config: FusionConfig, spec: Spec) -> Method:
  """Late fusion as a `Method`; `model_state` holds the running sums of the codes."""
  sizes = config.hidden, config.head_hidden
  net = FusionNet(spec.modalities, spec.task.outputs, *sizes)

  def init(key):
    zeros = jnp.zeros((len(spec.modalities), config.hidden))
    params = net.init(key, types.example_batch(spec))
    return params, {"total": zeros, "count": zeros[:, 0]}

  def fill(model_state):
    if config.fill == "token":
      return None
    if config.fill == "zeros":
      return jnp.zeros_like(model_state["total"])
    return model_state["total"] / jnp.maximum(model_state["count"], 1e-30)[:, None]

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    del step_info
    subset_key, dropout_key = jax.random.split(key)
    if config.dropout:
      present = common.random_subset(subset_key, batch.id, batch.present)
      batch = batch.replace(present=present)
    rngs = {"dropout": dropout_key}
    out = net.apply(params, batch, fill=fill(model_state), rngs=rngs)
    model_state = update_running_mean(model_state, out.codes, batch.present, config.decay)
    terms = {"supervised": common.supervised_loss(out.logits, batch, spec.task)}
    return terms["supervised"].value, (model_state, terms)

  return make_method(net, init, loss, fill)
