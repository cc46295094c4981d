"""What methods share: the ramp, modality dropout, the weighted sum."""

import jax
import numpy as np

import example_batches
from promise_jax.methods import common
from promise_jax.types import Average


def test_the_ramp_by_hand():
  progress = np.float32([0, 0.1, 0.2, 0.25, 0.3, 0.99])
  found = common.linear_ramp(progress, 0.1, 0.3)
  np.testing.assert_allclose(found, [0, 0, 0.5, 0.75, 1, 1], atol=1e-6)
  step = common.linear_ramp(progress, 0.2, 0.2)
  np.testing.assert_allclose(step, [0, 0, 0, 1, 1, 1], atol=1e-6)


def test_a_static_pattern_leaves_modalities_out():
  rows = example_batches.complete_batch(
    example_batches.spec(modalities=example_batches.VECTORS[:2]), 2
  ).replace(present=np.array([[1, 1], [0, 1]], bool))
  assert common.keep_pattern(rows, None) is rows
  kept = common.keep_pattern(rows, (True, False)).present
  assert kept.tolist() == [[True, False], [False, False]]


def test_random_subsets_are_not_empty_and_equally_likely():
  present = np.tile([True, False, True, True], (7000, 1))
  present[:10] = False
  ids, key = np.arange(7000, dtype=np.int32), jax.random.key(0)
  kept = np.asarray(common.random_subset(key, ids, present))
  assert not kept[:10].any() and not kept[:, 1].any() and kept[10:].any(axis=1).all()
  counts = np.bincount(kept[10:] @ [1, 0, 2, 4], minlength=8)[1:]
  assert counts.min() > 880 and counts.max() < 1120  # 7 subsets, 4 deviations
  order = np.random.default_rng(0).permutation(7000)
  moved = common.random_subset(key, ids[order], present[order])
  np.testing.assert_array_equal(moved, kept[order])


def test_a_weight_of_zero_keeps_a_term_out_of_the_loss():
  terms = {"a": Average(6.0, 2.0), "b": Average(np.nan, 1.0), "c": Average(np.inf, 1.0)}
  assert common.weighted_sum(terms, {"a": 0.5, "b": 0.0, "d": 1.0}) == 1.5


def test_keep_pattern_hides_what_the_pattern_leaves_out():
  batch = example_batches.mixed_batch(example_batches.spec())
  kept = common.keep_pattern(batch, (True, False, True)).present
  np.testing.assert_array_equal(kept, batch.present & [[True, False, True]])
  assert common.keep_pattern(batch, None).present is batch.present
