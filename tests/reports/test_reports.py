"""Tables, files and the page, on made-up numbers worked by hand."""

import itertools
import math
from html.parser import HTMLParser

import numpy as np
import pytest

from promise_jax import files
from promise_jax.reports import curves, html, tables


def line(method="robult", pattern=("text",), value=0.5, seed=0, **other):
  fixed = {
    "dataset": "toy",
    "split": "test",
    "protocol": "none",
    "mask_hash": "c0ffee",
    "metric": "accuracy",
    "n": 40,
    "label_rate": 0.05,
  }
  row = {"method": method, "pattern": pattern and list(pattern), "value": value}
  return fixed | row | {"seed": seed} | other


# Seeds 0 and 1 of two methods under the three patterns of two modalities.
VALUES = {
  "robult": {
    ("text",): (0.5, 0.7),
    ("audio",): (0.3, 0.3),
    ("text", "audio"): (0.8, 1),
  },
  "fusion": {
    ("text",): (0.6, 0.8),
    ("audio",): (0.2, 0.2),
    ("text", "audio"): (0.9, 0.9),
  },
}
RESULTS = [
  line(method, pattern, value, seed)
  for method, patterns in VALUES.items()
  for pattern in sorted(patterns, key=len, reverse=True)
  for seed, value in enumerate(patterns[pattern])
]
RATES = [
  line("robult", None, value, seed, protocol=f"bernoulli({rate}, keep=1)", rate=rate)
  for rate, values in ((0.1, (0.9, 0.7)), (0.3, (0.7, 0.7)), (0.7, (0.3, 0.5)))
  for seed, value in enumerate(values)
]


def test_pattern_table_has_the_means_and_sample_deviations_of_seeds():
  table = tables.pattern_table(RESULTS, "accuracy", ["robult", "fusion"])
  assert [r.name for r in table.rows] == [
    *("text", "audio", "text + audio", "mean, incomplete", "mean, all")
  ]
  root = math.sqrt(0.5)  # the sample std of a and b is |a - b| * root
  want = [
    ((0.6, 0.2 * root), (0.7, 0.2 * root)),
    ((0.3, 0), (0.2, 0)),
    ((0.9, 0.2 * root), (0.9, 0)),
    # Incomplete by seed: robult .4, .5; fusion .4, .5.
    ((0.45, 0.1 * root), (0.45, 0.1 * root)),
    # All by seed: robult 1.6 / 3, 2 / 3; fusion 1.7 / 3, 1.9 / 3.
    ((0.6, 0.4 / 3 * root), (0.6, 0.2 / 3 * root)),
  ]
  got = [[cell[:2] for cell in row.cells] for row in table.rows]
  np.testing.assert_allclose(got, want, atol=1e-12)
  assert [r.best for r in table.rows[:2]] == [(False, True), (True, False)]
  assert {r.n for r in table.rows} == {"40"}


def test_text_table_in_full():
  table = tables.pattern_table(RESULTS[:6], "accuracy", ["robult"])
  assert tables.to_text(table).splitlines() == [
    "accuracy (%), mean ± std over 2 seeds",
    "present            n       robult",
    "---------------------------------",
    "text              40  60.0 ± 14.1",
    "audio             40   30.0 ± 0.0",
    "text + audio      40  90.0 ± 14.1",
    "---------------------------------",
    "mean, incomplete  40   45.0 ± 7.1",
    "mean, all         40   60.0 ± 9.4",
  ]


