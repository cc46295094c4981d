"""The small arrays of an npz file: labels, ids, groups, splits, each checked row by row."""

import numpy as np
from jaxtyping import Bool, Int, Shaped

from promise_jax import counter_rng
from promise_jax.data.source import SPLITS
from promise_jax.types import Modality, Task

SPLIT_ENDS = (0.6, 0.8)  # of the rows: where train ends, where valid ends
STRATUM = 10  # neighbouring regression labels of which each split takes its part
SHOWN = 8  # values in a message

Arrays = dict[str, np.ndarray]


def check_values(
  array: str, values: Shaped[np.ndarray, "N ..."], good: Bool[np.ndarray, "N ..."], words: str
) -> None:
  """Raises ValueError for the first row of `values` that is not `good`."""
  bad = np.flatnonzero(~good.reshape(len(good), -1).all(axis=1))
  if bad.size:
    found = values[bad[0]].tolist()
    raise ValueError(f"{array}, row {bad[0]}: found {found!r}, expected: {words}.")


def read_labels(arrays: Arrays, scale: float | None = None) -> tuple[np.ndarray, Task]:
  """Labels as in `types.Split`, and the task that y, classes and scale define.

  A `scale` that is given replaces that of the file.
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
  classes = np.unique(y).astype(np.int64)
  check_values("y", y, np.asarray(y >= 0), "classes from 0")
  if names:
    check_values("y", y, y < len(names), f"0 to {len(names) - 1}, as classes has names")
  elif len(classes) != classes[-1] + 1:
    raise ValueError(
      f"y has gaps, its classes are {_list_first(classes)}: number them 0 to "
      f"{len(classes) - 1}, or name all of them in the array classes."
    )
  names = names or tuple(map(str, classes))
  return y.astype(np.int32), Task("classes", len(names), names)


def _read_numbers(arrays: Arrays, scale: float | None) -> tuple[np.ndarray, Task]:
  y = arrays["y"]
  with np.errstate(over="ignore"):
    label = y.astype(np.float32)
  check_values("y", y, np.isfinite(label), "finite numbers")
  if "classes" in arrays:
    raise ValueError("classes is there, but y has floats: give classes as integers.")
  if "scale" not in arrays and scale is None and np.all(y == np.round(y)):
    raise ValueError(
      f"y has floats that are all whole, {_list_first(np.unique(y))}: give classes as "
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
  check_values("y", y, np.isin(y, (0, 1)), "0 and 1 alone, as y has several columns")
  if names and len(names) != y.shape[1]:
    raise ValueError(f"classes has {len(names)} names, y has {y.shape[1]} columns.")
  return y.astype(np.float32), Task("multilabel", y.shape[1], names)


def _read_names(y: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, Task]:
  check_values("y", y, y != "", "names of classes")
  found, label = np.unique(y, return_inverse=True)
  if names:
    check_values("y", y, np.isin(y, names), f"the names in classes, {_list_first(names)}")
    label = np.array([names.index(name) for name in found])[label]
  names = names or tuple(found.tolist())
  return label.astype(np.int32), Task("classes", len(names), names)


def read_ids(arrays: Arrays, count: int) -> Int[np.ndarray, " N"]:
  """The array id, else the row numbers."""
  if "id" not in arrays:
    return np.arange(count)
  ids = arrays["id"]
  check_values("id", ids, (ids >= 0) & (ids < 2**31), "0 to 2^31-1")
  is_first = np.isin(np.arange(count), np.unique(ids, return_index=True)[1])
  check_values("id", ids, is_first, "a number that no row above has")
  return ids.astype(np.int64)


def read_group(arrays: Arrays) -> Int[np.ndarray, " N"] | None:
  """The array group; strings are numbered in alphabetical order."""
  if (group := arrays.get("group")) is None:
    return None
  if group.dtype.kind == "U":
    return np.unique(group, return_inverse=True)[1]
  check_values("group", group, (group >= 0) & (group < 2**31), "0 to 2^31-1")
  return group.astype(np.int64)


def read_present(arrays: Arrays) -> dict[str, Bool[np.ndarray, " N"]]:
  """{modality: present} of the modalities that have such an array."""
  present = {}
  for array in (a for a in arrays if a.startswith("present_")):
    good = np.isin(arrays[array], (0, 1))
    check_values(array, arrays[array], good, "bool or 0 and 1")
    present[array.removeprefix("present_")] = arrays[array].astype(bool)
  return present


def read_length(
  arrays: Arrays, modalities: tuple[Modality, ...]
) -> dict[str, Int[np.ndarray, " N"]]:
  """{sequence: valid steps} of the sequences that have such an array."""
  length = {}
  for m in modalities:
    array = f"length_{m.name}"
    if array in arrays and m.kind != "sequence":
      raise ValueError(
        f"{array} is there, but x_{m.name} is of kind {m.kind}; only a sequence has a length."
      )
    if array in arrays:
      steps = arrays[array]
      check_values(array, steps, (steps >= 0) & (steps <= m.shape[0]), f"0 to {m.shape[0]} steps")
      length[m.name] = steps.astype(np.int64)
  return length


def read_split(
  arrays: Arrays,
  label: Shaped[np.ndarray, "N ..."],
  task: Task,
  ids: Int[np.ndarray, " N"],
  group: Int[np.ndarray, " N"] | None,
  seed: int,
) -> Shaped[np.ndarray, " N"]:
  """The split of every row, by name; one that is drawn keeps groups together.

  Raises:
    ValueError: a split is empty, a group is in two, or train has one label only.
  """
  drawn = "split" not in arrays
  split = _draw_groups(label, task.kind, ids, group, seed) if drawn else arrays["split"]
  check_values("split", split, np.isin(split, SPLITS), ", ".join(SPLITS))
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
    name = f" ({task.names[train[0]]})" if task.kind == "classes" else ""
    raise ValueError(
      f"y: the {len(train)} train rows all have the label {train[0].tolist()}{name}, "
      "expected: at least two different ones."
    )
  return split


def _draw_groups(label, task_kind, ids, group, seed) -> np.ndarray:
  """`draw_split` of whole groups, each by the label of its row with the lowest id."""
  if group is None:
    return draw_split(label, task_kind, ids, seed)
  order = np.argsort(ids)
  numbers, first = np.unique(group[order], return_index=True)
  split = draw_split(label[order[first]], task_kind, numbers, seed)
  return split[np.searchsorted(numbers, group)]


def draw_split(
  label: Shaped[np.ndarray, "N ..."], task_kind: str, ids: Int[np.ndarray, " N"], seed: int
) -> Shaped[np.ndarray, " N"]:
  """Draws about 60 % train, 20 % valid and 20 % test, by id: file order does not matter.

  The rows of a stratum are shuffled; row r of n lies at (r + 1/2) / n and goes to train
  below .6, to valid below .8. A stratum is a class, so that each class has a train row;
  ten neighbouring labels in regression; all rows in multilabel. Ours.
  """
  u = counter_rng.uniform(seed, "split", ids, 1)[:, 0]
  stratum = np.zeros(len(ids), np.int64)
  if task_kind == "classes":
    stratum = label
  elif task_kind == "regression":
    stratum[np.lexsort((ids, label))] = np.arange(len(ids)) // STRATUM
  position = np.empty(len(ids))
  for value in np.unique(stratum):
    (rows,) = np.nonzero(stratum == value)
    order = np.lexsort((ids[rows], u[rows]))
    position[rows[order]] = (np.arange(len(rows)) + 0.5) / len(rows)
  return np.array(SPLITS)[np.searchsorted(SPLIT_ENDS, position, side="right")]


def _list_first(values) -> str:
  shown = ", ".join(str(v) for v in np.asarray(values)[:SHOWN].tolist())
  return shown + (", ..." if len(values) > SHOWN else "")
