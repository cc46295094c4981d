"""What a modality is worth to a model: Shapley values, and the change without it.

The game: the players are the M modalities, and a coalition T is worth v(T), the score of the
predictions that read T alone. The empty coalition predicts the constant of `methods.constant`. A
Shapley value is what a modality adds on average if the modalities are shown one after the other,
all orders equally likely:

  phi_m = sum over T without m of |T|! (M - |T| - 1)! / M! (v(T + m) - v(T))

These values alone add up to v(all) - v(none), treat equal modalities equally, give nothing to one
that changes nothing, and are linear in v. They describe a model and a data set, not a cause.

Source: Shapley, A Value for n-Person Games, 1953. The game is ours.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from promise_jax import patterns
from promise_jax.evaluation import bootstrap, conditions, metrics
from promise_jax.types import Split, Task

MAX_CLASSES = 20  # that have lines of their own; the others share one
CHUNK = 2**22  # counts of rows in the resamples that are scored at once, to bound the memory


def coalition_table(num_modalities: int) -> Bool[np.ndarray, "P+1 M"]:
  """The coalitions: none, then `patterns.tested_patterns`, which are all of few modalities."""
  return np.array([(False,) * num_modalities, *patterns.tested_patterns(num_modalities)])


def shapley_weights(num_modalities: int) -> Float[np.ndarray, "M P+1"]:
  """The linear map from the worth of every coalition to the Shapley values (Shapley 1953)."""
  table = coalition_table(num_modalities)
  size = table.sum(axis=1)
  # The orders in which m comes straight after the `before` others of a coalition.
  before = size[:, None] - table
  share = 1 / (num_modalities * np.vectorize(math.comb)(num_modalities - 1, before))
  return np.where(table, share, -share).T


def measure_contribution(
  task: Task,
  logits: Float[np.ndarray, "S P N C"],
  constant: Float[np.ndarray, "S C"],
  split: Split,
  names: Sequence[str],
  *,
  group: np.ndarray | None = None,
  resamples: int = 2000,
  seed: int = 0,
) -> pd.DataFrame:
  """What each modality is worth on the `conditions.complete_rows`, with 95 % intervals.

  A modality that no row has is left out. Of more than `patterns.MAX_ALL_TESTED` modalities there
  are no Shapley values, which need all coalitions.

  A coalition is worth its primary metric, a mean over seeds; of a regression that is the negative
  mean absolute error ("-mae"), so that more is better everywhere. For the rows of a class it is
  the recall. Accuracy takes the place of an AUROC, which is no mean of rows. Intervals are by the
  resamples of `bootstrap`, of whole groups where `group` [N] is equal. `logits` are under
  `patterns.tested_patterns`, `constant` those of the predictor that reads nothing.

  Returns:
    A line for each modality, kind ("shapley", or "without": the change from all modalities to all
    but this one) and `rows`: "all", the name of a class that occurs, or how many other classes
    there are beside the MAX_CLASSES most frequent, pooled. Columns modality, rows, kind, metric,
    value, low, high and n. Where no row has all modalities n is 0 and the values are NaN; so are
    those that need the logits of a coalition of which one is NaN.
  """
  has = split.recorded.any(axis=0)
  names, table = list(itertools.compress(names, has)), coalition_table(len(has))
  is_complete = conditions.complete_rows(split.recorded)
  none = np.broadcast_to(constant[:, None, None], (len(logits), 1, *logits.shape[2:]))
  logits = np.concatenate([none, logits], axis=1)[:, :, is_complete]
  group = (np.arange(len(is_complete)) if group is None else group)[is_complete]
  games = _make_games(task, logits, split.label[is_complete])
  worth = _resample_worths(games, logits, group, resamples, seed)
  values = {}
  if names and len(has) <= patterns.MAX_ALL_TESTED:
    is_played = ~table[:, ~has].any(axis=1)
    values["shapley"] = worth[..., is_played] @ shapley_weights(len(names)).T
  # The last coalition is that of all; those without one stand before it, the first left out last.
  left_out = len(table) - 2 - np.flatnonzero(has)
  values["without"] = worth[..., left_out] - worth[..., -1:]
  lines = []
  for i, game in enumerate(games):
    for kind in values:
      for name, value in zip(names, values[kind][i].T, strict=True):
        interval = bootstrap.make_interval(value[0], value[1:])
        lines.append([name, game.rows, kind, game.metric, *interval, game.n])
  columns = ["modality", "rows", "kind", "metric", "value", "low", "high", "n"]
  return pd.DataFrame(lines, columns=columns)


class _Game(NamedTuple):
  """Some rows and how they are scored: by the mean of ratios of sums over rows."""

  rows: str
  n: int
  metric: str
  # (numerator [S, P+1, N], denominator of that shape, or [N] and 0 only where the numerator is)
  ratios: list[tuple[np.ndarray, np.ndarray]]
  empty: float = np.nan  # what 0 / 0 is


def _make_games(
  task: Task, logits: Float[np.ndarray, "S P+1 N C"], label: np.ndarray
) -> list[_Game]:
  # Seeds and coalitions with a NaN get the score NaN in the end.
  logits = np.where(np.isnan(logits), 0, logits)
  metric, _ = metrics.primary_metric(task._replace(metric=""))
  every_row = np.ones(len(label))
  if task.kind == "regression":
    error = abs(logits[..., 0].astype(float) * task.scale - label)
    return [_Game("all", len(label), f"-{metric}", [(-error, every_row)])]
  predicted, actual = metrics.one_hot_decisions(logits, label)
  right, support = predicted & actual, actual.sum(axis=0)
  games = [_Game("all", len(label), metric, [(right.any(axis=-1), every_row)])]
  if task.kind == "multilabel":
    f1 = [
      (right[..., c], (predicted[..., c] + actual[:, c].astype(np.float32)) / 2)
      for c in range(task.outputs)
    ]
    games = [_Game("all", len(label), metric, f1, empty=0)]
  by_support = np.argsort(-support, kind="stable")[: np.count_nonzero(support)]
  for c in sorted(by_support[:MAX_CLASSES]):
    name, ratio = task.output_names[c], (right[..., c], actual[:, c])
    games.append(_Game(name, int(support[c]), "recall", [ratio]))
  if len(others := by_support[MAX_CLASSES:]):
    ratio = right[..., others].sum(axis=-1), actual[:, others].sum(axis=-1)
    name, count = f"{len(others)} other classes", int(support[others].sum())
    games.append(_Game(name, count, "recall", [ratio]))
  return games


def _score(game: _Game, count: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R S P+1"]:
  total = lambda count, x: np.tensordot(count, x.astype(float), axes=(1, 2))
  scores = 0
  for numerator, denominator in game.ratios:
    drawn = count
    if denominator.ndim == 1:
      rows = np.flatnonzero(denominator)
      drawn, numerator = count[:, rows], numerator[..., rows]
      denominator = denominator[None, None, rows]
    ratio = metrics.divide(total(drawn, numerator), total(drawn, denominator))
    scores = scores + np.where(np.isnan(ratio), game.empty, ratio) / len(game.ratios)
  return scores


def _resample_worths(
  games: list[_Game],
  logits: Float[np.ndarray, "S P+1 N C"],
  group: np.ndarray,
  resamples: int,
  seed: int,
) -> Float[np.ndarray, "G R+1 P+1"]:
  """What every coalition is worth in each game: as observed, then in every resample."""
  num_seeds, num_coalitions, num_rows, _ = logits.shape
  if not num_rows:
    return np.full((len(games), 1, num_coalitions), np.nan)
  groups, group = np.unique(group, return_inverse=True)
  sizes = {"num_seeds": num_seeds, "num_groups": len(groups), "resamples": resamples}
  drawn = bootstrap.draw_resamples(seed, **sizes)
  counts = [np.concatenate([np.ones((1, x.shape[1]), np.uint8), x]) for x in drawn]
  num_chunks = -(-(resamples + 1) * num_rows // CHUNK)
  broken = np.isnan(logits).any(axis=(2, 3))
  chunks = []
  for seed_count, group_count in zip(*(np.array_split(x, num_chunks) for x in counts), strict=True):
    row_count, seed_weight = group_count[:, group].astype(float), seed_count / num_seeds
    scores = (np.where(broken, np.nan, _score(game, row_count)) for game in games)
    chunks.append([np.einsum("rs,rsp->rp", seed_weight, score) for score in scores])
  return np.concatenate(chunks, axis=1)


def row_shapley(
  log_probability: Float[np.ndarray, "P+1 N C"],
  chosen: Int[np.ndarray, " N"],
  recorded: Bool[np.ndarray, "N M"],
) -> Float[np.ndarray, "N M"]:
  """What each modality of each row adds to the log-probability of one class, in nats.

  The values of a row add up to its log-probability with all that it has minus that without any.
  Only the recorded modalities share it, absent ones get 0.

  Args:
    log_probability: under no modality (of the constant), then under every pattern, all finite; of
      several labels that one applies, of a regression the prediction [P+1, N, 1] in its unit.
    chosen: whose log-probability is explained, as the predicted class; of a regression all 0.
    recorded: what each row has.
  """
  num_rows, num_modalities = recorded.shape
  # A coalition with absent modalities predicts what its recorded part does.
  index = patterns.pattern_index(coalition_table(num_modalities)[:, None] & recorded[None]) + 1
  rows = np.arange(num_rows)
  worth = log_probability[index, rows, chosen].astype(float)
  return np.where(recorded, (shapley_weights(num_modalities) @ worth).T, 0)
