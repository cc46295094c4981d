"""A loaded model against its method called by hand, row by row."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

import promise_jax
from inference import saved_runs
from promise_jax.types import Inputs

CLASSES = ["hat", "shoe", "dress"]


@pytest.fixture(scope="module", params=["classes", "regression", "multilabel"])
def run(request, tmp_path_factory):
  """(task, folder, predictor, what `save_run` returns)."""
  folder = tmp_path_factory.mktemp("run") / request.param
  made = saved_runs.save_run(folder, request.param)
  return request.param, folder, promise_jax.load(folder), made


def predict_by_hand(made, present):
  """Mean probability or value over seeds of the test rows, one seed after the other."""
  _, dataset, method, params, state = made
  split = dataset.split("test")
  inputs = Inputs(split.inputs, split.length, present & split.recorded, split.id)
  inputs = inputs.replace(inputs=method.preprocess(inputs.inputs))
  of_seed = lambda s: jax.tree.map(lambda x: x[s], (params, state))
  logits = np.stack([method.predict(*of_seed(s), inputs)["logits"] for s in range(3)])
  kind = dataset.spec.task.kind
  if kind == "regression":
    return 2.0 * logits.mean(0)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  return (1 / (1 + np.exp(-logits)) if kind == "multilabel" else p).mean(0)


def temper(kind, p, temperature):
  """p^(1/T), normalised over the classes, or over yes and no of each label."""
  a, b = p ** (1 / temperature), (1 - p) ** (1 / temperature)
  return a / (a + b) if kind == "multilabel" else a / a.sum(-1, keepdims=True)


def test_predictions_are_the_calibrated_mean_over_seeds(run):
  kind, _, predictor, made = run
  rows = saved_runs.of_split(made[0], "test")
  found, recorded = predictor.predict_proba(rows), made[1].split("test").recorded
  expected = predict_by_hand(made, np.ones((10, 3), bool))
  temperature = np.array(predictor.calibration.temperature)[recorded.sum(1)][:, None]
  if kind != "regression":
    expected = temper(kind, expected, temperature)
  some = recorded.any(axis=1)
  columns = ["value"] if kind == "regression" else list(predictor.classes)
  np.testing.assert_allclose(found[columns].to_numpy()[some], expected[some], rtol=1e-5, atol=2e-6)
  assert found.index.tolist() == rows["id"].tolist()
  answers = predictor.predict(rows)
  if kind == "classes":
    best = [CLASSES[i] for i in found.to_numpy().argmax(1)]
    assert answers.tolist() == best
  elif kind == "multilabel":
    np.testing.assert_array_equal(answers.to_numpy(), found.to_numpy() > 0.5)
  else:
    np.testing.assert_array_equal(answers, found["value"])


def test_contributions_add_up_to_the_prediction(run):
  kind, _, predictor, made = run
  rows = saved_runs.of_split(made[0], "test")
  found = predictor.contribution(rows)
  served = predictor.predict_proba(rows)[
    ["value"] if kind == "regression" else list(predictor.classes)
  ]
  prior = predictor.prior.astype(float)
  nothing = {
    "classes": np.log(np.exp(prior) / np.exp(prior).sum()),
    "multilabel": -np.log1p(np.exp(-prior)),
    "regression": 2.0 * prior,
  }[kind]
  worth = served.to_numpy() if kind == "regression" else np.log(served.to_numpy())
  best = worth.argmax(axis=1)
  total = worth.max(axis=1) - nothing[best]
  values = found[list(predictor.modalities)].to_numpy()
  np.testing.assert_allclose(values.sum(axis=1), total, atol=1e-5)
  recorded = made[1].split("test").recorded
  assert not values[~recorded].any() and np.abs(values[recorded]).min() > 0
  gains = found[[f"gain_{m}" for m in predictor.modalities]].to_numpy()
  assert np.isnan(gains[recorded]).all()


def test_gates_of_the_method_stand_beside_the_gain(classes):
  _, predictor, arrays = classes
  gate = np.float32([[0.2], [0.4], [0.9]])  # of each seed

  def forward(inputs):
    gates = np.where(
      inputs.present, 1, np.broadcast_to(gate[:, :, None], (3, *inputs.present.shape))
    )
    return dict(predictor.forward(inputs), gate=gates)

  rows = saved_runs.of_split(arrays, "test")
  found = dataclasses.replace(predictor, forward=forward).contribution(rows)
  present = np.stack([rows[f"present_{m}"] for m in predictor.modalities], axis=1)
  gates = found[[f"gate_{m}" for m in predictor.modalities]].to_numpy()
  np.testing.assert_allclose(gates, np.where(present, 1, 0.5), atol=1e-6)
  pd.testing.assert_frame_equal(found[found.columns[:6]], predictor.contribution(rows))


def test_a_row_has_one_answer_alone_and_in_any_batch(classes):
  _, predictor, arrays = classes
  rows = saved_runs.of_split(arrays, "train")
  together = predictor.predict_proba(rows)
  for i in (0, 7, 29):
    alone = predictor.predict_proba({name: x[i : i + 1] for name, x in rows.items()})
    np.testing.assert_allclose(alone.to_numpy()[0], together.to_numpy()[i], atol=1e-6)
  many = {name: np.concatenate([x] * 30) for name, x in rows.items()}
  np.testing.assert_allclose(
    predictor.predict_proba(many).to_numpy()[600:630], together.to_numpy(), atol=1e-6
  )


def test_what_is_absent_may_hold_anything(classes):
  _, predictor, arrays = classes
  rows = saved_runs.of_split(arrays, "test")
  spoilt = {name: x.copy() for name, x in rows.items()}
  spoilt["x_v"][~rows["present_v"]] = np.nan
  spoilt["x_photo"][~rows["present_photo"]] = 255
  spoilt["x_text"][~rows["present_text"]] = "garbage"
  pd.testing.assert_frame_equal(predictor.predict_proba(spoilt), predictor.predict_proba(rows))
  # A modality that lacks is one that is not present.
  hidden = dict(rows, present_photo=np.zeros(10, bool))
  without = {name: x for name, x in rows.items() if not name.endswith("photo")}
  pd.testing.assert_frame_equal(predictor.predict_proba(without), predictor.predict_proba(hidden))


def test_rows_with_nothing_get_the_constant_prediction(classes):
  _, predictor, _ = classes
  found = predictor.predict_proba({"text": [None, "hat"]}).to_numpy()
  prior = np.exp(predictor.prior) / np.exp(predictor.prior).sum()
  np.testing.assert_allclose(found[0], prior, atol=1e-6)
  assert abs(found[1] - prior).max() > 0.01


def test_embeddings_have_a_row_each(classes):
  _, predictor, arrays = classes
  for values in predictor.embed(saved_runs.of_split(arrays, "test")).values():
    assert len(values) == 10 and np.isfinite(values).all()


def test_metrics_equal_scikit_learn(classes):
  _, predictor, arrays = classes
  rows = saved_runs.of_split(arrays, "test")
  labels = np.array(CLASSES, object)[rows["y"]]
  found = predictor.evaluate(dict(rows, y=labels)).set_index(["present", "metric"])["value"]
  answers = predictor.predict(rows)
  assert np.isclose(found["all rows", "accuracy"], metrics.accuracy_score(labels, answers))
  f1 = metrics.f1_score(labels, answers, average="weighted")
  assert np.isclose(found["all rows", "weighted_f1"], f1)
  some = labels.copy()
  some[:4] = None
  part = predictor.evaluate(dict(rows, y=some))
  assert part.loc[part["present"] == "all rows", "n"].unique().tolist() == [6]
  with pytest.raises(ValueError, match="row 0 has the label 'boot', .* as 10 of 10 rows have"):
    predictor.evaluate(dict(rows, y=np.full(10, "boot")))
  with pytest.raises(ValueError, match="no row has a label"):
    predictor.evaluate({name: x for name, x in rows.items() if name != "y"})
  with pytest.raises(ValueError, match="no row has a label, every cell of y or label is missing"):
    predictor.evaluate(dict(rows, y=[None] * 10))


def test_answers_can_be_assigned_to_the_frame_of_the_rows(run):
  """Its index is not 0, 1, ..., and repeats; the ids are a column of their own."""
  _, _, predictor, made = run
  rows = saved_runs.of_split(made[0], "test")
  frame = pd.DataFrame({n: list(x) for n, x in rows.items()}, index=[7, 3, 3, *"abcdefg"])
  for ask in (predictor.predict, predictor.predict_proba, predictor.contribution):
    found, expected = ask(frame), ask(rows)
    assert found.index.equals(frame.index) and expected.index.equals(pd.Index(rows["id"]))
    np.testing.assert_array_equal(found, expected)


def test_a_coverage_adds_sets_to_classes(run):
  kind, _, predictor, made = run
  rows = saved_runs.of_split(made[0], "test")
  for coverage in (0, 1.5):
    with pytest.raises(ValueError, match="[Tt]he coverage is|sets are for classes"):
      predictor.predict_proba(rows, coverage)
  if kind == "classes":
    found = predictor.predict_proba(rows, 0.6)
    kept = np.array([[c in chosen for c in CLASSES] for chosen in found.pop("set")])
    least = np.where(kept, found, 1).min(axis=1)  # a set has the most probable classes
    assert (np.where(kept, 0, found).max(axis=1) <= least).all() and kept.any(axis=1).all()
    assert not kept.all()
  elif kind == "regression":
    narrow, wide = (predictor.predict_proba(rows, part) for part in (0.5, 0.9))
    pd.testing.assert_frame_equal(predictor.predict_proba(rows), wide)
    assert (narrow["high"] < wide["high"]).any()


def test_other_variants_and_single_seeds(classes):
  folder, _, arrays = classes
  rows = saved_runs.of_split(arrays, "test")
  one = promise_jax.load(folder, seeds=1)
  assert one.seeds == (1,) and one.calibration.seeds == ()
  assert not np.allclose(one.predict_proba(rows), promise_jax.load(folder).predict_proba(rows))
  constant = promise_jax.load(folder, "majority").predict(rows)
  assert set(constant) == {"dress"}
  for options, words in (
    ({"variant": "robult"}, "variant .*'robult'.*fusion, majority"),
    ({"seeds": 7}, "seeds .*'7'.*all, 0, 1, 2"),
  ):
    with pytest.raises(ValueError, match=words):
      promise_jax.load(folder, **options)
  with pytest.raises(ValueError, match="none.model does not exist"):
    promise_jax.load(folder / "none")


def test_rows_in_another_unit_and_values_far_out_are_said_once(classes, caplog):
  _, predictor, arrays = classes
  rows = {name: x for name, x in arrays.items() if name not in ("classes", "split", "y")}
  predictor.predict(rows)
  assert "v:" not in caplog.text
  expected = predictor.predict_proba(rows | {"x_v": np.full_like(rows["x_v"], 1e4)})
  assert "v: 3 of 3 features are elsewhere than in train, as in another unit" in caplog.text
  assert f"v: {3 * rows['present_v'].sum()} values far outside those of train" in caplog.text
  found = predictor.predict_proba(rows | {"x_v": np.full_like(rows["x_v"], 3e38)})
  np.testing.assert_array_equal(found, expected)  # both are clipped to the same
