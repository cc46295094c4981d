"""Rows of a split where they are needed: on the devices, prepared, in equal blocks."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from promise_jax.data import prefetch
from promise_jax.devices import mesh as devices_mesh
from promise_jax.method import Method, no_preprocessing
from promise_jax.types import Array, Split

BLOCK = 256  # rows predicted at once
PREPARED = 128  # rows that `encoders.prepare` takes at once
PIECE = 8 * PREPARED  # rows that go to a device and come back prepared


def rows_of(split: Split) -> dict:
  """The arrays of a split as the jitted programs take them."""
  return {
    "inputs": split.inputs,
    "length": split.length,
    "recorded": split.recorded,
    "label": split.label,
    "id": split.id.astype(np.int32),
  }


def block_size(mesh: Mesh, most: int = BLOCK) -> int:
  """Rows of a block: at most `most`, the same number for every device of a group."""
  devices = mesh.shape["data"]
  return max(most // devices, 1) * devices


def pad_to_blocks(split: Split, mesh: Mesh, most: int = BLOCK) -> dict:
  """`rows_of`, padded with zeros to equal blocks of at most `block_of` rows, each of
  which divides over the devices of a group; `valid` bool[N] is False on the padding."""
  count, devices = len(split.id), mesh.shape["data"]
  blocks = -(-count // block_size(mesh, most))
  size = blocks * devices * -(-count // (blocks * devices)) if blocks else 0
  rows = rows_of(split) | {"valid": np.ones(count, bool)}

  def pad(x):
    return np.concatenate([x, np.zeros((size - count, *x.shape[1:]), x.dtype)])

  return jax.tree.map(pad, rows)


def training_data(method: Method, split: Split, mesh: Mesh) -> tuple[dict, dict | None]:
  """The rows of the train split: (those that are on every device, those that stay on
  the host or None). ValueError where a device has no room for them."""
  rows = rows_of(split)
  if prefetch.is_streamed(split):
    return {}, rows
  if devices_mesh.replicated(mesh).is_fully_addressable:
    check_memory(method, rows, mesh)
    return to_devices(method, rows, mesh), None
  # Other processes have other devices: each gives its own what they need.
  return {}, preprocess_on_host(method, rows)


def to_devices(method: Method, rows: dict, mesh: Mesh) -> dict:
  """`rows` on every device, their inputs as `method.preprocess` makes them."""
  everywhere = devices_mesh.replicated(mesh)
  rows = devices_mesh.place(rows, everywhere)
  if method.preprocess is no_preprocessing:
    return rows
  prepare = functools.partial(preprocess_in_blocks, method)
  return rows | {"inputs": jax.jit(prepare, out_shardings=everywhere)(rows["inputs"])}


def preprocess_on_host(method: Method, rows: dict) -> dict:
  """`rows` in host memory, their inputs as `method.preprocess` makes them, `PIECE` rows at
  a time: a device need not hold them all."""
  if method.preprocess is no_preprocessing:
    return rows
  prepare, inputs = (
    jax.jit(functools.partial(preprocess_in_blocks, method)),
    rows["inputs"],
  )
  (count,) = {len(x) for x in inputs.values()}
  part = lambda at: jax.tree.map(lambda x: x[at : at + PIECE], inputs)
  pieces = [jax.device_get(prepare(part(at))) for at in range(0, count, PIECE)]
  return rows | {"inputs": jax.tree.map(lambda *x: np.concatenate(x), *pieces)}


def preprocess_in_blocks(method: Method, inputs: dict) -> dict:
  """`method.preprocess` in whole blocks of `PREPARED` rows, two or more: a smaller one, or
  one alone, is compiled to another order of sums, and the last bits of a row would
  depend on its company. (Those of an image whose sides are no multiples of 8 depend on
  its place in the block all the same: its features are products of matrices.)"""
  (count,) = {len(x) for x in inputs.values()}
  size = PREPARED * max(-(-count // PREPARED), 2)

  def pad(x: Array) -> Array:
    return jnp.pad(x, [(0, size - count)] + [(0, 0)] * (x.ndim - 1))

  made = method.preprocess(jax.tree.map(pad, inputs))
  return jax.tree.map(lambda x: x[:count], made)


def preprocess_batches(method: Method, mesh: Mesh) -> Callable[[dict], dict]:
  """`method.preprocess` for the inputs {modality: [S, K, B, ...]} of streamed calls: each
  device prepares its own rows."""
  if method.preprocess is no_preprocessing:
    return no_preprocessing

  def own(inputs: dict) -> dict:
    (lead,) = {x.shape[:3] for x in inputs.values()}
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), inputs)
    made = preprocess_in_blocks(method, flat)
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), made)

  by_row = devices_mesh.batch_sharding(mesh).spec
  return jax.jit(jax.shard_map(own, mesh=mesh, in_specs=by_row, out_specs=by_row, check_vma=False))


def check_memory(method: Method, rows: dict, mesh: Mesh) -> None:
  """ValueError if `put` of `rows`, those of the train split, takes more memory than a
  device has left; nothing where a device does not say."""
  need = devices_mesh.num_bytes(rows)
  if method.preprocess is not no_preprocessing:  # both are there while one is made of the other
    need += devices_mesh.num_bytes(jax.eval_shape(method.preprocess, rows["inputs"]))
  room = devices_mesh.free_memory(mesh)
  if room is not None and need > room:
    raise ValueError(
      f"the train rows take {need / 1e9:.1f} GB on every device, where "
      f"{room / 1e9:.1f} GB are free; set data.stream (data.load(..., stream=True)), "
      "then they are read from disk while training"
    )
