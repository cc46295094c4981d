"""Orbax behind one file: numbered, atomic, asynchronous checkpoints of a pytree."""

import contextlib
import json
import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from promise_jax.devices import distributed
from promise_jax.types import PyTree


class NotSaved(Exception):
  """A checkpoint in `folder` could not be written, for instance to a full disk."""

  def __init__(self, folder: Path, error: Exception):
    whole = max(saved_steps(folder), default=None)
    last = "there is none" if whole is None else f"the last good one is of step {whole}"
    super().__init__(f"a checkpoint could not be saved ({reason(error)}); {last}")


def variant_folder(run: Path, arm: str) -> Path:
  """Where the checkpoints of one arm are, by the name of its folder."""
  return run / "checkpoints" / arm


@contextlib.contextmanager
def open_manager(folder: Path, keep: int = 2) -> Iterator:
  """A manager of the checkpoints in `folder`; what was begun is finished on leaving."""
  ocp = quiet_orbax()
  waits = ocp.AsyncOptions(barrier_sync_fn=wait_for_others)
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, async_options=waits)
  manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)
  try:
    yield manager
  finally:
    with raise_as_not_saved(manager):
      manager.wait_until_finished()
      manager.close()


def save(manager, step: int, tree: PyTree) -> None:
  """Starts to save `tree` as `step`; returns once the arrays are copied. NotSaved
  if that fails, or the save before did."""
  import orbax.checkpoint as ocp

  with raise_as_not_saved(manager):
    manager.save(step, args=ocp.args.StandardSave(tree))


def wait_for_others(*, key: str, timeout_ms: int) -> None:
  """Where the processes wait for each other in a save. One whose part has failed does
  not: the others are at another place, where they would wait for it for minutes."""
  in_background = threading.current_thread() is not threading.main_thread()
  if in_background and (error := sys.exc_info()[1]):
    raise error
  quiet_orbax().multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


@contextlib.contextmanager
def raise_as_not_saved(manager) -> Iterator[None]:
  """What fails in writing is told as `NotSaved`."""
  try:
    yield
  except (ValueError, OSError) as error:
    raise NotSaved(Path(manager.directory), error) from error


def latest_step(manager) -> int:
  """The step of the newest checkpoint, the same in all processes; 0 where there is
  none. ValueError where they do not see the same."""

  def look():
    if distributed.is_multiprocess():
      manager.reload()  # it keeps what it saw when it was opened
    return manager.latest_step() or 0

  return distributed.wait_until_equal(look)


def restore(manager, step: int, like: PyTree, places: PyTree) -> PyTree:
  """The tree of `step`; `like` gives its shapes and dtypes, `places` the sharding of
  all or of each of its parts."""
  import orbax.checkpoint as ocp

  def placed(sharding, part):
    at = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    return jax.tree.map(at, part)

  target = jax.tree.map(placed, places, like)
  return manager.restore(step, args=ocp.args.StandardRestore(target))


def load_shapes(folder: Path, step: int, part: str) -> PyTree:
  """What `part` of the tree of `step` is made of: leaves with shape and dtype; named
  tuples are dicts there and tuples lists. ValueError where that step is not saved."""
  ocp = quiet_orbax()
  path = saved(folder, step)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    tree = reader.metadata(path).item_metadata.tree[part]
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def load_parameters(folder: Path, step: int, part: str) -> PyTree:
  """`part` of the tree of `step` on the host, whatever devices it was saved from; only
  it is read, and nothing needs to be known of it. Its structure is that of `shapes`."""
  ocp = quiet_orbax()
  like = {part: load_shapes(folder, step, part)}
  kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
  args = ocp.args.PyTreeRestore(like, restore_args=kinds, partial_restore=True)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
    return reader.restore(saved(folder, step), args=args)[part]


def has_checkpoint(folder: Path) -> bool:
  """Whether `folder` has a whole checkpoint of any step."""
  return bool(saved_steps(folder))


def saved_steps(folder: Path) -> list[int]:
  """The steps that `folder` has checkpoints of."""
  names = [path.name for path in Path(folder).glob("*")]
  return sorted(int(name) for name in names if name.isdecimal())


def set_aside_unreadable(folder: Path) -> list[str]:
  """Renames the newest checkpoints in `folder` to torn-STEP until one can be read, so
  that a run goes on from there; says which and why. One process does it for all."""
  said = []
  for step in reversed(saved_steps(folder)):
    why = find_damage(Path(folder).absolute() / str(step) / "default")
    if not why:
      break
    aside = folder / f"torn-{step}"
    shutil.rmtree(aside, ignore_errors=True)
    (folder / str(step)).rename(aside)
    said.append(f"{folder}: the checkpoint of step {step} cannot be read ({why})")
  if said:
    rest = saved_steps(folder)
    start = f"step {rest[-1]}" if rest else "the start"
    said[-1] += f"; going on from {start}"
  return said


def find_damage(path: Path) -> str:
  """Why the tree in `path` cannot be read, "" if it can: every file is there and whole.
  Another number in the middle of an array is not found."""
  import tensorstore

  try:
    for part in (path / "_METADATA", *path.glob("array_metadatas/*")):
      json.loads(part.read_text("utf-8"))
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{path}/"}}
    keys = tensorstore.KvStore.open(store).result().list().result()
    arrays = [key.decode() for key in keys if key.endswith(b".zarray")]
    for name in arrays:
      place = store | {"path": name.removesuffix(".zarray")}
      tensorstore.open({"driver": "zarr", "kvstore": place}).result().read().result()
  except (ValueError, OSError) as error:
    return reason(error)
  return "" if arrays else "it has no arrays"


def reason(error: Exception) -> str:
  """The innermost cause that an error names, in a few words."""
  if isinstance(error, json.JSONDecodeError):
    return f"not JSON, {error.msg}"
  if isinstance(error, TimeoutError):
    return "another process has failed or is too slow"
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  first = (str(error).splitlines() or [repr(error)])[0]
  return first.partition(" [")[0].rpartition(": ")[2] or first


def saved(folder: Path, step: int) -> Path:
  """Where the tree of `step` is; ValueError where it is not."""
  path = Path(folder).absolute() / str(step) / "default"
  if not path.is_dir():
    raise ValueError(f"{folder} has no checkpoint of step {step}")
  return path


def quiet_orbax():
  """orbax.checkpoint, imported where it is needed, without its log: what fails, it
  raises as well."""
  import orbax.checkpoint as ocp

  logging.getLogger("absl").setLevel(logging.CRITICAL)
  return ocp
