"""What a method is: a few pure functions, and the stages of its training.

A factory `method(config, spec) -> Method` closes over a flax module and returns
functions over plain pytrees. Training (`promise_jax.training`) and evaluation call
nothing else.
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float, Int, Key

from promise_jax.types import Inputs, PyTree


class StepInfo(NamedTuple):
  """Where training stands. All seeds share it, with no axis S: else `lax.cond` on it would
  run both branches under `vmap`."""

  step: Int[Array, ""]  # counts from 0 over the whole run
  progress: Float[Array, ""]  # fraction of this stage that is done, in [0, 1)


class TrainState(NamedTuple):
  """Training state of one seed; training stacks it over seeds."""

  params: PyTree
  model_state: PyTree  # updated by `loss`, not by a gradient: running means, banks, teachers
  opt_state: PyTree  # of optax


# init(key) -> (params, model_state)
Init = Callable[[Array], tuple[PyTree, PyTree]]
# loss(params, model_state, batch, key, step_info)
#   -> (scalar, (model_state, {term: Average}))
Loss = Callable[..., tuple[Array, tuple[PyTree, dict]]]
# predict(params, model_state, inputs, pattern=None, codes=None)
#   -> {"logits": f[B, C], "fused": f[B, F], ...}
# The entries beside the logits are embeddings. A row's do not depend on other rows, nor on what
# stands where a modality is absent. Their sizes are fixed for a method and its settings:
#   fused f[B, F]         what the head reads; every method has it
#   shared f[B, M, Z]     robult: what a modality says that the others could; 0 where absent
#   private f[B, M, U]    robult: what it alone says; 0 where absent
#   composite f[B, M, H]  redcore: latents, imputed where absent
#   gate f[B, M]          promma: 1 where present or worth generating, else 0
Predict = Callable[..., dict[str, Array]]
# encode(params, inputs) -> codes
Encode = Callable[[PyTree, Inputs], PyTree]


def unchanged(key: Key[Array, ""], params: PyTree, model_state: PyTree):
  """The `on_start` of a stage that continues from the stage before."""
  del key
  return params, model_state


class Stage(NamedTuple):
  """One part of training; the stages of a method run in turn."""

  name: str
  loss: Loss
  # Regexes on parameter paths. Leaves that none of them matches are frozen.
  trainable: tuple[str, ...] = (".*",)
  fraction: float = 1.0  # of the training steps, relative to the other stages
  hide: bool = True  # False: train on all recorded modalities, simulate no missingness
  # (key, params, model_state) -> (params, model_state), before the first step
  on_start: Callable = unchanged
  # (stage, tx) -> f(state, batch, key, step_info); None: `optim.update_rules.gradient_update`
  update: Callable | None = None
  predict: Predict | None = None  # for the validations of this stage; None: the method's
  encode: Encode | None = None  # the part of this `predict` that is that of `Method.encode`


def no_preprocessing(inputs: dict[str, Array]) -> dict[str, Array]:
  """The `preprocess` of a method that reads the raw inputs."""
  return inputs


class Method(NamedTuple):
  """A way to learn from rows that lack modalities.

  `predict` is deterministic and reads an `Inputs`: no labels, no hidden modality. With a
  static `pattern` the encoders of absent modalities are left out of the program.
  `encode(params, inputs)` is the part of `predict` in which a modality does not see which others
  are present. Given what it returned as `codes`, `predict` reads only `present` of the inputs,
  and hides the codes of what is not: rows are encoded once for all patterns. A method that cannot
  be taken apart like this has None.
  `preprocess` maps the inputs of many rows to what `loss` and `predict` take in their
  place. It has no parameters and runs once per run instead of once per step.
  """

  init: Init
  predict: Predict
  stages: tuple[Stage, ...]
  preprocess: Callable[[dict[str, Array]], dict[str, Array]] = no_preprocessing
  encode: Encode | None = None
