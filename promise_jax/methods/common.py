"""What methods share: hiding modalities, masking labels, the supervised loss, the total."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from promise_jax import missing
from promise_jax.losses import supervised
from promise_jax.types import Average, Batch, Inputs, Pattern, Task


def keep_pattern(inputs: Inputs, pattern: Pattern | None) -> Inputs:
  """`inputs` without the modalities that a static `pattern` leaves out; None keeps all."""
  if pattern is None:
    return inputs
  return inputs.replace(present=inputs.present & jnp.asarray(pattern)[None])


def random_subset(
  key: Key[Array, ""], ids: Int[Array, " B"], present: Bool[Array, "B M"]
) -> Bool[Array, "B M"]:
  """Modality dropout: keeps a non-empty subset of each row's modalities, all equally likely.

  The draw of a row depends on the key and its id, not on its place in the batch. A row
  without any modality stays empty.
  """

  def draw(row_id, row):
    bits = jax.random.bits(jax.random.fold_in(key, row_id), (), jnp.uint32)
    # A number in 1 .. 2^n - 1, read as bits: the k-th bit keeps the k-th present modality.
    num_present = jnp.sum(row)
    num_subsets = jnp.maximum((jnp.uint32(1) << num_present.astype(jnp.uint32)) - 1, 1)
    number = bits % num_subsets + 1
    rank = (jnp.cumsum(row) - 1).astype(jnp.uint32)
    return row & ((number >> jnp.clip(rank, 0, len(row))) & 1).astype(bool)

  return jax.vmap(draw)(ids, present)


def random_subsets(
  key: Key[Array, ""], ids: Int[Array, " B"], present: Bool[Array, "B M"], count: int
) -> Bool[Array, "1+count B M"]:
  """All present modalities, then `count` times a `random_subset` of them."""
  keys = jax.random.split(key, count) if count else []
  return jnp.stack([present, *(random_subset(k, ids, present) for k in keys)])


def mask_labels(batch: Batch) -> Batch:
  """Zeroes the labels of unlabelled rows, so that garbage there can never matter."""
  return batch.replace(label=missing.zero_absent(batch.label, batch.labelled))


def supervised_loss(logits: Float[Array, "B C"], batch: Batch, task: Task) -> Average:
  """Mean loss of the task over labelled rows with at least one modality present."""
  where = batch.labelled & jnp.any(batch.present, axis=1)
  label = missing.zero_absent(batch.label, where)
  return Average.of(supervised.task_loss(logits, label, task), where)


def weighted_sum(terms: Mapping[str, Average], weights: Mapping[str, float | Array]) -> Array:
  """The loss: sum over terms of weight * mean.

  A term without a weight, or whose weight is the number 0, is logged and not trained.
  """
  weights = {k: w for k, w in weights.items() if not (isinstance(w, float) and w == 0)}
  return sum(weights[k] * term.value for k, term in terms.items() if k in weights)


def linear_ramp(progress: Float[Array, ""], start: float, end: float) -> Float[Array, ""]:
  """A weight that rises from 0 at `start` to 1 at `end`, fractions of the stage in [0, 1]; with
  equal ends it is a step."""
  return jnp.clip((progress - start) / max(end - start, 1e-6), 0, 1)


def row_keys(key: Key[Array, ""], ids: Int[Array, " B"]) -> Key[Array, " B"]:
  """One key for each row, by its id: what a row draws does not depend on its batch."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
