"""Predictions under every pattern against single calls, and what a mask selects of them."""

import jax
import numpy as np
import pytest

import tiny_runs
from promise_jax import methods, missing
from promise_jax.data import device_data
from promise_jax.evaluation import conditions, predict
from promise_jax.frames import Kept
from promise_jax.types import Inputs, Split

SEEDS = 2
NAMES = ("m0", "m1")
PATTERNS = missing.all_patterns(2)


@pytest.fixture(scope="module")
def dataset():
  return tiny_runs.dataset(rows=(48, 20, 23))


@pytest.fixture(scope="module")
def split(dataset) -> Split:
  """23 rows with holes; rows 2 and 7 have nothing at all."""
  split = dataset.split("test")
  recorded = np.random.default_rng(3).random((23, 2)) < 0.7
  recorded[:3] = [[True, True], [False, True], [False, False]]
  recorded[7] = False
  return split._replace(recorded=recorded)


@pytest.fixture(scope="module")
def method(dataset):
  return methods.build_method("fusion", tiny_runs.SMALL, dataset.spec)


@pytest.fixture(scope="module")
def params(method):
  """Two seeds of parameters and running means, stacked; drawn on the host."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(method.init, jax.random.key(0))
  draw = lambda x: rng.normal(size=(SEEDS, *x.shape)).astype(x.dtype)
  params, model_state = jax.tree.map(draw, shapes)
  return params, model_state | {"count": np.abs(model_state["count"]) + 1}


@pytest.fixture(scope="module")
def one_by_one(method, params, split) -> np.ndarray:
  """f[S, P, N, C]: predict called with a static pattern, a seed at a time."""
  inputs = Inputs(split.inputs, {}, split.recorded, split.id)
  logits = np.zeros((SEEDS, len(PATTERNS), len(split.id), 2))
  for p, pattern in enumerate(PATTERNS):
    one = jax.jit(lambda *seed, p=pattern: method.predict(*seed, inputs, p)["logits"])
    for s in range(SEEDS):
      logits[s, p] = one(*jax.tree.map(lambda x, s=s: x[s], params))
  return logits


@pytest.fixture(scope="module")
def logits(method, params, split, one_device) -> np.ndarray:
  return predict.predict_split(method, *params, split, PATTERNS, one_device)


def test_predictions_equal_those_with_static_patterns(logits, one_by_one):
  assert logits.shape == (SEEDS, 3, 23, 2)
  np.testing.assert_allclose(logits, one_by_one, rtol=1e-5, atol=1e-6)
  assert np.ptp(logits, axis=1).max() > 0.1  # patterns do differ


@pytest.mark.parametrize("block, padded_rows", [(7, 24), (5, 25), (8, 24)])
def test_the_block_size_and_the_devices_do_not_matter(
  block, padded_rows, method, params, split, logits, one_device, eight_devices
):
  """23 rows as 4 blocks of 6, 5 of 5 (the last padded), and 3 of 8 over 8 devices."""
  mesh = eight_devices if block == 8 else one_device
  padded = device_data.pad_to_blocks(split, mesh, block)
  assert len(padded["id"]) == padded_rows and padded["valid"].sum() == 23
  seed = jax.tree.map(lambda x: x[1], params)
  call = jax.jit(
    lambda rows: predict.predict_patterns(
      method.predict, *seed, rows, np.array(PATTERNS), mesh, method.encode, block
    )
  )
  np.testing.assert_allclose(call(padded)[:, :23], logits[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("protocol", ["bernoulli(0.5)", "exact(0.4)", "map(0.6)"])
def test_selected_logits_are_those_of_predicting_with_that_mask(
  protocol, method, params, split, logits
):
  parsed = [missing.parse_protocol(protocol)]
  (condition,) = conditions.protocol_conditions(split, parsed, NAMES, "test")
  (mask,) = condition.mask
  selected, rows = conditions.select_logits(logits, condition)
  np.testing.assert_array_equal(rows, np.flatnonzero(mask.any(axis=1)))
  assert not {2, 7} & set(rows) and len(rows)
  call = jax.jit(lambda *seed: method.predict(*seed, Inputs(split.inputs, {}, mask, split.id)))
  for s in range(SEEDS):
    want = call(*jax.tree.map(lambda x, s=s: x[s], params))["logits"]
    np.testing.assert_allclose(selected[s], want[rows], rtol=1e-5, atol=1e-6)


def test_many_patterns_and_masks_are_predicted_as_few(method, params, split, logits, one_device):
  """More patterns than fit in one call, then masks of their own, each counted once."""
  table, moved = [PATTERNS[i % 3] for i in range(20)], []
  alone = [Kept(np.array(PATTERNS)[np.arange(23) % 3]), Kept(np.zeros((23, 2), bool))]
  found = predict.predict_split(
    method, *params, split, table, one_device, alone=alone, move=moved.append
  )
  assert found.shape == (SEEDS, 22, 23, 2) and moved == [16, 4, 1, 1]
  for i in range(20):
    np.testing.assert_array_equal(found[:, i], logits[:, i % 3])
  want = logits[:, np.arange(23) % 3, np.arange(23)]
  np.testing.assert_allclose(found[:, 20], want, rtol=1e-5, atol=1e-6)
  by_itself = predict.predict_split(method, *params, split, (), one_device, alone=alone)
  np.testing.assert_array_equal(by_itself, found[:, 20:])


def test_masks_of_a_protocol_do_not_depend_on_the_order_of_rows(split):
  protocols = conditions.tested_protocols(())
  assert [p.rates[0] for p in protocols] == [r / 10 for r in range(10)]
  reverse = lambda x: x[::-1] if isinstance(x, np.ndarray) else {k: v[::-1] for k, v in x.items()}
  reversed_split = Split(*map(reverse, split))
  there = conditions.protocol_conditions(split, protocols, NAMES, "test")
  back = conditions.protocol_conditions(reversed_split, protocols, NAMES, "test")
  for a, b in zip(there, back, strict=True):
    np.testing.assert_array_equal(a.mask, b.mask[:, ::-1])
    assert a.columns == b.columns
