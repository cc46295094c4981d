"""Sentences of a run."""

import pandas as pd
import pytest

from made_up_results import line
from promise_jax.reports import comparison


def contribution_line(variant, modality, value, low, high, **other) -> dict:
  fixed = {"rows": "all", "kind": "without", "metric": "accuracy", "n": 259}
  values = {"value": value, "low": low, "high": high}
  return fixed | {"variant": variant, "modality": modality} | values | other


LINES = [
  contribution_line("fusion", "text", -0.9, -0.9, -0.9),
  contribution_line("robult", "text", -0.02, -0.03, -0.01),
  contribution_line("robult", "photo", -0.061, -0.082, -0.04),
  contribution_line("robult", "photo", -0.99, -0.99, -0.99, rows="cats", metric="recall"),
  contribution_line("robult", "text", 0.3, 0.2, 0.4, kind="shapley"),
]


def valid_scores(metric, **scores) -> pd.DataFrame:
  return pd.DataFrame([line(m, None, x, split="valid", metric=metric) for m, x in scores.items()])


def test_the_modality_that_the_best_variant_can_least_do_without():
  results = valid_scores("accuracy", fusion=0.5, robult=0.7, majority=0.9)
  (text,) = comparison.describe_contribution(pd.DataFrame(LINES), results)
  assert text == (
    "robult, best on validation: without photo it loses 6.1 points [4.0, 8.2] "
    "on the 259 test rows that have everything"
  )


def test_of_an_error_the_least_is_best_and_it_grows():
  frame = pd.DataFrame(LINES).replace({"accuracy": "-mae"})
  (text,) = comparison.describe_contribution(frame, valid_scores("mae", fusion=0.9, robult=0.7))
  assert "robult, best on validation: without photo its error grows by 0.061 [0.040, 0.08" in text


@pytest.mark.parametrize("lines", [[], LINES])
def test_nothing_measured_nothing_said(lines):
  nothing = pd.DataFrame(lines).assign(value=float("nan"), n=0)
  said = comparison.describe_contribution(nothing, valid_scores("accuracy", fusion=1, robult=0.5))
  assert said == (lines and [f"fusion, best on validation: {comparison.UNDEFINED}"])
