"""The mesh: devices in groups (axis `seed`), usually one, of several (axis `data`).

A group trains its part of the seeds, with the state of a seed on each of its devices
and the rows of a batch spread over them. Groups send each other nothing.
"""

import math
import pathlib
import re
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from promise_jax.types import Array, PyTree

MEMORY = pathlib.Path("/proc/meminfo")
CONTAINER = pathlib.Path("/sys/fs/cgroup")  # version 2


def make_mesh(devices: list | None = None, groups: int = 1) -> Mesh:
  """A mesh over `devices` (default: all) in so many `groups`, every axis Auto: rows are
  placed by annotation, and sums over a batch are global without a line of code.
  ValueError where the devices do not divide."""
  devices = jax.devices() if devices is None else devices
  if groups < 1 or len(devices) % groups:
    raise ValueError(
      f"train.seed_devices is {groups}, the {len(devices)} devices in use must be a "
      "multiple of it (JAX_NUM_CPU_DEVICES says how many a CPU pretends to be)"
    )
  types = (AxisType.Auto, AxisType.Auto)
  shape = (groups, len(devices) // groups)
  return jax.make_mesh(shape, ("seed", "data"), axis_types=types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """The same value on every device."""
  return NamedSharding(mesh, P())


def seed_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays [S, ...] of which each group has its seeds, the same on all its devices."""
  return NamedSharding(mesh, P("seed"))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays [S, K, B, ...]: seeds by group, rows over the devices of the group."""
  return NamedSharding(mesh, P("seed", None, "data"))


def shard_map_over_seeds(call: Callable, mesh: Mesh, seeds: tuple) -> Callable:
  """`call` with every group at its own seeds; `seeds` is, for each argument, a tree of
  whether it has a leading axis of seeds, as all results have."""
  if mesh.shape["seed"] == 1:
    return call
  specs = jax.tree.map(lambda stacked: P("seed") if stacked else P(), seeds)
  return jax.shard_map(
    call,
    mesh=mesh,
    in_specs=specs,
    out_specs=P("seed"),
    axis_names={"seed"},  # the other axis stays Auto inside
    check_vma=False,
  )


def shard_rows(tree: PyTree, mesh: Mesh) -> PyTree:
  """Inside jit: asks that the rows of every leaf be spread over the devices of each
  group."""
  inside = jax.sharding.get_abstract_mesh()
  grouped = "seed" in inside.axis_names  # we are in `by_group`
  by_row = NamedSharding(inside if grouped else mesh, P("data"))
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, by_row), tree)


def check_batch_size(batch: int, mesh: Mesh) -> None:
  """Raises ValueError unless a batch of `batch` rows divides over the devices of a
  group."""
  count, groups = mesh.shape["data"], mesh.shape["seed"]
  if batch % count:
    where = f"devices of each of {groups} groups" if groups > 1 else "devices in use"
    raise ValueError(f"batch is {batch}, it must be a multiple of the {count} {where}")


def check_seeds(count: int, groups: int) -> None:
  """Raises ValueError unless `count` seeds divide over so many groups of devices."""
  if groups < 1 or count % groups:
    raise ValueError(f"seeds is {count}, it must be a multiple of train.seed_devices, {groups}")


def place(tree: PyTree, sharding: NamedSharding) -> PyTree:
  """Host arrays -> device arrays with `sharding`; every process gives the same."""

  def place(x) -> Array:
    x = np.asarray(x)
    if sharding.is_fully_addressable:
      return jax.device_put(x, sharding)
    # device_put would compare all of it between the processes.
    return jax.make_array_from_callback(x.shape, sharding, lambda part: x[part])

  return jax.tree.map(place, tree)


def place_rows(x: np.ndarray, index: np.ndarray, mesh: Mesh) -> Array:
  """x[index] of `index` int[S, K, B], placed by `of_calls` on the devices of all
  processes; of `x` [N, ...] a process reads the rows of its own devices alone."""
  return jax.make_array_from_callback(
    (*index.shape, *x.shape[1:]), batch_sharding(mesh), lambda part: x[index[part[:3]]]
  )


def local_rows(seeds: int, batch: int, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
  """Of so many seeds and the rows of a batch those that devices of this process hold:
  s[a] and i[b], from the first to the last."""
  by_row, sizes = NamedSharding(mesh, P("seed", "data")), (seeds, batch)
  parts = by_row.addressable_devices_indices_map(sizes).values()
  held = ([np.arange(n)[p[axis]] for p in parts] for axis, n in enumerate(sizes))
  return tuple(np.unique(np.concatenate(each)) for each in held)


def place_local_rows(x: np.ndarray, own: tuple, seeds: int, batch: int, mesh: Mesh) -> Array:
  """[S, K, B, ...] placed by `of_calls` on the devices of all processes, of the part
  `x` [a, K, b, ...] that this process has read, which is its `own_part`."""

  def take(part):
    axes = zip(own, (part[0], part[2]), (seeds, batch), strict=True)
    ends = (np.searchsorted(at, where.indices(n)[:2]) for at, where, n in axes)
    a, b = (slice(*pair) for pair in ends)
    return x[a, :, b]

  shape = (seeds, x.shape[1], batch, *x.shape[3:])
  return jax.make_array_from_callback(shape, batch_sharding(mesh), take)


def num_bytes(tree: PyTree) -> int:
  """Bytes of the arrays."""
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def free_memory(mesh: Mesh) -> int | None:
  """Bytes that every device of this process has left; a CPU has its share of what the
  host has. None where that is not known."""
  devices = mesh.local_devices
  stats = [d.memory_stats() for d in devices]
  if all(s and "bytes_limit" in s for s in stats):
    return min(s["bytes_limit"] - s["bytes_in_use"] for s in stats)
  left = free_host_memory() if devices[0].platform == "cpu" else None
  return None if left is None else left // len(devices)


def free_host_memory() -> int | None:
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
