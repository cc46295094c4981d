"""Late fusion on all subsets with self-distillation: the control for unlabelled data.

Not from a paper (ours). The network of `fusion`, absent codes from learned tokens; each
row is classified under several subsets of what it has. Labelled rows are supervised
under each; on labelled and unlabelled rows alike, the prediction from all that is
present teaches the prediction from every other subset (detached). It uses unlabelled
data and missing patterns and nothing else, so what a method gains over it is its own.
Up to 15 patterns all are used in each step; beyond that the full one and `samples`
random subsets a row.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from promise_jax import missing, types
from promise_jax.checks import check_at_least
from promise_jax.losses import soft_pu
from promise_jax.losses import supervised as losses_supervised
from promise_jax.method import Method, Stage, StepInfo
from promise_jax.methods import fusion as late
from promise_jax.nn import encoders
from promise_jax.types import Array, Average, Batch, Spec


@dataclasses.dataclass(frozen=True)
class DistilConfig:
  """Settings of `distil`: `weight` of the distillation, its ramp in parts of training,
  `samples` random subsets a row where there are too many to use all."""

  weight: float = 1.0
  ramp_start: float = 0.1
  ramp_end: float = 0.3
  samples: int = 6
  hidden: int = 64
  head_hidden: int = 64

  def __post_init__(self):
    """ValueError for a setting without meaning, with what is allowed."""
    for field in ("samples", "hidden", "head_hidden"):
      check_at_least(f"distil.{field}", getattr(self, field), 1)
    check_at_least("distil.weight", self.weight, 0)
    check_at_least("distil.ramp_start", self.ramp_start, 0)
    check_at_least("distil.ramp_end", self.ramp_end, self.ramp_start)


def draw_subsets(key: Array, ids: Array, present: Array, samples: int) -> Array:
  """Masks bool[P, B, M] of what each row shows, the first with all that is present."""
  count = present.shape[1]
  if 2**count - 1 <= 15:
    patterns = np.array(missing.all_patterns(count)[::-1])
    return jnp.asarray(patterns)[:, None] & present[None]
  keys = jax.random.split(key, samples)
  draws = [late.random_subset(k, ids, present) for k in keys]
  return jnp.stack([present, *draws])


def distil(config: DistilConfig, spec: Spec) -> Method:
  """The control as a `Method`; it keeps no model_state."""
  net = late.make_network(spec, config.hidden, config.head_hidden)
  task = spec.task

  def init(key):
    return net.init(key, types.example_batch(spec)), {}

  def classify(params, codes, present):
    token = params["params"]["token"]
    filled = net.apply(params, codes, present, token, method="fill")
    return net.apply(params, filled, method="classify")

  def loss(params, model_state, batch: Batch, key, clock: StepInfo):
    subset_key, encode_key = jax.random.split(key)
    present = batch.present
    codes = net.apply(params, batch, present, key=encode_key, method="codes")
    shown = draw_subsets(subset_key, batch.id, present, config.samples)
    logits = classify(params, codes[None], shown)  # [P, B, C]
    some = jnp.any(shown, axis=-1)
    label = losses_supervised.known_label(batch.label, batch.labelled)
    error = jax.vmap(lambda row: losses_supervised.supervised_loss(row, label, task))(logits)
    supervised = Average.of(error, some & batch.labelled[None])
    gap = jax.vmap(lambda row: losses_supervised.distillation_loss(row, logits[0], task))(logits)
    less = some & jnp.any(shown != present[None], axis=-1)
    taught = Average.of(gap, less)
    ramp = soft_pu.linear_ramp(clock.progress, config.ramp_start, config.ramp_end)
    total = supervised.value + config.weight * ramp * taught.value
    return total, (model_state, {"sup": supervised, "distil": taught})

  def predict(params, model_state, batch: Batch, pattern=None):
    del model_state
    present = missing.restrict_to_pattern(batch.present, pattern)
    codes = net.apply(params, batch, present, pattern, method="codes")
    return {"logits": classify(params, codes, present)}

  return Method(init, predict, (Stage("train", loss),), encoders.precompute_image_features)
