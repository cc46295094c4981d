"""The mesh: one axis `data` over all devices; states replicated, rows spread."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from promise_jax.types import Array, PyTree


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
