"""Which rows, masks and label flags every step sees, and the batch made of them.

The host draws them for a call of K steps ahead of time, a pure function of
(seed, step). With one process the device gathers, from all rows; with several every
process reads the rows of its own devices from host memory and gives them those alone.
Streamed rows (`ahead`) are read so too, whether there are several processes or one.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from promise_jax import missing
from promise_jax.data import prefetch, sampling
from promise_jax.devices import mesh as devices_mesh
from promise_jax.method import Stage
from promise_jax.types import Batch, Split


class BatchSizes(Protocol):
  """The part of `train.TrainConfig` that decides what a step sees."""

  eval_every: int
  batch_size: int
  labelled_per_batch: int


class TrainData(NamedTuple):
  """The training rows and what is random about them, one entry a seed.

  `labelled` bool[S, N]; `protocol` hides modalities in training; `reading` is how
  streamed rows are read: the inputs of `split` are streamed where they are no arrays,
  but anything with `len`, `shape`, `dtype` and `inputs[index int[...]] -> [..., *row]`,
  several threads at a time.
  """

  split: Split
  labelled: np.ndarray
  seeds: tuple[int, ...]
  protocol: missing.Protocol = missing.Protocol()
  reading: prefetch.PrefetchConfig = prefetch.PrefetchConfig()


def iterate_blocks(
  rows: TrainData,
  sizes: BatchSizes,
  stage: Stage,
  span: tuple[int, int],
  at: int,
  data: dict | None,
  mesh: Mesh,
  prepare: Callable[[dict], dict],
) -> Iterator[dict]:
  """What the calls read, from the one that starts at step `at` to the end of `span`, in
  turn. `data`: see `with_rows`; the inputs of streamed ones, [S, K, B, ...] on the
  devices, are what `prepare` makes of them."""
  if not prefetch.is_streamed(rows.split):
    for start in range(at, span[1], sizes.eval_every):
      yield attach_rows(draw_block(rows, sizes, stage, span, start), data, mesh)
    return
  own = devices_mesh.local_rows(len(rows.seeds), sizes.batch_size, mesh)
  # Other processes are sent what they need to know of the stage, not its functions.
  known = stage._replace(loss=None, on_start=None, update=None, predict=None)
  draw = functools.partial(_drawn, rows, sizes, known, span)
  take = functools.partial(_taken, data, own)
  steps = prefetch.Steps(draw, take, sizes.eval_every, span[1] - span[0])
  with prefetch.open_reader(steps, at - span[0], rows.reading) as every:
    for ready in every:
      read = jax.tree.map(
        lambda x: devices_mesh.place_local_rows(x, own, len(rows.seeds), sizes.batch_size, mesh),
        ready["chosen"]["rows"],
      )
      read["inputs"] = prepare(read["inputs"])
      yield ready | {"chosen": ready["chosen"] | {"rows": read}}


def _drawn(rows, sizes, stage, span, call: int) -> dict:
  return draw_block(rows, sizes, stage, span, span[0] + call * sizes.eval_every)


def _taken(data: dict, own: tuple, drawn: dict, k: int) -> dict:
  """Step k of `host_rows`, with the rows of its `sharding.own_part`."""
  chosen = {name: x[:, k] for name, x in drawn["chosen"].items()}
  index = chosen["index"][np.ix_(*own)]
  chosen["rows"] = jax.tree.map(lambda x: x[index], data)
  return {"chosen": chosen, "clock": tuple(x[k] for x in drawn["clock"])}


def draw_block(
  rows: TrainData, sizes: BatchSizes, stage: Stage, span: tuple[int, int], at: int
) -> dict:
  """What a call that starts at step `at` reads: for each of the K steps the clock, and
  "chosen" [S, K, B]: row index, kept modalities, label flag, bank slot."""
  steps = np.arange(at, at + sizes.eval_every)
  progress = (steps - span[0]) / (span[1] - span[0])
  every = [_chosen(rows, sizes, stage, s, steps) for s in range(len(rows.seeds))]
  return {
    "chosen": jax.tree.map(lambda *x: np.stack(x), *every),
    "clock": (steps.astype(np.int32), progress.astype(np.float32)),
  }


def _chosen(rows: TrainData, sizes: BatchSizes, stage: Stage, s: int, steps) -> dict:
  ids, labelled, seed = rows.split.id, rows.labelled[s], rows.seeds[s]
  index = sampling.sample_batches(
    labelled,
    ids,
    seed=seed,
    steps=steps,
    batch=sizes.batch_size,
    labelled_per_batch=sizes.labelled_per_batch,
  )
  keep = np.ones((*index.shape, rows.split.recorded.shape[1]), bool)
  if stage.hide and rows.protocol.kind != "none":
    epochs = steps * sizes.batch_size // len(ids) if rows.protocol.redraw else 0 * steps
    for epoch in np.unique(epochs):
      now = epochs == epoch
      keep[now] = train_mask(rows, seed, int(epoch))[index[now]]
  return {
    "index": index,
    "keep": keep,
    "labelled": labelled[index],
    "bank_index": sampling.bank_indices(labelled, len(ids))[index],
  }


def train_mask(rows: TrainData, seed: int, epoch: int = 0) -> np.ndarray:
  """What the training protocol keeps bool[N, M], for one seed (and epoch)."""
  return missing.draw_mask(
    rows.protocol,
    seed=seed,
    split="train",
    ids=rows.split.id,
    modalities=rows.split.recorded.shape[1],
    epoch=epoch,
  )


def attach_rows(ready: dict, data: dict | None, mesh: Mesh) -> dict:
  """`ready` (of `host_rows`) with the rows that it names, "rows" [S, K, B, ...], read
  from the host arrays `data` for the devices of this process alone; as it is if there
  are no `data`."""
  if data is None:
    return ready
  index = ready["chosen"]["index"]
  read = jax.tree.map(lambda x: devices_mesh.place_rows(x, index, mesh), data)
  return ready | {"chosen": ready["chosen"] | {"rows": read}}


def make_batch(data: dict, chosen: dict, redraw: bool, mesh: Mesh) -> dict:
  """The batch of one step, its rows spread over the devices: gathered from `data`, or
  those of `with_rows`.

  A mask that belongs to the example is a hole in the data (recorded := present); one
  that is redrawn is augmentation, and a loss may read what it hid.
  """
  if "rows" in chosen:
    rows = chosen["rows"]
  else:
    rows = jax.tree.map(lambda x: x[chosen["index"]], data)
  present = rows["recorded"] & chosen["keep"]
  batch = Batch(
    inputs=rows["inputs"],
    length=rows["length"],
    present=present,
    id=rows["id"],
    recorded=rows["recorded"] if redraw else present,
    label=rows["label"],
    labelled=chosen["labelled"],
    bank_index=chosen["bank_index"],
    row_mask=jnp.ones_like(chosen["labelled"]),
  )
  return devices_mesh.shard_rows(batch, mesh)
