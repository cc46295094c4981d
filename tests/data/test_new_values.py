"""Cells of new rows: numbers are read as Python reads them, and nothing else is taken for one."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pytest

from promise_jax.data import new_values
from promise_jax.types import Modality

NAN = float("nan")


def test_numbers_are_those_of_python_and_what_is_missing_is_nan():
  cells = ["1.5", " -2e3 ", "1_000", "1e999", "-inf", "٣", True, 7, np.float16(2), None, NAN]
  cells += ["", "N/A", "NA", " null ", pd.NA, pd.NaT, decimal.Decimal("2.5"), "nan"]
  want = [NAN if new_values.is_missing(cell) else float(cell) for cell in cells]
  found = new_values.read_numbers(np.array(cells, object))
  assert found.dtype == np.float32 and np.isnan(found).sum() == 9
  np.testing.assert_array_equal(found, np.array(want, np.float32))


@pytest.mark.parametrize(
  "cell",
  [1j, np.complex64(1), "1,5", "x", [1], {1}, b"x", 10**400]
  + [np.datetime64(9, "ns"), np.timedelta64(9, "ns"), datetime.date(2026, 1, 1)]
  + [pd.Timestamp("2026-01-01"), pd.Timedelta(1, "s")],
)
def test_a_cell_that_is_no_number_is_refused(cell):
  column = np.array([1.0, None], object)
  column[1] = cell
  with pytest.raises(ValueError, match="no real numbers|a cell is no number"):
    new_values.read_numbers(column)


@pytest.mark.parametrize("dtype", ["c8", "M8[ns]", "m8[s]", "i4,f4"])
def test_columns_of_dates_and_complex_numbers_are_refused(dtype):
  values = np.zeros(3, dtype)
  with pytest.raises(ValueError, match="no real numbers"):
    new_values.read_numbers(values)
  vector = Modality("v", "vector", (3,))
  with pytest.raises(ValueError, match="no real numbers"):
    new_values.read_cell(vector, values, 0)


def test_a_masked_array_is_refused_and_one_without_a_mask_read():
  values = np.ma.masked_array([1.0, 2.0], [False, True])
  with pytest.raises(ValueError, match="an array is masked"):
    new_values.as_column(values)
  assert new_values.as_column(np.ma.masked_array([1.0, 2.0])).tolist() == [1, 2]


def test_token_ids_with_fractions_are_refused():
  tokens = Modality("t", "tokens", (2,), 9)
  with pytest.raises(ValueError, match="ids of tokens are whole numbers"):
    new_values.read_modality({"t": np.array([[1.0, 2.5]])}, tokens, False, 1)


def test_a_modality_that_lacks_takes_no_memory():
  photo = Modality("p", "image", (64, 64, 3))
  rows, here, _ = new_values.read_modality({}, photo, False, 4096)
  assert rows.shape == (4096, 64, 64, 3) and rows.base.nbytes == 64 * 64 * 3 and not here.any()


def test_flags_may_be_floats_and_not_be_given_but_no_cell_is_empty():
  flags = lambda *cells: new_values.read_flags({"f": np.array(cells)}, "f", len(cells)).tolist()
  assert flags(1.0, 0.0) == flags(None, False) == flags("true", "0") == [True, False]
  for cell in (NAN, "", pd.NA):
    with pytest.raises(ValueError, match="f has an empty cell, expected: true and false"):
      new_values.read_flags({"f": np.array([True, cell], object)}, "f", 2)


ABSENT = [np.array(["x", "y"]), [1, 2], {"a": 1}, "x", 3.5, b"", [[1, [2]]], None]


@pytest.mark.parametrize("form", ["cells", "columns", "dates", "another width"])
def test_what_is_marked_absent_is_not_read(form):
  vector, count = Modality("v", "vector", (3,)), len(ABSENT)
  columns = {
    "cells": {"v": new_values.as_column([[1.0, 2, 3], *ABSENT])},
    "columns": {f"v_{i}": new_values.as_column([i + 1, *ABSENT]) for i in range(3)},
    "dates": {"v_0": np.zeros(count + 1, "M8[s]")},
    "another width": {"v": np.zeros((count + 1, 4), "M8[s]")},
  }[form]
  has_first = form in ("cells", "columns")
  flags = np.arange(count + 1) < has_first
  rows, here, _ = new_values.read_modality(columns | {"present_v": flags}, vector, False, count + 1)
  assert here.tolist() == flags.tolist() and len(rows) == count + 1
  np.testing.assert_array_equal(rows[0], [1, 2, 3] if has_first else [0, 0, 0])
  if has_first:
    with pytest.raises(ValueError):
      new_values.read_modality(columns, vector, False, count + 1)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3)])
def test_arrays_of_arrays_are_read_as_nested_lists(shape, tmp_path):
  """As Parquet files have them: an array of objects on every level but the last."""
  rng = np.random.default_rng(0)
  kind = {2: "sequence", 3: "image"}[len(shape)]
  values = rng.integers(0, 256, (2, *shape)).astype(np.uint8 if kind == "image" else np.float32)
  pd.DataFrame({"m": values.tolist()}).to_parquet(tmp_path / "rows.parquet")
  cells = pd.read_parquet(tmp_path / "rows.parquet")
  assert cells["m"][0].dtype == object
  rows, here, _ = new_values.read_modality(cells, Modality("m", kind, shape), False, 2)
  np.testing.assert_array_equal(rows, values)
  assert here.all()


def test_two_names_of_one_modality_are_refused():
  both = {"v": np.zeros((1, 3)), "x_v": np.zeros((1, 3))}
  with pytest.raises(ValueError, match="v and x_v are both given"):
    new_values.read_modality(both, Modality("v", "vector", (3,)), False, 1)
