"""Temperatures, sets and intervals against simulated rows whose truth is known."""

import dataclasses
import json

import numpy as np
import pytest

from promise_jax import missing
from promise_jax.evaluation import calibration, temperature_scaling
from promise_jax.types import Task

PATTERNS = missing.all_patterns(2)
TASKS = {
  "classes": Task("classes", 3),
  "multilabel": Task("multilabel", 3),
  "regression": Task("regression", 1, scale=3.0),
}
TEMPERATURE = np.array([2.0, 2.0, 0.5])  # by pattern: one modality, one, both


def draw(kind: str, rows: int, seed: int = 0, num_seeds: int = 1):
  """Logits whose right temperatures are TEMPERATURE, labels, and what rows have: all."""
  rng, outputs = np.random.default_rng(seed), TASKS[kind].outputs
  true = 2 * rng.normal(size=(1, rows, outputs))
  if kind == "classes":
    label = (true[0] + rng.gumbel(size=(rows, outputs))).argmax(1)
  elif kind == "multilabel":
    label = (true[0] + rng.logistic(size=(rows, outputs)) > 0).astype(np.float32)
  else:
    label = (3 * true[0, :, 0] + rng.normal(size=rows)).astype(np.float32)
  logits = np.broadcast_to(true * TEMPERATURE[:, None, None], (num_seeds, 3, rows, outputs))
  return logits.astype(np.float32), label, np.ones((rows, 2), bool)


def fit(kind: str, logits, label, recorded) -> calibration.Calibration:
  return calibration.fit_calibration(TASKS[kind], logits, label, recorded, PATTERNS)


def log_loss(probability, label):
  from sklearn import metrics

  return metrics.log_loss(label, probability, labels=range(probability.shape[1]))


@pytest.mark.parametrize("kind", ["classes", "multilabel"])
def test_many_rows_recover_the_temperature_of_each_number_present(kind):
  fitted = fit(kind, *draw(kind, 4000))
  assert fitted.num_rows == (0, 4000, 4000)
  assert fitted.temperature[0] == 1
  np.testing.assert_allclose(fitted.temperature[1:], [2, 0.5], rtol=0.06)


def test_few_rows_have_nearly_one_temperature_and_none_has_one():
  logits, label, recorded = draw("classes", 4000)
  ratio = []
  for rows in (4000, 400, 40, 4):
    fitted = fit("classes", logits[:, :, :rows], label[:rows], recorded[:rows])
    ratio.append(fitted.temperature[1] / fitted.temperature[2])
  assert ratio == sorted(ratio, reverse=True) and 1 <= ratio[-1] < 1.3 < 3.5 < ratio[0]
  fitted = fit("classes", logits[:, :, :0], label[:0], recorded[:0])
  assert fitted.temperature == (1, 1, 1) and fitted.num_rows == (0, 0, 0)


@pytest.mark.parametrize("kind", ["classes", "multilabel"])
def test_what_is_calibrated_already_is_left_as_it_is(kind):
  """1 is kept in nearly all of 20 draws; a temperature that is needed is fitted in all of them."""
  kept = []
  for seed in range(20):
    logits, label, recorded = draw(kind, 200, seed)
    right = logits / TEMPERATURE[:, None, None].astype(np.float32)
    kept += [t == 1 for t in fit(kind, right, label, recorded).temperature[1:]]
    assert min(fit(kind, 3 * right, label, recorded).temperature[1:]) > 1.5
  assert 36 <= sum(kept)


