"""The fields of a sentiment pickle, checked one by one; `mmsa` describes the layouts."""

import pathlib
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from promise_jax.data.readers import mmsa_labels, safe_pickle
from promise_jax.data.source import SPLITS, check_values, list_first

MODALITIES = ("text", "audio", "vision")
LABELS = ("regression_labels", "labels")  # of MMSA, of MulT
FORMS = {  # field: kinds of dtype, numbers of dimensions, the same in words
  "raw_text": ("OSU", (1,), "texts [N]"),
  "modality": ("biuf", (2, 3), "numbers [N, T, D] or [N, D]"),
  "label": ("biuf", (1, 2, 3), "numbers [N], [N, 1, 1], [N, C] or [N, C, 2]"),
  "length": ("biuf", (1,), "numbers [N]"),
  "text_bert": ("biuf", (3,), "numbers [N, 3, T]"),
  "id": ("biufOSU", (1, 2), "names [N] or [N, 3]"),
}


class Part(NamedTuple):
  """One split as it is in the file."""

  values: dict[str, np.ndarray]  # {modality: [N, T, D], [N, D], or texts [N]}
  length: dict[str, np.ndarray]  # {sequence: i64[N]}, valid steps, where the file has them
  label: np.ndarray  # f32[N] or f32[N, C]
  is_pairs: bool  # the labels are [N, C, 2] in the file
  names: list[str] | None  # of the clips
  labelled: np.ndarray  # bool[N]; elsewhere the label is 0, in the file NaN. Only train has such

  def keep_labelled(self) -> "Part":
    """The rows that have a label."""
    take = lambda x: x[self.labelled]
    names = self.names and [n for n, known in zip(self.names, self.labelled, strict=True) if known]
    values, length = ({m: take(x) for m, x in d.items()} for d in (self.values, self.length))
    return Part(values, length, take(self.label), self.is_pairs, names, take(self.labelled))


def read_parts(path: pathlib.Path, kind: str) -> tuple[dict[str, Part], str]:
  """The splits, and the field that is their label; `kind` is that of the task, if it is given.
  ValueError for the first field that is wrong."""
  data = read_dict("the pickle", safe_pickle.load(path), SPLITS)
  for split in SPLITS:
    fields = read_dict(split, data[split], ())
    data[split] = {key: value for key, value in fields.items() if value is not None}
  found = {key for split in SPLITS for key in data[split]}
  modalities = [m for m in MODALITIES if m in found or (m == "text" and "raw_text" in found)]
  if not modalities:
    raise ValueError(
      f"train has none of {', '.join(MODALITIES)} and raw_text, found are "
      f"{list_first(list(data['train'])) or 'none'}."
    )
  wanted = (
    ("classification_labels", *LABELS) if kind == "classes" else (*LABELS, "classification_labels")
  )
  target = next((field for field in wanted if field in data["train"]), LABELS[0])
  is_raw = "text" not in found
  parts = {s: read_part(s, data.pop(s), modalities, is_raw, target) for s in SPLITS}
  for split, part in parts.items():
    if part.label.shape[1:] != (shape := parts["train"].label.shape[1:]):
      words = f"{split}, {target} has rows of shape {part.label.shape[1:]}"
      raise ValueError(f"{words}, those of train have {shape}.")
  return parts, target


def read_part(split: str, fields: dict, modalities: list[str], is_raw: bool, target: str) -> Part:
  """Checks the fields of one split; `is_raw`: its text is raw_text."""
  names = {m: "raw_text" if m == "text" and is_raw else m for m in modalities}
  read_dict(split, fields, (*names.values(), target))
  place = f"{split}, {target}"
  found = read_array(place, fields[target], "label")
  labelled = ~np.isnan(found).all(axis=tuple(range(1, found.ndim)))
  known, is_pairs = mmsa_labels.shape_label(place, found[labelled])
  label = np.zeros((len(found), *known.shape[1:]), np.float32)
  label[labelled] = known
  values, length = {}, {}
  for m, name in names.items():
    form = "raw_text" if name == "raw_text" else "modality"
    values[m] = read_array(f"{split}, {name}", fields[name], form, len(label))
    if form == "raw_text":
      values[m] = np.array([read_text(text) for text in values[m].tolist()], str)
    elif values[m].ndim == 3:
      steps = read_length(split, m, fields, values[m].shape[:2])
      length |= {} if steps is None else {m: steps}
  part = Part(values, length, label, is_pairs, read_names(split, fields, len(label)), labelled)
  return part if split == "train" else part.keep_labelled()


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


def read_text(value: Any) -> str:
  """A text; "" if it is none."""
  if isinstance(value, bytes):
    return value.decode("utf-8", "replace")
  return value if isinstance(value, str) else ""


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
