"""Sentiment metrics against a loop over rows and the numbers that constants must have."""

import numpy as np
import pytest
from sklearn import metrics as reference

from promise_jax.evaluation import measure, metrics
from promise_jax.evaluation import sentiment_metrics as sentiment
from promise_jax.types import Task

ROWS = 120
SIMS_TASK = Task("regression", 1, sentiment.SIMS_LABEL)


def names_of(functions) -> set[str]:
  return {f.__name__ for f in functions}


def sentiment_by_hand(value, label):
  """The published definitions as a loop over rows."""
  rows = list(zip(value.tolist(), label.tolist(), strict=True))
  kept = [(p, y) for p, y in rows if y != 0]

  def share(hits):
    hits = list(hits)
    return sum(hits) / len(hits)

  def f1(pairs, swapped=False):
    predicted, actual = zip(*pairs, strict=True)
    order = (predicted, actual) if swapped else (actual, predicted)
    return reference.f1_score(*order, average="weighted")

  def clip(x, bound):
    return max(-bound, min(bound, x))

  def level(x, edges):
    return sum(clip(x, 1) > edge for edge in edges)

  has0, non0 = [(p >= 0, y >= 0) for p, y in rows], [(p > 0, y > 0) for p, y in kept]
  sims = [(p > 0, y > 0) for p, y in rows]
  three, five = np.float32((-0.1, 0.1)), np.float32((-0.7, -0.1, 0.1, 0.7))
  return {
    "acc2_has0": share((p >= 0) == (y >= 0) for p, y in rows),
    "f1_has0": f1(has0),
    "f1_has0_mplmm": f1(has0, swapped=True),
    "acc2_non0": share((p > 0) == (y > 0) for p, y in kept),
    "f1_non0": f1(non0),
    "f1_mplmm": f1(non0, swapped=True),
    "acc7": share(round(clip(p, 3)) == round(clip(y, 3)) for p, y in rows),
    "acc5": share(round(clip(p, 2)) == round(clip(y, 2)) for p, y in rows),
    "sims_acc2": share((p > 0) == (y > 0) for p, y in rows),
    "sims_acc3": share(level(p, three) == level(y, three) for p, y in rows),
    "sims_acc5": share(level(p, five) == level(y, five) for p, y in rows),
    "sims_f1": f1(sims),
    "sims_f1_mplmm": f1(sims, swapped=True),
    "sims_mae": share(abs(clip(p, 1) - clip(y, 1)) for p, y in rows),
    "mae": share(abs(p - y) for p, y in rows),
    "corr": np.corrcoef(value, label)[0, 1],
    "sims_corr": np.corrcoef(np.clip(value, -1, 1), np.clip(label, -1, 1))[0, 1],
  }


@pytest.mark.parametrize("step", [0.1, 0.5])
def test_sentiment_metrics_agree_with_a_loop_on_edges_and_halves(step):
  # Multiples of .1 and .5 hit every edge, every half and many zeros.
  rng = np.random.default_rng(0)
  label = (rng.integers(-8, 9, ROWS) * step).astype(np.float32)
  value = (label + rng.integers(-5, 6, (2, ROWS)) * np.float32(step)).astype(np.float32)
  value[:, ::7] = 0
  task, known = Task("regression", 1), list(measure.known_metrics("regression"))
  got = measure.measure(task, value[..., None], label, known)
  for s in (0, 1):
    want = sentiment_by_hand(value[s], label)
    assert got.keys() == want.keys()
    for name, number in want.items():
      np.testing.assert_allclose(got[name][s], number, atol=1e-6, err_msg=name)


