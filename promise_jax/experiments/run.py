"""One experiment: a method and its baselines, seeds, one run directory, one table."""

import contextlib
import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from promise_jax import files, missing
from promise_jax.devices import distributed
from promise_jax.experiments import results as experiment_results
from promise_jax.experiments import run_dir, train_variant
from promise_jax.experiments.config import CONSTANT_VARIANT
from promise_jax.training import checkpoint, loop


def run_experiment(config: dict, folder: Path, *, show: Callable[[str], None] = print) -> str:
  """Trains, tests and reports; returns the table.

  Resumes where `folder` holds an unfinished run of this config; a finished one is only
  shown. Raises ValueError, with nothing written, for what does not fit, and
  `train.Stopped` after Ctrl-C or SIGTERM. Of several processes all train, and the first
  alone writes and shows; the table of the others is empty.
  """
  first, together = distributed.is_primary(), distributed.run_on_all_processes
  together(lambda: run_dir.check_config(folder, config), first)
  show = show if first else lambda text: None
  if distributed.all_processes_max(first and (folder / "results.jsonl").exists()):
    show(f"{folder} is finished; nothing was trained.")
    return experiment_results.render_console(folder) if first else ""
  setup = together(lambda: prepare_run(config, folder))
  for line in setup.dataset.notes:
    show(line)
  with run_dir.open_run(folder, config):
    if first:
      files.write_json(folder / "spec.json", run_dir.spec_to_json(setup.spec))
    trained = train_variants(setup, folder, show if first else None)
    end = experiment_results.write_test_results if first else predict_along
    together(functools.partial(end, setup, trained, folder))
  return experiment_results.render_console(folder) if first else ""


def prepare_run(config: dict, folder: Path) -> train_variant.Setup:
  """What all variants share; ValueError, before anything is written, for what does not
  fit."""
  setup = train_variant.setup_run(config)
  for variant in setup.experiment.variants:
    train_variant.plan_variant_init(setup, variant, folder)
  return setup


def train_variants(
  setup: train_variant.Setup, folder: Path, show: Callable[[str], None] | None
) -> list[train_variant.TrainedVariant]:
  """Every variant; asked to stop, raises `train.Stopped` when what is trained is saved.
  Before and after, a signal ends the process as it does by default."""
  trained = []
  with stop_signals() as stop:
    for variant in setup.experiment.variants:
      trained.append(train_variant.train_variant(setup, variant, folder, stop, show))
      if number := stop():
        raise loop.TrainingInterrupted(setup.experiment.train.steps, number)
  return trained


def predict_along(
  setup: train_variant.Setup, trained: list[train_variant.TrainedVariant], folder: Path
) -> None:
  """The part of `outcome.test` that every process has to join: the predictions."""
  del folder
  for one in trained:
    one.predicts(setup.dataset.split("test"))


def evaluate_run(
  folder: Path, protocol: str, split: str = "test", masks: Path | None = None
) -> str:
  """A finished run under another protocol; returns a table, variants x metrics.

  Its lines join results.jsonl, in place of earlier ones of this protocol and split;
  `masks` names a file for the mask table. Raises ValueError for what does not fit.
  """
  chosen = missing.parse_protocol(protocol)
  config = fit_to_devices(run_dir.read_config(folder)["config"])
  if not (folder / "results.jsonl").exists():
    raise ValueError(f"{folder} is not finished: it has no results.jsonl")
  setup = train_variant.setup_run(config)
  for variant in setup.experiment.variants:
    path = checkpoint.variant_folder(folder, variant.folder)
    if (
      variant.method != CONSTANT_VARIANT and not (path / str(setup.experiment.train.steps)).is_dir()
    ):
      raise ValueError(f"{path} is not complete, the parameters of {variant.text} are gone")
  if split not in setup.dataset.splits:
    raise ValueError(f"split is {split!r}, known are {', '.join(setup.dataset.splits)}")
  with run_dir.open_run(folder, config):
    trained = [
      train_variant.train_variant(setup, a, folder, show=None) for a in setup.experiment.variants
    ]
    return experiment_results.add_evaluation(setup, trained, folder, chosen, split, masks)


def fit_to_devices(config: dict) -> dict:
  """The config of a run, in one group of devices where those that it was trained with
  do not fit the devices there are."""
  groups = config["train"].get("seed_devices", 1)
  if jax.device_count() % groups == 0:
    return config
  return config | {"train": config["train"] | {"seed_devices": 1}}


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
    yield lambda: distributed.all_processes_max(asked[0] if asked else 0)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
