"""The mesh of devices, and how arrays of seeds and of batch rows lie on it.

Axis `seed` has `train.seed_devices` parts, each of which trains its share of the seeds. The
devices of one part, axis `data`, share the rows of every batch. Usually `seed` is 1.
"""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def make_mesh(devices: list | None = None, seed_devices: int = 1) -> Mesh:
  """A mesh of `devices` (default: all of them).

  Both axes are Auto: arrays are placed by annotation, and the compiler makes sums over a
  batch global.

  Raises:
    ValueError: the devices do not divide into `seed_devices` parts.
  """
  devices = jax.devices() if devices is None else devices
  if seed_devices < 1 or len(devices) % seed_devices:
    raise ValueError(
      f"train.seed_devices is {seed_devices}, the {len(devices)} devices in use must be a "
      "multiple of it (JAX_NUM_CPU_DEVICES sets how many devices a CPU shows)"
    )
  return jax.make_mesh(
    (seed_devices, len(devices) // seed_devices),
    ("seed", "data"),
    axis_types=(AxisType.Auto, AxisType.Auto),
    devices=devices,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, P())


def seed_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays [S, ...]: seeds over the axis `seed`."""
  return NamedSharding(mesh, P("seed"))


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Arrays [S, K, B, ...]: seeds over the axis `seed`, batch rows over the axis `data`."""
  return NamedSharding(mesh, P("seed", None, "data"))


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises ValueError unless a batch divides over the devices that share it."""
  if batch_size % mesh.shape["data"]:
    raise ValueError(
      f"train.batch_size is {batch_size}, it must be a multiple of the "
      f"{mesh.shape['data']} devices that share a batch"
    )


def check_seeds(num_seeds: int, seed_devices: int) -> None:
  """Raises ValueError unless the seeds divide over the parts of the devices."""
  if seed_devices < 1 or num_seeds % seed_devices:
    raise ValueError(
      f"seeds is {num_seeds}, it must be a multiple of train.seed_devices, {seed_devices}"
    )
