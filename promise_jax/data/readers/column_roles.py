"""The role of each column of a table: as it is given, else guessed from its name and cells.

number, category, text  what a model reads, together with other columns
image, sound, array     paths of images, sounds and *.npy files, or their bytes and numbers
id, group, split        what a row is called, belongs to, is used for
ignore                  not read
"""

import datetime
import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from promise_jax.checks import check_choice
from promise_jax.data.readers import cells, label_sets, sound
from promise_jax.data.source import list_first

FILE_ROLES = ("image", "sound", "array")
INPUT_ROLES = ("number", "category", "text", *FILE_ROLES)
ROLES = (*INPUT_ROLES, "id", "group", "split", "ignore")
SPLIT_NAMES = {
  **dict.fromkeys(("train", "training"), "train"),
  **dict.fromkeys(("valid", "validation", "val", "dev"), "valid"),
  **dict.fromkeys(("test", "testing"), "test"),
}
MAX_LEVELS = 100  # a column of texts with more values is no category
MAX_LINES = 40
SURE, LIKELY = 0.5, 0.8  # part of the cells that must look like paths, or like numbers
LEADING_ZERO = re.compile(r"0\d")
# Not $3.50, 1,200 or 5%: a word with a comma needs a letter.
ID_WORD = re.compile(r"[\w.:/#-]*\d[\w.:/#-]*|(?=.*[^\W\d])[\w.,:/#-]*\d[\w.,:/#-]*")
MONTH = r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*\.?"
DATE = re.compile(
  r"\d{4}[-/]\d\d?[-/]\d\d?([T ]\d\d?:\d\d.*)?|\d\d?[./]\d\d?[./](\d\d)?\d\d( \d\d?:\d\d.*)?"
  r"|(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
  r"|\d\d?:\d\d(:\d\d(\.\d+)?)?( ?[AaPp]\.?[Mm]\.?)?"
  rf"|{MONTH} \d\d?,? \d{{4}}.*|\d\d?\.?[ -]{MONTH}[ -](\d\d)?\d\d.*"
)
SAY_DATES = "dates and times are not read; numbers are, as days since one of them"
UNIT = re.compile(r"[<>~≈±−+€$£¥ ]{0,3}\d[\d.,]*(\s?[%‰€$£¥°]\w?|\s[a-zA-Zµ]{1,3})?")
LIST = re.compile(r"[\[({].*[\])}]", re.DOTALL)


class Role(NamedTuple):
  """The role of a column."""

  name: str
  role: str  # one of ROLES
  reason: str = ""  # why it was guessed; "" if it was given


def read_roles(
  table: pd.DataFrame, given: Mapping[str, str], labels: tuple[str, ...], root: pathlib.Path
) -> tuple[Role, ...]:
  """The role of every column but the `labels`. ValueError where a column or role in `given` is
  unknown, or a cell does not fit its role."""
  names = [name for name in table.columns if name not in labels]
  for name, role in given.items():
    check_choice("a column in columns", name, names)
    check_choice(f"columns, {name}", role, ROLES)
    if role == "number":
      cells.read_numbers(table[name])  # raises for a text, in whatever split it is
  roles = []
  for name in names:
    taken = {*given.values(), *(role.role for role in roles)}
    role = Role(name, given[name]) if name in given else guess_role(table[name], taken, root)
    roles.append(role)
  for single in ("id", "group", "split"):
    found = [role.name for role in roles if role.role == single]
    if len(found) > 1:
      raise ValueError(
        f"columns {' and '.join(found)} are both {single}, one can be: columns={found[1]}=ignore."
      )
  return tuple(roles)


