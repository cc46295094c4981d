"""A regression starts at the centre of the labels, whatever the method."""

import jax
import numpy as np
import pytest

import tiny_runs
from promise_jax import methods
from promise_jax.methods import label_center


@pytest.mark.parametrize("name", sorted({*methods.METHODS} - {"prototypes"}))  # for classes alone
def test_first_predictions_are_shifted_by_the_centre_once(name):
  dataset = tiny_runs.dataset("regression")
  task = dataset.spec.task._replace(scale=2.0)
  inputs = tiny_runs.as_inputs(dataset.split("valid"), (True, True))
  logits = []
  for center in (0.0, 50.0):
    spec = dataset.spec._replace(task=task._replace(center=center))
    method = methods.build_method(name, tiny_runs.VALUES[name], spec)
    start, key = jax.jit(method.init), jax.random.key(0)
    params, state = start(key)
    read = jax.jit(method.predict)
    logits.append(np.asarray(read(params, state, inputs)["logits"]))
  np.testing.assert_allclose(logits[1] - logits[0], 25, atol=1e-4)


def test_nothing_changes_without_a_centre():
  dataset = tiny_runs.dataset("regression")
  method = methods.build_method("share", tiny_runs.VALUES["share"], dataset.spec)
  assert label_center.start_at_center(method, dataset.spec.task) is method
