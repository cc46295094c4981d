"""Selecting parameters by regexes on their paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from promise_jax.optim import optimizer, param_paths

PARAMS = {"body": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}, "head": jnp.ones((2, 1))}


@pytest.mark.parametrize(
  ("trainable", "count"),
  [(("head",), 2), (("body/w", "head"), 6), (("body/.*",), 6), ((".*",), 8)],
)
def test_count_parameters_counts_what_the_optimizer_moves(trainable, count):
  assert param_paths.count_parameters(PARAMS, trainable) == (count, 8)
  tx = optimizer.make_optimizer(optimizer.OptimConfig(schedule="constant"), 4, trainable)
  update, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
  assert sum(np.count_nonzero(x) for x in jax.tree.leaves(update)) == count


def test_the_first_rule_that_matches_the_whole_path_wins():
  rules = (("body/w", "slow"), ("body/.*", "fast"), ("head", "off"))
  labels = param_paths.label_leaves(PARAMS, rules)
  assert labels == {"body": {"w": "slow", "b": "fast"}, "head": "off"}


@pytest.mark.parametrize("pattern", ["tail/.*", "ead", "body"])
def test_a_regex_that_matches_nothing_is_an_error_that_lists_the_paths(pattern):
  """The whole path must match: "body" is no leaf, "ead" only part of one."""
  with pytest.raises(ValueError, match="body/b, body/w, head") as error:
    optimizer.make_optimizer(optimizer.OptimConfig(), 4, (pattern,)).init(PARAMS)
  assert repr(pattern) in str(error.value)


def test_a_leaf_without_a_rule_is_an_error():
  with pytest.raises(ValueError, match="head"):
    param_paths.label_leaves(PARAMS, (("body/.*", "train"),))
