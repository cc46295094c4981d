"""Sentences on what is odd about whole splits; nothing here changes a value. Ours."""

import itertools
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt64

from promise_jax.data import scaling
from promise_jax.data.cleaning import FLOAT_KINDS
from promise_jax.types import Modality, Split, Task

SHIFT = 3.0  # train deviations between the mean of a feature and that of train
SPREAD = 5.0  # times wider or narrower than in train
MIN_ROWS = 10  # rows of a split that say something on its scale
ROWS = 1000  # rows that are enough for it, about
USUAL = 0.95  # part of the labels that are the same
UNITS = 30.0  # further from 0 is hard to learn
SAME = 0.05  # part of the rows that have the same image
WORDS = 512  # of a row and modality that are hashed
STREAMED_BYTES = 2**30  # more are not read from disk only to find rows that are there twice


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


def describe_resolution(scale: Mapping[str, scaling.Scale]) -> list[str]:
  """On features that differ by less than float32 tells apart, as times in nanoseconds."""
  lines = []
  for name, fitted in scale.items():
    step = np.spacing(np.abs(fitted.mean))
    is_coarse = np.where(fitted.low < fitted.high, fitted.std < 16 * step, step > 1)
    if count := int(is_coarse.sum()):
      some = fitted.mean[is_coarse][0]
      lines.append(
        f"{name}: {count} of {len(step)} features differ by hardly more than float32 tells apart "
        f"at {some:.4g}, or by less; subtract a constant from them"
      )
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


def describe_labels(
  task: Task, label: Shaped[np.ndarray, "N ..."], train: Shaped[np.ndarray, "N ..."] | None = None
) -> list[str]:
  """On labels that are nearly all the same, far outside the others, or elsewhere than those of
  `train`; None: these are the labels of the train rows, which say whether their unit fits."""
  if task.kind == "multilabel" or not len(label):
    return []
  lines = describe_majority(task, label, train is None)
  if task.kind == "classes":
    return lines
  low, high = scaling.plausible_range(label[:, None])
  far = label[(label < low) | (label > high)]
  if len(far):
    lines.append(f"{len(far)} of {len(label)} labels are far outside the others, as {far[0]:g}")
  if train is None:
    units = np.median(np.abs(label - task.center)) / task.scale
    if units > UNITS or label.std(dtype=np.float64) * UNITS < task.scale:
      lines.append(
        f"the labels are {describe_spread(label)}, their unit is {task.scale:g}: scale should be "
        "near their deviation, and their mean near 0, or they are hard to learn"
      )
  elif len(label) >= MIN_ROWS:
    shift = abs(label.mean(dtype=np.float64) - train.mean(dtype=np.float64))
    std, usual = label.std(dtype=np.float64), train.std(dtype=np.float64)
    if shift > SHIFT * usual or std > SPREAD * usual or 0 < std * SPREAD < usual:
      words = f"{describe_spread(label)}, in train {describe_spread(train)}"
      lines.append(f"the labels are elsewhere than in train, as in another unit: {words}")
  return lines


def describe_majority(task: Task, label: Shaped[np.ndarray, " N"], is_train: bool) -> list[str]:
  """On labels of which all, or of the train rows nearly all, are the same."""
  values, count = np.unique(label, return_counts=True)
  most, what = f"{values[count.argmax()]:g}", "have the label"
  if task.kind == "classes":
    most, what = task.output_names[values[count.argmax()]], "are of class"
  share = count.max() / len(label)
  if len(label) < MIN_ROWS or share < (USUAL if is_train else 1):
    return []
  if share == 1:
    return [f"all {len(label)} rows {what} {most}, which shows little"]
  words = "who always says so is hardly ever wrong"
  return [f"{count.max()} of {len(label)} rows {what} {most}: {words}"]


def describe_spread(label: Shaped[np.ndarray, " N"]) -> str:
  """Mean and deviation."""
  return f"{label.mean(dtype=np.float64):.3g} ± {label.std(dtype=np.float64):.3g}"


def describe_repeated(splits: Mapping[str, Split]) -> list[str]:
  """On rows that a split before has too: what was learnt by heart is right there."""
  lines, seen = [], {}
  for name, split in splits.items():
    hashes = hash_rows(split)
    if hashes is None:  # too much to read
      continue
    for other, (earlier, known) in seen.items():
      order = np.argsort(known, kind="stable")
      place = order[np.minimum(np.searchsorted(known[order], hashes), len(known) - 1)]
      pairs = [(i, place[i]) for i in np.flatnonzero(known[place] == hashes)]
      if count := sum(is_same_row(split, i, earlier, j) for i, j in pairs):
        lines.append(
          f"{count} of {len(hashes)} {name} rows are equal to {other} rows in all that a model "
          "reads: it may know them by heart"
        )
    seen[name] = split, hashes
  return lines


def is_same_row(split: Split, i: int, other: Split, j: int) -> bool:
  """Whether row i of a split and row j of another are the same, and have anything."""
  pairs = [(split.recorded, other.recorded)]
  pairs += [(values, other.inputs[name]) for name, values in split.inputs.items()]
  return bool(split.recorded[i].any()) and all(np.array_equal(a[i], b[j]) for a, b in pairs)


def describe_placeholders(modalities: tuple[Modality, ...], train: Split) -> list[str]:
  """On an image or a sequence that many rows have: it may stand for one that lacks."""
  lines = []
  for modality, here in zip(modalities, train.recorded.T, strict=True):
    values = train.inputs[modality.name]
    if modality.kind not in ("image", "sequence") or not isinstance(values, np.ndarray):
      continue
    index = np.flatnonzero(here)
    _, first, count = np.unique(
      hash_values(modality.name, values)[index], return_index=True, return_counts=True
    )
    most = count.max(initial=0)
    if most >= MIN_ROWS and most > SAME * len(index):
      some = train.id[index[first[count.argmax()]]]
      lines.append(
        f"{most} of {len(index)} train rows have the same {modality.name}, that of row {some}; if "
        f"it stands for none, an empty cell or present_{modality.name} says so"
      )
  return lines


def hash_rows(split: Split) -> UInt64[np.ndarray, " N"] | None:
  """A number of each row, the same for equal rows; None for a split on disk that is too large."""
  total = np.zeros(len(split.id), np.uint64)
  for name, values in split.inputs.items():
    size = values.dtype.itemsize * int(np.prod(values.shape))
    if not isinstance(values, np.ndarray) and size > STREAMED_BYTES:
      return None
    total += hash_values(name, values)
  return total


def hash_values(name: str, values: Shaped[np.ndarray, "N ..."]) -> UInt64[np.ndarray, " N"]:
  """A number of each row: the sum of some of its values, times odd numbers."""
  row_size = int(np.prod(values.shape[1:]))
  step = -(-row_size // WORDS)
  factors = np.random.default_rng([*name.encode()]).integers(2**63, size=WORDS, dtype=np.uint64)
  total = np.zeros(len(values), np.uint64)
  for part in scaling.row_slices(len(values), row_size):
    words = np.ascontiguousarray(values[part].reshape(-1, row_size)[:, ::step])
    words = words.view(f"u{words.dtype.itemsize}").astype(np.uint64)
    total[part] = words @ (2 * factors[: words.shape[1]] + 1)
  return total
