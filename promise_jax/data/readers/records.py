"""Makes a data set of records, one dict a row: your own Python sequence, or tfds examples.

  inputs   {modality: value}; a string or bytes are text, all else an array
  label    a number, or 0/1 [C], which may be a class, one-hot
  id       a number from 0 to 2^31-1, unique in the whole data set
  key      optional text: the id as it is written with predictions
  present  optional {modality: bool}
  length   optional {modality: valid steps}
  group    optional number from 0 to 2^31-1

All records of a data set have the same fields.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from promise_jax.data import channels
from promise_jax.data import source as data_source
from promise_jax.data.readers import npz_labels, text
from promise_jax.types import Modality, Task

BLOCK_BYTES = 2**24  # of the records that are read at a time, about
OPEN_STEPS = 256  # assumed where T is open


def source(
  name: str,
  splits: Mapping[str, Sequence[Mapping]],
  modalities: Sequence[Modality],
  task: Task,
  *,
  identity: str = "",
) -> data_source.Source:
  """A source of records that are read by number, for `dataset.assemble`.

  `splits` are {split: records}, whose `__getitems__(numbers)` is used where they have it.
  Streaming wants an `identity`: a text that changes whenever the records do, as "of May".
  """
  guesses = {m.name: channels.TURNED for m in modalities if channels.turn_modality(m) != m}
  modalities = tuple(map(channels.turn_modality, modalities))
  row_bytes = sum(
    np.prod([OPEN_STEPS if d is None else d for d in m.shape]) * (1 if m.kind == "image" else 4)
    for m in modalities
  )
  size = int(np.clip(BLOCK_BYTES // max(row_bytes, 1), 1, 4096))

  def read(split: str, numbers: Sequence[int]) -> data_source.Rows:
    records = splits[split]
    many = hasattr(records, "__getitems__")
    found = list(records.__getitems__(numbers)) if many else [records[i] for i in numbers]
    return make_rows(found, modalities, task)

  def read_blocks(split: str) -> Iterator[data_source.Rows]:
    numbers = range(len(splits[split]))
    for start in range(0, max(len(numbers), 1), size):
      yield read(split, numbers[start : start + size])

  return data_source.Source(
    name=name,
    card=f"Records of {name}.",
    modalities=modalities,
    task=task,
    splits=tuple(splits),
    rows=lambda split: read(split, range(len(splits[split]))),
    blocks=read_blocks,
    identity=identity,
    guesses=guesses,
  )


def make_rows(
  records: Sequence[Mapping], modalities: tuple[Modality, ...], task: Task
) -> data_source.Rows:
  """Collects records into rows; text becomes hashed tokens."""
  inputs, length, texts = {}, {}, {}
  first: Mapping = records[0] if records else {}
  recorded = np.ones((len(records), len(modalities)), bool)
  integers = lambda values: np.array(list(values), np.int64)
  for i, m in enumerate(modalities):
    values = [r["inputs"][m.name] for r in records]
    if values and isinstance(values[0], str | bytes):
      texts[m.name] = [v.decode() if isinstance(v, bytes) else v for v in values]
      values = text.hash_ngrams(texts[m.name], m.vocabulary)
      length[m.name] = np.count_nonzero(values, axis=1)
    elif m.name in first.get("length", ()):
      length[m.name] = integers(r["length"][m.name] for r in records)
    if m.name in first.get("present", ()):
      recorded[:, i] = [r["present"][m.name] for r in records]
    inputs[m.name] = values
  label = np.array([r["label"] for r in records])
  if task.kind == "classes" and label.ndim == 2:
    label = np.where(npz_labels.find_one_hot(label), label.argmax(axis=1), -1)  # -1 is refused
  label = label.astype(np.int32 if task.kind == "classes" else np.float32)
  if not records and task.kind == "multilabel":
    label = label.reshape(0, task.outputs)
  group = integers(r["group"] for r in records) if "group" in first else None
  ids = integers(r["id"] for r in records)
  key = [r["key"] for r in records] if "key" in first else None
  return data_source.Rows(inputs, length, recorded, label, ids, group, key=key, texts=texts)
