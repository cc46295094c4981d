"""PROMISE-style contrast on two levels: of instances (FNCL) and of classes (CCCL).

Of PROMISE (AAAI 2026, arXiv 2511.10997) we saw the method figure, not the equations.
From the figure: which elements pull and which push each other. Ours: the form of the
loss, which is supervised contrast with weights, the sum over positives outside the
logarithm; the temperature; and every rule for labels that are not classes.

An element is one view of one modality of one row; codes are f[B, M, V, D], V views, and
`where` bool[B, M, V] says which elements count: those of padding rows do not, and what
stands there may be NaN. Generated elements count like any other in the figure. Both
losses are plain sums over the whole batch, so rows may be spread over devices.
"""

import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from promise_jax import missing, types
from promise_jax.checks import check_at_least, check_choice
from promise_jax.losses import contrastive, supervised
from promise_jax.types import Array, Average, PyTree

POSITIVES = ("all", "cross_modal", "fig_edges")
CUT = 0.1  # below it the weight of a pair of regression labels is 0


def instance_contrast(
  code: Array,
  where: Array,
  ids: Array,
  *,
  temperature: float = 0.07,
  positives: str = "all",
  text: int = 0,
  block: int = 1024,
) -> Average:
  """FNCL of `code` f[B, M, V, D]: `contrast` of all elements, averaged over anchors.

  Rows of one id in `ids` i32[B] are one instance. Positives of an element are, of the
  other elements of its instance, "all", those of other modalities ("cross_modal"), or
  those and the other views where its modality has index `text` ("fig_edges": the arrows
  as they are drawn). Whatever is no positive is in the denominator all the same.
  `tasks.ratio` makes the number, 0 if no element has a positive. Raises ValueError for
  unknown `positives`, and unless temperature and block are positive.
  """
  check_choice("positives", positives, POSITIVES)
  rows, modalities, views, width = code.shape
  chex.assert_shape(where, (rows, modalities, views))

  def weigh(a, b):
    same = a[0] == b[0]
    if positives == "all":
      return same
    drawn = a[1] != b[1]
    if positives == "fig_edges":
      drawn |= a[1] == text
    return same & drawn

  modality = jnp.repeat(jnp.arange(modalities, dtype=jnp.int32), views)
  tags = jnp.repeat(ids, modalities * views), jnp.tile(modality, rows)
  code, where = code.reshape(-1, width), where.reshape(-1)
  return Average.of(*weighted_contrast(code, where, tags, weigh, temperature, block))


def class_contrast(
  code: Array,
  where: Array,
  ids: Array,
  label: Array,
  labelled: Array,
  kind: str,
  *,
  temperature: float = 0.07,
  width: float = 0.5,
  block: int = 1024,
) -> Average:
  """CCCL of `code` f[B, M, V, D]: `contrast` inside each modality, averaged over its
  anchors, then over the modalities that have an anchor.

  The weight of a pair is `label_weight`, and 1 for two views of one id in `ids` i32[B].
  Rows outside `labelled` bool[B] are neither anchors nor in a denominator (ours): they
  may be of any class. `tasks.ratio` makes the number, 0 if there is no positive pair.
  Raises ValueError for an unknown `kind` of task, and unless temperature and block are
  positive.
  """
  check_choice("kind", kind, types.TASKS)
  rows, modalities, views, _ = code.shape
  chex.assert_shape(where, (rows, modalities, views))

  def by_modality(x):
    return jnp.swapaxes(x, 0, 1).reshape(modalities, rows * views, *x.shape[3:])

  def weigh(a, b):
    return jnp.where(a[0] == b[0], 1, label_weight(a[1], b[1], kind, width))

  label = supervised.known_label(label, labelled)
  tags = jnp.repeat(ids, views), jnp.repeat(label, views, axis=0)
  of_one = functools.partial(
    weighted_contrast, tags=tags, weigh=weigh, temperature=temperature, block=block
  )
  where = where & labelled[:, None, None]
  each, anchor = jax.vmap(of_one)(by_modality(code), by_modality(where))
  mean = missing.masked_mean(each, anchor, axis=1)
  return Average.of(mean, jnp.any(anchor, axis=1))


def label_weight(a: Array, b: Array, kind: str, width: float = 0.5) -> Array:
  """How much label `a` [...] and each of `b` [N, ...] are a positive pair, f[N] in
  [0, 1]; beyond classes, ours.

  Equality of classes i32[]; the Jaccard index of the label sets f[C] of 0 and 1, which
  is 0 for two empty sets; for regression f[] exp(-(a - b)^2 / (2 width^2)), `width` in
  units of the label, and 0 where that is below `CUT`.
  """
  if kind == "multilabel":
    both = b @ a
    return both / jnp.maximum(jnp.sum(a) + jnp.sum(b, axis=1) - both, 1)
  if kind == "regression":
    near = jnp.exp(-jnp.square(a - b) / (2 * width**2))
    return jnp.where(near < CUT, 0, near)
  return (a == b).astype(jnp.float32)


def weighted_contrast(
  code: Array,
  where: Array,
  tags: PyTree,
  weigh: Callable[[PyTree, PyTree], Array],
  temperature: float,
  block: int,
) -> tuple[Array, Array]:
  """Loss f[N] of each element of `code` f[N, D], and if it has a positive, bool[N].

  With unit vectors u, s_np = u_n . u_p / temperature, and sums over the elements in
  `where` bool[N] but n itself,

    l_n = -(1 / sum_p w_np) sum_p w_np (s_np - log sum_q exp s_nq),

  in float32 at least; vectors are brought to length 1 here. An element without a
  positive, or outside `where`, gets 0. `weigh(tag, tags)` gives w f[N] of one element
  and all from their `tags` [N, ...]. More than `block` elements are taken in blocks
  whose similarities are computed again in the backward pass: memory grows with
  N * block, not with N^2. Value and gradient of 32,768 elements, D 128, in blocks of
  1024 take under 0.9 GB on CPU.
  """
  check_at_least("block", block, 1)
  if not temperature > 0:
    raise ValueError(f"temperature is {temperature}, it must be above 0")
  count = code.shape[0]
  code = missing.zero_absent(code, where)
  code = code.astype(jnp.promote_types(code.dtype, jnp.float32))
  code = contrastive.normalise(code)
  index = jnp.arange(count, dtype=jnp.int32)

  def loss(anchor):
    u, there, tag, place = anchor
    candidate = there & where & (place != index)
    s = jnp.matmul(code, u, precision=jax.lax.Precision.HIGHEST) / temperature
    s = jnp.where(candidate, s, -1e30)
    weight = jnp.where(candidate, weigh(tag, tags).astype(s.dtype), 0)
    total = jnp.sum(weight)
    away = jax.nn.logsumexp(s) - s
    return jnp.sum(weight * away) / jnp.where(total > 0, total, 1), total > 0

  anchors = code, where, tags, index
  if count <= block:
    return jax.vmap(loss)(anchors)
  # Inside a loop nothing can be shared with the forward pass anyway.
  loss = jax.checkpoint(loss, prevent_cse=False)
  return jax.lax.map(loss, anchors, batch_size=block)
