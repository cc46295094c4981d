"""Reads the blocks of streamed rows ahead of time, with grain.

Item i is all that block i reads, so the position in the data is the step: a resumed run, on
any number of processes, starts there, and nothing of grain is saved. At most `threads`
blocks of every worker wait, while one is on its way to the device and one in use. Ours.
"""

import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from promise_jax.checks import check_at_least
from promise_jax.types import Split


@dataclasses.dataclass(frozen=True)
class PrefetchConfig:
  """Who reads streamed rows."""

  threads: int = 2  # blocks that are read at once, in each worker
  # Processes of their own, 0: this one reads. They pay where Python is slow to make rows,
  # and outlive a run that is killed by SIGKILL.
  workers: int = 0

  def __post_init__(self):
    check_at_least("threads", self.threads, 1)
    check_at_least("workers", self.workers, 0)


def is_streamed(split: Split) -> bool:
  """Whether the inputs are no arrays, but objects with `len`, `shape`, `dtype` and
  `inputs[index]` for an integer array, which several threads may call at a time."""
  return not all(isinstance(x, np.ndarray | jax.Array) for x in split.inputs.values())


def open_reader(
  read: Callable[[int], Any], starts: Sequence[int], config: PrefetchConfig
) -> Iterator:
  """Yields read(start) for every one of `starts`, in order, read ahead of time."""
  import grain

  options = grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=config.threads)
  items = grain.MapDataset.source(starts).map(read).to_iter_dataset(options)
  if config.workers:
    from absl import flags

    # grain reads a flag before it starts workers, also where no program parsed any.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    workers = grain.MultiprocessingOptions(config.workers, per_worker_buffer_size=1)
    items = items.mp_prefetch(workers, worker_init_fn=ignore_signals)
  iterator = iter(items)
  try:
    yield from iterator
  finally:
    iterator.close()


def ignore_signals(worker: int, workers: int) -> None:
  """A signal to the whole group of processes is for the one that trains: it saves, and then
  ends this worker."""
  del worker, workers
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
