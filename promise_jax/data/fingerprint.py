"""What the rows of a data set are, in a few hashes, so that a run notices when they are others.

Of every split the number of rows, hashes of all ids, labels and groups, and for each modality a
hash of which rows have it and of a sample of its values. The rows are those that a model gets, so
it is the same for every source: a file, a table, a folder of tensorflow-datasets, made-up data.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from promise_jax.data.dataset import Dataset
from promise_jax.types import Split

SAMPLE_BYTES = 2**24  # of a modality in one split; smaller ones are hashed as a whole


def take_fingerprint(dataset: Dataset, splits: Mapping[str, Split]) -> dict[str, Any]:
  """The fingerprint of some splits {name: rows} of a data set, as plain values."""
  task = dataset.spec.task
  return {
    "name": dataset.name,
    "task": {"kind": task.kind, "outputs": task.outputs, "names": [*task.names]},
    "modalities": {m.name: f"{m.kind} {[*m.shape]}" for m in dataset.spec.modalities},
    "splits": {name: hash_split(dataset, name, split) for name, split in splits.items()},
  }


def hash_split(dataset: Dataset, name: str, split: Split) -> dict[str, Any]:
  """The fingerprint of one split."""
  labelled = dataset.labelled if name == "train" else None
  values = {}
  for modality, recorded in zip(dataset.spec.names, split.recorded.T, strict=True):
    x = split.inputs[modality]
    row_bytes = x.dtype.itemsize * int(np.prod(x.shape[1:]))
    count = min(len(x), max(SAMPLE_BYTES // max(row_bytes, 1), 1))
    sample = x[np.linspace(0, len(x) - 1, count).astype(int)]
    values[modality] = hash_arrays(recorded, split.length.get(modality), sample)
  return {
    "rows": len(split.id),
    "ids": hash_arrays(split.id),
    "labels": hash_arrays(split.label, labelled),
    "groups": hash_arrays(dataset.groups.get(name)),
    "values": values,
  }


def hash_arrays(*arrays: np.ndarray | None) -> str:
  """16 hex digits of a SHA-256 of shapes, types and contents."""
  digest = hashlib.sha256()
  for x in arrays:
    x = np.zeros(0, np.uint8) if x is None else np.ascontiguousarray(x)
    digest.update(f"{x.dtype} {x.shape}".encode())
    digest.update(x.data if x.size else b"")
  return digest.hexdigest()[:16]


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  """What differs between two fingerprints, in the splits that both have; "" if nothing."""
  parts = []

  def compare(what: str, old: Any, new: Any) -> bool:
    if old != new:
      parts.append(f"{what} was {old}, is {new}")
    return old == new

  tasks = before["task"], now["task"]
  if compare("the task", *("{outputs} {kind}".format(**task) for task in tasks)):
    for pair in zip(*(task["names"] for task in tasks), strict=False):
      compare("a class", *pair)
  old, new = before["modalities"], now["modalities"]
  if compare("the list of modalities", ", ".join(old), ", ".join(new)):
    old = {name: shape for name, shape in old.items() if compare(name, shape, new[name])}
  for name, ours in before["splits"].items():
    theirs = now["splits"].get(name, ours)
    if not compare(f"the number of {name} rows", ours["rows"], theirs["rows"]):
      continue  # then everything else differs too
    what = [key for key in ("ids", "labels", "groups") if ours[key] != theirs[key]]
    what += [f"values of {m}" for m in old if ours["values"][m] != theirs["values"].get(m)]
    if what:
      parts.append(f"{', '.join(what)} of the {ours['rows']} {name} rows differ")
  return "; ".join(parts)
