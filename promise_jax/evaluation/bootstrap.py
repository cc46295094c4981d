"""Is one method better than its control? A paired, two-level bootstrap (ours).

Two things vary from run to run: the training seed and the test examples. Each resample
draws both with replacement, the same draw for both arms (paired), for all seeds and for
all patterns; drawn examples enter the metric as integer weights. The interval is the
2.5 and 97.5 percentile of the difference.

Where examples come in groups (segments of one recording), they are not independent, and
a resample draws groups: every row of a drawn group counts as often as the group was
drawn (a cluster bootstrap).

What to expect of it: nominal coverage where rows or seeds differ as a whole (measured
.95 at 8 and 5 seeds, .94 at 3). With one seed it tells about the examples alone; with
few that differ much it is somewhat narrow, as any plug-in bootstrap, by (S - 1) / S in
the variance between seeds. Where every prediction is a coin toss of its own, the two
levels count that noise more than once and the interval is too wide: .99 was measured.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from promise_jax.evaluation import metrics

Array = jax.Array
LEVELS = (2.5, 97.5)
CHUNK = 2**22  # logits in work at once: bounds the memory of one step of the bootstrap


class Difference(NamedTuple):
  """`mean` of ours minus control as observed, in the unit of the metric, its 95 %
  interval, and the verdict "better", "worse" or "undecided", which knows the sign."""

  mean: float
  low: float
  high: float
  verdict: str


def _counts(key: Array, n: int) -> Array:
  """How often each of n things is drawn in n draws with replacement: f32[n]."""
  return jnp.zeros(n).at[jax.random.randint(key, (n,), 0, n)].add(1)


def _row_values(metric, logits: Array, label: Array) -> Array:
  """The metric of every row alone: [N, C] -> f32[N]."""

  def one(x, y):
    return metric(x[None], y[None], jnp.ones(1))

  return jax.vmap(one)(logits, label)


def _per_seed(metric, logits: Array, label: Array):
  """A function weight f[P, N] -> metric f32[A, P, S] of logits [A, P, S, N, C].

  A metric that is a mean over rows costs one matrix product a resample; any other is
  computed anew from the weights.
  """
  over_seeds = jax.vmap(metric, in_axes=(0, None, None))
  over_patterns = jax.vmap(over_seeds, in_axes=(0, None, 0))
  over_arms = jax.vmap(over_patterns, in_axes=(0, None, None))
  if not metrics.is_row_mean(metric):
    return lambda weight: over_arms(logits, label, weight)
  rows = functools.partial(_row_values, metric)
  for _ in range(3):
    rows = jax.vmap(rows, in_axes=(0, None))
  value = rows(logits, label)

  def row_mean(weight):
    used = jnp.where(weight[None, :, None] == 0, 0, value)
    total = jnp.einsum("apsn,pn->aps", used, weight, precision="highest")
    return total / weight.sum(-1)[None, :, None]

  return row_mean


@functools.partial(jax.jit, static_argnames=("metric", "drawn", "resamples", "chunk"))
def _differences(metric, logits, label, weight, group, key, drawn: int, resamples: int, chunk: int):
  """(observed f32[P], resampled f32[resamples, P]) of arm 0 minus arm 1; `group`
  i[N] is below `drawn`, the number of groups."""
  value = _per_seed(metric, logits, label)
  seeds, rows = logits.shape[2], logits.shape[3]

  def difference(seed_share, row_count):
    arms = (value(weight * row_count[None]) * seed_share[None, None]).sum(-1)
    return arms[0] - arms[1]

  def resample(index):
    of_seeds, of_rows = jax.random.split(jax.random.fold_in(key, index))
    row_count = _counts(of_rows, drawn)[group]
    return difference(_counts(of_seeds, seeds) / seeds, row_count)

  observed = difference(jnp.full(seeds, 1 / seeds), jnp.ones(rows))
  return observed, jax.lax.map(resample, jnp.arange(resamples), batch_size=chunk)


def _verdict(sign: int, low: float, high: float) -> str:
  worst, best = sorted((sign * low, sign * high))
  return "better" if worst > 0 else "worse" if best < 0 else "undecided"


def _check(ours, control, label, weight, group, sign) -> None:
  if ours.ndim != 4 or ours.shape != control.shape:
    raise ValueError(
      "Both arms want logits of one shape, [S, N, C] or with patterns [P, S, N, C], "
      f"not {ours.shape} and {control.shape}."
    )
  patterns, _, rows, _ = ours.shape
  if weight.shape != (patterns, rows) or len(label) != rows:
    raise ValueError(
      f"{patterns} patterns of {rows} rows want weights {(patterns, rows)} and as many "
      f"labels, not {weight.shape} and {len(label)}."
    )
  if group.shape != (rows,):
    raise ValueError(f"{rows} rows want a group each, not an array {group.shape}.")
  if not (weight > 0).any(-1).all():
    empty = int((weight > 0).any(-1).argmin())
    raise ValueError(f"Pattern {empty} has no row of weight over 0; leave it out.")
  if sign not in (1, -1):
    raise ValueError(f"A sign is 1 (more is better) or -1, not {sign}.")


def paired_differences(
  metric,
  sign,
  ours,
  control,
  label,
  weight,
  means,
  *,
  group=None,
  resamples=2000,
  seed=0,
) -> list[Difference]:
  """As `paired_difference`, of means of the metric over some of P patterns.

  `ours`, `control` f[P, S, N, C], `label` [N, ...], `weight` f[P, N], `means` bool[A,
  P]: the patterns of each of A means; one answer a mean, from the same resamples.
  """
  ours, control, weight = np.asarray(ours), np.asarray(control), np.asarray(weight)
  label = np.asarray(label)
  group = np.arange(len(label)) if group is None else np.asarray(group)
  _check(ours, control, label, weight, group, sign)
  # Padding is no example: it must not be drawn.
  kept = (weight > 0).any(0)
  logits = np.stack([ours, control])[:, :, :, kept]
  names, group = np.unique(group[kept], return_inverse=True)
  chunk = int(np.clip(CHUNK // logits.size, 1, resamples))
  arrays = logits, label[kept], weight[:, kept], group, jax.random.key(seed)
  found = _differences(metric, *arrays, len(names), resamples, chunk)
  observed, resampled = jax.device_get(found)
  return [
    _difference(sign, observed[mean].mean(), resampled[:, mean].mean(axis=1))
    for mean in np.asarray(means, bool)
  ]


def _difference(sign: int, observed: float, drawn: np.ndarray) -> Difference:
  # A draw can leave a metric undefined (no positive row); such a draw tells nothing.
  drawn = drawn[~np.isnan(drawn)]
  if np.isnan(observed) or not drawn.size:
    return Difference(float(observed), np.nan, np.nan, "undecided")
  low, high = (float(q) for q in np.percentile(drawn, LEVELS))
  return Difference(float(observed), low, high, _verdict(sign, low, high))


def paired_difference_over_patterns(
  metric, sign, ours, control, label, weight, **options
) -> Difference:
  """As `paired_differences`, for the mean over all P patterns."""
  every = np.ones((1, len(weight)), bool)
  return paired_differences(metric, sign, ours, control, label, weight, every, **options)[0]


def paired_difference(
  metric, sign, ours, control, label, weight, *, group=None, resamples=2000, seed=0
) -> Difference:
  """95 % percentile interval of metric(ours) - metric(control), means over seeds.

  Args:
    metric: as in `metrics`: (logits, label, weight) -> f32[].
    sign: 1 if more is better, -1 if less is.
    ours, control: f[S, N, C], the same rows and paired seeds.
    label: i[N], or [N, C] for multilabel, or f[N] for regression.
    weight: f[N] >= 0; rows of weight 0 are never drawn.
    group: [N], equal where rows belong together, which are drawn together; None: every
      row is on its own.
    resamples: draws of the bootstrap; resample r depends on (seed, r) alone.

  Raises:
    ValueError: shapes that do not fit, no row that counts, or an unknown sign.
  """
  ours, control, weight = (np.asarray(v)[None] for v in (ours, control, weight))
  options = {"group": group, "resamples": resamples, "seed": seed}
  return paired_difference_over_patterns(metric, sign, ours, control, label, weight, **options)
