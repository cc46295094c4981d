"""How well each class is recognised, and what it is taken for."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from promise_jax.evaluation import metrics
from promise_jax.types import Task

MAX_COUNTED = 20  # nobody reads a larger table of confusions


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
