"""Counter-based numbers: published outputs, uniform, independent, by id."""

import numpy as np
import pytest

from promise_jax import counter_rng


def test_splitmix64_gives_the_published_outputs():
  outputs = counter_rng.splitmix64(np.array([1234567], "u8"), np.arange(5, dtype="u8"))
  assert outputs.tolist() == [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
  ]


def test_uniform_gives_the_numbers_of_a_reference():
  # Computed apart, with Python's integers and the generator run step by step.
  expected = [
    [1867668919854094, 8946777045062815, 2839021110325257],
    [8126621446773700, 2360442962626512, 5014880637440295],
    [8901835669012170, 3834840251893782, 7268402748912036],
  ]
  found = counter_rng.uniform(7, ("mask", "train"), np.array([0, 3, 1000]), 3) * 2**53
  assert found.astype(np.int64).tolist() == expected


def test_uniform_is_uniform():
  u = counter_rng.uniform(0, "a", np.arange(20_000), 4)
  assert u.min() >= 0 and u.max() < 1
  gap = np.abs(np.sort(u, axis=0) - np.arange(20_000)[:, None] / 20_000)
  assert gap.max() < 1.95 / np.sqrt(20_000)  # Kolmogorov-Smirnov, level .001


def test_uniform_is_independent():
  ids = np.arange(20_000)
  u = counter_rng.uniform(0, "a", ids, 4)
  others = [
    *u.T[1:],
    np.roll(u[:, 0], 1),
    counter_rng.uniform(1, "a", ids, 1)[:, 0],
    counter_rng.uniform(0, "b", ids, 1)[:, 0],
    counter_rng.uniform(0, ("a", 0), ids, 1)[:, 0],
  ]
  for other in others:
    assert abs(np.corrcoef(u[:, 0], other)[0, 1]) < 4 / np.sqrt(20_000)


def test_uniform_depends_on_id_and_column_alone():
  u = counter_rng.uniform(3, "a", np.arange(50), 5)
  chosen = np.array([31, 4, 4], np.uint8)
  np.testing.assert_array_equal(counter_rng.uniform(3, "a", chosen, 2), u[chosen, :2])
  assert counter_rng.uniform(3, "a", np.array([], int), 2).shape == (0, 2)
  with pytest.raises(ValueError, match="integers .* float64"):
    counter_rng.uniform(3, "a", np.array([0.5]), 1)


def test_different_streams_give_different_numbers():
  streams = ["ab", "a", ("a", "b"), ("a", 1), ("a", "1"), ("a", 1, 1), ("a", 11)]
  firsts = {counter_rng.uniform(0, s, np.array([5]), 1).item() for s in streams}
  assert len(firsts) == len(streams)
  same = counter_rng.uniform(0, ("a", np.int32(1)), np.array([5]), 1)
  np.testing.assert_array_equal(counter_rng.uniform(0, ("a", 1), np.array([5]), 1), same)
