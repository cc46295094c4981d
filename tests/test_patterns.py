"""All patterns where they are few, the same fixed sample where they are many."""

import itertools
import math
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from promise_jax import patterns

ASK = "from promise_jax import patterns; print(hash(patterns.tested_patterns(13)))"


@pytest.mark.parametrize("modalities", range(1, 9))
def test_up_to_eight_modalities_all_patterns_are_tested(modalities):
  every = [p for p in itertools.product((False, True), repeat=modalities) if any(p)]
  found = patterns.tested_patterns(modalities)
  assert sorted(found) == sorted(every) and all(found[-1])
  assert [*map(sum, found)] == sorted(map(sum, found))
  if modalities <= 4:
    assert patterns.selecting_patterns(modalities) == found


@pytest.mark.parametrize("modalities", [9, 10, 13, 40])
def test_a_sample_has_each_alone_all_but_one_all_and_every_size(modalities):
  found = patterns.tested_patterns(modalities)
  sizes = Counter(map(sum, found))
  assert len(set(found)) == len(found) <= 256 and all(found[-1])
  assert sizes[1] == sizes[modalities - 1] == modalities and sizes.keys() == {
    *range(1, modalities + 1)
  }
  shares = [sizes[k] for k in range(2, modalities - 1) if sizes[k] < math.comb(modalities, k)]
  assert max(shares) - min(shares) <= 1
  # The order is that of all patterns.
  assert list(found) == sorted(found, key=lambda p: (sum(p), np.flatnonzero(p).tolist()))


@pytest.mark.parametrize("modalities", [5, 8, 13])
def test_sixteen_patterns_select_a_step(modalities):
  found = patterns.selecting_patterns(modalities)
  sizes = Counter(map(sum, found))
  assert len(set(found)) == len(found) == 16
  assert sizes[1] == modalities and sizes[modalities] == 1 and all(found[-1])


def test_a_sample_is_the_same_in_every_process():
  command = [sys.executable, "-c", ASK]
  assert int(subprocess.check_output(command)) == hash(patterns.tested_patterns(13))


def test_every_modality_is_about_as_often_in_a_sample():
  table = np.array(patterns.tested_patterns(13))
  drawn = table[(table.sum(axis=1) > 1) & (table.sum(axis=1) < 12)]
  expected = drawn.sum(axis=1).mean() / 13
  deviation = math.sqrt(expected * (1 - expected) / len(drawn))
  assert (abs(drawn.mean(axis=0) - expected) < 4 * deviation).all()


def test_a_sample_is_told():
  assert not patterns.describe_samples(4)
  (selects,) = patterns.describe_samples(5)
  assert selects.startswith("16 of the 31 patterns of 5 modalities select a training step")
  tests, _ = patterns.describe_samples(13)
  assert tests.startswith("256 of the 8,191 patterns of 13 modalities are tested")


def test_too_many_to_list_are_refused():
  with pytest.raises(ValueError, match="found 17 modalities.*16 at most; bernoulli and exact"):
    patterns.all_patterns(17)
