"""Records, one a row, as dicts -> Rows; any sequence of them -> Source.

A record has what a tensorflow-datasets example has, see `builders`:

  inputs   {modality: value}; a string or bytes are text, all else an array
  label    a number, or 0/1 [C]
  id       a number from 0 to 2^31-1, unique in the whole data set
  present  optional {modality: bool}
  length   optional {modality: steps}
  group    optional number from 0 to 2^31-1

All records of a data set have the same fields.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from promise_jax.data import source as data_source
from promise_jax.data.readers import text
from promise_jax.types import Modality, Task

BLOCK_BYTES = 2**24  # bytes of the records that are read at a time, about
STEPS = 256  # those that are reckoned with where T is open


def source(
  name: str,
  splits: Mapping[str, Sequence[Mapping]],
  modalities: Sequence[Modality],
  task: Task,
  *,
  identity: str = "",
) -> data_source.Source:
  """Records that are read by number, `splits[split][i]`, for `dataset.assemble`.

  With `stored.assemble` in its place the train rows are streamed; that takes an
  `identity`, a text that is another one whenever the records are, as "of May, cut at
  5 s". A sequence may have `__getitems__(numbers) -> records` beside `__len__` and
  `__getitem__`, which is then used.
  """
  modalities = tuple(modalities)

  def pieces(split: str) -> Iterator[data_source.Rows]:
    return read_pieces(splits[split], range(len(splits[split])), modalities, task)

  def rows(split: str) -> data_source.Rows:
    every = take(splits[split], range(len(splits[split])))
    return to_rows(every, modalities, task)

  return data_source.Source(
    name=name,
    card=f"Records of {name}.",
    modalities=modalities,
    task=task,
    splits=tuple(splits),
    rows=rows,
    blocks=pieces,
    identity=identity,
  )


def take(records: Sequence[Mapping], numbers: Sequence[int]) -> list[Mapping]:
  """The records with these numbers, in their order."""
  if hasattr(records, "__getitems__"):
    return list(records.__getitems__(numbers))
  return [records[i] for i in numbers]


def read_pieces(
  records: Sequence[Mapping],
  numbers: Sequence[int],
  modalities: tuple[Modality, ...],
  task: Task,
) -> Iterator[data_source.Rows]:
  """The rows of the records with these numbers, in their order, a few at a time; no
  rows are one empty piece."""
  count = piece_rows(modalities)
  for start in range(0, max(len(numbers), 1), count):
    yield to_rows(take(records, numbers[start : start + count]), modalities, task)


def piece_rows(modalities: tuple[Modality, ...]) -> int:
  """How many rows are about `BLOCK_BYTES` bytes."""
  size = sum(
    np.prod([STEPS if d is None else d for d in m.shape]) * (1 if m.kind == "image" else 4)
    for m in modalities
  )
  return int(np.clip(BLOCK_BYTES // max(size, 1), 1, 4096))


def to_rows(
  records: Sequence[Mapping], modalities: tuple[Modality, ...], task: Task
) -> data_source.Rows:
  """The rows of some records, text as hashed tokens."""
  inputs, steps = {}, {}
  first: Mapping = records[0] if records else {}
  recorded = np.ones((len(records), len(modalities)), bool)
  for i, m in enumerate(modalities):
    values = [r["inputs"][m.name] for r in records]
    if values and isinstance(values[0], str | bytes):
      texts = [v.decode() if isinstance(v, bytes) else v for v in values]
      values = text.hash_ngrams(texts, m.vocabulary)
      steps[m.name] = np.count_nonzero(values, axis=1)
    elif m.name in first.get("length", ()):
      steps[m.name] = column(r["length"][m.name] for r in records)
    if m.name in first.get("present", ()):
      recorded[:, i] = [r["present"][m.name] for r in records]
    inputs[m.name] = values
  wide = (0, task.outputs) if task.kind == "multilabel" else (0,)
  kind = np.int32 if task.kind == "classes" else np.float32
  label = np.array([r["label"] for r in records], kind)
  label = label if len(records) else np.zeros(wide, kind)
  group = column(r["group"] for r in records) if "group" in first else None
  return data_source.Rows(inputs, steps, recorded, label, column(r["id"] for r in records), group)


def column(numbers: Iterable[int]) -> np.ndarray:
  """i64[N]."""
  return np.array(list(numbers), np.int64)
