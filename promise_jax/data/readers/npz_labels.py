"""The small arrays of an npz file: labels, ids, groups, splits, each checked row by row."""

import numpy as np
from jaxtyping import Bool, Shaped

from promise_jax.checks import check_choice
from promise_jax.data.readers import row_names, splits
from promise_jax.data.source import SPLITS, Rows, check_ids, check_values, list_first
from promise_jax.types import TASKS, Modality, Task

Arrays = dict[str, np.ndarray]


def read_rows(
  arrays: Arrays, modalities: tuple[Modality, ...], scale: float | None, kind: str
) -> tuple[Task, str, Rows]:
  """The task, what was guessed of it, and all rows of the file without their inputs.

  Ids are the row numbers if there are none, or none that are numbers; groups that are strings are
  numbered in alphabetical order. Rows without a label have 0.
  """
  labelled = find_labelled(arrays)
  known, task, guess = read_labels(arrays | {"y": arrays["y"][labelled]}, scale, kind)
  label = np.zeros((len(labelled), *known.shape[1:]), known.dtype)
  label[labelled] = known
  recorded = np.ones((len(label), len(modalities)), bool)
  length, ids, group = {}, arrays.get("id", np.arange(len(label))), arrays.get("group")
  key = None
  if ids.dtype.kind == "U":
    is_first = np.isin(np.arange(len(ids)), np.unique(ids, return_index=True)[1])
    check_values("id", ids, is_first, "a text that no row above has")
    key, ids = ids, np.arange(len(ids))
  for i, m in enumerate(modalities):
    if (values := arrays.get(f"present_{m.name}")) is not None:
      check_values(f"present_{m.name}", values, np.isin(values, (0, 1)), "bool or 0 and 1")
      recorded[:, i] = values
    if (steps := arrays.get(f"length_{m.name}")) is not None:
      most = m.shape[0] if m.kind in ("sequence", "tokens") and m.shape[0] else 0
      words = f"no lengths, as x_{m.name} is of kind {m.kind}; kinds.{m.name}=sequence has some"
      words = f"0 to {most} steps" if most else words
      good = (steps >= 0) & (steps <= most) & (most > 0)
      check_values(f"length_{m.name}", steps, good, words)
      length[m.name] = steps.astype(np.int64)
  check_ids("id", ids)
  if group is not None and group.dtype.kind == "U":
    group = row_names.number_groups(group.tolist())
  elif group is not None:
    check_values("group", group, (group >= 0) & (group < 2**31), "0 to 2^31-1")
    group = group.astype(np.int64)
  about = recorded, label, ids.astype(np.int64), group
  labelled = None if labelled.all() else labelled
  return task, guess, Rows({}, length, *about, labelled=labelled, key=key)


def read_labels(
  arrays: Arrays, scale: float | None = None, kind: str = ""
) -> tuple[np.ndarray, Task, str]:
  """Labels as in `types.Split`; the task that y, classes and scale define; what was guessed of it.

  `scale` and `kind`, of the task, replace what the file says where they are given.
  """
  check_choice("task", kind, ("", *TASKS))
  y = arrays["y"]
  names = tuple(arrays["classes"].tolist()) if "classes" in arrays else ()
  if len(set(names)) < len(names) or "" in names:
    raise ValueError(f"classes are {list(names)}, expected: different names.")
  guessed, guess = guess_task(y)
  wanted = kind or guessed
  for array, goes in (("scale", wanted == "regression"), ("classes", wanted != "regression")):
    if array in arrays and not goes:
      raise ValueError(
        f"{array} is there, but y is {y.dtype}: scale goes with floats alone, or task=regression."
      )
  if wanted == "regression":
    label, task = _read_numbers(arrays, scale, kind)
  elif y.ndim == 2 or wanted == "multilabel":
    label, task = _read_columns(y, names, wanted)
  else:
    label, task = _read_classes(y, names)
  return label, task, "" if kind else guess


def guess_task(y: Shaped[np.ndarray, "N ..."]) -> tuple[str, str]:
  """The kind of task that labels look like, and words where another is possible."""
  if y.ndim == 2 and find_one_hot(y).all():
    return "classes", "guessed, every row has one 1; task=multilabel says otherwise"
  if y.ndim == 2:
    return "multilabel", ""
  if y.dtype.kind in "iu":
    return "classes", "guessed from integers; task=regression says otherwise"
  return ("regression" if y.dtype.kind == "f" else "classes"), ""


