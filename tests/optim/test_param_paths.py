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


def test_a_leaf_trains_if_a_regex_matches_its_whole_path():
  labels = param_paths.label_trainable(PARAMS, ("body/w", "body/[vw]", "head"))
  assert labels == {"body": {"w": "train", "b": "freeze"}, "head": "train"}


@pytest.mark.parametrize("pattern", ["tail/.*", "ead", "body"])
def test_a_regex_that_matches_nothing_is_an_error_that_lists_the_paths(pattern):
  """The whole path must match: "body" is no leaf, "ead" only part of one."""
  with pytest.raises(ValueError, match="body/b, body/w, head") as error:
    optimizer.make_optimizer(optimizer.OptimConfig(), 4, (pattern,)).init(PARAMS)
  assert repr(pattern) in str(error.value)
