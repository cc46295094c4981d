"""Which metrics a task has, and their values under conditions and by class as DataFrames."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from promise_jax.evaluation import metrics, sentiment_metrics
from promise_jax.evaluation.conditions import Condition, select_logits
from promise_jax.types import Split, Task

METRICS = {
  "classes": "accuracy macro_f1 weighted_f1 uar auroc",
  "multilabel": "macro_f1 micro_f1 weighted_f1 samples_f1 samples_accuracy auroc",
  "regression": "mae corr",
}
MAX_COUNTED = 20  # classes; nobody reads a larger table of confusions


def known_metrics(kind: str) -> dict[str, Callable]:
  """All metrics of a kind of task, by name."""
  known = {name: getattr(metrics, name) for name in METRICS[kind].split()}
  sentiment = (*sentiment_metrics.SENTIMENT, *sentiment_metrics.SIMS)
  return known | {m.__name__: m for m in sentiment if kind == "regression"}


def metrics_for(task: Task, extra: Sequence[str] = ()) -> dict[str, Callable]:
  """The metrics of a task, with those of `sentiment_metrics.sentiment_set`, and the `extra` ones by
  name, the primary one first. ValueError for a name that is no metric of its kind."""
  primary, _ = metrics.primary_metric(task)
  known, names = known_metrics(task.kind), [primary, *METRICS[task.kind].split()]
  names += [metric.__name__ for metric in sentiment_metrics.sentiment_set(task)]
  for name in extra:
    if name not in known:
      raise ValueError(f"{name!r} is no metric of {task.kind}; known: {', '.join(known)}.")
  return {name: known[name] for name in (*names, *extra)}


def measure(
  task: Task, logits: Float[np.ndarray, "S N C"], label: np.ndarray, extra: Sequence[str] = ()
) -> dict[str, Float[np.ndarray, " S"]]:
  """The metrics of every seed; NaN without rows, and for a seed with a NaN logit."""
  functions = metrics_for(task, extra)
  if not len(label):
    return {name: np.full(len(logits), np.nan) for name in functions}
  broken = np.isnan(logits)
  values = np.where(broken, 0, logits)
  if task.kind == "regression":
    values = values[..., 0] * np.float32(task.scale)
  return {
    name: np.where(broken.any((1, 2)), np.nan, metric(values, label)).astype(np.float32)
    for name, metric in functions.items()
  }


def measure_conditions(
  task: Task,
  logits: Float[np.ndarray, "S P N C"],
  split: Split,
  conditions: Sequence[Condition],
  seeds: Sequence[int],
  extra: Sequence[str] = (),
) -> pd.DataFrame:
  """One row for every condition, metric and seed, from the logits under all patterns; `n` is the
  number of rows with a modality left, the others are left out."""
  lines = []
  for condition in conditions:
    selected, rows = select_logits(logits, condition)
    for name, values in measure(task, selected, split.label[rows], extra).items():
      lines += [
        condition.columns | {"metric": name, "value": float(value), "n": len(rows), "seed": seed}
        for value, seed in zip(values, seeds, strict=True)
      ]
  return pd.DataFrame(lines)


def measure_best_constant(
  task: Task,
  split: Split,
  conditions: Sequence[Condition],
  seeds: Sequence[int],
  extra: Sequence[str] = (),
) -> pd.DataFrame:
  """The scores of the best constant prediction, in the form of `measure_conditions`.

  The constant is chosen metric by metric on the labels of `split` themselves: this is what can be
  scored without reading anything, not a predictor as `majority`, which is fitted on train. An
  empty frame where the task is not sentiment.
  """
  if not sentiment_metrics.sentiment_set(task):
    return pd.DataFrame()
  constants = sentiment_metrics.constants(split.label, task.scale)
  slots = [slot for condition in conditions for slot in condition.slots or ()]
  num_slots = max(slots) + 1 if slots else 2 ** split.recorded.shape[1] - 1
  shape = (len(constants), num_slots, len(split.id), 1)
  logits = np.broadcast_to(constants[:, None, None, None], shape)
  scores = measure_conditions(task, logits, split, conditions, range(len(constants)), extra)
  scores["value"] *= scores["metric"].map(metrics.metric_sign)
  same = ["pattern", "protocol", "mask_hash", "metric"]
  best = scores.groupby(same, dropna=False, sort=False, as_index=False).max()
  best["value"] *= best["metric"].map(metrics.metric_sign)
  return best.drop(columns="seed").merge(pd.DataFrame({"seed": list(seeds)}), how="cross")


def score_classes(
  task: Task, logits: Float[np.ndarray, "S N C"], label: np.ndarray, seeds: Sequence[int]
) -> pd.DataFrame:
  """Precision, recall and F1 of every class and seed; an empty frame for a regression.

  `predicted` counts the `n` rows of a class by the class that was predicted, for up to MAX_COUNTED
  classes. Precision without predictions, recall without rows and all numbers of a seed with a NaN
  logit are NaN; as in `metrics`, an F1 of 0 / 0 is 0.
  """
  if task.kind == "regression":
    return pd.DataFrame()
  predicted, actual = metrics.one_hot_decisions(logits, label)
  f1, _, support = metrics.f1_by_class(predicted, actual)
  correct = (predicted & actual).sum(axis=-2)
  precision = metrics.divide(correct, predicted.sum(axis=-2))
  recall = metrics.divide(correct, np.broadcast_to(support, correct.shape))
  names = task.output_names
  scores = {"precision": precision, "recall": recall, "f1": f1}
  if task.kind == "classes" and len(names) <= MAX_COUNTED:
    scores["predicted"] = np.einsum("nc,snp->scp", actual, predicted, dtype=float)
  for values in scores.values():
    values[np.isnan(logits).any(axis=(1, 2))] = np.nan
  lines = [
    {"class": name, "seed": seed, "n": support[c]}
    | {k: v[s, c].tolist() for k, v in scores.items()}
    for c, name in enumerate(names)
    for s, seed in enumerate(seeds)
  ]
  return pd.DataFrame(lines)
