"""What the plots show, in numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from made_up_results import PATTERNS, STILL, UPPER, frame, training_log
from promise_jax.reports import points, tables

STD = 0.1 * np.sqrt(2)  # of two values 0.2 apart


def values_of(found: pd.DataFrame) -> dict:
  """{(row, series): [value, low, high]}, undefined ones as None."""
  numbers = found[["value", "low", "high"]].astype(object)
  rows = numbers.where(numbers.notna(), None).to_numpy().tolist()
  return dict(zip(zip(found["row"], found["series"], strict=True), rows, strict=True))


def test_cells_are_shown_with_their_std():
  table = tables.pattern_table(frame(PATTERNS), "accuracy", ["robult", "fusion"])
  found = values_of(points.table_points(table))
  methods = ("robult", "fusion")
  assert [*found] == [(p, m) for p in ("text", "audio", "text + audio") for m in methods]
  assert found["text", "robult"] == pytest.approx([0.6, 0.6 - STD, 0.6 + STD])
  assert found["audio", "fusion"] == pytest.approx([0.2, 0.2, 0.2])


def test_one_seed_has_no_interval_and_a_lacking_cell_no_dot():
  lines = [x for x in PATTERNS if x["seed"] == 0]
  found = values_of(
    points.table_points(tables.pattern_table(frame(lines), "accuracy", ["robult", "other"]))
  )
  assert len(found) == 3 and found["text", "robult"] == [0.5, None, None]


@pytest.mark.parametrize(
  ("sign", "values", "far"),
  [
    (1, {"a": (0.7, 0.8), "b": (0.65, 0.7), "constant": (0.1, 0.1)}, ["constant"]),
    (1, {"a": (0.7, 0.8), "constant": (0.62, 0.62)}, []),  # 8 points behind 10
    (1, {"constant": (0.1, 0.1), "worse": (0.0, 0.0), "a": (0.7, 0.8)}, ["constant"]),
    (-1, {"a": (0.5, 0.6), "constant": (1.2, 1.3)}, ["constant"]),
    (-1, {"constant": (0.5, 0.6), "a": (0.61, 0.65)}, []),
    (1, {"a": (0.8,), "b": (0.7,)}, []),  # one row spans nothing
    (1, {"a": (0.8, 0.7), "b": (np.nan, np.nan)}, []),
  ],
)
def test_a_series_far_behind_the_others_is_split_off(sign, values, far):
  given = [
    {"row": str(i), "series": name, "value": v}
    for name, own in values.items()
    for i, v in enumerate(own)
  ]
  near, found = points.split_far(pd.DataFrame(given), sign)
  assert found[: len(far)] == far and bool(found) == bool(far)
  assert set(near["series"]) == set(values) - set(found)


def test_terms_of_the_log_are_means_over_seeds():
  log = [training_log("a", step, seed, valid=v) for step, seed, v in ((0, 0, 0.5), (9, 0, 0.6))]
  log += [training_log("a", 9, 1, valid=0.8), training_log("a", 0, 1, valid=None)]
  found = values_of(points.log_points(pd.DataFrame(log), "valid"))
  assert found[0, "a"] == [0.5, None, None]
  assert found[9, "a"] == pytest.approx([0.7, 0.7 - STD, 0.7 + STD])


def test_terms_by_modality_are_found_and_shown():
  log = pd.DataFrame(UPPER)
  groups = points.modality_terms(log)
  assert groups == {"beta": ["text", "audio"]} and not points.modality_terms(pd.DataFrame(STILL))
  found = values_of(points.modality_points(log, "beta", groups["beta"]))
  assert {key: x[0] for key, x in found.items()} == {
    (step, name): value for step in (1, 2) for name, value in (("text", 0.6), ("audio", 1))
  }


def comparison(**differences: float) -> pd.DataFrame:
  """`a` minus each baseline, half above in the mean over incomplete patterns."""
  lines = [
    {"method": "a", "baseline": name, "rows": rows, "metric": "accuracy"}
    | {"difference": value + more, "low": value, "high": value + 1}
    for name, value in differences.items()
    for rows, more in (("incomplete", 0.5), ("all", 0.0), ("text", 0.0))
  ]
  return pd.DataFrame(lines)


def test_differences_of_one_pair_are_shown_by_rows_and_of_several_by_pair():
  found, far = points.difference_points(comparison(b=0.0))
  assert [*values_of(found)] == [(rows, "a - b") for rows in ("incomplete", "all", "text")]
  assert not far
  found, far = points.difference_points(comparison(b=0.0, constant=9.0, c=-1.0))
  assert values_of(found) == {
    ("a - b", "incomplete"): [0.5, 0.0, 1.0],
    ("a - b", "all"): [0.0, 0.0, 1.0],
    ("a - c", "incomplete"): [-0.5, -1.0, 0.0],
    ("a - c", "all"): [-1.0, -1.0, 0.0],
  }
  assert far == ["a - constant"]


def test_differences_under_many_patterns_are_shown_as_means():
  few = comparison(b=0.0)
  many = pd.concat([few, *([few[2:].assign(rows=f"pattern {i}") for i in range(15)])])
  found = [list(points.difference_points(lines)[0]["row"]) for lines in (many[:-1], many)]
  assert len(found[0]) == 17 and found[1] == ["incomplete", "all"]


def test_calibration_is_the_mean_over_patterns_of_the_same_size():
  lines = [(1, 0.4, 0.2), (1, 0.6, 0.4), (2, 0.3, 0.1), (3, np.nan, 0.9)]
  found = points.calibration_points(pd.DataFrame(lines, columns=["num_present", "before", "after"]))
  assert {key: x[0] for key, x in values_of(found).items()} == pytest.approx(
    {("1 present", "before"): 0.5, ("1 present", "after"): 0.3}
    | {("2 present", "before"): 0.3, ("2 present", "after"): 0.1, ("3 present", "after"): 0.9}
  )


def test_confusions_are_means_over_seeds():
  lines = [("x", 0, [3, 1]), ("x", 1, [1, 3]), ("y", 0, [0, 2]), ("y", 1, [2, 0])]
  names, counts = points.confusion_counts(
    pd.DataFrame(lines, columns=["class", "seed", "predicted"])
  )
  assert names == ["x", "y"] and counts.tolist() == [[2, 2], [1, 1]]
