"""Metrics against scikit-learn, numpy loops and cases worked by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as reference

from promise_jax import types
from promise_jax.evaluation import metrics
from promise_jax.evaluation import sentiment_metrics as sentiment

CLASSES = types.Task("classes", 4)
ROWS = 120


def draw(kind: str, outputs: int, seed: int = 0):
  """Logits, labels that follow them, integer weights with zeros and sum ROWS."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(ROWS, outputs)).astype(np.float32)
  weight = np.bincount(rng.integers(0, ROWS, ROWS), minlength=ROWS).astype(np.float32)
  if kind == "classes":
    blind = rng.integers(0, outputs, ROWS)
    label = np.where(rng.random(ROWS) < 0.4, logits.argmax(1), blind)
  elif kind == "multilabel":
    label = (logits + rng.normal(size=logits.shape) > 0.3).astype(np.float32)
  else:
    label = (logits[:, 0] + rng.normal(size=ROWS)).round(1).astype(np.float32)
  return logits, label, weight


@functools.cache
def all_of(kind: str, outputs: int, scale: float = 1.0):
  """Every metric of a kind of task in one jitted call, by name."""
  names = [m.__name__ for m in metrics.KNOWN[kind]]
  asked = metrics.metrics_for(types.Task(kind, outputs, scale=scale), names)
  assert list(asked) == names
  return jax.jit(lambda *args: {k: m(*args) for k, m in asked.items()})


def column(*values):
  return jnp.array(values, jnp.float32)[:, None]


def softmax(x):
  e = np.exp(x.astype(np.float64))
  return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_class_metrics_agree_with_scikit_learn(seed):
  logits, label, weight = draw("classes", 4, seed)
  guess = logits.argmax(1)
  counted = weight > 0
  y, p, w = label[counted], guess[counted], weight[counted]
  want = {
    "accuracy": reference.accuracy_score(y, p, sample_weight=w),
    "macro_f1": reference.f1_score(y, p, average="macro", sample_weight=w),
    "weighted_f1": reference.f1_score(y, p, average="weighted", sample_weight=w),
    "uar": reference.balanced_accuracy_score(y, p, sample_weight=w),
    "auroc": reference.roc_auc_score(
      *(y, softmax(logits)[counted]), multi_class="ovr", sample_weight=w
    ),
  }
  got = all_of("classes", 4)(logits, label, weight)
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, atol=1e-5, err_msg=name)


def test_multilabel_metrics_agree_with_scikit_learn():
  logits, label, weight = draw("multilabel", 5)
  guess = logits > 0
  options = {"sample_weight": weight, "zero_division": 0}
  want = {
    f"{k}_f1": reference.f1_score(label, guess, average=k, **options)
    for k in ("macro", "micro", "weighted", "samples")
  }
  want["samples_accuracy"] = reference.accuracy_score(label, guess, sample_weight=weight)
  want["auroc"] = reference.roc_auc_score(label, logits, sample_weight=weight)
  for name, value in all_of("multilabel", 5)(logits, label, weight).items():
    np.testing.assert_allclose(value, want.pop(name), atol=1e-5, err_msg=name)
  assert not want


def test_a_label_that_never_occurs_counts_as_zero_in_the_multilabel_macro():
  logits, label, weight = draw("multilabel", 3)
  logits[:, 1], label[:, 1] = -1, 0
  want = reference.f1_score(
    label, logits > 0, average="macro", sample_weight=weight, zero_division=0
  )
  np.testing.assert_allclose(metrics.macro_f1(logits, label, weight), want, atol=1e-5)


def test_auroc_counts_ties_half_and_weights_pairs():
  rng = np.random.default_rng(3)
  score, label = rng.integers(0, 4, ROWS) / 2, rng.integers(0, 2, ROWS)
  weight = rng.random(ROWS)
  won = total = 0.0
  for i in np.flatnonzero(label == 1):
    for j in np.flatnonzero(label == 0):
      credit = 1.0 if score[i] > score[j] else 0.5 if score[i] == score[j] else 0.0
      won += weight[i] * weight[j] * credit
      total += weight[i] * weight[j]
  logits = np.stack([np.zeros(ROWS), score], 1)
  got = jax.jit(metrics.auroc)(logits, label, weight)
  np.testing.assert_allclose(got, won / total, rtol=1e-5)


