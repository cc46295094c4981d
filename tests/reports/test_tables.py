"""Tables of made-up numbers, worked by hand."""

import dataclasses
import itertools
import math

import numpy as np
import pandas as pd
import pytest

from made_up_results import PATTERNS, PROTOCOLS, RATES, STILL, UPPER, frame, line, protocol_lines
from promise_jax.evaluation import conditions
from promise_jax.reports import comparison, render, tables

BOTH = ["robult", "fusion"]
ROOT = math.sqrt(0.5)  # the sample std of a and b is |a - b| * ROOT


def means(table: tables.Table) -> list[list[float]]:
  return table.cells.map(lambda cell: cell.mean).to_numpy().tolist()


def test_the_pattern_table_has_means_and_sample_deviations_over_seeds():
  table = tables.pattern_table(frame(PATTERNS), "accuracy", BOTH)
  names = ["text", "audio", "text + audio", "mean, incomplete", "mean, all"]
  assert table.cells.index.tolist() == names
  want = [
    [(0.6, 0.2 * ROOT), (0.7, 0.2 * ROOT)],
    [(0.3, 0), (0.2, 0)],
    [(0.9, 0.2 * ROOT), (0.9, 0)],
    # Incomplete by seed: robult .4, .5; fusion .4, .5.
    [(0.45, 0.1 * ROOT), (0.45, 0.1 * ROOT)],
    # All by seed: robult 1.6 / 3, 2 / 3; fusion 1.7 / 3, 1.9 / 3.
    [(0.6, 0.4 / 3 * ROOT), (0.6, 0.2 / 3 * ROOT)],
  ]
  got = table.cells.map(lambda cell: cell[:2]).to_numpy().tolist()
  np.testing.assert_allclose(got, want, atol=1e-12)
  assert table.best().to_numpy()[:2].tolist() == [[False, True], [True, False]]
  assert set(table.n) == {"40"}


def test_the_text_of_a_pattern_table_in_full():
  table = tables.pattern_table(frame(PATTERNS), "accuracy", ["robult"])
  assert render.to_text(table).splitlines() == [
    "accuracy (%), mean ± std (n-1) over 2 seeds",
    "present            n       robult",
    "---------------------------------",
    "text              40  60.0 ± 14.1",
    "audio             40   30.0 ± 0.0",
    "text + audio      40  90.0 ± 14.1",
    "---------------------------------",
    "mean, incomplete  40   45.0 ± 7.1",
    "mean, all         40   60.0 ± 9.4",
  ]


def test_the_means_of_every_metric_in_full():
  errors = [x | {"metric": "mae", "value": 2 * x["value"]} for x in PATTERNS]
  # Robult by seed: incomplete .4, .5; all 1.6 / 3, 2 / 3.
  assert comparison.means_text(frame(PATTERNS, errors), ["robult"]).splitlines() == [
    "mean, incomplete         robult",
    "accuracy (%)         45.0 ± 7.1",
    "mae               0.900 ± 0.141",
    "",
    "mean, all            robult",
    "accuracy (%)     60.0 ± 9.4",
    "mae           1.200 ± 0.189",
  ]


def test_markdown_marks_the_best_and_less_error_wins():
  rows = [line("a|b", value=0.25, metric="mae"), line("c", value=1.5, metric="mae")]
  text = render.to_markdown(tables.pattern_table(frame(rows), "mae", ["a|b", "c"]))
  assert text.splitlines()[0] == "mae, 1 seed"
  assert text.splitlines()[2:5] == [
    "| present | n | a\\|b | c |",
    "| --- | ---: | ---: | ---: |",
    "| text | 40 | **0.250** | 1.500 |",
  ]


def test_many_patterns_are_grouped_by_how_many_modalities_are_present():
  patterns = [p for k in range(1, 6) for p in itertools.combinations("abcde", k)]
  rows = [line(pattern="+".join(p), value=len(p) / 10, n=30 + len(p)) for p in patterns]
  table = tables.pattern_table(frame(rows), "accuracy", ["robult"])
  assert list(zip(table.cells.index, table.n, strict=True)) == [
    *((f"{k} of 5 present", str(30 + k)) for k in range(1, 6)),
    ("mean, incomplete", "31-34"),
    ("mean, all", "31-35"),
  ]
  # Incomplete: 5 * .1 + 10 * .2 + 10 * .3 + 5 * .4 = 7.5 over 30; all: 8 over 31.
  want = [0.1, 0.2, 0.3, 0.4, 0.5, 0.25, 8 / 31]
  np.testing.assert_allclose(np.ravel(means(table)), want)


