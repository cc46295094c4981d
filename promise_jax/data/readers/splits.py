"""Which split each row is in: as it is given, or drawn; rows without a label train."""

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from promise_jax import counter_rng
from promise_jax.data.readers import cells, row_names
from promise_jax.data.source import SPLITS, Rows
from promise_jax.types import Task

SPLIT_ENDS = (0.6, 0.8)  # of the rows: where train ends, where valid ends
VALID_ENDS = (0.75, 1.0)  # of the train rows, where a given split has no valid ones
STRATUM = 10  # neighbouring regression labels of which each split takes its part


def assign_split(
  rows: Rows,
  task: Task,
  given: Shaped[np.ndarray, " N"] | None,
  seed: int,
  table: pd.DataFrame | None = None,
) -> tuple[Shaped[np.ndarray, " N"], list[str]]:
  """The split of every row, "" for none, and sentences on it.

  Where a given split has no valid rows, a quarter of the train rows are drawn as such.
  Rows without a label train, or are left out: where a given split has them in valid or test, or
  their group is there.
  `given` is the name of the split of every row; None: it is drawn, with `seed`. `table` is what the
  rows are of, for messages; None: an npz file. ValueError where a split is empty, or a group is in
  two.
  """
  labelled = np.ones(len(rows.id), bool) if rows.labelled is None else rows.labelled
  groups = rows.id if rows.group is None else rows.group
  where = "array" if table is None else "column"
  split, why = given, f"the {where} split has none with a label"
  if given is None:
    split = np.full(len(labelled), "train", "U5")
    count = len(np.unique(groups[labelled]))
    units = "rows" if rows.group is None else "groups"
    why = f"{count} {units} with a label are too few to draw it, give the {where} split"
  elif rows.group is not None:
    _, first, back = np.unique(groups, return_index=True, return_inverse=True)
    if cut := np.flatnonzero(split != split[first][back]).tolist():
      row = cells.name_row(table, cut[0])
      raise ValueError(
        f"{row} is of split {split[cut[0]]}, other rows of its group are of "
        f"{split[first][back][cut[0]]}, expected: one split for a group; "
        f"without the {where} split it is drawn."
      )
  is_drawn = "valid" not in split
  if is_drawn:
    ends, drawn = SPLIT_ENDS if given is None else VALID_ENDS, labelled & (split == "train")
    split = split.astype("U5")
    split[drawn] = draw_split(rows.take(drawn), task.kind, seed, ends)
    held_out = groups[drawn & (split != "train")]
    split[~labelled & np.isin(groups, held_out)] = ""
  split = np.where(labelled | (split == "train"), split, "")
  for name in SPLITS:
    if not np.any(labelled & (split == name)):
      raise ValueError(f"there are no {name} rows: {why}.")
  train, out = np.sum(~labelled & (split == "train")), np.sum(split == "")
  notes = [f"{train} rows without a label train as unlabelled rows."] if train else []
  notes += [f"{out} rows of valid or test have no label and are left out."] if out else []
  if is_drawn and given is not None:
    notes += ["the split has no valid rows: a quarter of the train rows are drawn as such."]
  notes += row_names.describe_alike("classes", task.names)
  if lost := [name for name in task.names if cells.is_missing(name)]:
    notes.append(f"{lost[0]!r} is read as a class; a row without a label has an empty one.")
  if rows.key is not None:
    ids = [key for key in rows.key if key is not None]
    notes += row_names.describe_alike("ids", ids)
    if rows.group is None:
      num_classes = task.outputs if task.kind == "classes" else 1
      notes += row_names.describe_ids(rows.key, split, num_classes)
  return split, notes


def draw_split(
  rows: Rows, task_kind: str, seed: int, ends: tuple[float, float] = SPLIT_ENDS
) -> Shaped[np.ndarray, " N"]:
  """Draws about 60 % train, 20 % valid and 20 % test, by id: file order does not matter.

  The units of a stratum are shuffled; unit r of n lies at (r + 1/2) / n and goes to train below
  the first of `ends`, to valid below the second. A unit is a group, with the label of its row
  with the lowest id. A stratum is a class, so that each class has a train row; ten neighbouring
  labels in regression; everything in multilabel. Ours.
  """
  order = np.argsort(rows.id)
  units = (rows.id if rows.group is None else rows.group)[order]
  units, first, back = np.unique(units, return_index=True, return_inverse=True)
  label = rows.label[order[first]]
  u = counter_rng.uniform(seed, "split", units, 1)[:, 0]
  stratum = np.zeros(len(units), np.int64)
  if task_kind == "classes":
    stratum = label
  elif task_kind == "regression":
    stratum[np.lexsort((units, label))] = np.arange(len(units)) // STRATUM
  position = np.empty(len(units))
  for value in np.unique(stratum):
    (members,) = np.nonzero(stratum == value)
    shuffled = members[np.lexsort((units[members], u[members]))]
    position[shuffled] = (np.arange(len(members)) + 0.5) / len(members)
  split = np.empty(len(order), "U5")
  split[order] = np.array(SPLITS)[np.searchsorted(ends, position, side="right")][back]
  return split
