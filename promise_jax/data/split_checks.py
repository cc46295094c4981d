"""Sentences on what is odd about whole splits; nothing here changes a value. Ours."""

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from promise_jax.data import scaling
from promise_jax.data.cleaning import FLOAT_KINDS
from promise_jax.types import Modality, Split, Task

SHIFT = 3.0  # train deviations between the mean of a feature and that of train
SPREAD = 5.0  # times wider or narrower than in train
MIN_ROWS = 10  # rows of a split that say something on its scale
ROWS = 1000  # rows that are enough for it, about


def describe_train(
  names: tuple[str, ...], recorded: Bool[np.ndarray, "N M"], scale: Mapping[str, scaling.Scale]
) -> list[str]:
  """On features that are constant, and on modalities that no train row has together."""
  lines = []
  for name, fitted in scale.items():
    if count := np.sum(fitted.low == fitted.high):
      words = f"{count} of {len(fitted.low)} features are constant in train"
      lines.append(f"{name}: {words}, the model reads them as 0")
  together = recorded.T.astype(int) @ recorded
  for i, j in itertools.combinations(range(len(names)), 2):
    if not together[i, j]:
      lines.append(f"no train row has both {names[i]} and {names[j]}")
  return lines


def describe_lacking(names: tuple[str, ...], recorded: Bool[np.ndarray, "N M"]) -> list[str]:
  """On modalities that no row of a split has."""
  return [
    f"no row has {name}, what is measured with it says nothing of it"
    for name, here in zip(names, recorded.T, strict=True)
    if not here.any()
  ]


def describe_units(modalities: tuple[Modality, ...], split: Split) -> list[str]:
  """On modalities whose features are elsewhere than in train, as in another unit."""
  lines = []
  for modality, here in zip(modalities, split.recorded.T, strict=True):
    if modality.kind not in FLOAT_KINDS or here.sum() < MIN_ROWS:
      continue
    index = np.flatnonzero(here)[:: here.sum() // ROWS or 1]
    values = split.inputs[modality.name][index]
    if modality.kind == "sequence":
      steps = np.arange(values.shape[1])
      values = values[steps < split.length[modality.name][index][:, None]]
    if words := describe_shift(values):
      lines.append(f"{modality.name}: {words}")
  return lines


def describe_shift(values: Float[np.ndarray, "n D"]) -> str:
  """On standardised values of which most features are elsewhere than in train; "" if not."""
  mean, std = np.abs(values.mean(0, np.float64)), values.std(0, np.float64)
  is_far = (mean > SHIFT) | (std > SPREAD) | ((std > 0) & (std < 1 / SPREAD))
  is_live = (mean > 0) | (std > 0)
  if not is_live.any() or is_far.sum() <= is_live.sum() / 2:
    return ""
  mean, std = np.median(mean[is_far]), np.median(std[is_far])
  return (
    f"{is_far.sum()} of {is_live.sum()} features are elsewhere than in train, as in another unit: "
    f"half of their means are off by {mean:.3g} train deviations or more, and half of their "
    f"deviations are {std:.3g} times those of train or more"
  )


def describe_labels(task: Task, label: np.ndarray) -> str:
  """On labels of a regression that are far outside the others, and on classes that are all the
  same; "" where nothing is odd."""
  if task.kind == "classes" and len(label) >= MIN_ROWS and (label == label[0]).all():
    return f"all {len(label)} rows are of class {task.output_names[label[0]]}, which shows little"
  if task.kind != "regression" or not len(label):
    return ""
  low, high = scaling.plausible_range(label[:, None])
  far = label[(label < low) | (label > high)]
  if not len(far):
    return ""
  return f"{len(far)} of {len(label)} labels are far outside the others, as {far[0]:g}"