def find_one_hot(y: Shaped[np.ndarray, "N C"]) -> Bool[np.ndarray, " N"]:
  """Which rows have one 1 and zeros, of at least two columns."""
  return (y.shape[1] > 1) & np.isin(y, (0, 1)).all(axis=1) & ((y == 1).sum(axis=1) == 1)


def _read_classes(y: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, Task]:
  if y.dtype.kind == "U":
    check_values("y", y, y != "", "names of classes")
    names = names or tuple(np.unique(y).tolist())
    check_values("y", y, np.isin(y, names), f"the names in classes, {list_first(names)}")
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[v] for v in y.tolist()], np.int32), Task("classes", len(names), names)
  check_values("y", y, np.asarray((y >= 0) & (y == np.round(y))), "classes from 0")
  if names:
    check_values("y", y, y < len(names), f"0 to {len(names) - 1}, as classes has names")
  else:
    classes = np.unique(y).tolist()
    if len(classes) != classes[-1] + 1:
      raise ValueError(
        f"y has gaps, its classes are {list_first(classes)}: number them 0 to "
        f"{len(classes) - 1}, name all of them in the array classes, or say task=regression."
      )
    names = tuple(str(int(c)) for c in classes)
  return y.astype(np.int32), Task("classes", len(names), names)


def _read_numbers(arrays: Arrays, scale: float | None, kind: str) -> tuple[np.ndarray, Task]:
  y = arrays["y"]
  if y.ndim > 1 or y.dtype.kind == "U":
    raise ValueError(f"y is {y.dtype} of shape {y.shape}, expected: numbers [N] for regression.")
  with np.errstate(over="ignore"):
    label = y.astype(np.float32)
  check_values("y", y, np.isfinite(label), "finite numbers")
  if "scale" not in arrays and scale is None and not kind and np.all(y == np.round(y)):
    raise ValueError(
      f"y has floats that are all whole, {list_first(np.unique(y))}: say task=classes or "
      "task=regression."
    )
  scale = float(arrays.get("scale", 1.0) if scale is None else scale)
  if not 0 < scale < np.inf:
    raise ValueError(f"scale is {scale}, expected is a positive number.")
  return label, Task("regression", 1, scale=scale)


def _read_columns(y: np.ndarray, names: tuple[str, ...], kind: str) -> tuple[np.ndarray, Task]:
  if y.dtype.kind == "U" or y.ndim == 1 or y.shape[1] == 1 or (names and len(names) != y.shape[1]):
    raise ValueError(
      f"y is {y.dtype} of shape {y.shape}, expected: 0/1 [N, C], C above 1 and the number of "
      f"names in classes (now {len(names)}); one label a row has the shape [N]."
    )
  check_values("y", y, np.isin(y, (0, 1)), "0 and 1 alone, as y has several columns")
  if kind == "multilabel":
    return y.astype(np.float32), Task("multilabel", y.shape[1], names)
  check_values("y", y, find_one_hot(y), "one 1 a row; task=multilabel takes several")
  names = names or tuple(map(str, range(y.shape[1])))
  return y.argmax(axis=1).astype(np.int32), Task("classes", len(names), names)


def read_split(
  arrays: Arrays, rows: Rows, task: Task, seed: int
) -> tuple[Shaped[np.ndarray, " N"], list[str]]:
  """The split of every row, by name, "" for none, and sentences on it, see `splits`."""
  given = arrays.get("split")
  if given is not None:
    check_values("split", given, np.isin(given, SPLITS), ", ".join(SPLITS))
  return splits.assign_split(rows, task, given, seed)


def find_labelled(arrays: Arrays) -> Bool[np.ndarray, " N"]:
  """Which rows have a label: not "" or NaN, and not False in `labelled`."""
  y, known = arrays["y"], arrays.get("labelled")
  if known is not None:
    check_values("labelled", known, np.isin(known, (0, 1)), "bool or 0 and 1")
  known = np.ones(len(y), bool) if known is None else known.astype(bool)
  if y.dtype.kind == "U":
    known &= (y != "").reshape(len(y), -1).any(axis=1)
  elif y.dtype.kind == "f":
    known &= ~np.isnan(y).reshape(len(y), -1).all(axis=1)
  if not known.any():
    raise ValueError("y: no row has a label.")
  return known
