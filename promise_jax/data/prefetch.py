"""Streamed rows: what the steps to come read, by grain, ahead of time.

Item i of the source is all that step i reads, so the position in the data is the step:
a run that is resumed, on any number of processes, starts there, and nothing of grain is
saved. Every process reads the rows of its own devices alone. Ahead are at most as many
steps as a call has (`threads`, if those are more), of each worker where there are some;
with what is being stacked, on its way to the device and in use, up to five calls of
rows are in memory, and one more for each worker. Ours.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from promise_jax.checks import check_at_least
from promise_jax.types import Split

# Not one of every source: a source goes to other processes, a lock does not.
drawing = threading.Lock()


class PrefetchConfig(NamedTuple):
  """Streamed rows are read by so many `threads`, in each of so many `workers`, which
  are processes of their own; 0: in this one. Workers pay where rows take long to make
  in Python; they outlive a run that is killed by SIGKILL."""

  threads: int = 2
  workers: int = 0


def check_prefetch(reading: PrefetchConfig) -> PrefetchConfig:
  """`reading`; ValueError for less than one thread."""
  check_at_least("threads", reading.threads, 1)
  check_at_least("workers", reading.workers, 0)
  return reading


class Steps:
  """A source for grain: what each of the `count` steps reads, as `take(draw(call), k)`
  says of step k of a call of `every` steps."""

  def __init__(self, draw: Callable, take: Callable, every: int, count: int):
    self.draw, self.take, self.every, self.count = draw, take, every, count
    self.drawn: dict[int, dict] = {}

  def __len__(self) -> int:
    return self.count

  def __getitem__(self, step: int) -> dict:
    call, k = divmod(int(step), self.every)
    with drawing:  # once for all steps of a call
      if call not in self.drawn:
        self.drawn = {c: x for c, x in self.drawn.items() if c == call - 1}
        self.drawn[call] = self.draw(call)
      drawn = self.drawn[call]
    return self.take(drawn, k)


@contextlib.contextmanager
def open_reader(steps: Steps, first: int, reading: PrefetchConfig) -> Iterator[Iterator]:
  """The calls of `steps` from that of step `first` on, each leaf of an item stacked
  over the steps on its axis 1 (clocks: 0), read ahead while the context lasts."""
  import grain

  reading = check_prefetch(reading)
  options = grain.ReadOptions(
    num_threads=reading.threads,
    prefetch_buffer_size=max(reading.threads, steps.every),
  )
  items = grain.MapDataset.source(steps)[first:].to_iter_dataset(options)
  if reading.workers:
    mark_flags_as_parsed()
    workers = grain.MultiprocessingOptions(reading.workers)
    items = items.mp_prefetch(workers, worker_init_fn=undisturbed)
  iterator = iter(items.batch(steps.every, batch_fn=stack_items))
  try:
    yield iterator
  finally:
    iterator.close()


def undisturbed(worker: int, workers: int) -> None:
  """Leaves a signal that reaches the whole group to the process that trains: it saves,
  and then ends this one."""
  del worker, workers
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)


def stack_items(items: list[dict]) -> dict:
  """One call of its steps."""
  return {
    "chosen": jax.tree.map(lambda *x: np.stack(x, 1), *(i["chosen"] for i in items)),
    "clock": jax.tree.map(lambda *x: np.stack(x), *(i["clock"] for i in items)),
  }


def mark_flags_as_parsed() -> None:
  """grain asks a flag before it starts workers, also where no program parsed any."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


def is_streamed(split: Split) -> bool:
  """Whether the inputs are no arrays, but only have rows that can be taken."""
  arrays = np.ndarray, jax.Array
  return not all(isinstance(x, arrays) for x in split.inputs.values())
