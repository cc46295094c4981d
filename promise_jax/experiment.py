"""One experiment: a method and its controls, seeds, one run directory, one table."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from promise_jax import (
  arms,
  checkpoint,
  distributed,
  files,
  missing,
  outcome,
  rundir,
  train,
)
from promise_jax.settings import CONSTANT


def run(config: dict, folder: Path, *, show: Callable[[str], None] = print) -> str:
  """Trains, tests and reports; returns the table.

  Resumes where `folder` holds an unfinished run of this config; a finished one is only
  shown. Raises ValueError, with nothing written, for what does not fit, and
  `train.Stopped` after Ctrl-C or SIGTERM. Of several processes all train, and the first
  alone writes and shows; the table of the others is empty.
  """
  first, together = distributed.first(), distributed.together
  together(lambda: rundir.check_config(folder, config), first)
  show = show if first else lambda text: None
  if distributed.largest(first and (folder / "results.jsonl").exists()):
    show(f"{folder} is finished; nothing was trained.")
    return outcome.shown(folder) if first else ""
  setup = together(lambda: ready(config, folder))
  for line in setup.dataset.told():
    show(line)
  with rundir.opened(folder, config):
    if first:
      files.write_json(folder / "spec.json", rundir.spec_to_json(setup.spec))
    trained = train_arms(setup, folder, show if first else None)
    end = outcome.test if first else predict_along
    together(functools.partial(end, setup, trained, folder))
  return outcome.shown(folder) if first else ""


def ready(config: dict, folder: Path) -> arms.Setup:
  """What all arms share; ValueError, before anything is written, for what does not
  fit."""
  setup = arms.prepare(config)
  for arm in setup.plan.arms:
    arms.start_of(setup, arm, folder)
  return setup


def train_arms(
  setup: arms.Setup, folder: Path, show: Callable[[str], None] | None
) -> list[arms.Trained]:
  """Every arm; asked to stop, raises `train.Stopped` when what is trained is saved.
  Before and after, a signal ends the process as it does by default."""
  trained = []
  with stop_signals() as stop:
    for arm in setup.plan.arms:
      trained.append(arms.train_arm(setup, arm, folder, stop, show))
      if number := stop():
        raise train.Stopped(setup.plan.train.steps, number)
  return trained


def predict_along(setup: arms.Setup, trained: list[arms.Trained], folder: Path) -> None:
  """The part of `outcome.test` that every process has to join: the predictions."""
  del folder
  for one in trained:
    one.predicts(setup.dataset.split("test"))


def evaluate_again(
  folder: Path, protocol: str, split: str = "test", masks: Path | None = None
) -> str:
  """A finished run under another protocol; returns a table, arms x metrics.

  Its lines join results.jsonl, in place of earlier ones of this protocol and split;
  `masks` names a file for the mask table. Raises ValueError for what does not fit.
  """
  chosen = missing.parse(protocol)
  config = fitting(rundir.read_config(folder)["config"])
  if not (folder / "results.jsonl").exists():
    raise ValueError(f"{folder} is not finished: it has no results.jsonl")
  setup = arms.prepare(config)
  for arm in setup.plan.arms:
    path = checkpoint.of_arm(folder, arm.folder)
    if arm.method != CONSTANT and not (path / str(setup.plan.train.steps)).is_dir():
      raise ValueError(f"{path} is not complete, the parameters of {arm.text} are gone")
  if split not in setup.dataset.splits:
    raise ValueError(f"split is {split!r}, known are {', '.join(setup.dataset.splits)}")
  with rundir.opened(folder, config):
    trained = [arms.train_arm(setup, a, folder, show=None) for a in setup.plan.arms]
    return outcome.test_again(setup, trained, folder, chosen, split, masks)


def fitting(config: dict) -> dict:
  """The config of a run, in one group of devices where those that it was trained with
  do not fit the devices there are."""
  groups = config["train"].get("seed_groups", 1)
  if jax.device_count() % groups == 0:
    return config
  return config | {"train": config["train"] | {"seed_groups": 1}}


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
  """Turns the first Ctrl-C or SIGTERM, to any of the processes, into a question that
  `fit` asks within a call (0: go on, else the signal); a second Ctrl-C interrupts at
  once."""
  asked = []

  def ask(number, frame):
    del frame
    asked.append(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)

  before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield lambda: distributed.largest(asked[0] if asked else 0)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