def guess_role(values: pd.Series, taken: set[str], root: pathlib.Path) -> Role:
  """The role of a column, by its name and then by its cells.

  `taken` are roles that another column has, of which id, group and split can be had once.
  """
  name, word = values.name, values.name.lower()
  guess = lambda role, reason: Role(name, role, reason)
  known = values[~cells.find_missing(values)]
  if not len(known):
    return guess("ignore", "all its cells are empty")
  first = known.iloc[0]
  if isinstance(first, dict) and not {"bytes", "path"} & {*first}:
    return guess("ignore", "it holds records")
  if isinstance(first, dict | bytes):
    return guess("image", "it holds files")
  is_list = isinstance(first, list | np.ndarray)
  if is_list and not all(isinstance(item, str) for item in first):
    return guess("array", "it holds arrays")
  if isinstance(first, datetime.date | datetime.time | datetime.timedelta):
    return guess("ignore", SAY_DATES)
  texts = cells.read_texts(known)
  num_values, complete = len(set(texts)), len(known) == len(values)
  if word == "split" and "split" not in taken and {t.lower() for t in texts} <= {*SPLIT_NAMES}:
    return guess("split", "its name and its values say so")
  if word == "group" and "group" not in taken:
    return guess("group", "its name says so")
  if re.fullmatch(r"id|uuid", word) or (re.search(r"[_ -]id$", word) and num_values == len(values)):
    return guess("ignore" if "id" in taken else "id", "its name says that it is an id")
  if num_values == 1 and complete:
    return guess("ignore", f"all its cells are {cells.quote(texts[0])}")
  if path_role := guess_path_role(name, texts, root):
    return guess(*path_role)
  if all(map(DATE.fullmatch, texts)):
    return guess("ignore", SAY_DATES)
  numbers = cells.parse_numbers(values)
  if numbers[0] in (0, 1) and np.array_equal(numbers, numbers[0] + np.arange(len(numbers))):
    return guess("ignore" if "id" in taken else "id", "it counts the rows")
  part = np.sum(~np.isnan(numbers)) / len(known)
  # Codes such as 00123 would lose their zeros.
  is_code = isinstance(first, bool | np.bool_) or any(map(LEADING_ZERO.match, texts))
  if part > LIKELY and not is_code:
    advice = f", as {part:.0%} of the cells are; correct it, or say what {name} is by columns"
    cells.read_numbers(known, advice)
    return guess("number", "all its cells are numbers")
  if num_values <= min(MAX_LEVELS, len(known) / 2):
    return guess("category", f"{num_values} different values")
  if all(map(UNIT.fullmatch, texts)):
    words = f"it has signs or units, as {cells.quote(texts[0])}"
    return guess("text", f"{words}; numbers alone would be numbers")
  if all(map(LIST.fullmatch, texts)):
    return guess("ignore", "lists are not read from texts; a Parquet file can have them")
  if num_values == len(values) and all(map(ID_WORD.fullmatch, texts)):
    return guess("ignore" if "id" in taken else "id", "each row has one word of its own")
  return guess("text", f"{num_values} different values")


def ignore_names_of_labels(role: Role, values: pd.Series, sets: label_sets.Sets) -> Role:
  """`role`, or that of a column to ignore: lists of texts as long as the `sets` of labels, which
  are these in words."""
  pairs = zip(values.tolist(), sets, strict=True)
  both = [(cell, one) for cell, one in pairs if label_sets.is_list(cell) and one is not None]
  is_same = bool(both) and all(len(cell) == len(one) for cell, one in both)
  if role.reason and role.role in ("text", "category") and is_same:
    return Role(role.name, "ignore", "it has a text for each label")
  return role


def guess_path_role(name: str, texts: list[str], root: pathlib.Path) -> tuple[str, str] | None:
  """The role and the reason of a column in which most cells look like paths, else None. ValueError
  where none of the files exists."""
  role, paths = find_paths(texts)
  if not paths:
    return None
  if role == "ignore":
    return role, "sound of this kind is not read"
  if role == "sound" and importlib.util.find_spec("soundfile") is None:
    return "ignore", "sound is read by the package soundfile: pip install promise-jax[sound]"
  if any(os.path.isfile(cells.find_path(root, path)) for path in paths):
    return role, "paths of files that exist"
  raise ValueError(
    f"column {name!r} looks like paths of files, but {root / paths[0]} does not exist, nor any "
    f"other of them: the option root names their folder, columns={name}=text reads the names."
  )


