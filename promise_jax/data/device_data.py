"""Puts the rows of a split on the devices, preprocessed and in equal blocks, or on the host."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from promise_jax.data import prefetch
from promise_jax.devices import distributed, placement
from promise_jax.devices import mesh as devices_mesh
from promise_jax.method import Method, no_preprocessing
from promise_jax.types import Array, Split

BLOCK, BLOCK_CODES = 256, 768  # rows predicted at once, and codes: one for each row and modality
PREPROCESSED = 128  # rows that `image_features.precompute` takes at once
PIECE = 8 * PREPROCESSED  # rows that go to a device at once to be preprocessed for the host


def collect_arrays(split: Split) -> dict:
  """The arrays [N, ...] of a split as a dict, the form that compiled programs take."""
  return split._asdict() | {"id": split.id.astype(np.int32)}


def block_size(mesh: Mesh, num_modalities: int, most: int | None = None) -> int:
  """Rows of a block: at most `most`, and equally many on each device of the axis "data".

  By default as many as BLOCK_CODES allows: `mplmm` took 214 us for a row and pattern of eight
  modalities in blocks of 200 rows, which leave the cache of a CPU, and 170 us in blocks of 80.
  """
  devices, most = mesh.shape["data"], most or min(BLOCK, BLOCK_CODES // num_modalities)
  return max(most // devices, 1) * devices


def pad_to_blocks(split: Split, mesh: Mesh, most: int | None = None) -> dict:
  """`collect_arrays`, padded with zeros to equal blocks of at most `block_size` rows; "valid"
  bool[N] is False on the padding."""
  count, devices = len(split.id), mesh.shape["data"]
  blocks = -(-count // block_size(mesh, split.recorded.shape[1], most))
  size = blocks * devices * -(-count // (blocks * devices)) if blocks else 0
  rows = collect_arrays(split) | {"valid": np.ones(count, bool)}
  pad = lambda x: np.concatenate([x, np.zeros((size - count, *x.shape[1:]), x.dtype)])
  return jax.tree.map(pad, rows)


def place_train_rows(method: Method, split: Split, mesh: Mesh) -> tuple[dict, dict | None]:
  """(rows that every device has, rows that stay on the host or None). ValueError where the rows do
  not fit into the memory of the devices."""
  rows = collect_arrays(split)
  if prefetch.is_streamed(split):
    return {}, rows
  if distributed.is_multiprocess():
    # Each process reads the rows of its own devices alone.
    return {}, preprocess_on_host(method, rows)
  check_memory(method, rows, mesh)
  return to_devices(method, rows, mesh), None


def to_devices(method: Method, rows: dict, mesh: Mesh) -> dict:
  """`rows` on every device, their inputs preprocessed."""
  everywhere = devices_mesh.replicated(mesh)
  rows = placement.place(rows, everywhere)
  if method.preprocess is no_preprocessing:
    return rows
  preprocess = functools.partial(preprocess_in_blocks, method)
  return rows | {"inputs": jax.jit(preprocess, out_shardings=everywhere)(rows["inputs"])}


def preprocess_on_host(method: Method, rows: dict) -> dict:
  """`rows` in host memory, their inputs preprocessed `PIECE` rows at a time: no device need
  hold them all."""
  if method.preprocess is no_preprocessing:
    return rows
  preprocess, inputs = jax.jit(functools.partial(preprocess_in_blocks, method)), rows["inputs"]
  part = lambda start: jax.tree.map(lambda x: x[start : start + PIECE], inputs)
  count = len(next(iter(inputs.values())))
  pieces = [jax.device_get(preprocess(part(start))) for start in range(0, count, PIECE)]
  return rows | {"inputs": jax.tree.map(lambda *x: np.concatenate(x), *pieces)}


def preprocess_in_blocks(method: Method, inputs: dict[str, Array]) -> dict[str, Array]:
  """`method.preprocess` of inputs [N, ...] in whole blocks of `PREPROCESSED` rows, two at least.

  XLA sums a smaller block, or a single one, in another order, and the last bits of a row
  would depend on the rows beside it. (Images whose sides are no multiples of 8 depend on
  their place in the block all the same: their features are products of matrices.)
  """
  count = len(next(iter(inputs.values())))
  size = PREPROCESSED * max(-(-count // PREPROCESSED), 2)
  pad = lambda x: jnp.pad(x, [(0, size - count)] + [(0, 0)] * (x.ndim - 1))
  return jax.tree.map(lambda x: x[:count], method.preprocess(jax.tree.map(pad, inputs)))


def preprocess_batches(method: Method, mesh: Mesh) -> Callable[[dict], dict]:
  """The jitted `method.preprocess` of streamed inputs [S, K, B, ...]."""
  if method.preprocess is no_preprocessing:
    return no_preprocessing

  def preprocess(inputs: dict) -> dict:
    lead = next(iter(inputs.values())).shape[:3]
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), inputs)
    made = preprocess_in_blocks(method, flat)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), made)

  # Each device takes its own rows, in blocks as above: the one place where the compiler must
  # not choose how a sum is split.
  spec = devices_mesh.batch_sharding(mesh).spec
  return jax.jit(jax.shard_map(preprocess, mesh=mesh, in_specs=spec, out_specs=spec))


def check_memory(method: Method, rows: dict, mesh: Mesh) -> None:
  """Raises ValueError if the train rows take more memory than a device has left."""
  need, free = placement.num_bytes(rows), placement.free_memory(mesh)
  if method.preprocess is not no_preprocessing:  # for a moment a device holds both
    need += placement.num_bytes(jax.eval_shape(method.preprocess, rows["inputs"]))
  if free is not None and need > free:
    raise ValueError(
      f"the train rows take {need / 1e9:.1f} GB on every device, where {free / 1e9:.1f} GB are "
      "free; set data.stream, then they are read from disk while training"
    )
