"""Which rows keep their label, and which rows a step reads: pure functions of (seed, step).

The position in the data is the step, so a resumed run has nothing else to restore. Random
numbers are counter-based (`counter_rng.uniform`), and the same for every method.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from promise_jax import counter_rng
from promise_jax.checks import check_choice

BINS = 10  # of equal size, into which regression labels are stratified


def label_subset(
  label: Shaped[np.ndarray, "N ..."],
  task_kind: str,
  rate: float,
  seed: int,
  ids: Int[np.ndarray, " N"],
) -> Bool[np.ndarray, " N"]:
  """The rows that keep their label: about rate * N of them, stratified by label.

  They are the first rows of an order that does not depend on `rate`, so the set at a
  smaller rate is always a subset of the set at a larger one. Source of the orders: ours.

  classes     First one row of every class. Row k of a class of size n, from 0 and by its
              random number, then stands at (k + 1/2) / n: the divisor rule of Webster and
              Sainte-Lague, which stays near the shares of the classes and is nested.
  multilabel  First rows until every label has a positive one, the rarest label first; then
              the others at random.
  regression  As classes, over 10 bins of equal size, without the first row of each.

  Returns a mask of round(rate * N) rows, halves up, but never fewer than the rows that come
  first by the rules above, and at least one. Reading all labels to stratify is part of the
  design of the experiment, not of training. Raises ValueError for a rate outside (0, 1].
  """
  if not 0 < rate <= 1:
    raise ValueError(f"a label rate in (0, 1] is expected, found {rate}")
  check_choice("task", task_kind, list(_ORDERS))
  label, ids = np.asarray(label), np.asarray(ids)
  u = counter_rng.uniform(seed, "labels", ids, 1)[:, 0]
  order, num_first = _ORDERS[task_kind](label, u, ids)
  mask = np.zeros(len(ids), bool)
  mask[order[: max(int(rate * len(ids) + 0.5 + 1e-9), num_first, 1)]] = True
  return mask


def _order_classes(label, u, ids) -> tuple[np.ndarray, int]:
  rank, size = _rank_in_group(label, u, ids)
  place = np.where(rank == 0, 0, (rank + 0.5) / size)
  return np.lexsort((ids, u, place)), int(np.sum(rank == 0))


def _order_regression(label, u, ids) -> tuple[np.ndarray, int]:
  bins = np.empty(len(ids), int)
  bins[np.lexsort((ids, label))] = np.arange(len(ids)) * BINS // max(len(ids), 1)
  rank, size = _rank_in_group(bins, u, ids)
  return np.lexsort((ids, u, (rank + 0.5) / size)), 0


def _order_multilabel(label, u, ids) -> tuple[np.ndarray, int]:
  positive = label > 0
  order = np.lexsort((ids, u))
  first = []
  for c in np.argsort(positive.sum(axis=0), kind="stable"):
    rows = order[positive[order, c]]
    if len(rows) and not positive[first, c].any():
      first.append(rows[0])
  rest = order[~np.isin(order, first)]
  return np.concatenate([np.array(first, int), rest]), len(first)


# {task kind: function (label, u, ids) -> (order of the rows, how many must come first)}
_ORDERS = {
  "classes": _order_classes,
  "multilabel": _order_multilabel,
  "regression": _order_regression,
}


def _rank_in_group(group, u, ids) -> tuple[np.ndarray, np.ndarray]:
  """The rank of each row in its group by `u`, and the size of that group."""
  _, group, sizes = np.unique(group, return_inverse=True, return_counts=True)
  order = np.lexsort((ids, u, group))
  rank = np.empty(len(group), int)
  rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  return rank, sizes[group]


def sample_batches(
  labelled: Bool[np.ndarray, " N"],
  ids: Int[np.ndarray, " N"],
  *,
  seed: int,
  steps: Int[np.ndarray, " K"],
  batch_size: int,
  labelled_per_batch: int,
) -> Int[np.ndarray, "K B"]:
  """Row indices of the batches at `steps`.

  The first `labelled_per_batch` columns read an endless stream of shuffled passes over the
  labelled rows, the other columns one over the unlabelled rows. If one of the two sets is
  empty, the other fills the batch. Every pass has each row once, in its own order. A batch
  that crosses the end of a pass may hold a row twice, which is common where a set is
  smaller than its share. Other sizes give another order. Source: ours. ValueError for no rows, or
  sizes that do not fit."""
  labelled, steps = np.asarray(labelled, bool), np.asarray(steps, np.int64)
  if batch_size < 1 or not 0 <= labelled_per_batch <= batch_size:
    raise ValueError(
      "batch_size >= 1 and 0 <= labelled_per_batch <= batch_size are expected, "
      f"found {batch_size} and {labelled_per_batch}"
    )
  if not len(labelled):
    raise ValueError("at least 1 row is expected, found none")
  if steps.size and steps.min() < 0:
    raise ValueError(f"steps >= 0 are expected, found {steps.min()}")
  share = labelled_per_batch
  if labelled.all() or not labelled.any():
    share = batch_size if labelled.all() else 0
  first = _read_stream(labelled, ids, seed, "labelled", steps, share)
  rest = _read_stream(~labelled, ids, seed, "unlabelled", steps, batch_size - share)
  return np.concatenate([first, rest], axis=1).astype(np.int32)


def _read_stream(mask, ids, seed, name, steps, share) -> np.ndarray:
  """Rows int[K, share] of a stream over the rows of `mask`, `share` for each step."""
  (rows,) = np.nonzero(mask)
  position = steps[:, None] * share + np.arange(share)
  passes, place = np.divmod(position, max(len(rows), 1))
  stream = np.empty(position.shape, np.int64)
  for number in np.unique(passes):
    u = counter_rng.uniform(seed, ("order", name, number), np.asarray(ids)[rows], 1)[:, 0]
    shuffled = rows[_argsort(u)]
    here = passes == number
    stream[here] = shuffled[place[here]]
  return stream


def _argsort(u: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
  """The stable order, found in a fifth of the time by the default sort where no numbers tie."""
  order = np.argsort(u)
  has_ties = (np.diff(u[order]) == 0).any()
  return np.argsort(u, kind="stable") if has_ties else order


def bank_indices(labelled: Bool[np.ndarray, " N"], size: int) -> Int[np.ndarray, " N"]:
  """The place of each row in a bank of `size`: its rank among the labelled rows, modulo
  `size`; -1 for unlabelled rows."""
  if size < 1:
    raise ValueError(f"a bank of at least 1 place is expected, found {size}")
  labelled = np.asarray(labelled, bool)
  return np.where(labelled, (np.cumsum(labelled) - 1) % size, -1).astype(np.int32)
