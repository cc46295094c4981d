"""Contrast on two levels, as in PROMISE: of instances (FNCL) and of classes (CCCL).

PROMISE (AAAI 2026, arXiv 2511.10997). We had its method figure and not the equations. From the
figure: which elements pull and which push each other. Ours: the form of the loss (supervised
contrast, the sum over positives outside the logarithm), the temperature, and labels that are not
classes.

An element is one view of one modality of one row: codes are f[B, M, V, D] for V views. `where`
bool[B, M, V] says which elements count; what stands elsewhere may be NaN. Generated elements
count like any other, as in the figure.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_choice
from promise_jax.losses import contrastive
from promise_jax.types import Average, PyTree

LABEL_WIDTH = 0.5  # of the weight of a pair of regression labels, in units of the label
SMALLEST_WEIGHT = 0.1  # below it such a weight is 0
BLOCK = 1024  # elements whose similarities are computed at once


def instance_contrast(
  code: Float[Array, "B M V D"],
  where: Bool[Array, "B M V"],
  ids: Int[Array, " B"],
  *,
  temperature: float = 0.07,
  block: int = BLOCK,
) -> Average:
  """FNCL: elements of one row pull each other, those of other rows push.

  Rows with equal `ids` are one row. The average is over elements that have a positive.
  """
  num_elements = code.shape[1] * code.shape[2]
  code, where = code.reshape(-1, code.shape[-1]), where.reshape(-1)
  tags = jnp.repeat(ids, num_elements)
  is_same_row = lambda tag, tags: tag == tags
  return Average.of(*weighted_contrast(code, where, tags, is_same_row, temperature, block))


def class_contrast(
  code: Float[Array, "B M V D"],
  where: Bool[Array, "B M V"],
  ids: Int[Array, " B"],
  label: Array,
  labelled: Bool[Array, " B"],
  kind: str,
  *,
  temperature: float = 0.07,
  block: int = BLOCK,
) -> Average:
  """CCCL: inside each modality, elements of one class pull each other, the others push.

  The weight of a pair is `label_weight`, and 1 for two views of one row. Unlabelled rows may be
  of any class, so they are left out (ours). The average is over the elements of a modality that
  have a positive, then over the modalities that have such an element.
  """
  check_choice("kind", kind, types.TASKS)
  num_rows, num_modalities, num_views, _ = code.shape

  def by_modality(x):
    x = jnp.swapaxes(x, 0, 1)
    return x.reshape(num_modalities, num_rows * num_views, *x.shape[3:])

  def pair_weight(tag, tags):
    return jnp.where(tag[0] == tags[0], 1, label_weight(tag[1], tags[1], kind))

  label = missing.zero_absent(label, labelled)
  tags = jnp.repeat(ids, num_views), jnp.repeat(label, num_views, axis=0)
  contrast = functools.partial(
    weighted_contrast, tags=tags, pair_weight=pair_weight, temperature=temperature, block=block
  )
  where = where & labelled[:, None, None]
  loss, has_positive = jax.vmap(contrast)(by_modality(code), by_modality(where))
  mean = missing.masked_mean(loss, has_positive, axis=1)
  return Average.of(mean, jnp.any(has_positive, axis=1))


def label_weight(a: Array, b: Array, kind: str) -> Float[Array, " N"]:
  """How much label `a` [...] is a positive pair with each of `b` [N, ...], in [0, 1].

  Classes: 1 if equal. Multilabel (ours): the Jaccard index of the label sets, 0 for two empty
  sets. Regression (ours): exp(-(a - b)^2 / (2 LABEL_WIDTH^2)), and 0 where that is small.
  """
  if kind == "multilabel":
    both = b @ a
    return both / jnp.maximum(jnp.sum(a) + jnp.sum(b, axis=1) - both, 1)
  if kind == "regression":
    weight = jnp.exp(-jnp.square(a - b) / (2 * LABEL_WIDTH**2))
    return jnp.where(weight < SMALLEST_WEIGHT, 0, weight)
  return (a == b).astype(jnp.float32)


def weighted_contrast(
  code: Float[Array, "N D"],
  where: Bool[Array, " N"],
  tags: PyTree,
  pair_weight: Callable[[PyTree, PyTree], Float[Array, " N"]],
  temperature: float,
  block: int = BLOCK,
) -> tuple[Float[Array, " N"], Bool[Array, " N"]]:
  """Supervised contrast with weights of pairs, for each element as the anchor.

    l_n = -(1 / sum_p w_np) sum_p w_np (s_np - log sum_q exp s_nq)

  with s_np = cos(code_n, code_p) / temperature, and sums over all elements of `where` but n.

  Args:
    tags: [N, ...] what `pair_weight` compares: (tag of n, tags) -> w f[N].
    block: More elements than these are taken in blocks that the backward pass recomputes:
      memory grows with N * block. 32,768 elements of width 128 take under 0.9 GB on CPU.

  Returns:
    The loss of each element, 0 for one without a positive, and which have a positive.
  """
  check_at_least("block", block, 1)
  if not temperature > 0:
    raise ValueError(f"temperature is {temperature}, it must be above 0")
  num_elements = code.shape[0]
  code = missing.zero_absent(code, where)
  code = code.astype(jnp.promote_types(code.dtype, jnp.float32))
  code = contrastive.normalise(code)
  index = jnp.arange(num_elements, dtype=jnp.int32)

  def anchor_loss(anchor):
    u, counts, tag, own_index = anchor
    candidate = counts & where & (own_index != index)
    s = jnp.matmul(code, u, precision=jax.lax.Precision.HIGHEST) / temperature
    s = jnp.where(candidate, s, -1e30)
    weight = jnp.where(candidate, pair_weight(tag, tags).astype(s.dtype), 0)
    total = jnp.sum(weight)
    negative_log_share = jax.nn.logsumexp(s) - s
    return jnp.sum(weight * negative_log_share) / jnp.where(total > 0, total, 1), total > 0

  anchors = code, where, tags, index
  if num_elements <= block:
    return jax.vmap(anchor_loss)(anchors)
  # In a loop nothing is shared with the forward pass, so no barrier is needed.
  anchor_loss = jax.checkpoint(anchor_loss, prevent_cse=False)
  return jax.lax.map(anchor_loss, anchors, batch_size=block)
