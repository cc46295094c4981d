"""Soft positive-unlabelled weights: which rows of a batch share a class, in [0, 1].

A contrast needs to know which rows are positives of each other. Labels say so for labelled rows;
here the class of an unlabelled row is guessed, by a classifier and by how close its code is to
those of labelled rows (an RBF kernel).

Source: the public reviews of an earlier version of Robult (a submission to ICLR 2025)
name these ingredients; every formula is ours. Nothing here needs a gradient: callers
detach the inputs.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from promise_jax import missing
from promise_jax.losses import supervised
from promise_jax.types import Task

ContrastKind = Literal["softpu", "pucl", "infonce"]
RegressionKind = Literal["sign", "gaussian"]


class Bank(NamedTuple):
  """The references: codes of labelled rows from earlier batches, in K slots, one for each row."""

  code: Float[Array, "K D"]  # unit vectors
  member: Float[Array, "K C"]  # classes of the row, 0 or 1
  valid: Bool[Array, " K"]  # False: the slot was never written


def init_bank(size: int, num_features: int, task: Task) -> Bank:
  """An empty bank. Regression labels are stored as two classes, see `label_membership`."""
  num_classes = 2 if task.kind == "regression" else task.outputs
  code, member = jnp.zeros((size, num_features)), jnp.zeros((size, num_classes))
  return Bank(code, member, jnp.zeros((size,), bool))


def update_bank(
  bank: Bank,
  index: Int[Array, " B"],
  code: Float[Array, "B D"],
  member: Float[Array, "B C"],
  where: Bool[Array, " B"],
) -> Bank:
  """Writes the rows `where` into slot `index` (modulo the size of the bank)."""
  size = bank.valid.shape[0]
  index = jnp.where(where, index % size, size)
  # Of two rows with the same slot the later is stored. A plain scatter leaves that to the
  # device, and results would differ between CPU and GPU.
  row = jnp.arange(index.shape[0], dtype=jnp.int32)
  last = jnp.full((size,), -1, jnp.int32).at[index].max(row, mode="drop")
  is_new = (last >= 0)[:, None]
  return Bank(
    jnp.where(is_new, code[last], bank.code),
    jnp.where(is_new, member[last], bank.member),
    bank.valid | is_new[:, 0],
  )


def label_membership(label: Array, task: Task) -> Float[Array, "B C"]:
  """Labels as 0 or 1 for each class. A number has one of two classes, by its sign (ours)."""
  if task.kind == "multilabel":
    return label
  if task.kind == "classes":
    return jax.nn.one_hot(label, task.outputs)
  return jax.nn.one_hot((label >= 0).astype(jnp.int32), 2)


def squared_distance(a: Float[Array, "B D"], b: Float[Array, "K D"]) -> Float[Array, "B K"]:
  """|a_n - b_k|^2 of unit vectors."""
  return jnp.maximum(2 - 2 * a @ b.T, 0)


def bandwidth(
  code: Float[Array, "B D"], bank: Bank, where: Bool[Array, " B"], *, exclusive: bool = True
) -> Float[Array, ""]:
  """sigma^2 of the RBF kernel: the mean squared distance inside a class of the bank.

  If no class has two references, it is the mean squared distance from the rows `where` to all
  references (0 would make every weight 0); for an empty bank it is 1. Where labels are not
  `exclusive`, a pair with several labels in common counts once.
  """
  # A mean and not the usual median, which would sort B K numbers in every step. Between two sets
  # of unit vectors, the sum of |a - b|^2 = 2 - 2 a.b needs only the sum of each set.
  member = bank.member * bank.valid[:, None]
  if exclusive:
    size, total = jnp.sum(member, axis=0), member.T @ bank.code
    count = jnp.sum(size * (size - 1))
    distance = 2 * jnp.sum(jnp.square(size)) - 2 * jnp.sum(jnp.square(total))
  else:
    pair = (member @ member.T > 0) * (1 - jnp.eye(member.shape[0]))
    count, distance = jnp.sum(pair), jnp.sum(pair * squared_distance(bank.code, bank.code))
  means = missing.masked_mean(code, where, 0), missing.masked_mean(bank.code, bank.valid, 0)
  fallback = jnp.where(jnp.any(where) & jnp.any(bank.valid), 2 - 2 * jnp.dot(*means), 1.0)
  return jnp.maximum(jnp.where(count > 0, distance / jnp.maximum(count, 1), fallback), 1e-6)


def bank_proximity(
  code: Float[Array, "B D"], bank: Bank, where: Bool[Array, " B"], *, exclusive: bool = True
) -> Float[Array, "B C"]:
  """How close a code, a unit vector, is to each class of the bank, in [0, 1].

  The mean RBF kernel to the references of the class, divided by the mean kernel between those:
  a typical member gets 1; without the division nothing comes near 1. A class with one
  reference is divided by the mean divisor of the other classes; a class with none gives 0. The
  rows `where` and `exclusive` are those of `bandwidth`.
  """
  scale = 2 * bandwidth(code, bank, where, exclusive=exclusive)
  member = bank.member * bank.valid[:, None]
  count = jnp.sum(member, axis=0)
  kernel = jnp.exp(-squared_distance(code, bank.code) / scale)
  mean_kernel = kernel @ member / jnp.maximum(count, 1)[None]
  bank_kernel = jnp.exp(-squared_distance(bank.code, bank.code) / scale)
  bank_kernel = bank_kernel * (1 - jnp.eye(bank_kernel.shape[0]))
  typical = jnp.sum(member * (bank_kernel @ member), axis=0) / jnp.maximum(count * (count - 1), 1)
  has_pairs = count > 1
  borrowed = jnp.sum(jnp.where(has_pairs, typical, 0)) / jnp.maximum(jnp.sum(has_pairs), 1)
  borrowed = jnp.where(jnp.any(has_pairs), borrowed, 1.0)
  typical = jnp.where(has_pairs, typical, borrowed)
  return jnp.clip(mean_kernel / jnp.maximum(typical, 1e-3)[None], 0, 1)


def class_membership(
  probability: Float[Array, "B C"],
  proximity: Float[Array, "B C"],
  member: Float[Array, "B C"],
  labelled: Bool[Array, " B"],
  *,
  exclusive: bool = True,
) -> Float[Array, "B C"]:
  """The classes of a row: known ones if it is labelled, else a guess in [0, 1].

  The guess is the proximity to the most probable class, or, where labels are not
  `exclusive`, to every label with a probability above one half.
  """
  top = jax.nn.one_hot(jnp.argmax(probability, axis=1), probability.shape[1], dtype=bool)
  is_guess = top if exclusive else probability > 0.5
  return jnp.where(labelled[:, None], member, is_guess.astype(proximity.dtype) * proximity)


def pair_affinity(
  members: Float[Array, "B C"],
  labelled: Bool[Array, " B"],
  same: Bool[Array, "B B"],
  ramp: Float[Array, ""],
  *,
  exclusive: bool = True,
) -> Float[Array, "B B"]:
  """How likely two rows share a class, in [0, 1]: the inner product of their memberships.

  Where labels are not `exclusive` it is the soft Jaccard index. `same` marks pairs that
  are one example; `ramp` scales pairs with an unlabelled row.
  """
  if exclusive:
    pair = members @ members.T
  else:
    both = jnp.sum(jnp.minimum(members[:, None], members[None]), axis=-1)
    either = jnp.sum(jnp.maximum(members[:, None], members[None]), axis=-1)
    pair = both / jnp.maximum(either, 1e-6)
  return scale_unlabelled(jnp.clip(pair, 0, 1), labelled, same, ramp)


def gaussian_affinity(
  value: Float[Array, " B"],
  labelled: Bool[Array, " B"],
  same: Bool[Array, "B B"],
  ramp: Float[Array, ""],
  width: float = 0.5,
) -> Float[Array, "B B"]:
  """`pair_affinity` for numbers: exp(-(v_n - v_k)^2 / (2 width^2))."""
  pair = jnp.exp(-jnp.square(value[:, None] - value[None]) / (2 * width**2))
  return scale_unlabelled(pair, labelled, same, ramp)


def scale_unlabelled(pair, labelled, same, ramp) -> Float[Array, "B B"]:
  """`pair` times `ramp` where either row is unlabelled, and 1 where both are one example."""
  both_labelled = labelled[:, None] & labelled[None]
  return jnp.where(same, 1.0, jnp.where(both_labelled, pair, ramp * pair))


def contrast_weights(
  kind: ContrastKind,
  affinity: Float[Array, "B B"],
  labelled: Bool[Array, " B"],
  same: Bool[Array, "B B"],
) -> tuple[Float[Array, "B B"], Float[Array, "B B"]]:
  """The pair (affinity, positive) that `contrastive.affinity_contrast` takes.

  Args:
    kind: "softpu": a guess takes a row out of the negatives of others, by its affinity, and
      into the positives of labelled rows; "pucl": a pair with an unlabelled row counts as
      different; "infonce": only the row itself is a positive.
    affinity: of every pair, from `pair_affinity` or `gaussian_affinity`.
    labelled, same: rows with a label, and pairs that are one example.
  """
  itself = same.astype(affinity.dtype)
  if kind == "infonce":
    return itself, itself
  if kind == "pucl":
    affinity = jnp.where((labelled[:, None] & labelled[None]) | same, affinity, 0)
  return affinity, jnp.where(labelled[:, None], affinity, itself)


def pair_weights(
  code: Float[Array, "B D"],
  logits: Float[Array, "B C"],
  label: Array,
  labelled: Bool[Array, " B"],
  ids: Int[Array, " B"],
  bank: Bank,
  *,
  task: Task,
  where: Bool[Array, " B"],
  ramp: Float[Array, ""],
  kind: ContrastKind = "softpu",
  regression: RegressionKind = "sign",
) -> tuple[Float[Array, "B B"], Float[Array, "B B"]]:
  """The weights (affinity, positive) of a batch for `contrastive.affinity_contrast`.

  Args:
    code: detached unit vectors.
    logits: detached, of a classifier that guesses the classes of unlabelled rows.
    label, labelled: as in `Batch`, but labels of unlabelled rows must be finite.
    ids: rows with the same id are one example.
    bank: references, labelled rows of earlier batches.
    task: the kind of `label`.
    where: rows that take part in the bandwidth.
    ramp: scales pairs with an unlabelled row; at 0 "softpu" is the same as "pucl".
    kind: see `contrast_weights`.
    regression: numbers share a class by "sign", or by distance ("gaussian", with a width
      of a sixth of `task.scale`: half a unit of a sentiment in [-3, 3]).
  """
  same = ids[:, None] == ids[None]
  exclusive = task.kind != "multilabel"
  if task.kind == "regression" and regression == "gaussian":
    value = jnp.where(labelled, label, supervised.predict_value(logits, task))
    affinity = gaussian_affinity(value, labelled, same, ramp, 0.5 * task.scale / 3)
  else:
    if task.kind == "regression":
      probability = label_membership(supervised.predict_value(logits, task), task)
    else:
      probability = supervised.predict_probability(logits, task)
    proximity = bank_proximity(code, bank, where, exclusive=exclusive)
    member = label_membership(label, task)
    members = class_membership(probability, proximity, member, labelled, exclusive=exclusive)
    affinity = pair_affinity(members, labelled, same, ramp, exclusive=exclusive)
  return contrast_weights(kind, affinity, labelled, same)
