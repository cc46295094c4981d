"""Which rows are labelled, and which rows a step sees: pure functions of (seed, step).

The position in the data IS the step, so a resumed run has nothing else to restore. All
of it is counter-based (`counter.uniform`), the same for every method.
"""

import numpy as np

from promise_jax import counter_rng

BINS = 10


def label_subset(
  label: np.ndarray, task_kind: str, rate: float, seed: int, ids: np.ndarray
) -> np.ndarray:
  """Rows bool[N] that keep their label: the first of one order that ignores `rate`.

  So the set at a smaller rate is always a subset of that at a larger one. `label` is
  that of `types.Split`, `rate` lies in (0, 1], `ids` int[N] are unique. The order is

  classes     one row of every class that occurs, then row k of a class of size n (from
              0, by its random number) at (k + 1/2) / n: seats by the divisor rule of
              Webster and Sainte-Lague, near to the class shares and, unlike the largest
              remainder, nested;
  multilabel  rows until every label that occurs has a positive one, rarest label
              first, then all others at random;
  regression  as classes, over 10 bins of equal size by the rank of the label, without
              the one row of each first.

  round(rate N) rows, halves up, but never fewer than the rows that come first by rule
  and never none. Labels are read to stratify only: this is the design of an experiment,
  not training. Source: ours. Raises ValueError for a rate or kind that is not allowed.
  """
  if not 0 < rate <= 1:
    raise ValueError(f"a label rate in (0, 1] is expected, found {rate}")
  if task_kind not in _ORDERS:
    raise ValueError(f"unknown task {task_kind!r}; known: {', '.join(_ORDERS)}")
  label, ids = np.asarray(label), np.asarray(ids)
  u = counter_rng.uniform(seed, "labels", ids, 1)[:, 0]
  order, first = _ORDERS[task_kind](label, u, ids)
  chosen = np.zeros(len(ids), bool)
  chosen[order[: max(int(rate * len(ids) + 0.5 + 1e-9), first, 1)]] = True
  return chosen


def _order_classes(label, u, ids) -> tuple[np.ndarray, int]:
  turn, size = _count_within(label, u, ids)
  at = np.where(turn == 0, 0, (turn + 0.5) / size)
  return np.lexsort((ids, u, at)), int(np.sum(turn == 0))


def _order_regression(label, u, ids) -> tuple[np.ndarray, int]:
  bins = np.empty(len(ids), int)
  bins[np.lexsort((ids, label))] = np.arange(len(ids)) * BINS // max(len(ids), 1)
  turn, size = _count_within(bins, u, ids)
  return np.lexsort((ids, u, (turn + 0.5) / size)), 0


def _order_multilabel(label, u, ids) -> tuple[np.ndarray, int]:
  positive = label > 0
  order = np.lexsort((ids, u))
  cover = []
  for c in np.argsort(positive.sum(axis=0), kind="stable"):
    having = order[positive[order, c]]
    if len(having) and not positive[cover, c].any():
      cover.append(having[0])
  rest = order[~np.isin(order, cover)]
  return np.concatenate([np.array(cover, int), rest]), len(cover)


_ORDERS = {
  "classes": _order_classes,
  "multilabel": _order_multilabel,
  "regression": _order_regression,
}


def _count_within(group, u, ids) -> tuple[np.ndarray, np.ndarray]:
  """Rank of each row in its group by `u`, and the size of that group: both int[N]."""
  _, group, sizes = np.unique(group, return_inverse=True, return_counts=True)
  order = np.lexsort((ids, u, group))
  turn = np.empty(len(group), int)
  turn[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
  return turn, sizes[group]


def sample_batches(
  labelled: np.ndarray,
  ids: np.ndarray,
  *,
  seed: int,
  steps: np.ndarray,
  batch_size: int,
  labelled_per_batch: int,
) -> np.ndarray:
  """Row indices i32[K, B] of the batches at `steps` int[K], of any values >= 0.

  Columns below `labelled_per_batch` come from an endless stream of reshuffled passes
  over the rows of `labelled` bool[N], the others from one over the unlabelled rows;
  when one of the two sets is empty the other gives the whole batch. Every pass has each
  row once, in an order of its own; a batch that reaches over the end of a pass goes on
  in the next, so a row can be in it twice (often, when a set is smaller than its
  share). The order follows from (seed, ids, labelled, sizes) and the step; other sizes
  give another order. Source: ours. Raises ValueError for no rows or sizes that do not
  fit.
  """
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
  known = _read_stream(labelled, ids, seed, "labelled", steps, share)
  other = _read_stream(~labelled, ids, seed, "unlabelled", steps, batch_size - share)
  return np.concatenate([known, other], axis=1).astype(np.int32)


def _read_stream(member, ids, seed, name, steps, share) -> np.ndarray:
  """Rows int[K, share] of a stream over the rows of `member` bool[N]."""
  (rows,) = np.nonzero(member)
  position = steps[:, None] * share + np.arange(share)
  turn, place = np.divmod(position, max(len(rows), 1))
  out = np.empty(position.shape, np.int64)
  for t in np.unique(turn):
    u = counter_rng.uniform(seed, ("order", name, t), np.asarray(ids)[rows], 1)[:, 0]
    shuffled = rows[np.argsort(u, kind="stable")]
    here = turn == t
    out[here] = shuffled[place[here]]
  return out


def bank_indices(labelled: np.ndarray, size: int) -> np.ndarray:
  """Place i32[N] of each row in a bank of `size`: its rank among the rows of `labelled`
  bool[N], modulo `size`; -1 for the unlabelled."""
  if size < 1:
    raise ValueError(f"a bank of at least 1 place is expected, found {size}")
  labelled = np.asarray(labelled, bool)
  return np.where(labelled, (np.cumsum(labelled) - 1) % size, -1).astype(np.int32)