def test_a_temperature_is_kept_where_both_gains_are_large_enough(monkeypatch):
  """With both modalities, a pattern of its own, a gain is a mean over rows. In every other draw
  twelve rows are sure and wrong: they rule the likelihood, and not the Brier score."""
  decided = []
  for seed in range(20):
    logits, label, recorded = draw("classes", 200, seed)
    logits = 1.4 * logits / TEMPERATURE[:, None, None].astype(np.float32)
    if seed % 2:
      logits = logits / 1.4
      logits[..., :12, :] = 9 * np.eye(3)[(label[:12] + 1) % 3]
    found = fit("classes", logits, label, recorded).temperature[2]
    with monkeypatch.context() as patch:
      patch.setattr(temperature_scaling, "LEAST_GAINS", (-np.inf, -np.inf))
      own = fit("classes", logits, label, recorded).temperature[2]
    x = logits[0, PATTERNS.index((True, True))].astype(float)
    plain, tempered = (np.exp(x / t) / np.exp(x / t).sum(1, keepdims=True) for t in (1.0, own))
    row = np.arange(200)
    likelihood = np.log(tempered[row, label] / plain[row, label])
    brier = ((plain - np.eye(3)[label]) ** 2 - (tempered - np.eye(3)[label]) ** 2).sum(axis=1)
    error = [gain.std(ddof=1) / np.sqrt(200) for gain in (likelihood, brier)]
    decided.append((likelihood.mean() > 1.96 * error[0], brier.mean() > error[1]))
    assert found == (own if all(decided[-1]) else 1)
  assert {(True, True), (True, False), (False, False)} <= set(decided)


def test_a_standard_error_is_that_of_a_mean_of_groups(rng):
  values, group = rng.normal(size=12), np.arange(12) // 3
  means = values.reshape(4, 3).mean(axis=1)
  found = temperature_scaling._standard_error(values, group)
  assert found == pytest.approx(means.std(ddof=1) / np.sqrt(4))
  found = temperature_scaling._standard_error(values, np.arange(12))
  assert found == pytest.approx(values.std(ddof=1) / np.sqrt(12))
  assert temperature_scaling._standard_error(values, 0 * group) == np.inf


def test_a_group_counts_as_one_row_does():
  logits, label, recorded = draw("classes", 50)
  args = TASKS["classes"], logits.repeat(6, axis=2), label.repeat(6), recorded.repeat(6, axis=0)
  repeated = calibration.fit_calibration(*args, PATTERNS, group=np.arange(50).repeat(6))
  once = fit("classes", logits, label, recorded)
  assert repeated.temperature == pytest.approx(once.temperature)
  assert repeated.num_rows == once.num_rows == (0, 50, 50)
  as_rows = calibration.fit_calibration(*args, PATTERNS)
  assert as_rows.temperature[1] > once.temperature[1] and as_rows.num_rows[1] == 300


def test_a_number_that_no_row_has_takes_the_temperature_of_the_others():
  logits, label, recorded = draw("classes", 4000)
  recorded[:, 1] = False
  fitted = fit("classes", logits, label, recorded)
  assert fitted.num_rows == (0, 4000, 0) and fitted.scores[2] == ()
  assert fitted.temperature[2] == pytest.approx(fitted.temperature[1], rel=0.05)
  assert fitted.temperature[2] > 1.8


@pytest.mark.parametrize("kind", ["classes", "multilabel"])
@pytest.mark.parametrize("rows", [1, 3, 10, 50])
def test_validation_likelihood_is_never_worse_than_with_temperature_one(kind, rows):
  for seed in range(5):
    rng = np.random.default_rng(seed)
    logits, label, recorded = draw(kind, rows, seed, num_seeds=2)
    logits = logits + rng.normal(size=logits.shape)
    fitted = fit(kind, logits, label, recorded)
    plain = dataclasses.replace(fitted, temperature=(1.0,) * 3)

    def loss(used, logits=logits, label=label):
      total = 0
      for p, weight in enumerate((0.5, 0.5, 1)):  # both numbers weigh the same
        count = np.full(rows, sum(PATTERNS[p]))
        x = calibration.calibrate(used, logits[:, p], count)
        y = np.eye(3)[label] if kind == "classes" else label
        total -= weight * np.log(np.where(y > 0, x, 1 if kind == "classes" else 1 - x)).sum()
      return total

    assert loss(fitted) <= loss(plain) + 1e-9