def test_auroc_sees_the_order_of_scores_that_underflow():
  # exp(-110) and exp(-120), the scores of class 1 in rows 1 and 0, are 0 in float32.
  logits = np.array([[120.0, 0, 0], [0, 0, 110], [0, 9, 0], [0, 0, 9]], np.float32)
  label, ones = np.array([0, 1, 1, 2]), np.ones(4)
  # Pairs won: class 0 3 of 3; class 1 row 1 one, row 2 two of 4; class 2 2 of 3.
  want = (1 + 3 / 4 + 2 / 3) / 3
  np.testing.assert_allclose(jax.jit(metrics.auroc)(logits, label, ones), want, rtol=1e-6)


def test_macro_auroc_and_uar_leave_out_classes_that_do_not_occur():
  logits, _, weight = draw("classes", 4)
  label = np.arange(ROWS) % 2
  counted = weight > 0
  y, x, w = label[counted], softmax(logits)[counted], weight[counted]
  areas = [reference.roc_auc_score(y == c, x[:, c], sample_weight=w) for c in (0, 1)]
  np.testing.assert_allclose(
    jax.jit(metrics.auroc)(logits, label, weight), np.mean(areas), atol=1e-5
  )
  hits = logits.argmax(1) == label
  recalls = [np.average(hits[label == c], weights=weight[label == c]) for c in (0, 1)]
  np.testing.assert_allclose(
    jax.jit(metrics.uar)(logits, label, weight), np.mean(recalls), atol=1e-5
  )


@pytest.mark.parametrize("p, golden", [(0.70, 0.576), (0.694, 0.568)])
def test_weighted_f1_of_a_constant_predictor_is_not_the_swapped_one(p, golden):
  label = (np.arange(1000) < 1000 * p).astype(np.int32)
  ones = np.ones(1000)
  always = np.tile([0.0, 1.0], (1000, 1))
  value = np.where(label, 0.5, -0.5)
  found = {
    "weighted_f1": metrics.weighted_f1(always, label, ones),
    "f1_has0": sentiment.f1_has0(always[:, 1:], value, ones),
    "f1_non0": sentiment.f1_non0(always[:, 1:], value, ones),
    "sims_f1": sentiment.sims_f1(always[:, 1:], value, ones),
  }
  for name, got in found.items():
    np.testing.assert_allclose(got, golden, atol=1e-3, err_msg=name)


def sentiment_by_hand(value, label):
  """The published definitions as a loop over rows (unit weights)."""
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
  value = (label + rng.integers(-5, 6, ROWS) * np.float32(step)).astype(np.float32)
  value[::7] = 0
  want = sentiment_by_hand(value, label)
  got = all_of("regression", 1)(value[:, None], label, np.ones(ROWS, np.float32))
  assert got.keys() == want.keys()
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, atol=1e-5, err_msg=name)


# Test rows (negative, neutral, positive), the constant of the majority, and (accuracy,
# F1, F1 with its arguments swapped) as published tables have to be read against.
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
  always, ones = np.full((len(label), 1), side / 2, np.float32), np.ones(len(label))
  names = TRIPLES[case.split()[1]]
  got = [getattr(sentiment, name)(always, label, ones) for name in names]
  np.testing.assert_allclose(got, want, atol=5e-5)


def test_the_swapped_f1_never_selects():
  for scale, names in ((3.0, ()), (1.0, sentiment.SIMS_LABEL)):
    task = types.Task("regression", 1, names, scale)
    assert metrics.primary_metric(task) == ("mae", -1)
    found = metrics.metrics_for(task)
    assert next(iter(found)) == "mae" and any("mplmm" in name for name in found)


