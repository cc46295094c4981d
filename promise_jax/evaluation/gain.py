"""Is it worth asking for a modality that a row lacks? A gain, fitted on validation rows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from promise_jax import files, missing
from promise_jax.types import Pattern, Task

MIN_ROWS = 20  # validation rows in a third that say what a modality gains there


@dataclasses.dataclass(frozen=True)
class Gain:
  """By how much a modality lowered the entropy of predictions on validation rows, in nats."""

  task: str  # kind of task
  edges: Float[np.ndarray, "P 2"]  # the terciles of the entropy under each pattern
  mean: Float[np.ndarray, "P M 3"]  # of rows in each third; NaN where nothing is known

  def to_json(self) -> dict[str, Any]:
    """The fields as JSON has them."""
    return files.to_plain(dataclasses.asdict(self))

  @classmethod
  def from_json(cls, value: dict[str, Any]) -> "Gain":
    """What `to_json` returned."""
    return cls(value["task"], *(np.array(value[name], float) for name in ("edges", "mean")))


def fit_expected_gain(
  task: Task,
  probabilities: Float[np.ndarray, "P N C"],
  recorded: Bool[np.ndarray, "N M"],
  patterns: Sequence[Pattern],
) -> Gain:
  """Fits on validation rows how much surer a model gets when it is shown one modality more.

  For each pattern and each modality outside it: the mean fall of the entropy of the prediction,
  over the rows that have the pattern and the modality and lie in the same third of the entropy
  before. Thirds of fewer than MIN_ROWS rows take all rows of the pattern and modality. Ours.

  It is the information that the modality carries about the label as far as the probabilities are
  right. It assumes that where the modality is absent it would say as much as where it is recorded,
  and says nothing about a single row. Negative: predictions get less sure. A regression has no
  entropy here, and nothing is known.
  """
  table = np.array(patterns)
  num_patterns, num_modalities = table.shape
  edges = np.full((num_patterns, 2), np.nan)
  mean = np.full((num_patterns, num_modalities, 3), np.nan)
  if task.kind == "regression":
    return Gain(task.kind, edges, mean)
  entropy = predictive_entropy(task.kind, probabilities)
  for p, pattern in enumerate(table):
    has_pattern = recorded[:, pattern].all(axis=1)
    if not has_pattern.any():
      continue
    edges[p] = np.quantile(entropy[p, has_pattern], (1 / 3, 2 / 3))
    third = (entropy[p, :, None] > edges[p]).sum(axis=1)
    for m in np.flatnonzero(~pattern):
      has_both = has_pattern & recorded[:, m]
      after = missing.pattern_index(pattern | (np.arange(num_modalities) == m))
      fall = entropy[p] - entropy[after]
      for t in range(3):
        alike = has_both & (third == t)
        alike = alike if alike.sum() >= MIN_ROWS else has_both
        mean[p, m, t] = fall[alike].mean() if alike.any() else np.nan
  return Gain(task.kind, edges, mean)


def expected_gain(
  gain: Gain, pattern: Int[np.ndarray, " N"], probabilities: Float[np.ndarray, "N C"]
) -> Float[np.ndarray, "N M"]:
  """How much surer, in nats, each row is expected to get with each absent modality.

  `pattern` is what each row has, as an index of patterns. NaN for a modality that is present or
  that no validation row tells about, and for a row that has nothing (index -1).
  """
  entropy = predictive_entropy(gain.task, probabilities)
  third = (entropy[:, None] > gain.edges[pattern]).sum(axis=1)
  return np.where(pattern[:, None] < 0, np.nan, gain.mean[pattern, :, third])


def predictive_entropy(
  kind: str, probabilities: Float[np.ndarray, "... C"]
) -> Float[np.ndarray, "..."]:
  """The entropy of a prediction in nats; of several labels the sum of theirs."""
  p = probabilities.astype(float)
  each = lambda p: -p * np.log(np.where(p > 0, p, 1))
  return (each(p) + each(1 - p) if kind == "multilabel" else each(p)).sum(axis=-1)