def test_probabilities_are_a_tempered_mean_over_seeds(rng):
  logits = rng.normal(size=(3, 5, 4)) * 4
  count = np.array([0, 1, 2, 2, 1])
  fitted = calibration.Calibration("classes", 1.0, (1.0, 2.0, 0.5), (0, 9, 9), ((), (), ()))
  got = calibration.calibrate(fitted, logits, count)
  softmax = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  for row, t in enumerate([1, 2, 0.5, 0.5, 2]):
    power = softmax[:, row].mean(0) ** (1 / t)
    np.testing.assert_allclose(got[row], power / power.sum())
  labels = dataclasses.replace(fitted, kind="multilabel")
  got = calibration.calibrate(labels, logits, count)
  mean = (1 / (1 + np.exp(-logits))).mean(0)
  for row, t in enumerate([1, 2, 0.5, 0.5, 2]):
    np.testing.assert_allclose(got[row], 1 / (1 + np.exp(-np.log(mean[row] / (1 - mean[row])) / t)))
  value = calibration.calibrate(dataclasses.replace(fitted, kind="regression"), logits, count)
  np.testing.assert_allclose(value, logits.mean(0))


def test_extreme_logits_stay_finite():
  logits = np.array([[[1e4, -1e4, 0.0]], [[-1e4, 1e4, 0.0]]])
  for kind in ("classes", "multilabel"):
    fitted = calibration.Calibration(kind, 1.0, (1.0, 0.5), (0, 0), ((), ()))
    np.testing.assert_allclose(
      calibration.calibrate(fitted, logits, np.array([1])),
      [[0.5, 0.5, kind == "multilabel" and 0.5]],
    )


def test_each_seed_has_its_own_calibration():
  logits, label, recorded = draw("classes", 300, num_seeds=2)
  logits = np.stack([logits[0], 3 * logits[1]])
  fitted = fit("classes", logits, label, recorded)
  assert fitted.seeds[1].temperature[1] > 2 * fitted.seeds[0].temperature[1]
  for s in range(2):
    assert (
      dataclasses.replace(fit("classes", logits[[s]], label, recorded), seeds=())
      == (fitted.seeds[s])
    )


@pytest.mark.parametrize("kind", TASKS)
def test_what_a_row_does_not_have_changes_nothing(kind, rng):
  logits, label, recorded = draw(kind, 60)
  recorded[:20, 0] = False
  clean = fit(kind, logits, label, recorded)
  poisoned = logits.copy()
  poisoned[:, [0, 2], :20] = np.nan  # the row counts under its second modality alone
  assert fit(kind, poisoned, label, recorded) == clean
  assert clean.num_rows == (0, 60, 40)


def test_a_nan_logit_leaves_a_number_uncalibrated():
  logits, label, recorded = draw("classes", 60, num_seeds=2)
  broken = logits.copy()
  broken[1, 2, 7, 0] = np.nan
  fitted = fit("classes", broken, label, recorded)
  assert fitted.num_rows == (0, 60, 0) and fitted.seeds[1].num_rows == (0, 60, 0)
  assert fitted.seeds[0] == fit("classes", logits, label, recorded).seeds[0]
  probability = calibration.calibrate(fitted, broken[:, 2], np.full(60, 2))
  assert np.isnan(probability[7]).all() and not np.isnan(probability[8]).any()
  assert calibration.prediction_sets(fitted, probability, np.full(60, 2)).all()


@pytest.mark.parametrize("kind", TASKS)
def test_calibrations_come_back_from_json(kind):
  fitted = fit(kind, *draw(kind, 700, num_seeds=2))
  text = json.dumps(fitted.to_json(), allow_nan=False)
  assert calibration.Calibration.from_json(json.loads(text)) == fitted
  assert len(fitted.scores[1]) == (0 if kind == "multilabel" else calibration.MAX_SCORES)
