"""The fields of a sentiment pickle, checked one by one; `mmsa` describes the layouts."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from promise_jax.data.readers import safe_pickle
from promise_jax.data.source import SPLITS, check_values, list_first

MODALITIES = ("text", "audio", "vision")
LABELS = ("regression_labels", "labels")  # of MMSA, of MulT
FORMS = {  # field: kinds of dtype, numbers of dimensions, the same in words
  "modality": ("biuf", (2, 3), "numbers [N, T, D] or [N, D]"),
  "label": ("biuf", (1, 2, 3), "one number a row, [N] or [N, 1, 1]"),
  "length": ("biuf", (1,), "numbers [N]"),
  "text_bert": ("biuf", (3,), "numbers [N, 3, T]"),
  "id": ("biufOSU", (1, 2), "names [N] or [N, 3]"),
}


class Part(NamedTuple):
  """One split as it is in the file."""

  values: dict[str, np.ndarray]  # {modality: [N, T, D] or [N, D]}
  length: dict[str, np.ndarray]  # {sequence: i64[N]}, valid steps, where the file has them
  label: np.ndarray  # f32[N], or i32[N] of classes
  names: list[str] | None  # of the clips


def read_parts(path: pathlib.Path, classes: bool) -> dict[str, Part]:
  """Reads the whole file; raises ValueError for the first field that is wrong."""
  data = read_dict("the pickle", safe_pickle.load(path), SPLITS)
  return {split: read_part(split, data.pop(split), classes) for split in SPLITS}


def read_part(split: str, fields: Any, classes: bool) -> Part:
  """Checks the fields of one split."""
  fields = read_dict(split, fields, MODALITIES)
  wanted = ("classification_labels",) if classes else LABELS
  target = next((field for field in wanted if field in fields), wanted[0])
  read_dict(split, fields, (target,))
  label = read_label(f"{split}, {target}", fields[target], classes)
  values, length = {}, {}
  for m in MODALITIES:
    values[m] = read_array(f"{split}, {m}", fields[m], "modality", len(label))
    steps = read_length(split, m, fields, values[m].shape[:2]) if values[m].ndim == 3 else None
    if steps is not None:
      length[m] = steps
  return Part(values, length, label, read_names(split, fields, len(label)))


def read_dict(place: str, fields: Any, expected: tuple[str, ...]) -> dict:
  """A dict that has the keys `expected`, all keys as text: Python 2 wrote them as bytes."""
  if not isinstance(fields, dict):
    raise ValueError(f"{place} is of type {type(fields).__name__}, expected is a dict.")
  fields = {to_text(key): value for key, value in fields.items()}
  for key in expected:
    if key not in fields:
      found = list_first([repr(k)[:40] for k in fields]) or "none"
      raise ValueError(f"{place} has no {key!r}, found are {found}.")
  return fields


def to_text(value: Any) -> str:
  """A key or name as text."""
  return value.decode("latin1") if isinstance(value, bytes) else str(value)


def read_array(place: str, value: Any, form: str, count: int | None = None) -> np.ndarray:
  """An array, or a list that makes one, of a form of `FORMS`; with `count` rows, if given."""
  kinds, ranks, words = FORMS[form]
  try:
    array = np.asarray(value)
  except (ValueError, RecursionError):
    raise ValueError(f"{place} is a list of different shapes, expected: {words}.") from None
  if array.dtype.kind not in kinds or array.ndim not in ranks or 0 in array.shape[1:]:
    raise ValueError(f"{place} is {array.dtype} of shape {array.shape}, expected: {words}.")
  if count not in (None, len(array)):
    raise ValueError(f"{place} has {len(array)} rows, but there are {count} labels.")
  return array


def read_label(place: str, value: Any, classes: bool) -> Shaped[np.ndarray, " N"]:
  """f32 of finite numbers, or i32 of classes from 0."""
  array = read_array(place, value, "label")
  if array.size != len(array) or not len(array):
    words = FORMS["label"][2]
    raise ValueError(f"{place} has the shape {array.shape}, expected: {words}, N above 0.")
  with np.errstate(over="ignore"):
    label = array.reshape(-1).astype(np.float32)
  check_values(place, label, np.isfinite(label), "finite numbers")
  if not classes:
    return label
  good = (label == np.round(label)) & (label >= 0) & (label < 1000)
  check_values(place, label, good, "whole numbers from 0")
  return label.astype(np.int32)


def read_length(
  split: str, modality: str, fields: dict, shape: tuple[int, int]
) -> Int[np.ndarray, " N"] | None:
  """The valid steps of a sequence [N, T], from its lengths or the mask of its tokens."""
  count, most = shape
  if (name := f"{modality}_lengths") in fields:
    steps = read_array(f"{split}, {name}", fields[name], "length", count)
    good = (steps >= 0) & (steps <= most) & (steps == np.round(steps))
    check_values(f"{split}, {name}", steps, good, f"0 to {most} steps")
    return steps.astype(np.int64)
  if modality != "text" or "text_bert" not in fields:
    return None
  place = f"{split}, text_bert"
  bert = read_array(place, fields["text_bert"], "text_bert", count)
  if bert.shape[1:] != (3, most):
    return None  # tokens of something else than the text features
  mask = bert[:, 1]
  check_values(place, mask, np.isin(mask, (0, 1)), "a mask of 0 and 1 in the middle")
  return mask.sum(axis=1).astype(np.int64)


def read_names(split: str, fields: dict, count: int) -> list[str] | None:
  """A name for each clip; several columns (video, start, end) become one name."""
  if "id" not in fields:
    return None
  array = read_array(f"{split}, id", fields["id"], "id", count)
  return ["/".join(map(to_text, row)) for row in array.reshape(count, -1).tolist()]
