"""Reads an ordinary table: a row a line, columns of numbers, categories, texts, files.

`column_roles` finds what each column is, `table_labels` labels and splits, `table_columns` what a
model reads of it, fitted on the train rows. The roles are guessed from all rows.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from promise_jax import files
from promise_jax.checks import check_at_least, shorten
from promise_jax.data import scaling
from promise_jax.data import source as data_source
from promise_jax.data.readers import (
  cells,
  column_roles,
  images,
  label_sets,
  lost_files,
  row_names,
  splits,
  table_file,
  table_labels,
)
from promise_jax.data.readers.fit_columns import fit_modality
from promise_jax.data.readers.table_columns import TableColumns, read_table_inputs
from promise_jax.types import Task

BLOCK_ROWS = 1024  # that are streamed at a time


@dataclasses.dataclass(frozen=True)
class TableOptions:
  """How a table is read."""

  label: str = ""  # the column to predict, or several 0/1 columns, as "a,b,c"
  # {column: role} where a guess is wrong, also as "photo=image,notes=ignore"
  columns: Mapping[str, str] | str = dataclasses.field(default_factory=dict)
  # {modality: columns}, also as "text=title+description,attributes=*"
  groups: Mapping[str, str] | str = dataclasses.field(default_factory=dict)
  features: Mapping[str, str] | str = ""  # modalities in folders, see `feature_folders`
  root: str = ""  # the folder of the files that cells name; that of the table
  image_size: int = 48  # height and width of images, to which they are scaled
  allow_missing_files: bool = False  # more than a fifth of the files may be missing
  task: str = ""  # classes, multilabel or regression, where a guess is wrong
  scale: float | None = None  # unit of a regression label; None: its deviation in train
  vocabulary: int = 8192  # token ids are smaller than this; texts are hashed into it
  split_seed: int = 0  # draws the split of a table without one


@dataclasses.dataclass(frozen=True)
class Table:
  """A table with its fitted columns, and what is known of every row."""

  place: str
  frame: pd.DataFrame
  root: pathlib.Path
  columns: TableColumns
  split: np.ndarray  # strings [N], "" for rows that are left out
  small: data_source.Rows  # all rows, without inputs
  options: TableOptions

  def rows(self, split: str) -> data_source.Rows:
    """All rows of a split."""
    (rows,) = self.blocks(split, len(self.split))
    return rows

  def blocks(self, split: str, size: int = BLOCK_ROWS) -> Iterator[data_source.Rows]:
    """The rows of a split, a few at a time; then says which files are lost."""
    (index,) = np.nonzero(self.split == split)
    lost = []
    for start in range(0, len(index), size):
      part = index[start : start + size]
      frame, cache = self.frame.iloc[part], files.cache_folder("files")
      found = read_table_inputs(self.columns, frame, self.root, cache)
      lost.append(found.files)
      read = {name: getattr(found, name) for name in ("inputs", "length", "recorded", "texts")}
      yield self.small.take(part)._replace(**read)
    place, allow = f"{self.place}, split {split!r}", self.options.allow_missing_files
    lost_files.report_split(place, split, lost, allow)


def read_table(path: pathlib.Path, options: TableOptions) -> data_source.Source:
  """The source in a file, see `table_file`. ValueError names the file, the first thing that is
  wrong with it, and the option that helps."""
  frame, notes = table_file.read_frame(path)
  root = pathlib.Path(options.root or path.parent).expanduser().absolute()
  with data_source.name_file_in_errors(path, "a table"):
    check_at_least("image_size", options.image_size, 1)
    target = table_labels.choose_columns(frame, options.label)
    labels = tuple(target.columns) if target.ndim == 2 else (target.name,)
    given = parse_pairs("columns", options.columns)
    roles = column_roles.read_roles(frame, given, labels, root)
    task, words = table_labels.read_task(target, options.task)
    if task.kind == "multilabel":
      sets, _ = label_sets.read_sets(target)
      roles = tuple(column_roles.ignore_names_of_labels(r, frame[r.name], sets) for r in roles)
    groups = column_roles.group_columns(
      roles, parse_pairs("modalities", options.groups), bool(options.features)
    )
    named = {role.role: frame[role.name] for role in roles}  # id, group and split are there once
    label, labelled = table_labels.encode_labels(target, task)
    small = data_source.Rows(
      inputs={},
      length={},
      recorded=np.ones((len(frame), 0), bool),
      label=label,
      id=table_labels.number_ids(named.get("id"), len(frame)),
      group=row_names.number_groups(cells.read_texts(named["group"])) if "group" in named else None,
      labelled=labelled,
      key=np.array(cells.read_texts(named["id"]), object) if "id" in named else None,
    )
    given_split = table_labels.read_split(named["split"]) if "split" in named else None
    split, unlabelled = splits.assign_split(small, task, given_split, options.split_seed, frame)
    read = {column for columns in groups.values() for column in columns}
    file_roles = [r.name for r in roles if r.role in column_roles.FILE_ROLES and r.name in read]
    identity = [check_files(frame[name], root, options) for name in file_roles]
    columns = fit_columns(frame[split == "train"], roles, groups, root, options, labels)
    task, unit = fit_scale(task, label[labelled & (split == "train")], options.scale)
  lines = [f"{words.removesuffix('.')}{cells.describe_missing([frame[name] for name in labels])}."]
  if target.ndim == 1:
    lines += table_labels.describe_copies(frame[split == "train"], roles, target, task)
  lines += [*column_roles.describe_roles(frame, roles, groups), *unit, *unlabelled]
  lines += columns.describe_differences(frame)  # rare levels, as no column differs
  for column in (column for every in columns.columns.values() for column in every):
    lines += row_names.describe_alike(f"values of column {column.name}", column.levels)
  if guessed := next((role.name for role in roles if role.reason), None):
    lines.append(f'a guess is corrected by columns, as --columns "{guessed}=ignore".')
  own = Table(str(path), frame, root, columns, split, small, options)
  content = images.hash_files(table_file.find_files(path))
  image_bytes = sum(np.prod(m.shape) for m in columns.modalities if m.kind == "image")
  return data_source.Source(
    name=path.stem.replace("*", "").strip("_-. ") or "table",
    card=f"Table {path.name}, {len(frame)} rows.",
    modalities=columns.modalities,
    task=task,
    splits=data_source.SPLITS,
    rows=own.rows,
    place=str(path),
    notes=(*notes, *(f"{path.name}: {line}" for line in lines)),
    blocks=own.blocks,
    identity=f"{path.resolve()} {content} {options} {identity}",
    train_bytes=int(2 * image_bytes * np.sum(split == "train")),
    columns=columns,
    guesses={} if "split" in named else {data_source.DRAWN: data_source.SAY_SPLIT},
  )


def check_files(values: pd.Series, root: pathlib.Path, options: TableOptions) -> str:
  """A text that changes when the files that cells name do. ValueError where a path leads out of
  `root`, or too many files do not exist."""
  found = cells.read_files(values, root)
  paths = [path for path in found if isinstance(path, pathlib.Path)]
  lost = [path for path in paths if not os.path.isfile(path)]  # False for names that are too long
  if lost:
    line = (
      f"{values.name}: {len(lost)} of {len(paths)} files are missing, as {shorten(str(lost[0]))}"
    )
    lost_files.check_share(line, len(lost), len(paths), options.allow_missing_files)
  return images.hash_files(found) if paths else ""


def fit_columns(
  train: pd.DataFrame,
  roles: tuple[column_roles.Role, ...],
  groups: Mapping[str, tuple[str, ...]],
  root: pathlib.Path,
  options: TableOptions,
  labels: tuple[str, ...],
) -> TableColumns:
  """What a model reads of the columns, learnt from the train rows."""
  role_of = {role.name: role.role for role in roles}
  sizes = options.image_size, options.vocabulary
  fitted = {
    name: fit_modality(name, train, {c: role_of[c] for c in columns}, root, *sizes)
    for name, columns in groups.items()
  }
  read = {column for columns in groups.values() for column in columns}
  return TableColumns(
    modalities=tuple(modality for modality, _ in fitted.values()),
    columns={name: columns for name, (_, columns) in fitted.items()},
    labels=labels,
    id=next((role.name for role in roles if role.role == "id"), ""),
    unread=tuple(role.name for role in roles if role.name not in read and role.role != "id"),
  )


def fit_scale(task: Task, train_label: np.ndarray, scale: float | None) -> tuple[Task, list[str]]:
  """The task with unit and centre of a regression label, and a sentence on it."""
  if task.kind != "regression":
    return task, []
  low, high = scaling.plausible_range(train_label[:, None])
  likely = train_label[(train_label >= low) & (train_label <= high)]
  unit = float(np.std(likely, dtype=np.float64)) if scale is None else float(scale)
  if not 0 < unit < np.inf:
    raise ValueError(f"scale is {unit}, expected is a positive number.")
  words = "given" if scale is not None else "its deviation in train; scale says otherwise"
  center = float(np.median(train_label))
  return task._replace(scale=unit, center=center), [f"unit of the label: {unit:.4g}, {words}."]


def parse_pairs(option: str, value: Mapping[str, str] | str) -> dict[str, str]:
  """{"a": "b", "c": "d"} of the text "a=b,c=d", which may stand in parentheses."""
  if not isinstance(value, str):
    return dict(value)
  pairs = {}
  for part in value.removeprefix("(").removesuffix(")").split(","):
    name, equals, meaning = map(str.strip, part.partition("="))
    if part.strip() and not equals:
      raise ValueError(f"{option} has {part.strip()!r}, expected is name=value, joined by commas.")
    if name in pairs:
      raise ValueError(f"{option} has {name!r} twice.")
    pairs |= {name: meaning} if name else {}
  return pairs