def test_missing_and_undefined_values_are_shown_not_filled():
  rows = [x for x in PATTERNS if x["method"] == "robult" or x["pattern"] != "audio"]
  rows = [x | {"value": None} if x["pattern"] == "text" else x for x in rows]
  table = tables.pattern_table(frame(rows), "accuracy", BOTH)
  _, text, audio, full, incomplete, _ = table.lines()
  assert text[2:] == ["undefined", "undefined"] and not table.best().to_numpy()[0].any()
  assert audio[2:] == ["30.0 ± 0.0", "-"] and incomplete[2:] == ["undefined", "-"]
  assert full[3] == "90.0 ± 0.0"


def rows_of(complete: int, **other) -> list[dict]:
  """Lines on data with holes, of which `complete` rows have both modalities."""
  value = 0.5 if complete else None
  pairs = {"text": 30, "audio": 35, "text+audio": 40}
  lines = [line(pattern=p, value=0.6, n=n) for p, n in pairs.items()]
  on_complete = {"protocol": conditions.COMPLETE_ROWS, "mask_hash": "decaf"}
  return lines + [line(pattern=p, value=value, n=complete, **on_complete) for p in pairs]


@pytest.mark.parametrize(
  ("lines", "same_rows", "n", "value", "note"),
  [
    (rows_of(25), True, ["25"] * 3, 0.5, "each line on the 25 of 40 rows that have every modality"),
    (rows_of(25), False, ["30", "35", "40"], 0.6, "each line on the rows that have something left"),
    (
      *(rows_of(0), True, ["30", "35", "40"], 0.6),
      "no row has every modality: each line on the rows that have something left",
    ),
    (PATTERNS, True, ["40"] * 3, 0.6, ""),
  ],
  ids=["same", "every", "none is complete", "no holes"],
)
def test_patterns_are_on_the_rows_that_have_everything(lines, same_rows, n, value, note):
  table = tables.pattern_table(frame(lines), "accuracy", ["robult"], same_rows)
  assert (table.n[:3], table.note) == (n, note)
  assert table.cells["robult"].iloc[0].mean == pytest.approx(value)
  assert table.caption().endswith(note)


def test_an_interval_is_that_of_student_over_seeds():
  lines = [line(value=v, seed=s) for s, v in enumerate((0.6, 0.7, 0.8))]
  table = tables.pattern_table(frame(lines), "accuracy", ["robult"])
  table = dataclasses.replace(table, error="interval")
  # The quantile .975 of Student's t with 2 degrees of freedom is 4.3027; the std is .1.
  assert table.lines()[1][2] == f"70.0 ± {4.3027 * 10 / math.sqrt(3):.1f}" == "70.0 ± 24.8"
  assert "mean ± half of the 95 % t-interval over 3 seeds" in table.caption()
  one = tables.pattern_table(frame([line()]), "accuracy", ["robult"])
  assert dataclasses.replace(one, error="interval").lines()[1][2] == "50.0"


def test_a_table_of_mixed_or_doubled_lines_is_refused():
  with pytest.raises(ValueError, match="No test results by pattern for 'mae'; .*accur"):
    tables.pattern_table(frame(PATTERNS), "mae", ["robult"])
  with pytest.raises(ValueError, match="one data set and label rate"):
    tables.pattern_table(frame([line(), line(label_rate=0.5)]), "accuracy", ["robult"])
  with_holes = [x | {"dataset": "shop", "method": "fusion"} for x in rows_of(25)]
  with pytest.raises(ValueError, match="one data set and label rate"):
    tables.pattern_table(frame(PATTERNS, with_holes), "accuracy", BOTH)
  with pytest.raises(ValueError, match="twice"):
    tables.pattern_table(frame([line(), line()]), "accuracy", ["robult"])
  others = [line(), line("fusion", mask_hash="decaf")]
  with pytest.raises(ValueError, match="same test rows"):
    tables.pattern_table(frame(others), "accuracy", BOTH)


