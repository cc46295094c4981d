"""Host arrays onto the devices of a mesh, and the memory that is left there."""

import jax
import numpy as np
import psutil
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from promise_jax.types import Array, PyTree


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Host arrays -> device arrays; every process passes the same whole arrays."""

  def place_array(x) -> Array:
    if sharding.is_fully_addressable:
      return jax.device_put(np.asarray(x), sharding)
    x = np.asarray(x)
    # device_put would first compare the arrays of all processes.
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(place_array, tree)


def shard_rows(tree: PyTree, mesh: Mesh) -> PyTree:
  """Inside jit: spreads the rows of every array [B, ...] over the axis `data`."""
  by_row = NamedSharding(mesh, P("data"))
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, by_row), tree)


def local_slices(shape: tuple[int, ...], sharding: NamedSharding) -> tuple[slice, ...]:
  """The part of an array of `shape` that the devices of this process hold."""
  parts = sharding.addressable_devices_indices_map(shape).values()
  spans = np.array([[i.indices(n)[:2] for i, n in zip(p, shape, strict=True)] for p in parts])
  return tuple(map(slice, spans[..., 0].min(axis=0), spans[..., 1].max(axis=0)))


def num_bytes(tree: PyTree) -> int:
  """Bytes of all arrays."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def free_memory(mesh: Mesh) -> int | None:
  """Bytes left on the fullest device of this process, None where a device does not say."""
  devices = mesh.local_devices
  if devices[0].platform == "cpu":  # CPU devices share the memory of the host
    return psutil.virtual_memory().available // len(devices)
  stats = [d.memory_stats() or {} for d in devices]
  if not all("bytes_limit" in s for s in stats):
    return None
  return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