# Test rows (negative, neutral, positive), the constant of the majority, and (accuracy,
# F1, F1 weighted by the predictions) as published tables have to be read against.
CONSTANTS = {
  "MOSI non0": ((379, 30, 277), -1, (0.5777, 0.4231, 0.7324)),
  "MOSI has0": ((379, 30, 277), -1, (0.5525, 0.3932, 0.7117)),
  "MOSEI non0": ((1350, 1025, 2284), 1, (0.6285, 0.4851, 0.7719)),
  "MOSEI has0": ((1350, 1025, 2284), 1, (0.7102, 0.5899, 0.8306)),
  "SIMS sims": ((248, 69, 140), -1, (0.6937, 0.5682, 0.8191)),
}
TRIPLES = {
  "non0": ("acc2_non0", "f1_non0", "f1_mplmm"),
  "has0": ("acc2_has0", "f1_has0", "f1_has0_mplmm"),
  "sims": ("sims_acc2", "sims_f1", "sims_f1_mplmm"),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_a_constant_scores_what_its_convention_gives_it(case):
  counts, side, want = CONSTANTS[case]
  label = np.repeat(np.float32([-1, 0, 1]), counts)
  always = np.full(len(label), side / 2, np.float32)
  got = [getattr(sentiment, name)(always, label) for name in TRIPLES[case.split()[1]]]
  np.testing.assert_allclose(got, want, atol=5e-5)


@pytest.mark.parametrize("p, golden", [(0.70, 0.576), (0.694, 0.568)])
def test_f1_of_a_constant_weights_by_the_truth(p, golden):
  label = np.where(np.arange(1000) < 1000 * p, 0.5, -0.5)
  for name in ("f1_has0", "f1_non0", "sims_f1"):
    got = getattr(sentiment, name)(np.ones(1000), label)
    np.testing.assert_allclose(got, golden, atol=1e-3, err_msg=name)


def test_f1_weighted_by_the_predictions_never_selects():
  for task in (Task("regression", 1, scale=3.0), SIMS_TASK):
    assert metrics.primary_metric(task) == ("mae", -1)
    names = list(measure.metrics_for(task))
    assert names[0] == "mae" and any("mplmm" in name for name in names)


def test_zero_and_half_fall_where_the_field_puts_them():
  label = np.array([0.0, 0.0, 1.0, -1.0])
  value = np.array([-0.2, 0.2, -0.2, -0.2])
  assert sentiment.acc2_has0(value, label) == 0.5  # 0 is positive
  assert sentiment.sims_acc2(value, label) == 0.5  # 0 is negative
  assert sentiment.acc2_non0(value, label) == 0.5  # rows 2 and 3 are left
  assert sentiment.acc2_has0(np.zeros(4), label) == 0.75
  assert sentiment.sims_acc2(np.zeros(4), label) == 0.75
  # Halves go to the even side: .5 -> 0, 1.5 -> 2, 2.5 -> 2, and 2.5 is clipped at 2.
  halves = np.array([0.5, 1.5, 2.5, -0.5])
  assert sentiment.acc7(halves, np.array([0.0, 2, 2, 0])) == 1
  assert sentiment.acc5(halves, np.array([0.0, 2, 3, 0])) == 1
  # Undefined: no row that is not neutral; beyond the clip of CH-SIMS every value is 1.
  assert np.isnan(sentiment.acc2_non0(np.ones(2), np.zeros(2)))
  assert np.isnan(sentiment.sims_corr(np.array([2.0, 3]), np.array([0.0, 1])))


def test_logits_are_in_the_unit_of_the_label():
  task = Task("regression", 1, scale=3.0)
  label = np.array([3.0, -1.5, 0.6], np.float32)
  heads = np.array([1.0, -0.5, 0.2], np.float32)[None, :, None]
  got = measure.measure(task, heads, label)
  np.testing.assert_allclose(got["mae"], 0, atol=1e-6)
  assert got["acc7"] == 1


def test_the_sentiment_set_follows_from_the_unit_and_the_names_of_the_label():
  plain, sims = {"mae", "corr"}, {"mae", "corr"} | names_of(sentiment.SIMS)
  mosi = {"mae", "corr"} | names_of(sentiment.SENTIMENT)
  assert set(measure.metrics_for(Task("regression", 1, scale=3.0))) == mosi
  assert set(measure.metrics_for(SIMS_TASK)) == sims
  assert set(measure.metrics_for(SIMS_TASK, ["acc7", "sims_acc2"])) == sims | {"acc7"}
  assert set(measure.metrics_for(SIMS_TASK._replace(names=()))) == plain
  assert set(measure.metrics_for(SIMS_TASK._replace(scale=2.0))) == plain