def test_zero_and_half_fall_where_the_field_puts_them():
  ones = np.ones(4)
  label = np.array([0.0, 0.0, 1.0, -1.0], np.float32)
  value = column(-0.2, 0.2, -0.2, -0.2)
  assert sentiment.acc2_has0(value, label, ones) == 0.5  # 0 is positive
  assert sentiment.sims_acc2(value, label, ones) == 0.5  # 0 is negative
  assert sentiment.acc2_non0(value, label, ones) == 0.5  # rows 2 and 3 are left
  assert sentiment.acc2_has0(column(0, 0, 0, 0), label, ones) == 0.75
  assert sentiment.sims_acc2(column(0, 0, 0, 0), label, ones) == 0.75
  # Halves go to the even side: .5 -> 0, 1.5 -> 2, 2.5 -> 2, and 2.5 is clipped at 2.
  halves = column(0.5, 1.5, 2.5, -0.5)
  assert sentiment.acc7(halves, jnp.array([0.0, 2, 2, 0]), ones) == 1
  assert sentiment.acc5(halves, jnp.array([0.0, 2, 3, 0]), ones) == 1


KINDS = (("classes", 4), ("multilabel", 5), ("regression", 1))


@pytest.mark.parametrize("kind, outputs", KINDS)
def test_weights_are_repeated_rows_for_every_metric(kind, outputs):
  logits, label, weight = draw(kind, outputs)
  repeat = np.repeat(np.arange(ROWS), weight.astype(int))
  whole = all_of(kind, outputs)(logits[repeat], label[repeat], np.ones(ROWS, np.float32))
  for name, got in all_of(kind, outputs)(logits, label, weight).items():
    assert got.shape == () and got.dtype == jnp.float32
    np.testing.assert_allclose(got, whole[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind, outputs", KINDS)
def test_rows_of_weight_zero_may_hold_anything(kind, outputs):
  logits, label, weight = draw(kind, outputs)
  spoiled = np.where(weight[:, None] == 0, np.nan, logits)
  want = all_of(kind, outputs)(logits, label, weight)
  for name, got in all_of(kind, outputs)(spoiled, label, weight).items():
    assert got == want[name], name


@pytest.mark.parametrize("kind, outputs", KINDS)
def test_no_rows_or_a_nan_in_one_that_counts_gives_nan(kind, outputs):
  logits, label, weight = draw(kind, outputs)
  broken = np.where(np.arange(ROWS)[:, None] == weight.argmax(), np.nan, logits)
  nothing = all_of(kind, outputs)(logits, label, 0 * weight)
  assert all(np.isnan(v) for v in nothing.values()), nothing
  spoiled = all_of(kind, outputs)(broken, label, weight)
  assert all(np.isnan(v) for v in spoiled.values()), spoiled


def test_what_is_undefined_is_nan():
  one_class, ones = np.zeros(ROWS, int), np.ones(ROWS)
  assert np.isnan(jax.jit(metrics.auroc)(np.eye(2)[one_class], one_class, ones))
  assert np.isnan(metrics.micro_f1(-np.ones((4, 2)), np.zeros((4, 2)), np.ones(4)))
  assert np.isnan(sentiment.acc2_non0(column(1, 1), jnp.zeros(2), jnp.ones(2)))
  label = np.linspace(-1, 1, ROWS)
  assert np.isnan(sentiment.corr(np.full((ROWS, 1), 0.1), label, ones))
  # Beyond the clip of CH-SIMS every value is 1.
  assert np.isnan(sentiment.sims_corr(label[:, None] + 2, label, ones))


def test_metrics_map_over_seeds_and_patterns():
  logits, label, weight = draw("classes", 4)
  seeds = np.stack([logits, logits[::-1]])
  weights = np.stack([weight, weight[::-1], np.ones(ROWS)])
  over_seeds = jax.vmap(all_of("classes", 4), in_axes=(0, None, None))
  mapped = jax.vmap(over_seeds, in_axes=(None, None, 0))(seeds, label, weights)
  want = all_of("classes", 4)(seeds[1], label, weights[2])
  for name, got in mapped.items():
    assert got.shape == (3, 2)
    np.testing.assert_allclose(got[2, 1], want[name], atol=1e-6, err_msg=name)


def test_regression_metrics_undo_the_scale_of_the_label():
  task = types.Task("regression", 1, scale=3.0)
  asked = metrics.metrics_for(task)
  assert set(asked) == {"mae", "corr"} | {m.__name__ for m in sentiment.SENTIMENT}
  label = np.array([3.0, -1.5, 0.6], np.float32)
  heads = column(1.0, -0.5, 0.2)
  np.testing.assert_allclose(asked["mae"](heads, label, np.ones(3)), 0, atol=1e-6)
  assert asked["acc7"](heads, label, np.ones(3)) == 1
  assert set(metrics.metrics_for(task._replace(scale=1.0))) == {"mae", "corr"}


def test_ch_sims_is_told_from_plain_regression_by_the_names_of_the_task():
  task = types.Task("regression", 1, sentiment.SIMS_LABEL)
  of_sims = {m.__name__ for m in sentiment.SIMS}
  assert set(metrics.metrics_for(task)) == {"mae", "corr"} | of_sims
  more = metrics.metrics_for(task, ["acc7", "sims_acc2"])
  assert set(more) == {"mae", "corr", "acc7"} | of_sims
  assert set(metrics.metrics_for(task._replace(names=()))) == {"mae", "corr"}
  assert set(metrics.metrics_for(task._replace(scale=2.0))) == {"mae", "corr"}


@pytest.mark.parametrize("kind, outputs", KINDS)
def test_row_means_are_the_mean_of_single_rows(kind, outputs):
  logits, label, weight = draw(kind, outputs)
  whole = all_of(kind, outputs)(logits, label, weight)
  alone = jax.vmap(all_of(kind, outputs))(logits[:, None], label[:, None], np.ones((ROWS, 1)))
  known = {m.__name__: m for m in metrics.KNOWN[kind]}
  for name in (k for k, m in known.items() if metrics.is_row_mean(m)):
    mean = np.average(alone[name], weights=weight)
    np.testing.assert_allclose(mean, whole[name], atol=1e-6, err_msg=name)
  assert metrics.is_row_mean(functools.partial(sentiment.mae, scale=3.0))
  assert not metrics.is_row_mean(metrics.macro_f1)


def test_primary_metric_and_its_sign():
  assert metrics.primary_metric(CLASSES) == ("accuracy", 1)
  assert metrics.primary_metric(types.Task("multilabel", 3)) == ("macro_f1", 1)
  assert metrics.primary_metric(types.Task("regression", 1)) == ("mae", -1)
  with pytest.raises(ValueError, match="'ranking' is not one of"):
    metrics.primary_metric(types.Task("ranking", 1))


def test_bad_requests_say_what_is_allowed():
  with pytest.raises(ValueError, match="'mae' is no metric of classes; known: accur"):
    metrics.metrics_for(CLASSES, ["mae"])
  with pytest.raises(ValueError, match=r"want logits \[N, 1\], not \(2, 3\)"):
    sentiment.mae(jnp.ones((2, 3)), jnp.ones(2), jnp.ones(2))
  with pytest.raises(ValueError, match="2 or more rising rates"):
    metrics.area_under_curve([0.0, 0.0], [1.0, 1.0])


def test_area_is_divided_by_the_range_of_rates():
  assert metrics.area_under_curve([0.1, 0.5], [0.8, 0.8]) == pytest.approx(0.8)
  # Trapezoids .1 * .85 + .4 * .7 = .365 over a range of .5.
  assert metrics.area_under_curve([0.0, 0.1, 0.5], [0.9, 0.8, 0.6]) == pytest.approx(0.73)