def find_paths(texts: Sequence[str]) -> tuple[str, list[str]]:
  """Where at least half of the texts end as files do: the role of such files, and these texts."""
  endings = [os.path.splitext(text)[1].lower() for text in texts]
  Image.init()
  kinds = {"image": Image.EXTENSION, "array": (".npy",)}
  kinds |= {"sound": sound.ENDINGS, "ignore": sound.UNREAD}
  for role, known in kinds.items():
    paths = [text for text, ending in zip(texts, endings, strict=True) if ending in known]
    if len(paths) >= SURE * len(texts):
      return role, paths
  return "", []


def group_columns(
  roles: tuple[Role, ...], given: Mapping[str, str], has_others: bool = False
) -> dict[str, tuple[str, ...]]:
  """{modality: its columns}.

  Without `given` every column of files is a modality of its own, all texts are "text", all
  numbers and categories "attributes". `given` is {modality: columns joined by +}; * stands for
  the columns that no modality names. There need be no column if the data `has_others`. ValueError
  where a column is unknown or in two modalities, or a name is not of letters, digits and _."""
  inputs = {role.name: role.role for role in roles if role.role in INPUT_ROLES}
  if not inputs and not has_others:
    raise ValueError("no column is left to learn from: give roles by the option columns.")
  groups: dict[str, list[str]] = {}
  if not given:
    shared = {"text": "text", "number": "attributes", "category": "attributes"}
    for name, role in inputs.items():
      modality = shared.get(role) or re.sub(r"\W+", "_", name)
      if role not in shared and (modality in groups or modality in shared.values()):
        raise ValueError(f"two modalities would be called {modality!r}: name them by modalities.")
      groups.setdefault(modality, []).append(name)
    return {modality: tuple(names) for modality, names in groups.items()}
  named = {m: [c.strip() for c in columns.split("+")] for m, columns in given.items()}
  every = [column for columns in named.values() for column in columns]
  rest = [name for name in inputs if name not in every]
  for modality, columns in named.items():
    if not re.fullmatch(r"\w+", modality):
      raise ValueError(f"modality {modality!r} must be a name of letters, digits and _.")
    for column in columns:
      check_choice(f"a column of modality {modality}", column, (*inputs, "*"))
      if every.count(column) > 1:
        raise ValueError(f"modalities name {column} twice, a column belongs to one.")
    groups[modality] = [c for column in columns for c in (rest if column == "*" else [column])]
    if not groups[modality]:
      raise ValueError(
        f"modality {modality} has no columns: * stands for those left, there are none."
      )
  return {modality: tuple(names) for modality, names in groups.items()}


def describe_roles(
  table: pd.DataFrame, roles: tuple[Role, ...], groups: Mapping[str, tuple[str, ...]]
) -> list[str]:
  """A sentence on every column: its role, its modality, how much is missing, what was guessed.

  Where there are more than `MAX_LINES` columns, one on all columns that are alike.
  """
  owner = {column: modality for modality, columns in groups.items() for column in columns}
  alike: dict[tuple, list[str]] = {}
  for name, role, reason in roles:
    words = "ignored" if role == "ignore" else role
    if role in INPUT_ROLES:
      words += f" of modality {owner[name]}" if name in owner else ", in no modality, not read"
    alike.setdefault((words, reason, len(roles) > MAX_LINES or name), []).append(name)
  lines = []
  for (words, reason, _), names in alike.items():
    who = f"{len(names)} columns, {list_first(names)}" if names[1:] else f"column {names[0]}"
    words += cells.describe_missing([table[name] for name in names])
    lines.append(f"{who}: {words}" + (f"; guessed, {reason}" if reason else "") + ".")
  return lines
