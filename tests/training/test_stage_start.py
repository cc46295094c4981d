"""The training state at the start of a stage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_runs
from promise_jax.optim import optimizer
from promise_jax.training import step as training_step


@pytest.mark.parametrize("seed_parallelism", ["map", "vmap"])
def test_the_first_training_state(seed_parallelism, one_device):
  """Leaves that are taken over are those given, bit by bit, all others those of a random
  start; no buffer is there twice, as the state is donated."""
  task, run = tiny_runs.dataset(), tiny_runs.train_config(seed_parallelism=seed_parallelism)
  method, tx = tiny_runs.linear_method(task.spec), optimizer.make_optimizer(run.optim, 5)
  start = training_step.make_stage_start(method, 0, tx, run, one_device)
  keys = jax.vmap(jax.random.key)(jnp.arange(2))
  given = {"head/w": np.arange(12, dtype=np.float32).reshape(2, 3, 2)}
  random, warm = start(keys, None, {}), start(keys, None, given)
  for params in (warm.state.params, warm.best[0]):
    assert tiny_runs.is_same(params["head"]["w"], given["head/w"])
  head = random.state.params["head"] | {"w": given["head/w"]}
  params = random.state.params | {"head": head}
  state = random.state._replace(params=params)
  assert tiny_runs.is_same(warm, random._replace(state=state, best=(params, random.best[1])))
  leaves = [x for x in jax.tree.leaves(warm) if x.size]
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
