"""The plots hold their numbers and names, as text of the SVG."""

import re

import matplotlib
import numpy as np
import pandas as pd
import pytest

from promise_jax.reports import plots


@pytest.fixture(autouse=True)
def text_is_text():
  """Letters are written as such and not as paths."""
  with matplotlib.rc_context({"svg.fonttype": "none"}):
    yield


def texts(svg: bytes) -> list[str]:
  found = re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode())
  return [text.replace("\N{ZERO WIDTH SPACE}", "") for text in found]


def points_of(*points) -> pd.DataFrame:
  return pd.DataFrame(points, columns=["row", "series", "value", "low", "high"])


TWO = points_of(
  ("text", "_a$b$", 0.8125, 0.75, 0.875),
  ("text", "b", 0.5, np.nan, np.nan),
  ("text + audio", "b", 0.25, 0.125, 0.375),
)


def test_dots_have_their_numbers_rows_and_series():
  found = texts(plots.dots(TWO, "accuracy", ["b", "_a$b$"]))
  for text in ("81.2", "50.0", "25.0", "text", "text + audio", "_a$b$", "b", "accuracy (%)"):
    assert text in found, text
  assert plots.dots(TWO, "accuracy") == plots.dots(TWO, "accuracy")


def test_differences_have_their_sign_and_errors_no_percent():
  found = texts(plots.dots(TWO[2:], "mae", zero=True))
  assert "+0.250" in found and "mae" in found and "b" not in found  # one series, no legend


def test_many_dots_have_no_numbers():
  many = points_of(*((f"row {i}", "a", 0.5 + i / 1000, np.nan, np.nan) for i in range(41)))
  assert "50.1" in texts(plots.dots(many[:40], "accuracy"))
  assert "50.1" not in texts(plots.dots(many, "accuracy"))


def test_a_series_keeps_its_colour():
  """Blue is the first of all series, also where it is not drawn."""
  blue, orange = (colour.encode() for colour in plots.COLOURS[:2])
  assert blue in plots.dots(TWO[2:], "mae", ["b"]) and orange not in plots.dots(TWO[2:], "mae")
  one = plots.lines(points_of((0, "b", 0.5, 0.4, 0.6)), "step", "loss", ["a", "b"])
  assert orange in one and blue not in one


def test_lines_leave_out_what_is_undefined():
  points = points_of((0, "a", np.nan, np.nan, np.nan), (5, "a", 2.0, np.nan, np.nan))
  found = texts(plots.lines(points, "step", "training loss"))
  assert "step" in found and "training loss" in found


def test_a_heat_map_is_in_percent_of_the_row():
  counts = np.array([[6.0, 2, 0], [0, 0, 0], [0, 1, 399]])
  found = texts(plots.heat_map(counts, ["a", "b & c", 25 * "d"]))
  assert [x for x in found if x.isdigit()] == ["75", "25", "100"]  # 1 of 400 rounds to 0
  assert {"b &amp; c", 18 * "d" + "...", "true class", "predicted class"} <= set(found)
  assert "nan" not in texts(plots.heat_map(np.full((2, 2), np.nan), ["a", "b"]))


def test_what_is_undefined_everywhere_is_an_empty_plot():
  nothing = points_of(*((name, "a", np.nan, np.nan, np.nan) for name in ("text", "audio")))
  assert {"text", "audio"} <= set(texts(plots.dots(nothing, "accuracy", zero=True)))
  steps = points_of((0, "a", np.nan, np.nan, np.nan))
  assert "loss" in texts(plots.lines(steps, "step", "loss"))
