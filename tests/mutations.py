"""Spoils bytes, arrays, tables and JSON at random, for tests that throw them at every door."""

import copy
import datetime
import decimal
import warnings

import h5py
import numpy as np
import pandas as pd

DEEP = []
for _ in range(70):
  DEEP = [DEEP]
CELLS = (
  *(None, float("nan"), float("inf"), 1e300, -1e39, 10**400, 2**63, -(2**40), -1, 7, 0.5, True),
  *("", " ", "NA", "1e999", "x\0y", "\ud800", "ü漢 " * 3, "a" * 100_000, "word " * 3000, "1,5"),
  *("[1, 2", "[NaN]", "[[1], [2, 3]]", "[" * 5000, "{}", '"a"', "1" * 5000, b"\xff\0", b"", 1j),
  *([], [1, "a"], [[1], [2, 3]], DEEP, {}, {"bytes": b"a"}, {1}, range(3), object(), len),
  *(np.datetime64("2026-01-01"), np.timedelta64(1, "s"), pd.NaT, pd.NA),
  *(datetime.date(2026, 1, 1), decimal.Decimal("NaN"), decimal.Decimal(2), np.float16(1)),
  *(np.zeros(0), np.zeros((2, 3, 4)), np.array("a"), np.zeros(2, "i4,f8"), np.array([None, 1])),
  *(np.ma.masked, np.array(["a", "b"]), [1e400, -1], np.full((2, 2), np.nan), float),
)
DTYPES = ("?", "i1", "u8", "f2", "f4", ">f8", "c16", "U3", "S9", "O", "M8[s]", "m8[D]", "i4,f8")
JSON = (None, True, -1, 0, 1e30, 2**70, float("nan"), "", "x", "\0", "a" * 300, [], [[]], {})
NUMBERS = (np.nan, np.inf, -np.inf, 1e300, -1e39, 2**63, -1, 0, 300)

# What files hold. (pyarrow crashes as it writes NumPy scalars and NaT among others.)
PLAIN = (str, bytes, bool, int, float, list, dict, type(None), datetime.date)


def pick(rng, values):
  """One of some values."""
  return values[rng.integers(len(values))]


def spoil_bytes(rng, content: bytes) -> bytes:
  """A file with bytes flipped, cut out, doubled or put in."""
  data, place = bytearray(content), int(rng.integers(len(content)))
  size = int(2 ** rng.uniform(0, 8))
  kind = rng.integers(6)
  if kind == 0:
    return bytes(data[:place])
  if kind == 1:
    data[place : place + size] = data[place : place + size] * 2
  elif kind == 2:
    del data[place : place + size]
  elif kind == 3:
    data[place:place] = pick(rng, (b"\0", b"\n", b'"', b"\xff\xfe", b"-", b"9", b",,", b"\r")) * 3
  elif kind == 4:
    data = bytearray(
      pick(rng, (b"", b"\x89HDF\r\n\x1a\n" + bytes(99), b"PK\3\4", b"\xff\xfe", b"{}"))
    )
  else:
    for index in rng.integers(len(data), size=size):
      data[index] ^= 1 << int(rng.integers(8))
  return bytes(data)


