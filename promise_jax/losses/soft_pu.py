"""Soft positive-unlabelled weights: which rows of a batch share a class, in [0, 1].

Reconstructed from the public reviews of an earlier version of Robult (a submission to
ICLR 2025), which name a classifier, an average proximity to labelled samples and an RBF
kernel; the formulas are ours. Nothing here has a gradient: callers detach the inputs.
"""

from typing import NamedTuple

import jax.numpy as jnp

from promise_jax.types import Array

GATES = ("hard", "soft", "no_rbf")
CONTRASTS = ("none", "infonce", "pucl", "softpu", "softpu_allpos", "softpu_keepneg")


class Bank(NamedTuple):
  """Labelled references: `code` f[K, D] unit vectors, `member` f[K, C] in {0, 1},
  `valid` bool[K]; one slot per labelled example."""

  code: Array
  member: Array
  valid: Array


def init_bank(size: int, features: int, classes: int) -> Bank:
  """A bank of `size` slots with nothing in it."""
  return Bank(
    jnp.zeros((size, features)),
    jnp.zeros((size, classes)),
    jnp.zeros((size,), bool),
  )


def update_bank(bank: Bank, slot: Array, code: Array, member: Array, where: Array) -> Bank:
  """Writes the rows `where` bool[B] into their `slot` i32[B] (modulo the size).

  Where two rows share a slot the later one wins, on every backend: a plain scatter
  leaves that to the device.
  """
  size = bank.valid.shape[0]
  slot = jnp.where(where, slot % size, size)
  row = jnp.arange(slot.shape[0], dtype=jnp.int32)
  last = jnp.full((size,), -1, jnp.int32).at[slot].max(row, mode="drop")
  new = (last >= 0)[:, None]
  return Bank(
    jnp.where(new, code[last], bank.code),
    jnp.where(new, member[last], bank.member),
    bank.valid | new[:, 0],
  )


def squared_distance(a: Array, b: Array) -> Array:
  """|a_n - b_k|^2 f[B, K] of unit vectors, by one matrix product."""
  return jnp.maximum(2 - 2 * a @ b.T, 0)


def bandwidth(code: Array, bank: Bank, where: Array) -> Array:
  """sigma^2 f[]: mean squared distance between different references of one class.

  If no class has two references, the mean squared distance of the batch's `code`
  f[B, D], rows `where` bool[B], to all references (else every weight would be 0); 1 for
  an empty bank. A median there would sort B K numbers in every step.
  """
  valid = bank.valid.astype(code.dtype)
  pair = (bank.member @ bank.member.T > 0) * valid[:, None] * valid[None]
  pair = pair * (1 - jnp.eye(valid.shape[0]))
  count = jnp.sum(pair)
  same = jnp.sum(pair * squared_distance(bank.code, bank.code)) / jnp.maximum(count, 1)
  counted = where[:, None] & bank.valid[None]
  total = jnp.sum(jnp.where(counted, squared_distance(code, bank.code), 0))
  known = jnp.sum(counted)
  fallback = jnp.where(known > 0, total / jnp.maximum(known, 1), 1.0)
  return jnp.maximum(jnp.where(count > 0, same, fallback), 1e-6)


def bank_proximity(code: Array, bank: Bank, where: Array, calibrate: bool = True) -> Array:
  """Closeness f[B, C] in [0, 1] of `code` f[B, D] to each class of the bank; only rows
  `where` bool[B] have a say in the bandwidth.

  kappa_n(y) is the mean RBF kernel to the references of y; calibrated, it is divided by
  what a labelled member gets from the others of its class, capped at 1, so that a
  typical member gets 1. A class with one reference borrows the mean of the other
  classes (ours); a class with none gives 0.
  """
  scale = 2 * bandwidth(code, bank, where)
  member = bank.member * bank.valid[:, None]
  count = jnp.sum(member, axis=0)
  kernel = jnp.exp(-squared_distance(code, bank.code) / scale)
  kappa = kernel @ member / jnp.maximum(count, 1)[None]
  if not calibrate:
    return jnp.clip(kappa, 0, 1)
  among = jnp.exp(-squared_distance(bank.code, bank.code) / scale)
  among = among * (1 - jnp.eye(among.shape[0]))
  total = jnp.sum(member * (among @ member), axis=0)
  reference = total / jnp.maximum(count * (count - 1), 1)
  usual = count > 1
  borrowed = jnp.sum(jnp.where(usual, reference, 0)) / jnp.maximum(jnp.sum(usual), 1)
  borrowed = jnp.where(jnp.any(usual), borrowed, 1.0)
  reference = jnp.where(usual, reference, borrowed)
  return jnp.clip(kappa / jnp.maximum(reference, 1e-3)[None], 0, 1)


