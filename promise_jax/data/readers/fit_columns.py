"""Fits `TableColumns` on the train rows of a table: means, levels, shapes."""

import pathlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from promise_jax.data import scaling
from promise_jax.data.readers import cells, sound
from promise_jax.data.readers.column_roles import FILE_ROLES
from promise_jax.data.readers.table_columns import Column, encode_attributes, load_array
from promise_jax.types import Modality

MIN_COUNT = 2  # train rows of a level; what is rarer is "other", which so is trained too
LEVEL_LIMIT = 1000  # the most frequent levels that are kept


def fit_column(values: pd.Series, role: str) -> Column:
  """A column as the train rows `values` have it."""
  name, has_missing = values.name, bool(cells.find_missing(values).any())
  if role == "number":
    numbers = cells.read_numbers(values)
    low, high = scaling.plausible_range(np.where(np.isfinite(numbers), numbers, np.nan)[:, None])
    known = numbers[(numbers >= low) & (numbers <= high)]
    mean = float(np.float32(known.mean())) if len(known) else 0.0
    return Column(name, role, mean=mean, has_missing=has_missing)
  if role == "category":
    counts = pd.Series(cells.read_texts(values), dtype=object).value_counts()
    frequent = counts[counts >= MIN_COUNT].index[:LEVEL_LIMIT]
    return Column(name, role, levels=tuple(sorted(frequent)), has_missing=has_missing)
  return Column(name, role)


def fit_modality(
  name: str,
  train: pd.DataFrame,
  roles: Mapping[str, str],
  root: pathlib.Path,
  image_size: int,
  vocabulary: int,
) -> tuple[Modality, tuple[Column, ...]]:
  """The modality made of the columns in `roles` {column: role}. ValueError for a column of files
  beside others, or arrays of a wrong shape."""
  found = set(roles.values())
  if found.intersection(FILE_ROLES) and len(roles) > 1:
    raise ValueError(
      f"modality {name} has {', '.join(roles)}, but files are a modality of their own: "
      "name another by modalities."
    )
  if "text" in found:  # numbers beside texts are read as texts
    roles = dict.fromkeys(roles, "text")
  columns = tuple(fit_column(train[column], role) for column, role in roles.items())
  if "text" in found:
    return Modality(name, "tokens", (None,), vocabulary), columns
  if "image" in found:
    return Modality(name, "image", (image_size, image_size, 3)), columns
  if "sound" in found:
    return Modality(name, "sequence", (None, sound.BANDS)), columns
  if "array" not in found:
    return Modality(name, "vector", (encode_attributes(columns, train[:0]).shape[1],)), columns
  contents = cells.read_files(train[columns[0].name], root)
  first = next((x for c in contents if (x := load_array(c)) is not None), None)
  if first is None or first.ndim not in (1, 2):
    shape = "none can be read" if first is None else f"the first has the shape {first.shape}"
    raise ValueError(f"column {columns[0].name}: arrays [D] or [T, D] are expected, {shape}.")
  if first.ndim == 1:
    return Modality(name, "vector", first.shape), columns
  return Modality(name, "sequence", (None, first.shape[1])), columns
