"""The fields of a sentiment pickle, checked one by one; `sentiment` has the layouts."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from promise_jax.data.readers import npz_labels, safe_pickle

MODALITIES = ("text", "audio", "vision")
LABELS = ("regression_labels", "labels")  # of MMSA, of MulT


class Part(NamedTuple):
  """One split as the file has it: `values` {modality: [N, T, D] or [N, D]}, `steps`
  {modality: i64[N]} where told, `label` f32[N], or i32[N] for classes, `names` of the
  clips, N of them."""

  values: dict[str, np.ndarray]
  steps: dict[str, np.ndarray]
  label: np.ndarray
  names: list[str] | None


def read_parts(path: pathlib.Path, classes: bool) -> dict[str, Part]:
  """{split: its fields}; ValueError names the first that is off, not the file."""
  data = safe_pickle.load(path)
  if not isinstance(data, dict):
    kind = type(data).__name__
    raise ValueError(f"the pickle holds a {kind}, expected is a dict of splits.")
  for split in npz_labels.SPLITS:
    if split not in data:
      raise ValueError(
        f"the pickle has no {split!r}, found are {listed(data)}; expected are "
        f"{', '.join(npz_labels.SPLITS)}."
      )
  return {s: read_part(s, data.pop(s), classes) for s in npz_labels.SPLITS}


def read_part(split: str, fields: Any, classes: bool) -> Part:
  """The fields of one split."""
  if not isinstance(fields, dict):
    kind = type(fields).__name__
    raise ValueError(f"{split} is of type {kind}, expected is a dict of fields.")
  wanted = ("classification_labels",) if classes else LABELS
  target = next((field for field in wanted if field in fields), wanted[0])
  for field in (*MODALITIES, target):
    if field not in fields:
      raise ValueError(
        f"{split} has no {field!r}, found are {listed(fields)}; expected are "
        f"{', '.join(MODALITIES)} and {' or '.join(wanted)}."
      )
  label = read_label(f"{split}, {target}", fields[target], classes)
  values = {m: read_values(f"{split}, {m}", fields[m], len(label)) for m in MODALITIES}
  steps = {}
  for m in (m for m, array in values.items() if array.ndim == 3):
    told = read_steps(split, m, fields, values[m].shape[:2])
    if told is not None:
      steps[m] = told
  names = read_names(f"{split}, id", fields["id"], len(label)) if "id" in fields else None
  return Part(values, steps, label, names)


def listed(keys: Any) -> str:
  """The first few keys, for a sentence."""
  shown = [repr(key)[:40] for key in list(keys)[:12]]
  return ", ".join(shown) + (", ..." if len(keys) > 12 else "") or "none"


def read_array(place: str, value: Any) -> np.ndarray:
  """An array, or a list that makes one."""
  if isinstance(value, np.ndarray):
    return value
  if not isinstance(value, list | tuple):
    kind = type(value).__name__
    raise ValueError(f"{place} is of type {kind}, expected is an array.")
  try:
    return np.asarray(value)
  except ValueError:
    raise ValueError(
      f"{place} is a list of rows of different shapes, expected is one array."
    ) from None


def read_numbers(place: str, value: Any, ranks: tuple[int, ...], words: str) -> np.ndarray:
  """An array of numbers with one of `ranks` dimensions."""
  array = read_array(place, value)
  if array.dtype.kind not in "biuf" or array.ndim not in ranks or 0 in array.shape[1:]:
    raise ValueError(f"{place} is {array.dtype} of shape {array.shape}, expected: {words}.")
  return array


def read_values(place: str, value: Any, count: int) -> np.ndarray:
  """One modality, [N, T, D] or [N, D]."""
  array = read_numbers(place, value, (2, 3), "numbers [N, T, D] or [N, D]")
  check_count(place, len(array), count)
  return array


def check_count(place: str, found: int, count: int) -> None:
  """ValueError unless a field has a row for each of the `count` labels."""
  if found != count:
    raise ValueError(f"{place} has {found} rows, but there are {count} labels.")


def read_label(place: str, value: Any, classes: bool) -> np.ndarray:
  """f32[N] of finite numbers, or i32[N] of classes from 0."""
  words = "one number a row, [N] or [N, 1, 1]"
  array = read_numbers(place, value, (1, 2, 3), words)
  if array.size != len(array):
    raise ValueError(f"{place} has the shape {array.shape}, expected: {words}.")
  if not len(array):
    raise ValueError(f"{place} has no rows, expected is at least one in every split.")
  with np.errstate(over="ignore"):
    label = array.reshape(-1).astype(np.float32)
  npz_labels.check_rows(place, label, np.isfinite(label), "finite numbers")
  if not classes:
    return label
  good = (label == np.round(label)) & (label >= 0) & (label < 1000)
  npz_labels.check_rows(place, label, good, "whole numbers from 0")
  return label.astype(np.int32)


def read_steps(
  split: str, modality: str, fields: dict, shape: tuple[int, int]
) -> np.ndarray | None:
  """The real steps i64[N] of a sequence with [N, T] `shape`, where the file says so."""
  count, most = shape
  place = f"{split}, {modality}_lengths"
  if f"{modality}_lengths" in fields:
    steps = read_numbers(place, fields[f"{modality}_lengths"], (1,), "numbers [N]")
    check_count(place, len(steps), count)
    good = (steps >= 0) & (steps <= most) & (steps == np.round(steps))
    npz_labels.check_rows(place, steps, good, f"0 to {most} steps")
    return steps.astype(np.int64)
  if modality != "text" or "text_bert" not in fields:
    return None
  place = f"{split}, text_bert"
  bert = read_numbers(place, fields["text_bert"], (3,), "numbers [N, 3, T]")
  check_count(place, len(bert), count)
  if bert.shape[1:] != (3, most):
    return None  # tokens of something else than text
  mask = bert[:, 1]
  npz_labels.check_rows(place, mask, np.isin(mask, (0, 1)), "a mask of 0 and 1 in the middle")
  return mask.sum(axis=1).astype(np.int64)


def read_names(place: str, value: Any, count: int) -> list[str]:
  """A name for each clip; several columns (video, start, end) become one."""
  array = read_array(place, value)
  if array.ndim not in (1, 2):
    raise ValueError(f"{place} has the shape {array.shape}, expected: [N] or [N, 3].")
  check_count(place, len(array), count)
  rows = array.reshape(count, -1).tolist()
  return ["/".join(map(_to_text, row)) for row in rows]


def _to_text(name: Any) -> str:
  return name.decode("latin1") if isinstance(name, bytes) else str(name)
