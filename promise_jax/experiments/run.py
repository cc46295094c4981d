"""Runs one experiment: a method and its baselines, several seeds, one folder, one table."""

import contextlib
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from promise_jax import patterns
from promise_jax.data.source import SPLITS
from promise_jax.devices import distributed
from promise_jax.experiments import predictions, result_files, results, run_dir, tensorboard
from promise_jax.experiments.experiment import Experiment, parse_experiment
from promise_jax.experiments.setup import Setup, describe_selection, load_dataset, set_up
from promise_jax.experiments.train_variant import TrainedVariant, train_variant
from promise_jax.training import checkpoint, loop


def run_experiment(
  config: Mapping[str, Any],
  folder: Path,
  *,
  show: Callable[[str], None] = print,
  to_tensorboard: bool = False,
) -> str:
  """Trains, tests and reports; returns the table, and "" in all but the primary process.

  Continues an unfinished run of the same config in `folder`, and only shows a finished one.
  `to_tensorboard` writes the training curves for TensorBoard too.

  Raises:
    ValueError: settings, data or folder do not fit; nothing has been written.
    loop.TrainingInterrupted: stopped by Ctrl-C or SIGTERM; all is saved.
  """
  if to_tensorboard:
    tensorboard.import_writer()  # before anything is trained
  experiment = parse_experiment(config)
  primary, on_all_processes = distributed.is_primary(), distributed.run_on_all_processes
  on_all_processes(lambda: run_dir.check_folder(folder, experiment), primary)
  if distributed.all_processes_max(int(primary and run_dir.is_finished(folder))):
    on_all_processes(lambda: check_finished(folder, experiment, show), primary)
    if primary:
      clean_up(folder, experiment)
      show(f"{folder} is finished; nothing was trained.")
    return results.render_console(result_files.read_run(folder)) if primary else ""

  def load():
    setup = set_up(experiment, folder)
    # The test rows are read to be described and checked, for nothing else: what is wrong with them
    # is said before hours of training.
    rows = {name: setup.dataset.split(name) for name in SPLITS}
    run_dir.check_data(folder, setup.dataset, {"test": rows["test"]})
    return setup, rows

  setup, rows = on_all_processes(load)
  with run_dir.open_run(folder, experiment):
    if primary:
      lines = run_dir.write_data(folder, setup.dataset, rows)
      samples = patterns.describe_samples(len(setup.spec.modalities))
      lines = *run_dir.describe_versions(folder), *lines, *samples, *describe_selection(setup)
      for line in lines:
        show(line)
    trained = train_variants(setup, folder, show if primary else None, to_tensorboard)

    def finish():
      predicted = predictions.predict_variants(setup, trained, rows["test"])
      if primary:
        return results.write_test_results(setup, trained, rows["test"], predicted, folder)

    run = on_all_processes(finish)
    if primary:
      clean_up(folder, experiment)
  return results.render_console(run) if primary else ""


def check_finished(folder: Path, experiment: Experiment, show: Callable[[str], None]) -> None:
  """Raises ValueError if a finished run had other data. Says so where they cannot be read."""
  try:
    dataset = load_dataset(experiment.data)
  except (OSError, ValueError) as error:
    show(f"note: whether its data have changed is not known, they cannot be read ({error})")
    return
  run_dir.check_data(folder, dataset, {name: dataset.split(name) for name in SPLITS})


def clean_up(folder: Path, experiment: Experiment) -> None:
  """Deletes the checkpoints of a finished run unless they are to be kept."""
  # A finished run reads none again, so a kill in between does no harm. Without model/, the run is
  # of a version before 0.3, and they are all that is left of its parameters.
  if not experiment.train.keep_checkpoints and (folder / "model" / "model.json").exists():
    shutil.rmtree(checkpoint.run_folder(folder), ignore_errors=True)


def train_variants(
  setup: Setup, folder: Path, show: Callable[[str], None] | None, to_tensorboard: bool = False
) -> list[TrainedVariant]:
  """Trains every variant. Raises `TrainingInterrupted`, with all saved, on a signal."""
  trained = []
  with stop_signals() as stop:
    for variant in setup.variants:
      options = {"stop": stop, "show": show, "to_tensorboard": to_tensorboard}
      trained.append(train_variant(setup, variant, folder, **options))
      if number := stop():
        raise loop.TrainingInterrupted(setup.experiment.train.steps, number)
  return trained


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
  """Yields a function: the signal, SIGINT (Ctrl-C) or SIGTERM, that any process has got, or 0.

  The second Ctrl-C interrupts at once. All processes must call the function.
  """
  received = []

  def receive(number, frame):
    del frame
    received.append(number)
    signal.signal(signal.SIGINT, signal.default_int_handler)

  before = {s: signal.signal(s, receive) for s in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield lambda: distributed.all_processes_max(received[0] if received else 0)
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
