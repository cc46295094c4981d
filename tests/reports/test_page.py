"""The HTML page: whole, escaped, and in need of nothing else."""

import dataclasses
from html.parser import HTMLParser

import pandas as pd

from made_up_results import PATTERNS, PROTOCOLS, RATES, STILL, UPPER, frame, line, protocol_lines
from promise_jax.reports import glossary, html

ODD = '<b>"$x$ & co'


class Page(HTMLParser):
  """Collects text, links and tags, and checks that every element is closed in turn."""

  def __init__(self, run: html.Report):
    super().__init__()
    self.source = html.render_page(run)
    self.open, self.links, self.tags, self.pieces = [], [], [], []
    self.feed(self.source)
    self.close()
    self.text = " ".join(" ".join(self.pieces).split())

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
    if tag not in ("meta", "img", "br"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.pieces.append(data)


def odd_run() -> html.Report:
  rename = {"robult": ODD, "fusion": "_fusion"}
  results = [x | {"method": rename[x["method"]]} for x in PATTERNS + RATES]
  steps = [
    {"method": ODD, "seed": s, "step": t, "loss": 1 / (1 + t), "valid": v}
    for s in range(2)
    for t, v in ((0, None), (10, 0.4), (20, 0.6))
  ]
  difference = {"rows": "incomplete", "method": ODD, "baseline": "_fusion", "metric": "accuracy"}
  difference |= {"difference": 0.031, "low": 0.012, "high": 0.05, "verdict": "better"}
  speed = [{"method": ODD, "compile_s": 3.21, "examples_per_s": 12345.6}]
  config = {"name": "</style><script>", "optim": {"lr": 0.001}, "commit": "abc1234"}
  frames = map(pd.DataFrame, (steps, [difference], speed))
  return html.Report(f"run {ODD}", config, frame(results), *frames)


def test_the_page_is_whole_escaped_and_needs_nothing_else():
  seen = Page(odd_run())
  assert seen.open == [] and seen.tags.count("script") == 1 and "b" not in seen.tags
  assert seen.tags.count("img") == 5  # patterns, rates, baselines, loss, validation
  assert all(link.startswith("data:image/svg+xml;base64,") for link in seen.links)
  source = seen.source
  for link in seen.links:
    source = source.replace(link, "")
  assert not any(load in source for load in ("http", "url(", "@import"))
  for piece in (
    *(f"run {ODD}", "toy, label rate 5 %", "60.0 ± 14.1", "</style><script>"),
    *("accuracy (%) +3.1 [+1.2, +5.0] better", "bernoulli(rate, keep=1)", "61.7 ± 2.4"),
    *("3.21 12,346", "c0ffee", "abc1234", "optim.lr 0.001"),
  ):
    assert piece in seen.text, piece
  assert html.render_page(odd_run()) == seen.source


def test_a_run_that_only_trained_has_a_page():
  seen = Page(html.Report("x", training=odd_run().training))
  assert seen.tags.count("img") == 2 and "Training" in seen.text


def test_the_page_has_the_stages_of_a_variant_that_has_several():
  one, two = {"stage": "train", "trains": 9, "parameters": 9}, {"stage": "prompts"}
  two |= {"trains": 881, "parameters": 11494}
  speed = pd.DataFrame([{"method": "a", "stages": [one]}, {"method": "b", "stages": [one, two]}])
  table = "stage trains parameters b train 9 9 b prompts 881 11,494"
  assert table in Page(html.Report("x", speed=speed)).text
  assert "stage" not in Page(html.Report("x", speed=speed[:1])).text


def test_the_page_has_the_tables_of_test_protocols_and_of_pooled_patterns():
  """Also protocols that were evaluated later; those with a rate if the run names them."""
  lines = protocol_lines("robult", "pooled(all)", (0.5, 0.7), n=120)
  text = Page(html.Report("x", results=frame(PATTERNS))).text
  assert "By test protocol" not in text and "Pooled" not in text
  errors = [x | {"metric": "mae"} for x in PATTERNS + PROTOCOLS + RATES]
  run = html.Report("x", results=frame(PATTERNS, PROTOCOLS, RATES, lines, errors))
  text = Page(run).text
  assert "protocol n robult fusion map(0.5) 40 60.0 ± 14.1 45.0 ± 7.1" in text
  assert "map(0.9) 40 - 100.0 ± 0.0" in text and "bernoulli(0.3, keep=1) 40" not in text
  assert "map(0.5) 40 0.600 ± 0.141 0.450 ± 0.071" in text
  assert "protocol method accuracy pooled(all) robult 60.0 ± 14.1" in text
  other = protocol_lines("robult", "pooled(all)", (0.1, 0.2), split="valid")
  text = Page(html.Report("x", results=frame(PATTERNS, lines, other))).text
  assert "protocol method accuracy pooled(all) robult 60.0 ± 14.1" in text
  assert "Evaluated on valid By protocol protocol method accuracy pooled(all) robult 15.0" in text
  named = dataclasses.replace(run, test_protocols=("bernoulli(0.3, keep=1)",))
  assert "bernoulli(0.3, keep=1) 40 70.0 ± 0.0" in Page(named).text


def test_missing_rates_have_their_numbers():
  text = Page(html.Report("x", results=frame(PATTERNS, RATES))).text
  assert "0.1 40 80.0 ± 14.1 - 0.3 40 70.0 ± 0.0 - 0.7 40 40.0 ± 14.1 -" in text


def test_terms_are_explained_where_they_occur():
  terms = [term for term, _ in glossary.find_terms("<p title='Brier'>ECE of 3 seeds</p>")]
  assert terms == ["ECE", "seed"]
  plot = "<img alt='x'><img alt=\"size before and after calibration\">AUILC"
  assert [term for term, _ in glossary.find_terms(plot)] == ["size", "AUILC"]
  text = Page(html.Report("x", results=frame(PATTERNS))).text
  assert "accuracy fraction of rows" in text and "Shapley" not in text


def test_a_page_has_a_section_for_every_label_rate():
  text = Page(html.Report("x", results=frame([line(), line(label_rate=0.5)]))).text
  assert "toy, label rate 5 %" in text and "toy, label rate 50 %" in text


def test_terms_by_modality_and_upper_levels_are_shown():
  seen = Page(html.Report("toy", results=frame(PATTERNS), training=pd.DataFrame(UPPER + STILL)))
  assert seen.source.count("one line a modality") == 1
  assert "did not move" in seen.text
