"""Self-distillation over all subsets: the baseline for methods that use unlabelled data.

Not from a paper (ours). The network is that of `fusion`, with learned tokens for absent
codes. Each row is classified under several subsets A of its modalities; full is all that
it has:

  L = mean_{labelled n, A} loss(logits_n(A), y_n)
      + weight r(t) mean_{all n, A} D(stop_gradient(logits_n(full)), logits_n(A)).

D is the divergence of predictions, r a ramp. It uses unlabelled data and missing
patterns and nothing else: what a method gains over it is due to the method.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_fields
from promise_jax.losses import supervised
from promise_jax.method import Method, StepInfo
from promise_jax.methods import common, fusion
from promise_jax.types import Average, Batch, Spec, Task


@dataclasses.dataclass(frozen=True)
class DistilConfig:
  """Settings of `distil`."""

  weight: float = 1.0  # of the distillation
  ramp_start: float = 0.1  # the weight rises from 0 between these parts of training
  ramp_end: float = 0.3  # ... and has its full value from here on
  samples: int = 6  # random subsets of a row, where there are too many to use all
  hidden: int = 64  # size of every code
  head_hidden: int = 64  # hidden layer of the head

  method: ClassVar[str] = "distil"

  def __post_init__(self):
    check_fields(self, self.method, samples=1, hidden=1, head_hidden=1, weight=0, ramp_start=0)
    check_at_least(f"{self.method}.ramp_end", self.ramp_end, self.ramp_start)


def draw_subsets(
  key: Key[Array, ""], ids: Int[Array, " B"], present: Bool[Array, "B M"], samples: int
) -> Bool[Array, "P B M"]:
  """The subsets under which rows are classified; the first is all that is present.

  Up to four modalities these are all patterns, for more a few random ones for each row.
  """
  num_modalities = present.shape[1]
  if num_modalities <= 4:
    patterns = np.array(missing.all_patterns(num_modalities)[::-1])
    return jnp.asarray(patterns)[:, None] & present[None]
  return common.random_subsets(key, ids, present, samples)


def subset_terms(
  logits: Float[Array, "P B C"],
  teacher: Float[Array, "B C"],
  visible: Bool[Array, "P B M"],
  batch: Batch,
  task: Task,
) -> dict[str, Average]:
  """The supervised and the distillation term, over all subsets that show something.

  A subset with all that is present has nothing to learn from the teacher.
  """
  label = common.mask_labels(batch).label
  error = jax.vmap(lambda x: supervised.task_loss(x, label, task))(logits)
  gap = jax.vmap(lambda x: supervised.distillation_loss(x, teacher, task))(logits)
  shows_any = jnp.any(visible, axis=-1)
  hides_some = jnp.any(visible != batch.present[None], axis=-1)
  return {
    "supervised": Average.of(error, shows_any & batch.labelled[None]),
    "distil": Average.of(gap, shows_any & hides_some),
  }


def distil(config: DistilConfig, spec: Spec) -> Method:
  """Self-distillation as a `Method`, without model state."""
  sizes = config.hidden, config.head_hidden
  net = fusion.FusionNet(spec.modalities, spec.task.outputs, *sizes)

  def init(key):
    return net.init(key, types.example_batch(spec)), {}

  def loss(params, model_state, batch: Batch, key, step_info: StepInfo):
    subset_key, dropout_key = jax.random.split(key)
    visible = draw_subsets(subset_key, batch.id, batch.present, config.samples)
    logits = net.apply(params, batch, visible, rngs={"dropout": dropout_key}).logits
    terms = subset_terms(logits, logits[0], visible, batch, spec.task)
    ramp = common.linear_ramp(step_info.progress, config.ramp_start, config.ramp_end)
    weights = {"supervised": 1.0, "distil": config.weight * ramp}
    return common.weighted_sum(terms, weights), (model_state, terms)

  return fusion.make_method(net, init, loss)
