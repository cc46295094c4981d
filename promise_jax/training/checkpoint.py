"""Checkpoints of training by orbax: numbered, atomic, written in the background."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from promise_jax.devices import distributed
from promise_jax.types import PyTree


class NotSaved(Exception):
  """A checkpoint could not be written, for instance to a full disk."""


class Checkpoints:
  """The checkpoints of one variant. Use it as a context: leaving it finishes the writing."""

  def __init__(self, folder: Path, *, save_every: float = 60.0, keep: int = 2):
    """The newest `keep` checkpoints in `folder`, one every `save_every` seconds."""
    self.folder, self.save_every, self.keep = Path(folder).absolute(), save_every, keep
    self.last_save = time.monotonic()

  @functools.cached_property
  def manager(self):
    """That of orbax; made when there is something to save or read, so that training starts soon."""
    ocp = import_orbax()
    options = ocp.CheckpointManagerOptions(max_to_keep=self.keep)
    return ocp.CheckpointManager(self.folder, options=options)

  def __enter__(self):
    return self

  def __exit__(self, *error):
    if "manager" in vars(self):
      with self.explain_failure():
        self.manager.wait_until_finished()
        self.manager.close()

  def latest_step(self) -> int:
    """The step of the newest checkpoint, the same in all processes; 0 where there is none."""
    return distributed.wait_until_equal(lambda: max(saved_steps(self.folder), default=0))

  def is_due(self) -> bool:
    """Whether it is time to save, the same in all processes."""
    due = time.monotonic() - self.last_save >= self.save_every
    return bool(distributed.all_processes_max(int(due)))

  def save(self, step: int, tree: PyTree) -> None:
    """Starts to save `tree`, waits until its arrays are on the host. NotSaved if this or the
    save before failed."""
    with self.explain_failure():
      self.manager.save(step, args=import_orbax().args.StandardSave(tree))
    self.last_save = time.monotonic()

  def restore(self, step: int, shapes: PyTree) -> PyTree:
    """The tree saved at `step`, with these shapes, dtypes and shardings. ValueError if it has
    others, as that of another version may, or is damaged."""
    args = import_orbax().args.StandardRestore(shapes)
    try:
      return self.manager.restore(step, args=args)
    except ValueError as error:
      reason = str(error).partition("\n")[0].rstrip(".:")
      raise ValueError(
        f"the checkpoint {self.folder / str(step)} cannot be read ({reason}): if another version "
        "wrote it, give another --workdir; if it is damaged, delete it, and the run goes on from "
        "the one before"
      ) from error

  @contextlib.contextmanager
  def explain_failure(self) -> Iterator[None]:
    """Turns an error of writing into `NotSaved`."""
    try:
      yield
    except (ValueError, OSError) as error:
      steps = saved_steps(self.folder)
      last = f"the last good one is of step {steps[-1]}" if steps else "there is none"
      reason = getattr(error, "strerror", None) or (str(error).splitlines() or [repr(error)])[0]
      raise NotSaved(f"a checkpoint could not be saved ({reason}); {last}") from error


def run_folder(run: Path) -> Path:
  """Where the checkpoints of a run are, a folder for each variant."""
  return run / "checkpoints"


def saved_steps(folder: Path) -> list[int]:
  """The steps that `folder` has checkpoints of; a half-written one has another name."""
  names = [path.name for path in Path(folder).glob("*")]
  return sorted(int(name) for name in names if name.isdecimal())


def import_orbax():
  """orbax.checkpoint, imported late because it is slow; what fails is raised, not logged too."""
  import orbax.checkpoint as ocp

  logging.getLogger("absl").setLevel(logging.CRITICAL)
  return ocp