def test_means_of_every_metric_in_full():
  errors = [r | {"metric": "mae", "value": 2 * r["value"]} for r in RESULTS]
  # Robult by seed: incomplete .4, .5; all 1.6 / 3, 2 / 3.
  assert tables.means_text(RESULTS + errors, ["robult"]).splitlines() == [
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
  text = tables.to_markdown(tables.pattern_table(rows, "mae", ["a|b", "c"]))
  assert text.splitlines()[0] == "mae, 1 seed"
  assert text.splitlines()[2:5] == [
    "| present | n | a\\|b | c |",
    "| --- | ---: | ---: | ---: |",
    "| text | 40 | **0.250** | 1.500 |",
  ]


def test_many_patterns_are_grouped_by_how_many_are_present():
  names = "abcde"
  patterns = [p for k in range(1, 6) for p in itertools.combinations(names, k)]
  rows = [line(pattern=p, value=len(p) / 10, n=30 + len(p)) for p in patterns]
  table = tables.pattern_table(rows, "accuracy", ["robult"])
  assert [(r.name, r.n) for r in table.rows] == [
    *((f"{k} of 5 present", str(30 + k)) for k in range(1, 6)),
    ("mean, incomplete", "31-34"),
    ("mean, all", "31-35"),
  ]
  means = [r.cells[0].mean for r in table.rows]
  # Incomplete: 5 * .1 + 10 * .2 + 10 * .3 + 5 * .4 = 7.5 over 30; all: 8 over 31.
  np.testing.assert_allclose(means, [0.1, 0.2, 0.3, 0.4, 0.5, 0.25, 8 / 31])


def test_gaps_and_undefined_values_are_shown_not_filled():
  rows = [r for r in RESULTS if r["method"] == "robult" or r["pattern"] != ["audio"]]
  rows = [r | {"value": None} if r["pattern"] == ["text"] else r for r in rows]
  table = tables.pattern_table(rows, "accuracy", ["robult", "fusion"])
  text, audio, full, incomplete, _ = (
    tables.to_text(table).splitlines()[3:6] + (tables.to_text(table).splitlines()[7:])
  )
  assert text.split()[-1] == "undefined" and table.rows[0].best == (False, False)
  assert audio.split()[-1] == "-" and incomplete.split()[-2:] == ["undefined", "-"]
  assert full.split()[-3:] == ["90.0", "±", "0.0"]


def test_a_table_of_mixed_or_doubled_lines_is_refused():
  with pytest.raises(ValueError, match="No test results by pattern for 'mae'; .*accur"):
    tables.pattern_table(RESULTS, "mae", ["robult"])
  with pytest.raises(ValueError, match="one data set and label rate"):
    tables.pattern_table([line(), line(label_rate=0.5)], "accuracy", ["robult"])
  with pytest.raises(ValueError, match="twice"):
    tables.pattern_table([line(), line()], "accuracy", ["robult"])


def under(method, protocol, values, **other):
  seeds = enumerate(values)
  return [line(method, None, v, s, protocol=protocol, **other) for s, v in seeds]


PROTOCOLS = [
  *under("robult", "map(0.5)", (0.5, 0.7)),
  *under("fusion", "map(0.5)", (0.4, 0.5)),
  *under("robult", "exact(0.2)", (0.8, 0.8), n=39),
  *under("fusion", "exact(0.2)", (0.9, None), n=39),
  *under("fusion", "map(0.9)", (1, 1)),  # not asked for
]


def test_protocol_table_in_full():
  """In the order and with the rates as asked for, in whatever way they are written."""
  wanted = (["robult", "fusion"], ["exact(.2)", "map( 0.50 )"])
  table = tables.protocol_table(RESULTS + RATES + PROTOCOLS, "accuracy", *wanted)
  # The sample std of a and b is |a - b| / root 2.
  assert tables.to_text(table).splitlines() == [
    "accuracy (%), mean ± std over 2 seeds",
    "protocol     n       robult      fusion",
    "---------------------------------------",
    "exact(0.2)  39   80.0 ± 0.0   undefined",
    "map(0.5)    40  60.0 ± 14.1  45.0 ± 7.1",
  ]
  assert tables.to_markdown(table).splitlines()[2:] == [
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
    (["often(0.1)"], "unknown protocol"),
  ],
)
def test_a_protocol_without_lines_has_no_row(protocols, sentence):
  with pytest.raises(ValueError, match=sentence):
    tables.protocol_table(PROTOCOLS, "accuracy", ["robult"], protocols)


