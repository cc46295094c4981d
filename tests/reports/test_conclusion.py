"""The sentences of a report, word for word, on numbers made by hand."""

import pandas as pd
import pytest

from made_up_results import PATTERNS, SCORES, frame, line, valid_lines
from promise_jax.evaluation import conditions
from promise_jax.methods import constant
from promise_jax.reports import conclusion


def difference(baseline: str, value: float, low: float, high: float, verdict: str, **other):
  names = {"method": "robult", "baseline": baseline, "rows": "incomplete", "metric": "accuracy"}
  return names | {"difference": value, "low": low, "high": high, "verdict": verdict} | other


def contribution(modality: str, value: float, low: float, high: float, **other) -> dict:
  fixed = {"variant": "fusion", "rows": "all", "kind": "without", "metric": "accuracy", "n": 9}
  return fixed | {"modality": modality, "value": value, "low": low, "high": high} | other


NOTHING = pd.DataFrame()


def test_a_run_is_summed_up():
  compared = [difference("fusion", -0.026, -0.041, -0.012, "worse")]
  compared += [difference("fusion", 0.5, 0.4, 0.6, "better", rows="all")]
  worth = [contribution("text", -0.03, -0.05, -0.01), contribution("audio", -0.061, -0.082, -0.04)]
  worth += [contribution("text", -0.9, -0.9, -0.9, rows="shoes")]
  worth += [contribution("text", -0.9, -0.9, -0.9, kind="shapley")]
  worth += [contribution("text", -0.9, -0.9, -0.9, variant="robult")]
  frames = frame(PATTERNS, SCORES), pd.DataFrame(compared), pd.DataFrame(worth)
  assert conclusion.describe_run(*frames) == [
    "Use fusion, the best on validation (accuracy on test 90.0 % with every modality, 45.0 % where "
    "modalities are missing).",
    "Without audio it loses 6.1 points [4.0, 8.2], more than without any other (on the 9 complete "
    "test rows).",
    "robult is worse than fusion by 2.6 points [1.2, 4.1] of accuracy, where modalities are "
    "missing.",
  ]


@pytest.mark.parametrize(("score", "is_said"), [(0.6, True), (0.59, False)])
def test_a_constant_that_is_as_good_is_told_and_not_recommended(score, is_said):
  lines = frame(PATTERNS, [line(constant.CONSTANT_VARIANT)], SCORES)
  lines = pd.concat([lines, frame(valid_lines(constant.CONSTANT_VARIANT, score))])
  found = conclusion.describe_run(lines, NOTHING, NOTHING)
  sentence = "But majority, which reads nothing, is as good on validation: nothing was learnt."
  assert found[0].startswith("Use fusion, the best on validation")
  assert found[1:] == [sentence] * is_said


def test_a_run_of_one_seed_says_so_and_what_was_not_measured_is_left_out():
  lines = [x for x in PATTERNS + SCORES if x["seed"] == 0]
  compared = pd.DataFrame([difference("fusion", 0.01, -0.02, 0.04, "undecided")])
  _, *others = conclusion.describe_run(frame(lines), compared, NOTHING)
  assert others == [
    "Whether robult or fusion is better is undecided: +1.0 points [-2.0, +4.0] of accuracy, where "
    "modalities are missing.",
    "With one seed the intervals count the test rows alone, not another training.",
  ]
  assert conclusion.describe_run(frame(PATTERNS), NOTHING, NOTHING) == []


@pytest.mark.parametrize(("complete", "total"), [(8, 47), (50, 60), (40, 40), (0, 47)])
def test_few_rows_behind_the_patterns_are_said_where_holes_made_them_few(complete, total):
  lines = [line(pattern=p, n=total) for p in ("text", "text+audio")]
  lines += [line(pattern="text", n=complete, protocol=conditions.COMPLETE_ROWS)]
  found = conclusion.describe_run(frame(lines), NOTHING, NOTHING)
  sentence = (
    "Patterns are measured on the 8 of 47 test rows that have every modality; promise-jax table "
    "RUN --test-rows every takes all rows of each pattern."
  )
  assert found == [sentence] * (complete == 8)


def test_an_error_of_one_variant_and_one_modality():
  lines = [line("robult", "text", 0.8123, metric="mae")] + valid_lines("robult", 0.9, metric="mae")
  assert conclusion.describe_run(frame(lines), NOTHING, NOTHING) == [
    "robult (mae on test 0.812 with every modality)."
  ]


@pytest.mark.parametrize(
  ("worth", "sentence"),
  [
    (
      [contribution("text", -0.02, -0.05, 0.01), contribution("audio", 0.01, -0.01, 0.02)],
      "Whether it needs any single modality is undecided: -2.0 points [-5.0, +1.0] without text.",
    ),
    (
      [contribution("text", 0.0, 0.0, 0.0), contribution("audio", 0.02, 0.01, 0.03)],
      "It loses nothing without any single modality.",
    ),
    (
      [contribution("text", -0.25, -0.5, -0.125, metric="-mae")],
      "Without text its mae grows by 0.250 [0.125, 0.500], more than without any other (on the 9 "
      "complete test rows).",
    ),
  ],
)
def test_what_a_modality_costs(worth, sentence):
  assert conclusion.describe_loss(pd.DataFrame(worth)) == [sentence]


def test_what_is_undefined_is_told():
  (text,) = conclusion.describe_loss(pd.DataFrame([contribution("text", *[float("nan")] * 3)]))
  assert text.startswith("What a modality is worth to it is unknown: no test row has all")


def test_several_baselines_are_named_by_verdict():
  verdicts = {"a": "worse", "b": "better", "c": "undecided", "d": "better"}
  lines = [difference(name, 0.1, 0.0, 0.2, verdict) for name, verdict in verdicts.items()]
  assert conclusion.describe_verdicts(pd.DataFrame(lines)) == [
    "robult is better than b, d; worse than a; undecided: c, where modalities are missing."
  ]
  only_all = pd.DataFrame(
    [difference("a", -0.25, -0.5, -0.125, "better", rows="all", metric="mae")]
  )
  assert conclusion.describe_verdicts(only_all) == [
    "robult is better than a by 0.250 [0.125, 0.500] of mae, over all patterns."
  ]


COUNTS = {
  "rows": {"train": 1774, "valid": 213, "test": 272},
  "groups": {"train": 50, "valid": 7, "test": 9},
  "labelled": [77, 78, 78],
  "missing": {"text": 0.25, "audio": 0.5},
  "unrecorded": {
    "train": {"text": 0.0, "audio": 0.5},
    "valid": {"text": 0.0, "audio": 0.0},
    "test": {"text": 0.0, "audio": 0.105},
  },
  "empty": 0.125,
}


def test_rows_and_what_is_missing_are_counted():
  assert conclusion.describe_rows(COUNTS) == (
    "Train has 1,774 rows in 50 groups, 77.7 of them labelled (mean over seeds); "
    "validation has 213 rows in 7 groups, all labelled; test has 272 rows in 9 groups."
  )
  assert list(conclusion.describe_missing(COUNTS)) == [
    "Of the train rows 25.0 % lack text, 50.0 % lack audio.",
    "Of the test rows 10.5 % lack audio.",
    "No row of valid lacks a modality.",
    "12.5 % of the train rows have no modality at all.",
  ]
  assert conclusion.row_lines(COUNTS) == [
    ["split", "rows", "labelled", "without text", "without audio"],
    ["train", "1,774", "78", "25.0 %", "50.0 %"],
    ["valid", "213", "213", "0.0 %", "0.0 %"],
    ["test", "272", "272", "0.0 %", "10.5 %"],
  ]
