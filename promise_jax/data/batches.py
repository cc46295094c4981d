"""What each training step reads: rows, the mask that hides modalities, which labels are known.

The host draws this for a block of K steps ahead of time, as a pure function of (seed, step).
A single process with the rows in memory copies them to its devices, which gather the batches.
Rows that are streamed, or shared by several processes, are gathered on the host: each process
reads those of its own devices.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from promise_jax import frames, missing
from promise_jax.data import prefetch, sampling
from promise_jax.devices import mesh as devices_mesh
from promise_jax.devices import placement
from promise_jax.method import StepInfo
from promise_jax.types import Batch, Split


class BlockSizes(Protocol):
  """The part of `TrainConfig` that decides what a step reads."""

  eval_every: int  # K
  batch_size: int  # B
  labelled_per_batch: int


class TrainData(NamedTuple):
  """The train rows, and what differs between seeds."""

  split: Split  # inputs that are not arrays are streamed, see `prefetch.is_streamed`
  labelled: Bool[np.ndarray, "S N"]  # rows whose label a seed may read
  seeds: tuple[int, ...]
  protocol: missing.Protocol = missing.Protocol()  # hides modalities in training
  prefetch_config: prefetch.PrefetchConfig = prefetch.PrefetchConfig()
  names: tuple[str, ...] = ()  # of the M modalities, where the protocol loses steps


class StageSteps(NamedTuple):
  """The steps of one stage, and whether they hide modalities."""

  begin: int  # its first step, counted over the whole run
  end: int  # one past its last step
  hide: bool


class Block(NamedTuple):
  """What K steps of all seeds read."""

  info: StepInfo  # [K]
  # Arrays [S, K, B, ...]: "index" of the row, "keep" bool[S, K, B, M] (the mask), "labelled",
  # "bank_index"; "steps" {modality: bool[S, K, B, T]} only if steps are lost; and "rows", the rows
  # themselves, only if the device does not hold all of them
  choice: dict[str, Any]


def iterate_blocks(
  train_data: TrainData,
  sizes: BlockSizes,
  steps: StageSteps,
  first: int,
  host_rows: dict | None,
  preprocess: Callable[[dict], dict],
  mesh: Mesh,
) -> Iterator[Block]:
  """Yields the blocks of a stage from step `first` on.

  Args:
    train_data: the rows and seeds.
    sizes: K, B and the labelled rows of a batch.
    steps: the stage.
    first: the step to start from, a multiple of K steps after `steps.begin`.
    host_rows: arrays [N, ...] to gather on the host; None if the device holds all rows.
    preprocess: `Method.preprocess`, for streamed inputs [S, K, B, ...] on the devices.
    mesh: where the rows go.
  """
  draw = functools.partial(draw_block, train_data, sizes, steps)
  starts = range(first, steps.end, sizes.eval_every)
  if host_rows is None:
    yield from map(draw, starts)
    return
  shape = (len(train_data.seeds), sizes.eval_every, sizes.batch_size)
  local = placement.local_slices(shape, devices_mesh.batch_sharding(mesh))
  read = functools.partial(read_block, draw, host_rows, local)
  streamed = prefetch.is_streamed(train_data.split)
  reader = prefetch.open_reader if streamed else lambda read, starts, _: map(read, starts)
  for block, rows in reader(read, starts, train_data.prefetch_config):
    rows = place_rows(rows, shape, mesh)
    if streamed:
      rows |= {"inputs": preprocess(rows["inputs"])}
    yield block._replace(choice=block.choice | {"rows": rows})


def draw_block(train_data: TrainData, sizes: BlockSizes, steps: StageSteps, start: int) -> Block:
  """The block of the K steps from `start` on, without "rows"."""
  step = np.arange(start, start + sizes.eval_every)
  progress = (step - steps.begin) / (steps.end - steps.begin)
  choices = [
    draw_choice(train_data, sizes, steps.hide, s, step) for s in range(len(train_data.seeds))
  ]
  info = StepInfo(step.astype(np.int32), progress.astype(np.float32))
  return Block(info, jax.tree.map(lambda *x: np.stack(x), *choices))


def draw_choice(
  train_data: TrainData, sizes: BlockSizes, hide: bool, s: int, steps: np.ndarray
) -> dict[str, np.ndarray]:
  """What seed number `s` of S reads at `steps` int[K]: arrays [K, B, ...]."""
  split, protocol, labelled = train_data.split, train_data.protocol, train_data.labelled[s]
  index = sampling.sample_batches(
    labelled,
    split.id,
    seed=train_data.seeds[s],
    steps=steps,
    batch_size=sizes.batch_size,
    labelled_per_batch=sizes.labelled_per_batch,
  )
  keep = np.ones((*index.shape, split.recorded.shape[1]), bool)
  kept_steps = {}
  if hide and protocol.kind != "none":
    epochs = steps * sizes.batch_size // len(split.id) if protocol.redraw else 0 * steps
    for epoch in np.unique(epochs):
      here = epochs == epoch
      kept = draw_kept(train_data, train_data.seeds[s], int(epoch), index[here].ravel())
      keep[here] = kept.mask.reshape(keep[here].shape)
      for name, values in kept.steps.items():
        every = kept_steps.setdefault(name, np.ones((*index.shape, values.shape[1]), bool))
        every[here] = values.reshape(every[here].shape)
  bank_index = sampling.bank_indices(labelled, len(split.id))[index]
  choice = {"index": index, "keep": keep, "labelled": labelled[index], "bank_index": bank_index}
  return choice | ({"steps": kept_steps} if kept_steps else {})


def draw_kept(
  train_data: TrainData, seed: int, epoch: int, index: Int[np.ndarray, " n"]
) -> frames.Kept:
  """What the training protocol leaves of the train rows with numbers `index`."""
  split, protocol = train_data.split, train_data.protocol
  return frames.lose_steps(
    protocol,
    train_mask(train_data, seed, epoch)[index],
    seed=seed,
    split="train",
    ids=split.id[index],
    names=train_data.names,
    num_steps={m: split.inputs[m].shape[1] for m in split.length},
    length={m: n[index] for m, n in split.length.items()},
    epoch=epoch,
  )


def train_mask(train_data: TrainData, seed: int, epoch: int = 0) -> Bool[np.ndarray, "N M"]:
  """The mask of the training protocol for all train rows, one seed and epoch; see `draw_kept`."""
  return missing.draw_mask(
    train_data.protocol,
    seed=seed,
    split="train",
    ids=train_data.split.id,
    modalities=train_data.split.recorded.shape[1],
    epoch=epoch,
  )


def read_block(
  draw: Callable[[int], Block], host_rows: dict, local: tuple[slice, ...], start: int
) -> tuple[Block, dict]:
  """The block from step `start` on, and its rows in the part `local` of [S, K, B]."""
  block = draw(start)
  index = block.choice["index"][local]
  return block, jax.tree.map(lambda x: x[index], host_rows)


def place_rows(rows: dict, shape: tuple[int, int, int], mesh: Mesh) -> dict:
  """From the rows [s, K, b, ...] that this process has read to [S, K, B, ...] on all devices."""
  sharding = devices_mesh.batch_sharding(mesh)
  place = jax.make_array_from_process_local_data
  return jax.tree.map(lambda x: place(sharding, x, (*shape, *x.shape[3:])), rows)


def make_batch(data: dict, choice: dict[str, Array], redraw: bool, mesh: Mesh) -> Batch:
  """The batch of one seed and step, its rows spread over the devices.

  A mask drawn once stands for missing data: what it hides is not `recorded`. A mask redrawn in
  every epoch is augmentation: what it hides is `recorded`, and a loss may read it.

  `data` are all rows [N, ...] on the device, which are not read if `choice` has "rows"; `choice` is
  `Block.choice` of one seed and step, arrays [B, ...].
  """
  rows = choice.get("rows")
  if rows is None:
    rows = jax.tree.map(lambda x: x[choice["index"]], data)
  present = rows["recorded"] & choice["keep"]
  batch = Batch(
    inputs=frames.hide_steps(rows["inputs"], choice.get("steps", {})),
    length=rows["length"],
    present=present,
    id=rows["id"],
    recorded=rows["recorded"] if redraw else present,
    label=rows["label"],
    labelled=choice["labelled"],
    bank_index=choice["bank_index"],
    row_mask=jnp.ones_like(choice["labelled"]),
  )
  return placement.shard_rows(batch, mesh)