def test_the_protocol_table_in_full():
  results = frame(PATTERNS, RATES, PROTOCOLS)
  table = tables.protocol_table(results, "accuracy", BOTH, ["exact(0.2)", "map(0.5)"])
  assert render.to_text(table).splitlines() == [
    "accuracy (%), mean ± std (n-1) over 2 seeds; each line on the rows that have something left",
    "protocol     n       robult      fusion",
    "---------------------------------------",
    "exact(0.2)  39   80.0 ± 0.0   undefined",
    "map(0.5)    40  60.0 ± 14.1  45.0 ± 7.1",
  ]
  assert render.to_markdown(table).splitlines()[2:] == [
    "| protocol | n | robult | fusion |",
    "| --- | ---: | ---: | ---: |",
    "| exact(0.2) | 39 | **80.0 ± 0.0** | undefined |",
    "| map(0.5) | 40 | **60.0 ± 14.1** | 45.0 ± 7.1 |",
  ]


@pytest.mark.parametrize(
  ("protocols", "sentence"),
  [
    (["map(0.5)", "map(0.1)"], r"protocol is 'map\(0.1\)', known are map\(0.5\)"),
    (["map(0.1)"], "No test results by protocol for 'accuracy'; there is: nothing"),
  ],
)
def test_a_protocol_without_lines_has_no_row(protocols, sentence):
  with pytest.raises(ValueError, match=sentence):
    tables.protocol_table(frame(PROTOCOLS), "accuracy", ["robult"], protocols)


def test_rates_have_rows_and_an_area_divided_by_the_range_of_rates():
  (table,) = tables.rate_tables(frame(PATTERNS, RATES), "accuracy", BOTH)
  assert (table.row_kind, table.num_plain) == ("bernoulli(rate, keep=1)", 3)
  assert table.cells.index.tolist() == ["0.1", "0.3", "0.7", "area 0.1 to 0.7 (AUILC)"]
  assert table.cells["fusion"].isna().all()
  # Seed 0: .2 * .8 + .4 * .5 = .36; seed 1: .2 * .7 + .4 * .6 = .38; range .6.
  np.testing.assert_allclose([c.mean for c in table.cells["robult"]], [0.8, 0.7, 0.4, 0.37 / 0.6])
  np.testing.assert_allclose(table.cells["robult"].iloc[-1].std, 0.02 / 0.6 * ROOT)
  assert not tables.rate_tables(frame(PATTERNS), "accuracy", BOTH)


def test_one_protocol_has_a_row_a_method_and_a_column_a_metric():
  lines = protocol_lines("robult", "exact(0.5)", (0.5, 0.7))
  lines += [x | {"metric": "mae"} for x in lines] + [lines[0] | {"method": "fusion"}]
  assert comparison.metric_text(frame(lines)).splitlines() == [
    "toy, test, exact(0.5), n = 40, mask c0ffee",
    "method     accuracy            mae",
    "robult  60.0 ± 14.1  0.600 ± 0.141",
    "fusion         50.0              -",
  ]


def test_an_upper_level_that_does_not_move_is_reported():
  when = "on average over the last block of training steps"
  assert comparison.describe_upper_levels(pd.DataFrame(UPPER + STILL)) == [
    f"redcore: the upper level moved, |beta - beta0| = 0.200 {when}",
    f"redcore(step=0.0): the upper level did not move, |beta - beta0| = 0.000 {when}",
  ]
  assert comparison.describe_upper_levels(pd.DataFrame(STILL[1:])) == []


def test_patterns_without_a_row_are_left_out_of_means_and_named():
  lacking = [line(pattern="audio", value=math.nan, n=0, seed=s) for s in (0, 1)]
  others = [x for x in PATTERNS if x["pattern"] != "audio" and x["method"] == "robult"]
  table = tables.pattern_table(frame(others, lacking), "accuracy", ["robult"])
  # By seed: text .5, .7 and both .8, 1.
  assert table.cells.index.tolist() == ["text", "text + audio", "mean, incomplete", "mean, all"]
  np.testing.assert_allclose(means(table), [[0.6], [0.9], [0.6], [0.75]])
  assert "no row has audio, which is left out" in table.caption()


def test_a_sample_of_patterns_is_told():
  names = ["a", "b", "+".join("abcdefgh"), "+".join("abcdefghi")]
  full = [line(pattern=name) for name in names[:3]]
  assert "sample" not in tables.pattern_table(frame(full), "accuracy", ["robult"]).caption()
  many = [line(pattern=name) for name in names]
  caption = tables.pattern_table(frame(many), "accuracy", ["robult"]).caption()
  assert caption.endswith("a fixed sample of 4 of the 511 patterns")