def spoil_array(rng, values: np.ndarray) -> tuple[object, np.ndarray]:
  """A column in another form, or with some cells spoilt; and which rows have changed, bool[N]."""
  every, none = np.ones(len(values), bool), np.zeros(len(values), bool)
  kind = rng.integers(16)
  if kind < 6 or (kind == 6 and values.dtype.kind not in "iuf"):
    cells, changed = list(values), none.copy()
    for row in rng.integers(max(len(values), 1), size=pick(rng, (1, 1, 3)) if len(values) else 0):
      cells[row], changed[row] = pick(rng, CELLS), True
    column = np.empty(len(cells), object)
    column[:] = cells
    return pick(rng, (column, cells)), changed
  if kind < 8 and values.dtype.kind in "iuf":
    flat = values.astype(pick(rng, (values.dtype, "f8"))).reshape(len(values), -1)
    row = int(rng.integers(max(len(values), 1)))
    with np.errstate(all="ignore"):
      flat[row : row + 1, :: pick(rng, (1, 2))] = np.array(pick(rng, NUMBERS)).astype(flat.dtype)
    return flat.reshape(values.shape), np.arange(len(values)) == row
  with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
    try:
      converted = values.astype(pick(rng, DTYPES))
    except (TypeError, ValueError, OverflowError):
      converted = values.astype("O")
  same = (
    np.asfortranarray(values),
    values.tolist(),
    tuple(values),
    values.astype(object),
    values.astype(values.dtype.newbyteorder(">")),
    pd.Series(list(values), index=rng.permutation(len(values)) - 3, dtype=object),
    np.ma.masked_array(values),
  )
  other = (
    values[:-1],
    np.concatenate([values, values]),
    values[:0],
    values[None],
    values[..., None, None],
    values.reshape(len(values), -1)[:, :1],
    values.reshape(-1),
    np.ma.masked_array(values, np.ones(values.shape, bool)),
    values[::-1],
    pick(rng, CELLS),
    np.array(pick(rng, CELLS), dtype=object),
    dict(enumerate(values)),
    iter(values),
  )
  if kind < 10:
    return pick(rng, same), none
  return (converted if kind < 13 else pick(rng, other)), every


def spoil_columns(rng, columns: dict) -> tuple[dict, np.ndarray]:
  """Columns of which one or two are spoilt, lack or are called otherwise; and the changed rows."""
  columns, count = dict(columns), len(next(iter(columns.values())))
  changed = np.zeros(count, bool)
  for _ in range(pick(rng, (1, 1, 2))):
    name = pick(rng, list(columns))
    kind = rng.integers(12)
    if kind == 0:
      values = columns.pop(name)
      columns[pick(rng, ("x", None, 3, ("x_v", 1), "x_v\0", "ü", "x_v " * 999, "classes", "y"))] = (
        values
      )
      changed[:] = True
    elif kind == 1 and len(columns) > 1:
      del columns[name]
      changed[:] = True
    elif isinstance(columns[name], np.ndarray):
      columns[name], found = spoil_array(rng, columns[name])
      changed |= found if len(found) == count else True
  return columns, changed


def spoil_json(rng, value):
  """JSON in which a value somewhere is another, lacks, or is there twice."""
  value = copy.deepcopy(value)
  parent, key, here = None, None, value
  while isinstance(here, dict | list) and here and (parent is None or rng.random() < 0.85):
    parent, key = here, pick(rng, list(here) if isinstance(here, dict) else range(len(here)))
    here = parent[key]
  kind = rng.integers(5)
  if kind == 0:
    del parent[key]
  elif kind == 1 and isinstance(parent, list):
    parent.append(here)
  elif kind == 2 and isinstance(here, int | float):
    parent[key] = -here if rng.random() < 0.5 else here * 10 + 1
  else:
    parent[key] = pick(rng, JSON)
  return value


def write_hdf5(path, arrays):
  """Writes arrays into an HDF5 file, a key each."""
  with h5py.File(path, "w") as file:
    for name, values in arrays.items():
      values = np.asarray(values)
      file[name] = values.astype("S") if values.dtype.kind == "U" else values


def write_columns(path, columns) -> bool:
  """Writes a file of columns; False where there is no such file."""
  try:
    if path.suffix == ".npz":
      np.savez(path, **columns)
      return True
    if path.suffix == ".h5":
      write_hdf5(path, columns)
      return True
    as_list = lambda x: x.tolist() if isinstance(x, np.ndarray) else list(x)
    plain = {
      n: [v if isinstance(v, PLAIN) else str(v) for v in as_list(columns[n])] for n in columns
    }
    table = pd.DataFrame(plain)
    if path.suffix == ".parquet":
      table.to_parquet(path)
    elif path.suffix == ".feather":
      table.to_feather(path)
    else:
      table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return True
  except Exception:
    return False
