"""fit() on the toy data, and a stand-in for checkpoints, for the tests of training."""

import jax
import numpy as np

import tiny_runs
from promise_jax.training import loop


def run_fit(source, method, mesh, *, seeds=(0, 1), protocol="none", train_data=None, **changed):
  """fit() on the toy data; `changed` are settings of training and arguments of fit()."""
  names = ("checkpoints", "log", "stop", "title", "init_params")
  more = {k: changed.pop(k) for k in names if k in changed}
  train_data = train_data or tiny_runs.train_data(source, seeds, protocol=protocol)
  config, valid = tiny_runs.train_config(**changed), source.split("valid")
  return loop.fit(method, source.spec, train_data, valid, config, mesh=mesh, **more)


class MemoryCheckpoints:
  """Keeps what is saved on the host; `seeds_per_device` are how many seeds a device held."""

  def __init__(self):
    self.trees, self.seeds_per_device = {}, set()

  def latest_step(self) -> int:
    return max(self.trees, default=0)

  def is_due(self) -> bool:
    return True

  def save(self, step, tree) -> None:
    self.trees[step] = jax.tree.map(np.array, tree)
    shards = [x.addressable_shards[0].data for x in jax.tree.leaves(tree)]
    self.seeds_per_device |= {len(x) for x in shards}
