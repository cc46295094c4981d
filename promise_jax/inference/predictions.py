"""Writes the predictions of a file of rows into a table, in constant memory."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from tqdm import tqdm

from promise_jax import files
from promise_jax.checks import check_choice
from promise_jax.inference.predictor import Block, Predictor


def write_predictions(
  predictor: Predictor, rows: Any, path: pathlib.Path, coverage: float | None = None
) -> int:
  """Writes a line a row into `path`, *.csv or *.parquet, whole or not at all; returns their number.

  `rows` are as `data.new_rows` describes. A column holds sets of classes, or an interval, of this
  `coverage`; without it there is none. ValueError for what cannot be read or is not allowed.
  """
  check_choice("the ending of --out", path.suffix, (".csv", ".parquet"))
  if not path.parent.is_dir():
    raise ValueError(f"--out: the folder {path.parent} does not exist")
  if isinstance(rows, str | os.PathLike) and path.exists() and path.samefile(rows):
    raise ValueError(f"--out is {path}, the file of the rows, which would be lost; give another")
  count = 0
  with files.write_whole(path) as temporary, contextlib.ExitStack() as stack:
    write = stack.enter_context(WRITERS[path.suffix](temporary))
    progress = stack.enter_context(tqdm(unit=" rows", disable=None))  # on a terminal alone
    for block in predictor.iterate_blocks(rows):
      write(tabulate_block(predictor, block, coverage))
      count += len(block.ids)
      progress.update(len(block.ids))
  return count


def tabulate_block(
  predictor: Predictor, block: Block, coverage: float | None = None
) -> pd.DataFrame:
  """The predictions of some rows: id, what is predicted, the probabilities, what was present."""
  kind, names = predictor.spec.task.kind, np.array(predictor.classes, object)
  served, table = predictor.tabulate(block, coverage), pd.DataFrame({"id": block.ids})
  if kind == "regression":
    columns = ["value", "low", "high"] if coverage is not None else ["value"]
    table[columns] = served[columns].to_numpy()
  else:
    values = served.iloc[:, : len(names)].to_numpy(float)
    if kind == "classes":
      table["class"] = names[values.argmax(axis=1)]
      table["probability"] = values.max(axis=1)
    else:
      table["labels"] = join_names([names[row] for row in values > 0.5], names)
    if coverage is not None:
      table["set"] = join_names(served.iloc[:, -1], names)
    table[[f"p_{name}" for name in names]] = values
  modalities = np.array(predictor.modalities, object)
  table["present"] = join_names([modalities[row] for row in block.split.recorded], modalities)
  return table


def join_names(chosen: Iterable[Sequence[str]], names: Sequence[str]) -> list[str]:
  """The `chosen` of some names, as "text+photo"; as JSON lists if one of `names` has a +."""
  if any("+" in name for name in names):
    return [json.dumps([*row], ensure_ascii=False) for row in chosen]
  return ["+".join(row) for row in chosen]


@contextlib.contextmanager
def open_csv(path: pathlib.Path) -> Iterator:
  """A function that appends a DataFrame to a CSV file."""
  with open(path, "w", encoding="utf-8", newline="") as file:
    yield lambda table: table.to_csv(
      file, index=False, header=file.tell() == 0, float_format="%.7g"
    )


@contextlib.contextmanager
def open_parquet(path: pathlib.Path) -> Iterator:
  """A function that appends a DataFrame to a Parquet file."""
  with contextlib.ExitStack() as stack:
    writers = []

    def write(table: pd.DataFrame) -> None:
      content = pa.Table.from_pandas(table, preserve_index=False)
      if not writers:
        writers.append(stack.enter_context(pa.parquet.ParquetWriter(path, content.schema)))
      writers[0].write_table(content)

    yield write


WRITERS = {".csv": open_csv, ".parquet": open_parquet}
