"""The contract that every method keeps. A new method adds its cases to method_cases.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from method_cases import (
  CASES,
  FIRST,
  assert_close,
  assert_finite,
  assert_same,
  built,
  differentiate,
  every_case,
  every_method,
  predict,
  predict_logits,
)
from promise_jax import methods, missing


def test_every_method_has_a_case():
  assert set(FIRST) == set(methods.METHODS)


@every_method
def test_the_key_decides_the_parameters(name):
  case = CASES[name]
  spec = example_batches.spec(case.task, case.modalities[:1])  # an init is slow to compile
  start = jax.jit(methods.build_method(case.method, case.values, spec).init)
  first, again = start(jax.random.key(0)), start(jax.random.key(0))
  assert_same(first, again)
  assert_finite(first)
  other = start(jax.random.key(1))[0]
  weights = zip(jax.tree.leaves(first[0]), jax.tree.leaves(other), strict=True)
  # Some weights start at 0 or at the identity.
  assert all((x != y).any() for x, y in weights if len(np.unique(x[..., :2])) > 2)


@every_case
def test_garbage_in_unrecorded_inputs_changes_nothing_in_training(name):
  p = built(name)
  batch = example_batches.mixed_batch(p.spec)
  there = batch.recorded
  assert not there.all()
  poisoned = differentiate(p, example_batches.poison(batch, p.spec, there))
  assert_finite(poisoned)
  assert_same(poisoned, differentiate(p, example_batches.zero(batch, p.spec, there)))


@every_case
def test_garbage_in_absent_inputs_changes_no_prediction_and_no_embedding(name):
  p = built(name)
  full = example_batches.mixed_batch(p.spec)
  for pattern in missing.all_patterns(len(p.spec.modalities)):
    batch = full.replace(present=full.recorded & np.array([pattern]))
    poisoned = predict(p, example_batches.poison(batch, p.spec, batch.present))
    assert_finite(poisoned)
    assert_same(poisoned, predict(p, batch))


@every_case
def test_garbage_in_unknown_labels_changes_nothing(name):
  p = built(name)
  batch = example_batches.mixed_batch(p.spec)
  label = batch.label.copy()
  hidden = ~batch.labelled
  garbage = [10**6, -7, 99] if label.dtype == np.int32 else [np.nan, np.inf, -1e9]
  garbage = np.resize(garbage, hidden.sum()).astype(label.dtype)
  label[hidden] = garbage.reshape(-1, *(1,) * (label.ndim - 1))
  found = differentiate(p, batch.replace(label=label))
  assert_finite(found)
  assert_same(found, differentiate(p, batch))


@every_case
def test_the_order_of_the_rows_changes_nothing(name, rng):
  p = built(name)
  batch, order = example_batches.mixed_batch(p.spec), rng.permutation(example_batches.ROWS)
  shuffled = example_batches.take_rows(batch, order)
  (loss, (model_state, _)), grads = differentiate(p, batch)
  (other, (other_state, _)), other_grads = differentiate(p, shuffled)
  np.testing.assert_allclose(other, loss, 1e-5)
  assert_close(other_grads, grads)
  assert_close(other_state, model_state)
  np.testing.assert_allclose(
    predict_logits(p, shuffled), predict_logits(p, batch)[order], 1e-5, 1e-6
  )


@every_method
def test_rows_with_nothing_present_and_no_label_change_nothing(name):
  p = built(name)
  batch, rows = example_batches.mixed_batch(p.spec), np.arange(example_batches.ROWS) < 12
  padded = example_batches.poison(batch, p.spec, np.tile(rows[:, None], 3)).replace(
    row_mask=rows,
    present=batch.present & rows[:, None],
    recorded=batch.recorded & rows[:, None],
    labelled=batch.labelled & rows,
    label=np.where(rows, batch.label, 10**6),
  )
  (loss, (model_state, terms)), grads = differentiate(p, example_batches.take_rows(batch, rows))
  (other, (other_state, other_terms)), other_grads = differentiate(p, padded)
  np.testing.assert_allclose(other, loss, 1e-5)
  assert_close(other_grads, grads)
  assert_close(other_state, model_state)
  assert_close(other_terms, terms)


@every_case
@pytest.mark.parametrize("absent", ["one for all", "all of some", "all", "labels"])
def test_absent_modalities_and_labels_leave_everything_finite(name, absent):
  p = built(name)
  batch = example_batches.complete_batch(p.spec)
  present, labelled = batch.present.copy(), batch.labelled.copy()
  if absent == "one for all":
    present[:, 1] = False
  elif absent == "all of some":
    present[::3] = False
  elif absent == "all":
    present[:] = False
  else:
    labelled[:] = False
  batch = batch.replace(present=present, recorded=present, labelled=labelled)
  batch = example_batches.poison(batch, p.spec, present)
  (loss, (model_state, terms)), grads = differentiate(p, batch)
  assert_finite((loss, model_state, terms, grads, predict_logits(p, batch)))
  assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(grads))
  if absent == "all" and p.case.empty_rows_count:
    assert loss > 0
  elif absent == "all":
    assert loss == 0
    assert_same(grads, jax.tree.map(jnp.zeros_like, grads))
  if absent == "labels":
    supervised = "supervised" if "supervised" in terms else "sup"
    assert terms[supervised].total == 0 and terms[supervised].count == 0


@pytest.mark.parametrize("name", [*FIRST, *(n for n in CASES if n.endswith("-kinds"))])
def test_a_static_pattern_gives_what_a_traced_mask_gives(name):
  p = built(name)
  batch = example_batches.to_inputs(example_batches.mixed_batch(p.spec))
  static = jax.jit(p.method.predict, static_argnames="pattern")
  patterns = missing.all_patterns(len(p.spec.modalities))
  sample = patterns[::2] if name in FIRST else patterns[len(patterns) // 2 :][:1]
  for pattern in sample:
    now = batch.replace(present=batch.present & np.array([pattern]))
    traced = p.predict(p.params, p.model_state, now)
    found = static(p.params, p.model_state, batch, pattern=pattern)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-5), found, traced)
    assert np.asarray(found["logits"]).shape == (
      example_batches.ROWS,
      p.spec.task.outputs,
    )


@pytest.mark.parametrize("name", [n for n in FIRST if n != "promma"])
def test_codes_of_all_that_is_recorded_predict_under_every_pattern(name):
  """What a pattern hides is encoded, here as garbage, and not read."""
  p = built(name)
  batch = example_batches.to_inputs(example_batches.mixed_batch(p.spec))
  encode, predict_codes = jax.jit(p.method.encode), jax.jit(p.method.predict)
  for pattern in ((True, False, True), (False, True, False), (True, True, True)):
    shown = batch.replace(present=batch.present & np.array([pattern]))
    codes = encode(p.params, example_batches.poison(batch, p.spec, shown.present))
    found = predict_codes(p.params, p.model_state, shown, codes=codes)
    expected = p.predict(p.params, p.model_state, shown)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), found, expected)


@every_method
def test_a_static_pattern_leaves_the_absent_encoders_out(name):
  p = built(name)
  batch = example_batches.to_inputs(example_batches.mixed_batch(p.spec))
  products = []
  for pattern in ((True, True, True), (True, False, True), (True, False, False)):
    run = functools.partial(p.method.predict, pattern=pattern)
    text = str(jax.make_jaxpr(run)(p.params, p.model_state, batch))
    products.append(text.count("dot_general"))
  assert products[0] > products[1] > products[2] > 0


@pytest.mark.parametrize("name", ["robult-kinds", "fusion-kinds"])
def test_preprocessed_inputs_give_what_raw_ones_give(name):
  p = built(name)
  batch = example_batches.mixed_batch(p.spec)
  before = p.method.preprocess(batch.inputs)
  assert before["photo"].ndim == 2 and before["words"] is batch.inputs["words"]
  ready = batch.replace(inputs=before)
  np.testing.assert_allclose(predict_logits(p, ready), predict_logits(p, batch), 1e-5, 1e-5)
  found, raw = differentiate(p, ready), differentiate(p, batch)
  np.testing.assert_allclose(found[0][0], raw[0][0], 1e-5)
  assert_close(found[1], raw[1])


@every_method
def test_the_key_decides_the_noise_and_garbage_stays_out_of_it(name):
  p = built(name, dropout=True)
  batch = example_batches.mixed_batch(p.spec)
  first = differentiate(p, batch, key=4)
  assert_same(first, differentiate(p, batch, key=4))
  assert first[0][0] != differentiate(p, batch, key=5)[0][0]
  poisoned = differentiate(p, example_batches.poison(batch, p.spec, batch.recorded), key=4)
  zeroed = example_batches.zero(batch, p.spec, batch.recorded)
  assert_same(poisoned, differentiate(p, zeroed, key=4))


@every_method
def test_prediction_has_no_randomness(name):
  p = built(name)
  batch = example_batches.to_inputs(example_batches.mixed_batch(p.spec))
  text = str(jax.make_jaxpr(p.method.predict)(p.params, p.model_state, batch))
  assert "random" not in text and "threefry" not in text


@every_case
def test_sixteen_examples_can_be_learnt(name):
  p = built(name)
  batch, step_info = example_batches.complete_batch(p.spec), example_batches.step_info(0)
  params, model_state, losses = p.params, p.model_state, []
  first = second = jax.tree.map(np.zeros_like, params)
  for i in range(1, p.case.steps + 1):
    (loss, (model_state, _)), grads = p.grad(
      params, model_state, batch, jax.random.key(i), step_info
    )
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * np.asarray(g), first, grads)
    second = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * np.square(g), second, grads)
    params = jax.tree.map(adam_step, params, first, second)
    losses.append(float(loss))
  assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


def adam_step(x, first, second):
  """Adam on the host, where nothing is compiled. Both decays are 0.9, so what it lacks
  of a bias correction is a short warm-up."""
  return np.float32(x - 0.02 * first / (np.sqrt(second) + 1e-8))
