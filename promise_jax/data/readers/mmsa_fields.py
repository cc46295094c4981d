"""The fields of a sentiment pickle, checked one by one; `mmsa` describes the layouts."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from promise_jax.data.readers import safe_pickle
from promise_jax.data.readers.npz_labels import check_values
from promise_jax.data.source import SPLITS

MODALITIES = ("text", "audio", "vision")
LABELS = ("regression_labels", "labels")  # of MMSA, of MulT
SHOWN = 12  # keys in a message


class Part(NamedTuple):
  """One split as it is in the file."""

  values: dict[str, np.ndarray]  # {modality: [N, T, D] or [N, D]}
  length: dict[str, np.ndarray]  # {sequence: i64[N]}, valid steps, where the file has them
  label: np.ndarray  # f32[N], or i32[N] of classes
  names: list[str] | None  # of the clips


def read_parts(path: pathlib.Path, classes: bool) -> dict[str, Part]:
  """Reads the whole file; raises ValueError for the first field that is wrong."""
  data = safe_pickle.load(path)
  if not isinstance(data, dict):
    kind = type(data).__name__
    raise ValueError(f"the pickle holds a {kind}, expected is a dict of splits.")
  data = decode_keys(data)
  for split in SPLITS:
    if split not in data:
      raise ValueError(
        f"the pickle has no {split!r}, found are {list_keys(data)}; expected are "
        f"{', '.join(SPLITS)}."
      )
  return {split: read_part(split, data.pop(split), classes) for split in SPLITS}


def read_part(split: str, fields: Any, classes: bool) -> Part:
  """Checks the fields of one split."""
  if not isinstance(fields, dict):
    kind = type(fields).__name__
    raise ValueError(f"{split} is of type {kind}, expected is a dict of fields.")
  fields = decode_keys(fields)
  wanted = ("classification_labels",) if classes else LABELS
  target = next((field for field in wanted if field in fields), wanted[0])
  for field in (*MODALITIES, target):
    if field not in fields:
      raise ValueError(
        f"{split} has no {field!r}, found are {list_keys(fields)}; expected are "
        f"{', '.join(MODALITIES)} and {' or '.join(wanted)}."
      )
  label = read_label(f"{split}, {target}", fields[target], classes)
  values, length = {}, {}
  for m in MODALITIES:
    place = f"{split}, {m}"
    values[m] = read_numbers(place, fields[m], (2, 3), "numbers [N, T, D] or [N, D]", len(label))
    steps = read_length(split, m, fields, values[m].shape[:2]) if values[m].ndim == 3 else None
    if steps is not None:
      length[m] = steps
  names = read_names(f"{split}, id", fields["id"], len(label)) if "id" in fields else None
  return Part(values, length, label, names)


def decode_keys(fields: dict) -> dict:
  """Python 2 wrote keys as bytes."""
  return {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in fields.items()}


def list_keys(fields: dict) -> str:
  """The first few keys, for a message."""
  plain = (str, int, float)
  shown = [repr(k)[:40] if isinstance(k, plain) else type(k).__name__ for k in fields]
  return ", ".join(shown[:SHOWN]) + (", ..." if len(shown) > SHOWN else "") or "none"


def read_array(place: str, value: Any) -> np.ndarray:
  """An array, or a list that makes one."""
  if not isinstance(value, np.ndarray | list | tuple):
    kind = type(value).__name__
    raise ValueError(f"{place} is of type {kind}, expected is an array.")
  try:
    return np.asarray(value)
  except (ValueError, RecursionError):
    raise ValueError(
      f"{place} is a list of rows of different shapes, expected is one array."
    ) from None


def read_numbers(
  place: str, value: Any, ranks: tuple[int, ...], words: str, count: int | None = None
) -> np.ndarray:
  """An array of numbers with one of `ranks` dimensions and, if given, `count` rows."""
  array = read_array(place, value)
  if array.dtype.kind not in "biuf" or array.ndim not in ranks or 0 in array.shape[1:]:
    raise ValueError(f"{place} is {array.dtype} of shape {array.shape}, expected: {words}.")
  if count is not None:
    check_count(place, array, count)
  return array


def check_count(place: str, array: np.ndarray, count: int) -> None:
  """Raises ValueError unless a field has one row for each label."""
  if len(array) != count:
    raise ValueError(f"{place} has {len(array)} rows, but there are {count} labels.")


def read_label(place: str, value: Any, classes: bool) -> Shaped[np.ndarray, " N"]:
  """f32 of finite numbers, or i32 of classes from 0."""
  words = "one number a row, [N] or [N, 1, 1]"
  array = read_numbers(place, value, (1, 2, 3), words)
  if array.size != len(array):
    raise ValueError(f"{place} has the shape {array.shape}, expected: {words}.")
  if not len(array):
    raise ValueError(f"{place} has no rows, expected is at least one in every split.")
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
  place = f"{split}, {modality}_lengths"
  if f"{modality}_lengths" in fields:
    steps = read_numbers(place, fields[f"{modality}_lengths"], (1,), "numbers [N]", count)
    good = (steps >= 0) & (steps <= most) & (steps == np.round(steps))
    check_values(place, steps, good, f"0 to {most} steps")
    return steps.astype(np.int64)
  if modality != "text" or "text_bert" not in fields:
    return None
  place = f"{split}, text_bert"
  bert = read_numbers(place, fields["text_bert"], (3,), "numbers [N, 3, T]", count)
  if bert.shape[1:] != (3, most):
    return None  # tokens of something else than the text features
  mask = bert[:, 1]
  check_values(place, mask, np.isin(mask, (0, 1)), "a mask of 0 and 1 in the middle")
  return mask.sum(axis=1).astype(np.int64)


def read_names(place: str, value: Any, count: int) -> list[str]:
  """A name for each clip; several columns (video, start, end) become one name."""
  array = read_array(place, value)
  if array.ndim not in (1, 2):
    raise ValueError(f"{place} has the shape {array.shape}, expected: [N] or [N, 3].")
  check_count(place, array, count)
  to_text = lambda name: name.decode("latin1") if isinstance(name, bytes) else str(name)
  return ["/".join(map(to_text, row)) for row in array.reshape(count, -1).tolist()]
