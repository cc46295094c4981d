"""The mesh of devices, and how arrays of seeds and of batch rows lie on it.

Axis `seed` has `train.seed_devices` parts (usually 1), each of which trains its share of the seeds.
The devices of one part, axis `data`, share the rows of every batch.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from promise_jax.types import PyTree


def make_mesh(devices: list | None = None, seed_devices: int = 1) -> Mesh:
  """A mesh of `devices` (default: all). ValueError unless they divide into `seed_devices` parts."""
  devices = jax.devices() if devices is None else devices
  if seed_devices < 1 or len(devices) % seed_devices:
    raise ValueError(
      f"train.seed_devices is {seed_devices}, the {len(devices)} devices in use must be a "
      "multiple of it (JAX_NUM_CPU_DEVICES sets how many devices a CPU shows)"
    )
  # Auto: arrays are placed by annotation, and the compiler makes sums over a batch global.
  shape, auto = (seed_devices, len(devices) // seed_devices), (AxisType.Auto, AxisType.Auto)
  return jax.make_mesh(shape, ("seed", "data"), axis_types=auto, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, P())


def seed_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays [S, ...]: seeds over the axis `seed`."""
  return NamedSharding(mesh, P("seed"))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays [S, K, B, ...]: seeds over the axis `seed`, batch rows over the axis `data`."""
  return NamedSharding(mesh, P("seed", None, "data"))


def placed_shapes(shapes: PyTree, sharding: NamedSharding) -> PyTree:
  """The shapes and dtypes of arrays that lie on the devices as `sharding` says."""
  place = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
  return jax.tree.map(place, shapes)
