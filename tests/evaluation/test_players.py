"""Who plays the game of contributions, and what the players of `synthetic` are worth."""

import numpy as np
import pytest
from sklearn import discriminant_analysis

from promise_jax import data, patterns
from promise_jax.evaluation import contribution
from promise_jax.types import Split, Task

TASK = Task("classes", 3, ("x", "y", "z"))


def split_of(label, recorded) -> Split:
  return Split({}, {}, np.asarray(recorded, bool), label, np.arange(len(label)))


def test_a_modality_that_no_row_has_is_no_player():
  """Of three modalities without m1: the game of m0 and m2, on the rows that have both."""
  rng, label = np.random.default_rng(1), np.random.default_rng(2).integers(0, 3, 30)
  two = rng.normal(size=(3, 3, 30, 3)).astype(np.float32)  # of m0, m2, both
  constant = rng.normal(size=(3, 3))
  both = np.ones((30, 2), bool)
  both[::7, 0] = False
  # Of m0, m1, m2, m0+m1, m0+m2, m1+m2, all; m1 alone shows nothing.
  three = np.stack(
    [two[:, 0], np.full_like(two[:, 0], 9), *two[:, [1, 0, 2, 1, 2]].swapaxes(0, 1)], 1
  )
  options = {"resamples": 40}
  args = TASK, two, constant, split_of(label, both), ["m0", "m2"]
  want = contribution.measure_contribution(*args, **options)
  recorded = np.insert(both, 1, False, axis=1)
  args = TASK, three, constant, split_of(label, recorded), ["m0", "m1", "m2"]
  found = contribution.measure_contribution(*args, **options)
  assert found.equals(want) and set(found["modality"]) == {"m0", "m2"}
  assert found["n"].max() == 25


def test_of_many_modalities_only_the_change_without_one_is_measured():
  table = patterns.tested_patterns(9)
  rng, label = np.random.default_rng(0), np.random.default_rng(1).integers(0, 3, 20)
  logits = rng.normal(size=(2, len(table), 20, 3)).astype(np.float32)
  names = [f"m{i}" for i in range(9)]
  split = split_of(label, np.ones((20, 9)))
  args = TASK, logits, np.zeros((2, 3)), split, names
  found = contribution.measure_contribution(*args, resamples=40)
  assert set(found["kind"]) == {"without"}
  hits = (logits.argmax(axis=-1) == label).mean(axis=(0, 2))
  own = found[found["rows"] == "all"].set_index("modality")["value"]
  for m, name in enumerate(names):
    without = table.index(tuple(i != m for i in range(9)))
    assert own[name] == pytest.approx(hits[without] - hits[-1])


def test_noise_is_worth_nothing_to_who_has_learned_that_it_is_noise():
  """A strong, a weak modality and one of noise, read by linear discriminants of all train rows,
  which are the right model of such clusters, one for each coalition."""
  made = data.load("synthetic", strengths="3+1+0")
  train, test = made.split("train"), made.split("test")
  logits = []
  for pattern in patterns.tested_patterns(3):
    names = [f"m{i}" for i in np.flatnonzero(pattern)]
    x, new = (np.concatenate([rows.inputs[n] for n in names], axis=1) for rows in (train, test))
    reader = discriminant_analysis.LinearDiscriminantAnalysis().fit(x, train.label)
    logits.append(reader.decision_function(new))
  found = contribution.measure_contribution(
    made.spec.task, np.array([logits]), np.zeros((1, 4)), test, made.spec.names
  )
  found = found[found["rows"] == "all"].set_index(["kind", "modality"])
  lows, highs = found["low"], found["high"]
  assert lows["shapley", "m0"] > highs["shapley", "m1"] > lows["shapley", "m1"] > 0
  for kind in ("shapley", "without"):
    assert lows[kind, "m2"] <= 0 <= highs[kind, "m2"]
