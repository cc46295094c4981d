"""The gates of ProMMA and their labels, against slow loops over rows and gates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import promma_cases as cases
from promma_cases import EVERY, LABELS, NO_LABELS, SPEC, WARMUP

import example_batches
from promise_jax.methods import promma_gates


def test_the_gates_are_those_of_a_perceptron_of_what_is_present():
  (params, model_state), batch = cases.params_and_state(), cases.batch_of()
  found = jax.device_get(cases.run_gates()(params, model_state, batch, cases.all_gates()))
  f0 = cases.teacher_logits(params, model_state, batch, batch.present)
  cases.close(found["f0"][0], f0)
  weights = params["params"]["evaluator"]
  first, last = (weights[f"Dense_{i}"] for i in (1, 0))
  encoded, dense = found["encoded"], lambda p, x: x @ p["kernel"] + p["bias"]
  for r, row in enumerate(batch.present):
    parts = [np.zeros(12, np.float32)] * 3
    for i in np.flatnonzero(row):
      steps, real = (x[cases.NAMES[i]][r] for x in (encoded.projected, encoded.real))
      parts[i] = steps[real].mean(0)
    for m, name in enumerate(cases.NAMES):
      made = found["generated"][name][r].mean(0)
      x = np.concatenate([*parts, row, found["f0"][0, r], np.eye(3)[m], made])
      expected = dense(last, np.maximum(dense(first, x), 0))[0]
      cases.close(found["gate_logits"][r, m], expected, 1e-4)


@functools.cache
def label_gates():
  net = cases.network()

  def run(params, model_state, batch, pseudo_logits):
    args = net, SPEC.task, params, model_state["moments"], batch, pseudo_logits, 0.0
    labels, moments = promma_gates.label_gates(*args)
    return labels, model_state | {"moments": moments}

  return jax.jit(run)


def test_labels_equal_a_slow_loop():
  params, model_state = cases.params_and_state()
  seen = []
  for seed in (0, 1):  # the deviation is that of all targets so far
    batch = cases.batch_of(seed)
    pseudo_logits = cases.teacher_logits(params, model_state, batch, batch.recorded)
    pseudo = np.asarray(pseudo_logits)[:, 0]
    where = batch.labelled & batch.present.any(1)
    target = np.where(where, 0.5 * batch.label / 3 + 0.5 * pseudo, pseudo)
    seen = [*seen, *(batch.label[where] / 3)]
    errors = cases.errors_of(params, model_state, batch, target)
    benefit = cases.slow_benefit(errors, batch.present)
    labels, model_state = label_gates()(params, model_state, batch, pseudo_logits)
    cases.close(labels, cases.sigmoid(benefit / (0.1 * np.std(seen))), 1e-3)
    assert np.ptp(labels) > 0.1


def test_the_frozen_backbone_runs_where_it_is_needed():
  (params, model_state), batch = cases.params_and_state(), cases.batch_of()
  masks = jnp.stack([batch.present, batch.recorded])
  args = cases.network(), params, model_state["f0"], batch, masks
  run = jax.jit(lambda needed: promma_gates.frozen_backbone_logits(*args, needed))
  expected = [cases.teacher_logits(params, model_state, batch, mask) for mask in masks]
  for needed in ([True, False], [True, True]):
    found = np.asarray(run(jnp.array(needed)))
    cases.close(found, np.stack(expected) * np.array(needed)[:, None, None])


def test_predictions_have_hard_gates_once_the_evaluator_is_trained():
  (params, model_state), batch = cases.params_and_state(), cases.batch_of()
  inputs, present = example_batches.to_inputs(batch), batch.present
  predict = jax.jit(cases.method_of().predict)
  found = predict(params, model_state, inputs)
  runs = cases.run_gates()(params, model_state, batch, cases.all_gates())
  hard = np.where(present, 1, runs["gate_logits"] >= 0)
  np.testing.assert_array_equal(found["gate"], hard)
  assert np.ptp(hard[~present & present.any(1, keepdims=True)]) == 1
  logits = np.asarray(runs["out"].logits)
  cases.close(found["logits"], logits[cases.gate_index(hard), np.arange(cases.ROWS)])
  untrained = model_state | {"evaluator_trained": np.array(False)}
  assert np.all(predict(params, untrained, inputs)["gate"] == 1)


def test_before_the_warmup_is_done_everything_is_generated():
  (params, model_state), batch = cases.params_and_state(), cases.batch_of()
  model_state = model_state | {"evaluator_trained": np.array(False)}
  early, state, terms = cases.step_of(params, model_state, batch, WARMUP)
  for path, x in early.items():
    if "evaluator" in path or "off_prompts" in path:
      assert not np.any(x), path
  assert terms["gate"].count == 0 and not state["evaluator_trained"]
  late, state, terms = cases.step_of(params, model_state, batch, LABELS)
  assert all(np.any(x) for path, x in late.items() if "evaluator" in path)
  assert terms["gate"].count == (~batch.present & batch.present.any(1)[:, None]).sum()
  assert state["moments"]["count"] > 0 and state["evaluator_trained"]


def test_the_evaluator_learns_from_its_labels_and_through_the_soft_gate():
  """In a step without labels only through the gate, and that is no 0."""
  (params, model_state), batch = cases.params_and_state(), cases.batch_of()
  with_labels, _, _ = cases.step_of(params, model_state, batch, LABELS)
  without, state, _ = cases.step_of(params, model_state, batch, NO_LABELS)
  assert state["moments"]["count"] == 0
  pseudo = cases.teacher_logits(params, model_state, batch, batch.recorded)
  labels, _ = label_gates()(params, model_state, batch, pseudo)
  logits = cases.run_gates()(params, model_state, batch, cases.all_gates())["gate_logits"]
  where = ~batch.present & batch.present.any(1)[:, None]
  slope = 0.1 * EVERY * np.mean((cases.sigmoid(logits) - labels)[where])
  bias = "params/evaluator/Dense_0/bias"
  cases.close(with_labels[bias] - without[bias], [slope])
  assert np.any(without[bias])
  for path in with_labels:
    # The evaluator's input from the present steps is not detached, everything else is.
    if "evaluator" not in path and "projection" not in path:
      cases.close(with_labels[path], without[path])
  complete = cases.batch_of(complete=True)
  nothing, _, _ = cases.step_of(params, model_state, complete, LABELS)
  assert not any(np.any(x) for path, x in nothing.items() if "evaluator" in path)
