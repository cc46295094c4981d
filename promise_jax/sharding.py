"""The mesh: one axis `data` over all devices; states replicated, rows spread."""

import math
import pathlib
import re

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from promise_jax.types import Array, PyTree

MEMORY = pathlib.Path("/proc/meminfo")
CONTAINER = pathlib.Path("/sys/fs/cgroup")  # version 2


def make_mesh(devices: list | None = None) -> Mesh:
  """A mesh over `devices` (default: all), every axis Auto: rows are placed by
  annotation, and sums over a batch are global without a line of code."""
  devices = jax.devices() if devices is None else devices
  return jax.make_mesh(
    (len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The same value on every device."""
  return NamedSharding(mesh, P())


def spread(tree: PyTree, mesh: Mesh) -> PyTree:
  """Inside jit: asks that the rows of every leaf be spread over the devices."""
  by_row = NamedSharding(mesh, P("data"))
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, by_row), tree)


def check_rows(batch: int, mesh: Mesh) -> None:
  """Raises ValueError unless a batch of `batch` rows divides over the devices."""
  count = mesh.devices.size
  if batch % count:
    raise ValueError(
      f"batch is {batch}, it must be a multiple of the {count} devices in use"
    )


def put(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Host arrays -> device arrays with `sharding`; every process gives the same."""

  def place(x) -> Array:
    x = np.asarray(x)
    if sharding.is_fully_addressable:
      return jax.device_put(x, sharding)
    # device_put would compare all of it between the processes.
    return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

  return jax.tree.map(place, tree)


def put_rows(x: np.ndarray, index: np.ndarray, mesh: Mesh) -> Array:
  """x[index], the last axis of `index` int[S, K, B] spread over the devices of all
  processes; of `x` [N, ...] a process reads the rows of its own devices alone."""
  by_row = NamedSharding(mesh, P(None, None, "data"))
  return jax.make_array_from_callback(
    (*index.shape, *x.shape[1:]), by_row, lambda part: x[index[part[:3]]]
  )


def own_rows(batch: int, mesh: Mesh) -> np.ndarray:
  """The places i[b] in a batch of `batch` rows that devices of this process hold, from
  the first to the last."""
  by_row = NamedSharding(mesh, P("data"))
  parts = by_row.addressable_devices_indices_map((batch,)).values()
  return np.unique(np.concatenate([np.arange(batch)[part] for part in parts]))


def put_own(x: np.ndarray, own: np.ndarray, batch: int, mesh: Mesh) -> Array:
  """[S, K, B, ...] spread over the devices of all processes by its third axis, of the
  part `x` [S, K, b, ...] that this process has read, at the places `own` i[b]."""
  by_row = NamedSharding(mesh, P(None, None, "data"))

  def take(part):
    start, stop, _ = part[2].indices(batch)
    first, last = np.searchsorted(own, (start, stop))
    return x[:, :, first:last]

  return jax.make_array_from_callback((*x.shape[:2], batch, *x.shape[3:]), by_row, take)


def size_of(tree: PyTree) -> int:
  """Bytes of the arrays."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def room(mesh: Mesh) -> int | None:
  """Bytes that every device of this process has left; a CPU has its share of what the
  host has. None where that is not known."""
  devices = mesh.local_devices
  stats = [d.memory_stats() for d in devices]
  if all(s and "bytes_limit" in s for s in stats):
    return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
  left = host_room() if devices[0].platform == "cpu" else None
  return None if left is None else left // len(devices)


def host_room() -> int | None:
  """Bytes of memory that the host has left, or the container, if that is less; None
  where it does not say."""
  told = MEMORY.read_text() if MEMORY.exists() else ""
  kilobytes = re.search(r"MemAvailable: +(\d+) kB", told)
  left = [int(kilobytes[1]) * 1024] if kilobytes else []
  try:
    limit = int((CONTAINER / "memory.max").read_text())
    used = int((CONTAINER / "memory.current").read_text())
    stat = (CONTAINER / "memory.stat").read_text()
    (cached,) = re.findall(r"^inactive_file (\d+)", stat, re.MULTILINE)
    left.append(limit - used + int(cached))
  except (OSError, ValueError):  # no cgroup, or one whose limit is "max"
    pass
  return min(left, default=None)
