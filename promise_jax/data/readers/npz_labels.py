"""Labels, class names and splits of an npz file, checked row by row."""

import numpy as np

from promise_jax import counter_rng
from promise_jax.types import Task

SPLITS = ("train", "valid", "test")
SHARES = (0.6, 0.8)  # of the rows: where train ends, where valid ends
BLOCK = 10  # rows of neighbouring regression labels, of which each split has its share
SHOWN = 8

Arrays = dict[str, np.ndarray]


def check_rows(array: str, values: np.ndarray, good: np.ndarray, words: str) -> None:
  """ValueError with the first row of `values` [N, ...] that is not all `good`."""
  bad = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
  if bad.size:
    found = values[bad[0]].tolist()
    raise ValueError(f"{array}, row {bad[0]}: found {found!r}, expected: {words}.")


def read_labels(arrays: Arrays, scale: float | None = None) -> tuple[np.ndarray, Task]:
  """Labels as in `types.Split`, and the task that y, classes and scale stand for.

  `scale` replaces that of the file. ValueError for what is no label.
  """
  y = arrays["y"]
  names = tuple(arrays["classes"].tolist()) if "classes" in arrays else ()
  if len(set(names)) < len(names) or "" in names:
    raise ValueError(f"classes are {list(names)}, expected: different names.")
  if y.ndim == 1 and y.dtype.kind == "f":
    return _read_numbers(arrays, scale)
  if "scale" in arrays:
    raise ValueError(f"scale is there, but y is {y.dtype}: it goes with floats [N].")
  if y.ndim == 2:
    return _read_columns(y, names)
  if y.dtype.kind == "U":
    return _read_names(y, names)
  found = np.unique(y).astype(np.int64)
  check_rows("y", y, np.asarray(y >= 0), "classes from 0")
  if names:
    check_rows("y", y, y < len(names), f"0 to {len(names) - 1}, as classes has names")
  elif len(found) != found[-1] + 1:
    raise ValueError(
      f"y has gaps, its classes are {_listed(found)}: number them 0 to "
      f"{len(found) - 1}, or name all of them in the array classes."
    )
  names = names or tuple(map(str, found))
  return y.astype(np.int32), Task("classes", len(names), names)


def _read_numbers(arrays: Arrays, scale: float | None) -> tuple[np.ndarray, Task]:
  y = arrays["y"]
  with np.errstate(over="ignore"):
    label = y.astype(np.float32)
  check_rows("y", y, np.isfinite(label), "finite numbers")
  if "classes" in arrays:
    raise ValueError("classes is there, but y has floats: give classes as integers.")
  if "scale" not in arrays and scale is None and np.all(y == np.round(y)):
    raise ValueError(
      f"y has floats that are all whole, {_listed(np.unique(y))}: give classes as "
      "integers, or the array scale if this is regression."
    )
  scale = float(arrays.get("scale", 1.0) if scale is None else scale)
  if not 0 < scale < np.inf:
    raise ValueError(f"scale is {scale}, expected is a positive number.")
  return label, Task("regression", 1, scale=scale)


def _read_columns(y: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, Task]:
  if y.dtype.kind == "U" or y.shape[1] == 1:
    raise ValueError(
      f"y is {y.dtype} of shape {y.shape}, expected: 0/1 [N, C] with C above 1; one "
      "label a row has the shape [N]."
    )
  check_rows("y", y, np.isin(y, (0, 1)), "0 and 1 alone, as y has several columns")
  if names and len(names) != y.shape[1]:
    raise ValueError(f"classes has {len(names)} names, y has {y.shape[1]} columns.")
  return y.astype(np.float32), Task("multilabel", y.shape[1], names)


def _read_names(y: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, Task]:
  check_rows("y", y, y != "", "names of classes")
  found, label = np.unique(y, return_inverse=True)
  if names:
    check_rows("y", y, np.isin(y, names), f"the names in classes, {_listed(names)}")
    label = np.array([names.index(name) for name in found])[label]
  names = names or tuple(found.tolist())
  return label.astype(np.int32), Task("classes", len(names), names)


def read_split(
  arrays: Arrays,
  label: np.ndarray,
  task: Task,
  ids: np.ndarray,
  group: np.ndarray | None,
  seed: int,
) -> np.ndarray:
  """The split of every row, strings [N]; a drawn one cuts no group i64[N]. ValueError
  for a split that is empty, for a group in two of them and for train rows that all have
  one label."""
  drawn = "split" not in arrays
  if drawn:
    split = _draw_whole(label, task.kind, ids, group, seed)
  else:
    split = arrays["split"]
  check_rows("split", split, np.isin(split, SPLITS), ", ".join(SPLITS))
  for name in SPLITS:
    if not np.any(split == name):
      of = "rows" if group is None else f"rows in {len(np.unique(group))} groups"
      why = f"{len(label)} {of} are too few to draw it" if drawn else "split has none"
      raise ValueError(f"there are no {name} rows: {why}.")
  if group is not None:
    _, first, back = np.unique(group, return_index=True, return_inverse=True)
    for row in np.flatnonzero(split != split[first][back])[:1]:
      raise ValueError(
        f"group {arrays['group'][row].item()!r} has rows in {split[first][back[row]]} "
        f"and in {split[row]}, expected: each group in one split."
      )
  train = label[split == "train"]
  if not np.any(train != train[:1]):
    raise ValueError(
      f"y: the {len(train)} train rows all have the label {train[0].tolist()}"
      f"{f' ({task.names[train[0]]})' if task.kind == 'classes' else ''}, expected: "
      "at least two different ones."
    )
  return split


def _draw_whole(label, task_kind, ids, group, seed) -> np.ndarray:
  """`draw_split` of groups, where rows come in them, by the label of the first row."""
  if group is None:
    return draw_split(label, task_kind, ids, seed)
  order = np.argsort(ids)  # the first by id, wherever it stands in the file
  numbers, first = np.unique(group[order], return_index=True)
  whole = draw_split(label[order[first]], task_kind, numbers, seed)
  return whole[np.searchsorted(numbers, group)]


def draw_split(label: np.ndarray, task_kind: str, ids: np.ndarray, seed: int) -> np.ndarray:
  """Strings [N]: about 60% train, 20% valid, 20% test; counter-based, so a row keeps
  its place wherever it stands in the file.

  Row r (from 0) of n by chance lies at (r + 1/2) / n; below .6 it is train, below .8
  valid. n are the rows of a class, so that each class has a train row; for regression
  those of a block of ten neighbouring labels; for multilabel all. Ours.
  """
  u = counter_rng.uniform(seed, "split", ids, 1)[:, 0]
  stratum = np.zeros(len(ids), np.int64)
  if task_kind == "classes":
    stratum = label
  elif task_kind == "regression":
    stratum[np.lexsort((ids, label))] = np.arange(len(ids)) // BLOCK
  at = np.empty(len(ids))
  for value in np.unique(stratum):
    (rows,) = np.nonzero(stratum == value)
    order = np.lexsort((ids[rows], u[rows]))
    at[rows[order]] = (np.arange(len(rows)) + 0.5) / len(rows)
  return np.array(SPLITS)[np.searchsorted(SHARES, at, side="right")]


def _listed(values) -> str:
  """The first few of `values`, for a sentence."""
  shown = ", ".join(str(v) for v in np.asarray(values)[:SHOWN].tolist())
  return shown + (", ..." if len(values) > SHOWN else "")
