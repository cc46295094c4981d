"""What a data set was taken for, in a few lines: what a run shows before it trains."""

from collections.abc import Mapping

import numpy as np

from promise_jax.data import split_checks
from promise_jax.data.dataset import Dataset
from promise_jax.data.source import DRAWN, MAX_VALUES, TASK, list_first
from promise_jax.types import Modality, Split, Task

ROUND_OFF = 1e-6  # of a range, that standardising leaves


def describe_data(dataset: Dataset, splits: Mapping[str, Split]) -> list[str]:
  """Lines on the task, the splits {name: rows} and the modalities, with what was guessed.

  The notes of a table say its task already.
  """
  task, guesses = dataset.spec.task, dataset.guesses
  guess = f"; {guesses[TASK]}" if TASK in guesses else ""
  lines = [f"{dataset.name}: {describe_task(task, splits)}{guess}."]
  lines = [] if dataset.preprocessing.columns else lines
  heading = dataset.card.partition("\n")[0]
  lines = [f"{heading[2:]}.", *lines] if heading.startswith("# ") else lines
  rows = [["split", "rows", "groups", label_header(task)]]
  for name, split in splits.items():
    group = dataset.groups.get(name)
    known = dataset.labelled if name == "train" else None
    label = split.label if known is None else split.label[known]
    num_groups = "" if group is None else f"{len(np.unique(group)):,}"
    rows.append([name, f"{len(split.id):,}", num_groups, describe_labels(task, label)])
  lines += align(rows)
  lines += [f"  The splits are {guesses[DRAWN]}."] if DRAWN in guesses else []
  odd = split_checks.describe_repeated(splits)
  if "train" in splits:
    odd += split_checks.describe_placeholders(dataset.spec.modalities, splits["train"])
  lines += [f"  {line}." for line in odd]
  rows = [["modality", "kind", "a row is", "values", *(f"in {name}" for name in splits), ""]]
  rows[0][4] = f"rows with it {rows[0][4]}"
  for i, modality in enumerate(dataset.spec.modalities):
    is_text = modality.kind == "tokens" and modality.name in dataset.preprocessing.texts
    cells = [modality.name, modality.kind, describe_row(modality, is_text)]
    hashed = f"hashed to {modality.vocabulary:,} ids"
    cells.append(hashed if is_text else describe_range(dataset, modality, splits))
    cells += [f"{split.recorded[:, i].sum():,}" for split in splits.values()]
    rows.append([*cells, guesses.get(modality.name, "")])
  return lines + align(rows)


def align(rows: list[list[str]]) -> list[str]:
  """A header and rows of cells as lines, in columns; one that is empty in all rows is left out."""
  columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
  width = [max(map(len, column)) for column in columns]
  lines = zip(*columns, strict=True)
  return ["  " + "  ".join(map(str.ljust, line, width)).rstrip() for line in lines]


def label_header(task: Task) -> str:
  """What `describe_labels` says."""
  if task.kind == "regression":
    return "mean label"
  what = "rows of each class" if task.kind == "classes" else "rows with each label"
  return f"{what}, in this order" if task.outputs <= MAX_VALUES else what


def describe_task(task: Task, splits: Mapping[str, Split]) -> str:
  """What is predicted."""
  names = list_first(task.output_names)
  if task.kind == "classes":
    return f"one of {task.outputs} classes: {names}"
  if task.kind == "multilabel":
    return f"{task.outputs} labels, each yes or no: {names}"
  label = np.concatenate([split.label for split in splits.values()])
  low, high, scale = map(format_number, (label.min(), label.max(), task.scale))
  return f"a number, {low} to {high}, in units of {scale}"


def describe_labels(task: Task, label: np.ndarray) -> str:
  """How many rows each class has, or each label is true of; the mean of numbers."""
  if task.kind == "regression":
    return format_number(label.mean()) if len(label) else ""
  is_classes = task.kind == "classes"
  count = np.bincount(label, minlength=task.outputs) if is_classes else label.sum(axis=0)
  count = count.astype(int).tolist()
  if task.outputs > MAX_VALUES:
    return f"{min(count):,} to {max(count):,}"
  return ", ".join(f"{n:,}" for n in count)


def describe_row(modality: Modality, is_text: bool) -> str:
  """What one row of a modality is."""
  first, *rest = modality.shape
  if modality.kind == "image":
    return f"{first} x {rest[0]} pixels of {rest[1]} {'colours' if rest[1] > 1 else 'grey'}"
  if modality.kind == "sequence":
    return f"up to {first:,} steps of {rest[0]:,} numbers"
  if modality.kind == "tokens":
    return f"a text, up to {first:,} words and pieces" if is_text else f"up to {first:,} token ids"
  return f"{first:,} numbers" if first > 1 else "1 number"


def describe_range(dataset: Dataset, modality: Modality, splits: Mapping[str, Split]) -> str:
  """The least and the largest value of a modality in the splits that are in memory."""
  arrays = [split.inputs[modality.name] for split in splits.values()]
  arrays = [values for values in arrays if isinstance(values, np.ndarray) and values.size]
  scale = dataset.spec.standardise.get(modality.name)
  mean, std = (0, 1) if scale is None else scale
  ends = []
  for values in arrays:
    axes = None if scale is None else tuple(range(values.ndim - 1))
    ends += [np.float64(x) * std + mean for x in (values.min(axes), values.max(axes))]
  if not ends:
    return ""
  low, high = np.min(ends), np.max(ends)
  if modality.kind == "tokens":
    return f"0 to {high:,.0f} of {modality.vocabulary:,}"
  low, high = (0.0 if abs(end) < ROUND_OFF * (high - low) else end for end in (low, high))
  return f"{format_number(low)} to {format_number(high)}"


def format_number(value: float) -> str:
  """Three or four digits."""
  return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