def test_rate_curves_and_their_normalised_area():
  found = curves.rate_curves(RESULTS + RATES, "accuracy", ["robult"])
  assert list(found) == ["bernoulli(rate, keep=1)"]
  curve = found["bernoulli(rate, keep=1)"]["robult"]
  assert curve.rates == (0.1, 0.3, 0.7)
  np.testing.assert_allclose([c.mean for c in curve.cells], [0.8, 0.7, 0.4])
  # Seed 0: .2 * .8 + .4 * .5 = .36; seed 1: .2 * .7 + .4 * .6 = .38; range .6.
  np.testing.assert_allclose(curve.area.mean, 0.37 / 0.6)
  np.testing.assert_allclose(curve.area.std, 0.02 / 0.6 * math.sqrt(0.5))


def test_jsonl_comes_back_and_nan_is_null(tmp_path):
  path = tmp_path / "results.jsonl"
  files.write_jsonl(path, [{"a": np.float32(0.5), "b": np.arange(2)}, {"ü": math.nan}])
  assert path.read_text("utf-8") == '{"a": 0.5, "b": [0, 1]}\n{"ü": null}\n'
  assert files.read_jsonl(path) == [{"a": 0.5, "b": [0, 1]}, {"ü": None}]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
  path = tmp_path / "results.jsonl"
  files.write_jsonl(path, [{"a": 1}])
  with pytest.raises(TypeError):
    files.write_jsonl(path, [{"a": 2}, {"a": object()}])
  with pytest.raises(UnicodeEncodeError):
    files.write_text(path, "\ud800")
  assert files.read_jsonl(path) == [{"a": 1}]
  assert [p.name for p in tmp_path.iterdir()] == ["results.jsonl"]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": \n', '{"a": 1}\n[1]\n'])
def test_a_bad_line_is_named(tmp_path, text):
  path = tmp_path / "metrics.jsonl"
  path.write_text(text)
  with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: .*not"):
    files.read_jsonl(path)


class Page(HTMLParser):
  """Collects text, attributes and whether every element is closed in turn."""

  def __init__(self, text):
    super().__init__()
    self.open, self.links, self.tags, self.text = [], [], [], []
    self.feed(text)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "data")]
    if tag not in ("meta", "img", "br"):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


ODD = '<b>"$x$ & co'


def odd_run() -> tables.Run:
  rename = {"robult": ODD, "fusion": "_fusion"}
  results = [r | {"method": rename[r["method"]]} for r in RESULTS + RATES]
  steps = [
    {"method": ODD, "seed": s, "step": t, "loss": 1 / (1 + t), "valid": v}
    for s in range(2)
    for t, v in ((0, None), (10, 0.4), (20, 0.6))
  ]
  compared = {"rows": "incomplete", "method": ODD, "control": "_fusion"}
  compared |= {"metric": "accuracy", "difference": 0.031, "low": 0.012, "high": 0.05}
  speed = [{"method": ODD, "compile_s": 3.21, "examples_per_s": 12345.6}]
  config = {"name": "</style><script>", "optim": {"lr": 0.001}, "commit": "abc1234"}
  return tables.Run(f"run {ODD}", config, results, steps, [compared | {"verdict": "better"}], speed)


def test_the_page_is_whole_escaped_and_needs_nothing_else():
  text = html.render_page(odd_run())
  seen = Page(text)
  assert seen.open == [] and "script" not in seen.tags and "b" not in seen.tags
  assert seen.tags.count("img") == 3  # patterns, rates, training
  assert all(link.startswith("data:image/svg+xml;base64,") for link in seen.links)
  for link in seen.links:
    text = text.replace(link, "")
  assert not any(load in text for load in ("http", "url(", "@import"))
  shown = " ".join(" ".join(seen.text).split())
  for piece in (
    *(f"run {ODD}", "toy, 5 % of labels", "60.0 ± 14.1", "</style><script>"),
    *("+3.1 points +1.2 to +5.0 better", "bernoulli(rate, keep=1)", "61.7 ± 2.4"),
    *("3.21 12,346", "c0ffee", "abc1234", "optim.lr 0.001"),
  ):
    assert piece in shown, piece
  assert html.render_page(odd_run()) == html.render_page(odd_run())


