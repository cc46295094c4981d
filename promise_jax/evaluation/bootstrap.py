"""An interval of the difference between two methods, by a paired, two-level bootstrap (ours).

Each resample draws training seeds and test examples with replacement, the same for both
methods (paired), all seeds and all patterns. Drawn examples enter the metric as integer weights.
Where examples come in groups (segments of one recording), a resample draws whole groups.

In simulations it covers the true difference as often as it should if whole rows or seeds differ
(.95 with 8 and 5 seeds, .94 with 3). With one seed it is about the examples alone; with few seeds
that differ much it is too narrow, by (S - 1) / S in the variance between seeds. If every prediction
is random, both levels count that noise and the interval is too wide (covers .99).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key, UInt8

from promise_jax.evaluation import selection
from promise_jax.types import Task

CHUNK = 2**22  # logits in the resamples that are computed at once, to bound the memory


class Interval(NamedTuple):
  """An observed difference and its 95 % interval, in the unit of the metric."""

  mean: float
  low: float
  high: float


def paired_intervals(
  task: Task,
  ours: Float[np.ndarray, "P S N C"],
  baseline: Float[np.ndarray, "P S N C"],
  label: np.ndarray,
  weight: Float[np.ndarray, "P N"],
  pattern_sets: Sequence[Bool[np.ndarray, " P"]],
  *,
  group: np.ndarray | None = None,
  resamples: int = 2000,
  seed: int = 0,
) -> list[Interval]:
  """Intervals of (primary metric of ours) - (of the baseline), means over seeds.

  There is one for the mean over each of `pattern_sets`, all from the same resamples, which
  depend on `seed` alone. `weight` says which rows count under a pattern; rows of weight 0
  everywhere are never drawn. `group` [N] is equal where rows belong together.
  """
  num_patterns, _, num_rows, _ = ours.shape
  group = np.arange(num_rows) if group is None else group
  shapes = (baseline.shape, weight.shape, group.shape)
  if shapes != (ours.shape, (num_patterns, num_rows), (num_rows,)):
    raise ValueError(f"shapes of baseline, weight and group are {shapes}, ours is {ours.shape}")
  is_used = (weight > 0).any(0)
  logits = np.stack([ours, baseline])[:, :, :, is_used]
  groups, group = np.unique(group[is_used], return_inverse=True)
  chunk = int(np.clip(CHUNK // logits.size, 1, resamples))
  counts = draw_resamples(
    seed, num_seeds=ours.shape[1], num_groups=len(groups), resamples=resamples
  )
  arrays = logits, label[is_used], weight[:, is_used], group, *counts
  observed, resampled = jax.device_get(_resample_differences(task, *arrays, chunk=chunk))
  return [
    make_interval(observed[patterns].mean(), resampled[:, patterns].mean(axis=1))
    for patterns in np.asarray(pattern_sets, bool)
  ]


@functools.partial(jax.jit, static_argnames=("num_seeds", "num_groups", "resamples"))
def draw_resamples(
  seed: int, *, num_seeds: int, num_groups: int, resamples: int
) -> tuple[UInt8[Array, "R S"], UInt8[Array, "R G"]]:
  """How often each of R resamples draws each seed, and each group of rows."""

  def draw(index):
    seed_key, row_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), index))
    counts = _draw_counts(seed_key, num_seeds), _draw_counts(row_key, num_groups)
    # R N of them are kept; to be drawn 256 times is out of reach for any thing.
    return jax.tree.map(lambda count: count.astype(jnp.uint8), counts)

  return jax.lax.map(draw, jnp.arange(resamples))


@functools.partial(jax.jit, static_argnames=("task", "chunk"))
def _resample_differences(
  task: Task, logits, label, weight, group, seed_counts, group_counts, *, chunk: int
):
  """(observed f[P], resampled f[R, P]) of the first minus the second logits [2, ...]."""
  score = _weighted_scores(task, logits, label)
  num_seeds, num_rows = logits.shape[2:4]

  def difference(seed_weight, row_count):
    means = (score(weight * row_count[None]) * seed_weight[None, None]).sum(-1)
    return means[0] - means[1]

  def resample(counts):
    seed_count, group_count = (count.astype(jnp.float32) for count in counts)
    return difference(seed_count / num_seeds, group_count[group])

  observed = difference(jnp.full(num_seeds, 1 / num_seeds), jnp.ones(num_rows))
  return observed, jax.lax.map(resample, (seed_counts, group_counts), batch_size=chunk)


def _weighted_scores(task: Task, logits: Float[Array, "2 P S N C"], label: Array):
  """A function from weights [P, N] to the primary metric [2, P, S]."""
  if task.kind == "multilabel" or task.metric == "auroc":
    score = jnp.vectorize(
      lambda x, w: selection.primary_score(x, label, w, task), signature="(n,c),(n)->()"
    )
    return lambda weight: score(logits, weight[None, :, None])
  # Other metrics are means over rows: each resample costs one matrix product.
  row_scores = jnp.vectorize(lambda x: selection.row_scores(x, label, task), signature="(n,c)->(n)")
  value = jnp.where(jnp.isnan(logits).any(-1), jnp.nan, row_scores(logits))

  def score_rows(weight):
    counted = jnp.where(weight[None, :, None] == 0, 0, value)
    total = jnp.einsum("apsn,pn->aps", counted, weight, precision="highest")
    return total / weight.sum(-1)[None, :, None]

  return score_rows


def _draw_counts(key: Key[Array, ""], n: int) -> Float[Array, " n"]:
  """How often each of n things is drawn in n draws with replacement."""
  return jnp.zeros(n).at[jax.random.randint(key, (n,), 0, n)].add(1)


def make_interval(observed: float, resampled: np.ndarray) -> Interval:
  """The 95 % interval of an observed value, between percentiles of its resampled ones."""
  # A resample without a row of a pattern leaves the metric undefined, and is left out.
  resampled = resampled[~np.isnan(resampled)]
  if np.isnan(observed) or not resampled.size:
    return Interval(float(observed), np.nan, np.nan)
  return Interval(float(observed), *map(float, np.percentile(resampled, (2.5, 97.5))))
