"""Labels and splits of a table: any row may lack its label."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from promise_jax.checks import check_choice
from promise_jax.data.readers import cells, column_roles, label_sets
from promise_jax.data.readers.column_roles import SPLIT_NAMES
from promise_jax.data.source import SPLITS, list_first
from promise_jax.types import TASKS, Task

MIN_ROWS = 10  # that say whether a column is the label
SAME = 0.9999  # correlation of a column that is the label of a regression
MAX_CLASSES = 100  # whole numbers with more values are guessed to be no classes


def choose_columns(table: pd.DataFrame, label: str) -> pd.Series | pd.DataFrame:
  """The column `label`, or the columns that it names as "a,b,c"; ValueError if one is not there."""
  if label in table.columns:
    return table[label]
  names = [name.strip() for name in label.strip("()").split(",")]
  if not label or not {*names} <= {*table.columns} or len({*names}) < len(names):
    given = f"is {label!r}" if label else "is not given"
    columns = list_first(list(table.columns))
    raise ValueError(
      f"label {given}, expected is the column to predict, one of {columns}, or several, as a,b,c."
    )
  return table[names]


def read_task(values: pd.Series | pd.DataFrame, kind: str = "") -> tuple[Task, str]:
  """The task of a label column, or of several, and a sentence on it.

  Texts, booleans and whole numbers are classes, other numbers, or whole ones with many values,
  are regression; several labels are as in `label_sets`, one in every row is a class; `kind` says
  otherwise. The scale of a regression label is left at 1. ValueError for no label, one label alone,
  or a class for hardly two rows."""
  check_choice("task", kind, ("", *TASKS))
  if kind == "multilabel" or (label_sets.has_sets(values) and kind != "regression"):
    is_text = isinstance(values, pd.Series) and not values.map(label_sets.is_list).any()
    if kind != "classes" or not is_text:
      return read_set_task(values, kind)
  known = values[~cells.find_missing(values)]
  texts = cells.read_texts(known)
  distinct = set(texts)
  if len(distinct) < 2:
    found = f"all its cells are {cells.quote(texts[0])}" if texts else "all its cells are empty"
    raise ValueError(f"label {values.name}: {found}, expected: at least two different labels.")
  numbers = cells.parse_numbers(known)
  is_number = not np.isnan(numbers).any() and not isinstance(known.iloc[0], bool | np.bool_)
  guess = "classes"
  if is_number and (np.any(numbers != np.round(numbers)) or len(distinct) > MAX_CLASSES):
    guess = "regression"
  if (kind or guess) == "regression":
    cells.read_numbers(values)  # raises for a text
    other = "" if kind else "; guessed, task=classes says otherwise"
    return Task("regression", 1), f"label {values.name}: a number to predict{other}."
  if 2 * len(distinct) > len(known):
    raise ValueError(
      f"label {values.name}: {len(distinct)} different values in {len(known)} rows, as "
      f"{cells.quote(texts[0])}, are too many "
      "for classes, expected are two rows of each and more; task=regression takes numbers."
    )
  names = tuple(sorted(distinct, key=float if is_number else str))
  other = "; guessed, task=regression says otherwise" if is_number and not kind else ""
  words = f"label {values.name}: {len(names)} classes, {list_first(names)}{other}."
  return Task("classes", len(names), names), words


def read_set_task(values: pd.Series | pd.DataFrame, kind: str) -> tuple[Task, str]:
  """The task of several labels a row."""
  sets, names = label_sets.read_sets(values)
  known = [one for one in sets if one is not None]
  what = ", ".join(values.columns) if isinstance(values, pd.DataFrame) else values.name
  if len({*known}) < 2 or len(names) < 2:
    raise ValueError(f"label {what}: expected are at least two different labels.")
  guess = "classes" if all(len(one) == 1 for one in known) else "multilabel"
  other = {"classes": "multilabel", "multilabel": "classes"}[guess]
  words = f"{len(names)} classes" if (kind or guess) == "classes" else f"several of {len(names)}"
  words += f", {list_first(names)}" + ("" if kind else f"; guessed, task={other} says otherwise")
  return Task(kind or guess, len(names), names), f"label {what}: {words}."


def encode_labels(
  values: pd.Series | pd.DataFrame, task: Task
) -> tuple[Shaped[np.ndarray, "N ..."], Bool[np.ndarray, " N"]]:
  """Labels as in `types.Split`, 0 where there is none, and which rows have one."""
  is_several = isinstance(values, pd.DataFrame) or values.map(label_sets.is_list).any()
  if task.kind == "multilabel" or is_several:
    return label_sets.encode_sets(label_sets.read_sets(values)[0], task)
  missing = cells.find_missing(values)
  if task.kind == "regression":
    return np.where(missing, 0, cells.read_numbers(values)).astype(np.float32), ~missing
  sets = [None if text is None else frozenset([text]) for text in cells.read_texts(values)]
  return label_sets.encode_sets(sets, task)


def describe_copies(
  train: pd.DataFrame, roles: Sequence[column_roles.Role], label: pd.Series, task: Task
) -> list[str]:
  """Sentences on columns whose value says the label: each of few values has one class, or a number
  follows that of a regression."""
  lines, label = [], label[train.index]
  known = ~cells.find_missing(label)
  for role in (role for role in roles if role.role in ("number", "category")):
    values = train[role.name]
    both = known & ~cells.find_missing(values)
    if both.sum() < MIN_ROWS:
      continue
    if task.kind == "regression" and role.role == "number":
      x, y = (cells.parse_numbers(z[both]) for z in (values, label))
      is_copy = min(x.std(), y.std()) > 0 and abs(np.corrcoef(x, y)[0, 1]) > SAME
    elif task.kind == "classes":
      group, found = pd.factorize(values[both])
      few = 1 < len(found) <= 2 * task.outputs
      is_copy = few and label[both].astype(str).groupby(group).nunique().max() == 1
    else:
      continue
    if is_copy:
      lines.append(
        f"column {role.name} says the label in all {both.sum()} train rows that have it; if it is "
        f"not known before the label, columns={role.name}=ignore."
      )
  return lines


def number_ids(values: pd.Series | None, count: int) -> np.ndarray:
  """Ids that are whole numbers, else the numbers of the rows. ValueError where an id is there
  twice."""
  if values is None:
    return np.arange(count)
  texts = cells.read_texts(values)
  known = pd.Series(texts, values.index, dtype=object).dropna()
  repeated = known[known.duplicated()]
  if len(repeated):
    row, first = cells.name_row(repeated, 0), cells.quote(repeated.iloc[0])
    raise ValueError(
      f"id {values.name}, {row}: {first} is the id of a row above, expected: different ones; "
      f"columns={values.name}=group or =ignore says that it is no id."
    )
  is_number = all(t is not None and t.isdecimal() and int(t) < 2**31 for t in texts)
  return np.array(texts, np.int64) if is_number else np.arange(count)


def read_split(values: pd.Series) -> Shaped[np.ndarray, " N"]:
  """The names of the splits in a column; ValueError for the first cell that is none."""
  names = [SPLIT_NAMES.get((text or "").lower(), "") for text in cells.read_texts(values)]
  if "" in names:
    place = names.index("")
    row, found = cells.name_row(values, place), values.iloc[place]
    raise ValueError(
      f"split {values.name}, {row}: found {cells.quote(found)}, expected: "
      f"{', '.join(SPLITS)}; columns={values.name}=ignore draws the splits."
    )
  return np.array(names)
