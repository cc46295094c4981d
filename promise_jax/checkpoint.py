"""Orbax behind one file: numbered, atomic, asynchronous checkpoints of a pytree."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from promise_jax.types import PyTree


def of_arm(run: Path, arm: str) -> Path:
  """Where the checkpoints of one arm are, by the name of its folder."""
  return run / "checkpoints" / arm


@contextlib.contextmanager
def opened(folder: Path, keep: int = 2) -> Iterator:
  """A manager of the checkpoints in `folder`; what was begun is finished on leaving."""
  ocp = quiet_orbax()
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


def shapes(folder: Path, step: int, part: str) -> PyTree:
  """What `part` of the tree of `step` is made of: leaves with shape and dtype; named
  tuples are dicts there and tuples lists. ValueError where that step is not saved."""
  ocp = quiet_orbax()
  path = saved(folder, step)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    tree = reader.metadata(path).item_metadata.tree[part]
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def read(folder: Path, step: int, part: str) -> PyTree:
  """`part` of the tree of `step` on the host, whatever devices it was saved from; only
  it is read, and nothing needs to be known of it. Its structure is that of `shapes`."""
  ocp = quiet_orbax()
  like = {part: shapes(folder, step, part)}
  kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
  args = ocp.args.PyTreeRestore(like, restore_args=kinds, partial_restore=True)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    return reader.restore(saved(folder, step), args=args)[part]


def begun(folder: Path) -> bool:
  """Whether `folder` has a whole checkpoint of any step."""
  return any(path.name.isdecimal() for path in folder.glob("*"))


def saved(folder: Path, step: int) -> Path:
  """Where the tree of `step` is; ValueError where it is not."""
  path = Path(folder).absolute() / str(step) / "default"
  if not path.is_dir():
    raise ValueError(f"{folder} has no checkpoint of step {step}")
  return path


def quiet_orbax():
  """orbax.checkpoint, imported where it is needed, without its warnings."""
  import orbax.checkpoint as ocp

  logging.getLogger("absl").setLevel(logging.ERROR)
  return ocp