def test_a_run_that_only_trained_has_a_page(tmp_path):
  files.write_jsonl(tmp_path / "metrics.jsonl", odd_run().metrics)
  run = tables.read_run(tmp_path)
  assert run.title == tmp_path.name and not run.results and not run.config
  seen = Page(html.render_page(run))
  assert seen.tags.count("img") == 1 and "Training" in seen.text


def test_the_page_has_the_stages_of_an_arm_that_has_several():
  one, two = {"stage": "train", "trains": 9, "parameters": 9}, {"stage": "prompts"}
  two |= {"trains": 881, "parameters": 11494}
  speed = [{"method": "a", "stages": [one]}, {"method": "b", "stages": [one, two]}]
  table = "stage trains parameters b train 9 9 b prompts 881 11,494"
  for lines, header in ((speed, True), (speed[:1], False)):
    seen = Page(html.render_page(tables.Run("x", speed=lines)))
    shown = " ".join(" ".join(seen.text).split())
    assert (table in shown, "stage" in shown) == (header, header)


def test_the_page_has_the_protocols_of_its_run():
  run = tables.Run("x", results=RESULTS + PROTOCOLS)
  assert "By test protocol" not in html.render_page(run)
  asked = {"config": {"test_protocols": ["map(0.5)"]}}
  seen = Page(html.render_page(run._replace(config=asked)))
  start = seen.text.index("By test protocol")
  shown = " ".join(" ".join(seen.text[start:]).split())
  assert "protocol n robult fusion map(0.5) 40 60.0 ± 14.1 45.0 ± 7.1" in shown


def test_a_page_has_a_section_for_every_label_rate():
  seen = Page(html.render_page(tables.Run("x", results=[line(), line(label_rate=0.5)])))
  assert {"toy, 5 % of labels", "toy, 50 % of labels"} <= set(seen.text)


def trained(method, step, seed, **terms):
  line = {"method": method, "step": step, "seed": seed, "loss": 1.0, "valid": 0.5}
  return line | terms


STEPS = [
  trained("redcore", step, seed, moved=0.1 * step) | {"beta/text": 0.6, "beta/audio": 1}
  for step in (1, 2)
  for seed in (0, 1)
]
STILL = [trained("redcore(step=0.0)", 2, 0, moved=0.0), trained("fusion", 2, 0)]


def test_an_upper_level_that_does_not_move_is_called_so():
  when = "on average over the last call of training"
  assert curves.upper_levels(STEPS + STILL) == [
    f"redcore: the upper level moved, |beta - beta0| = 0.200 {when}",
    f"redcore(step=0.0): the upper level did not move, |beta - beta0| = 0.000 {when}",
  ]


def test_terms_by_modality_are_found_and_drawn():
  found = curves.by_modality(STEPS + STILL)
  assert found == {"redcore": {"beta": ["text", "audio"]}}
  drawn = html.render_page(tables.Run("toy", results=RESULTS, metrics=STEPS + STILL))
  assert drawn.count("one line a modality") == 1
  assert "did not move" in drawn


def test_pooled_lines_have_a_table_of_their_own():
  lines = [
    line("robult", None, value, seed, protocol="pooled(all)", n=120)
    for seed, value in enumerate((0.5, 0.7))
  ]
  header, rows = tables.pooled_table(RESULTS + lines, ["robult", "fusion"])
  assert header == ["patterns", "method", "accuracy"]
  assert rows == [["pooled(all)", "robult", "60.0 ± 14.1"]]
  assert tables.pooled_table(RESULTS, ["robult"]) is None