def class_membership(
  probability: Array,
  closeness: Array,
  member: Array,
  labelled: Array,
  *,
  gate: str = "hard",
  exclusive: bool = True,
) -> Array:
  """Soft membership m f[B, C] (ours, re-derived).

  `member` f[B, C] is the known membership of rows `labelled` bool[B]; other rows get
  the classifier's `probability` f[B, C] gated by `closeness` f[B, C]: gate "hard" keeps
  the most probable class (`exclusive`) or every label above one half, "soft" the
  probabilities, "no_rbf" the probabilities without the closeness.
  """
  if gate not in GATES:
    raise ValueError(f"gate is {gate!r}, known are {', '.join(GATES)}")
  if gate == "hard" and exclusive:
    top = jnp.argmax(probability, axis=1)[:, None]
    choice = (jnp.arange(probability.shape[1])[None] == top).astype(closeness.dtype)
  elif gate == "hard":
    choice = (probability > 0.5).astype(closeness.dtype)
  else:
    choice = probability
  guess = choice if gate == "no_rbf" else choice * closeness
  return jnp.where(labelled[:, None], member, guess)


def pair_affinity(
  members: Array, labelled: Array, same: Array, ramp: Array, *, exclusive: bool = True
) -> Array:
  """A f[B, B]: how surely two rows share a class (ours).

  The dot product of memberships `members` f[B, C], or their soft Jaccard index where
  labels are not `exclusive`; times `ramp` f[] where a row is unlabelled; 1 where `same`
  bool[B, B] says that both are one example.
  """
  if exclusive:
    pair = members @ members.T
  else:
    both = jnp.sum(jnp.minimum(members[:, None], members[None]), axis=-1)
    either = jnp.sum(jnp.maximum(members[:, None], members[None]), axis=-1)
    pair = both / jnp.maximum(either, 1e-6)
  return scale_unlabelled(jnp.clip(pair, 0, 1), labelled, same, ramp)


def gaussian_affinity(
  value: Array, labelled: Array, same: Array, ramp: Array, width: float = 0.5
) -> Array:
  """A f[B, B] for regression (ours): exp(-(v_n - v_k)^2 / (2 width^2)) of `value` f[B],
  the label where it is known and the prediction elsewhere, in label units."""
  pair = jnp.exp(-jnp.square(value[:, None] - value[None]) / (2 * width**2))
  return scale_unlabelled(pair, labelled, same, ramp)


def scale_unlabelled(pair: Array, labelled: Array, same: Array, ramp: Array) -> Array:
  """`pair` f[B, B] times `ramp` where either row is unlabelled, 1 where `same`."""
  known = labelled[:, None] & labelled[None]
  return jnp.where(same, 1.0, jnp.where(known, pair, ramp * pair))


def contrast_weights(
  kind: str, affinities: Array, labelled: Array, same: Array
) -> tuple[Array, Array]:
  """The pair (A, P) f[B, B] that `contrastive.affinity_contrast` reads (ours).

  P is A for labelled anchors and the row itself for unlabelled ones. "infonce": only
  the row itself everywhere; "pucl": pairs with an unlabelled row count as different;
  "softpu_allpos": P = A for every anchor; "softpu_keepneg": unlabelled rows stay full
  negatives in the denominator.
  """
  if kind not in CONTRASTS:
    raise ValueError(f"contrast is {kind!r}, known are {', '.join(CONTRASTS)}")
  itself = same.astype(affinities.dtype)
  if kind == "infonce":
    return itself, itself
  known = (labelled[:, None] & labelled[None]) | same
  if kind == "pucl":
    affinities = jnp.where(known, affinities, 0)
  positive = affinities
  if kind != "softpu_allpos":
    positive = jnp.where(labelled[:, None], affinities, itself)
  if kind == "softpu_keepneg":
    affinities = jnp.where(known, affinities, 0)
  return affinities, positive


def linear_ramp(progress: Array, start: float = 0.1, end: float = 0.3) -> Array:
  """r(t) f[]: 0 before `start`, 1 after `end`, linear between, in parts of training;
  `end` at `start` is a step."""
  return jnp.clip((progress - start) / max(end - start, 1e-6), 0, 1)
