"""Orbax behind one file: numbered, atomic, asynchronous checkpoints of a pytree."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

from promise_jax.types import PyTree


@contextlib.contextmanager
def opened(folder: Path, keep: int = 2) -> Iterator:
  """A manager of the checkpoints in `folder`; what was begun is finished on leaving."""
  import orbax.checkpoint as ocp

  logging.getLogger("absl").setLevel(logging.ERROR)
  options = ocp.CheckpointManagerOptions(max_to_keep=keep)
  manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)
  try:
    yield manager
  finally:
    manager.wait_until_finished()
    manager.close()


def save(manager, step: int, tree: PyTree) -> None:
  """Starts to save `tree` as `step`; returns once the arrays are copied."""
  import orbax.checkpoint as ocp

  manager.save(step, args=ocp.args.StandardSave(tree))


def restore(manager, step: int, like: PyTree, sharding) -> PyTree:
  """The tree of `step`, placed by `sharding`; `like` gives its shapes and dtypes."""
  import orbax.checkpoint as ocp

  target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
  )
  return manager.restore(step, args=ocp.args.StandardRestore(target))
