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


def test_flags_of_a_column_with_an_empty_cell():
  found = new_values.read_flags({"present_a": np.array([1.0, 0.0, np.nan])}, "present_a", 3)
  assert found.tolist() == [True, False, True]
