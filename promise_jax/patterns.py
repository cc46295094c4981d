"""Patterns of present modalities: all of them, or a fixed sample where they are too many.

A pattern is a static tuple of M booleans, True where a modality is present. M modalities have
2^M - 1 patterns: all are tested up to MAX_ALL_TESTED modalities, and all select a training step up
to MAX_ALL_SELECTING. Beyond that both are on a sample, the same in every run (ours).
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int

from promise_jax import counter_rng
from promise_jax.types import Pattern

MAX_LISTED = 16  # modalities whose patterns can be listed
MAX_ALL_TESTED, NUM_TESTED = 8, 256
MAX_ALL_SELECTING, NUM_SELECTING = 4, 16


@functools.cache
def all_patterns(num_modalities: int) -> tuple[Pattern, ...]:
  """The 2^M - 1 non-empty patterns: those with fewest modalities first, the full one last."""
  if num_modalities < 1:
    raise ValueError(f"at least 1 modality is expected, found {num_modalities}")
  if num_modalities > MAX_LISTED:
    raise ValueError(
      f"found {num_modalities} modalities, whose patterns are too many to list them, which is for "
      f"{MAX_LISTED} at most; bernoulli and exact are protocols for any number"
    )
  return tuple(_join(num_modalities, range(1, num_modalities + 1)))


def pattern_name(pattern: Sequence[bool], names: Sequence[str]) -> str:
  """The names of the modalities in a pattern, as in "image+text", or "nothing"."""
  if len(pattern) != len(names):
    known = f"{len(names)} modalities ({', '.join(names)})"
    raise ValueError(f"a pattern of {known} is expected, found {tuple(pattern)}")
  return "+".join(itertools.compress(names, pattern)) or "nothing"


def pattern_index(mask: Bool[np.ndarray, "... M"]) -> Int[np.ndarray, "..."]:
  """The index in `all_patterns` of each row of a mask, -1 for a row of only False."""
  mask = np.asarray(mask, bool)
  powers = 1 << np.arange(mask.shape[-1])
  return _index_by_code(mask.shape[-1])[mask @ powers]


@functools.cache
def _index_by_code(num_modalities: int) -> Int[np.ndarray, " 2^M"]:
  patterns = np.array(all_patterns(num_modalities))
  index = np.full(len(patterns) + 1, -1)
  index[patterns @ (1 << np.arange(num_modalities))] = np.arange(len(patterns))
  return index


def tested_patterns(num_modalities: int) -> tuple[Pattern, ...]:
  """The patterns of tests and calibrations, in the order of `all_patterns`.

  All of them; of more than MAX_ALL_TESTED modalities each one alone, all but one, all, and as many
  of every other size as fit into NUM_TESTED.
  """
  if num_modalities <= MAX_ALL_TESTED:
    return all_patterns(num_modalities)
  return sample_patterns(num_modalities, NUM_TESTED, (1, num_modalities - 1, num_modalities))


def selecting_patterns(num_modalities: int) -> tuple[Pattern, ...]:
  """The patterns whose mean validation score selects a training step.

  All of them; of more than MAX_ALL_SELECTING modalities each one alone, all, and as many of every
  other size as fit into NUM_SELECTING.
  """
  if num_modalities <= MAX_ALL_SELECTING:
    return all_patterns(num_modalities)
  return sample_patterns(num_modalities, NUM_SELECTING, (1, num_modalities))


@functools.cache
def sample_patterns(num_modalities: int, count: int, whole: tuple[int, ...]) -> tuple[Pattern, ...]:
  """All patterns of the sizes `whole`; up to `count` patterns the others, drawn once, equally many
  of each size or all of it."""
  others = [size for size in range(1, num_modalities) if size not in whole]
  rest = max(count - sum(math.comb(num_modalities, size) for size in whole), 0)
  shares = np.diff(np.arange(len(others) + 1) * rest // max(len(others), 1))
  patterns = list(_join(num_modalities, whole))
  for size, share in zip(others, shares.tolist(), strict=True):
    if math.comb(num_modalities, size) <= share:
      patterns += _join(num_modalities, [size])
      continue
    # Many more draws than patterns: hardly any repeat is left over.
    draws = np.arange(20 * share)
    order = counter_rng.uniform(0, ("patterns", size), draws, num_modalities).argsort(axis=1)
    drawn = map(tuple, (order < size).tolist())
    patterns += list(dict.fromkeys(drawn))[:share]
  # As `all_patterns`: by size, and then by the modalities in turn.
  return tuple(sorted(patterns, key=lambda p: (sum(p), [not kept for kept in p])))


def _join(num_modalities: int, sizes: Sequence[int]) -> Iterator[Pattern]:
  return (
    tuple(m in kept for m in range(num_modalities))
    for size in sizes
    for kept in itertools.combinations(range(num_modalities), size)
  )


def describe_samples(num_modalities: int) -> list[str]:
  """Sentences on what is tested and selected on a sample of patterns; none if nothing is."""
  sentences, every = [], f"{2**num_modalities - 1:,} patterns of {num_modalities} modalities"
  if num_modalities > MAX_ALL_TESTED:
    count = len(tested_patterns(num_modalities))
    sentences.append(
      f"{count} of the {every} are tested, the same in every run: each modality alone, all but "
      "one, all, and equally many of every other size, drawn once."
    )
  if num_modalities > MAX_ALL_SELECTING:
    count = len(selecting_patterns(num_modalities))
    sentences.append(
      f"{count} of the {every} select a training step on validation rows: each modality alone, "
      "all, and others drawn once."
    )
  return sentences
