"""Tables to be spoilt: the columns of a good one, and what writes them."""

import pandas as pd

N = 40


def rows(**changed):
  """Columns of a good table; None drops one."""
  good = {
    "size": [f"{i % 7}.5" for i in range(N)],
    "name": [f"thing {i} of {i % 3}" for i in range(N)],
    "kind": ["abc"[i % 3] for i in range(N)],
  }
  return {k: v for k, v in (good | changed).items() if v is not None}


def with_value(values, place, value):
  values = list(values)
  values[place] = value
  return values


def write(folder, columns):
  """Writes own.csv of columns, or of a text or bytes."""
  path = folder / "own.csv"
  if isinstance(columns, dict):
    pd.DataFrame(columns).to_csv(path, index=False)
  else:
    path.write_bytes(columns if isinstance(columns, bytes) else columns.encode())
  return path


SPLIT = ["train"] * 24 + ["valid"] * 8 + ["test"] * 8
PHOTOS = [f"photos/{i % 4}.png" for i in range(N)]  # 0, 1 and 2 exist
VALUES = [f"{i % 7 + 0.25}" for i in range(N)]
