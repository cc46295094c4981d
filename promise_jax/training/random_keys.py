"""Keys of training: the numbers of `jax.random`, drawn faster on a CPU.

JAX draws with the hash Threefry-2x32 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
as 1, 2, 3", SC 2011). On a CPU it compiles the twenty rounds as a loop of five turns, each of which
reads and writes all that is drawn. Here they are one piece: the same bits in a third of the time.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_prng_impl
from jax.sharding import Mesh
from jaxtyping import Array, Key, UInt32

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)  # in the key schedule


def make_keys(seeds: Sequence[int], mesh: Mesh) -> Key[Array, " S"]:
  """A key for each seed. `jax.random` draws the same bits with it as with `jax.random.key(seed)`,
  and it is that key unless `mesh` is a single CPU: several devices would each draw for all rows."""
  single_cpu = mesh.size == 1 and mesh.devices.item().platform == "cpu"
  # With another hash or order of counters, which JAX can be set to, its bits are not these.
  default_bits = jax.config.jax_default_prng_impl == "threefry2x32"
  default_bits = default_bits and jax.config.jax_threefry_partitionable
  kind = UNROLLED if single_cpu and default_bits else None
  return jax.vmap(lambda seed: jax.random.key(seed, impl=kind))(jnp.asarray(seeds, jnp.uint32))


def threefry(words: UInt32[Array, "2"], low: UInt32[Array, " N"]) -> tuple[Array, Array]:
  """The two words of the hash, each u32[N], of the counters (0, low) under the key `words`."""
  schedule = words[0], words[1], words[0] ^ words[1] ^ PARITY
  high, low = jnp.full_like(low, schedule[0]), low + schedule[1]
  for part in range(5):
    for turn in ROTATIONS[part % 2]:
      high = high + low
      low = high ^ ((low << np.uint32(turn)) | (low >> np.uint32(32 - turn)))
    high = high + schedule[(part + 1) % 3]
    low = low + schedule[(part + 2) % 3] + np.uint32(part + 1)
  return high, low


def random_bits(words: UInt32[Array, "2"], width: int, shape: tuple[int, ...]) -> Array:
  """Random integers of `width` bits under the key `words`."""
  size = math.prod(shape)
  if width == 64 or size > 2**31:
    return threefry_prng_impl.random_bits(words, width, shape)
  half = -(-size // 2)

  # In a loop of two turns: outside of loops XLA computes the hash again for each of its uses.
  def draw_half(i, bits):
    start = i * half
    high, low = threefry(words, start.astype(jnp.uint32) + jax.lax.iota(jnp.uint32, half))
    return jax.lax.dynamic_update_slice(bits, high ^ low, (start,))

  bits = jax.lax.fori_loop(0, 2, draw_half, jnp.zeros(2 * half, jnp.uint32))
  return bits[:size].reshape(shape).astype(f"uint{width}")


UNROLLED = define_prng_impl(
  key_shape=threefry_prng_impl.key_shape,
  seed=threefry_prng_impl.seed,
  split=threefry_prng_impl.split,
  fold_in=threefry_prng_impl.fold_in,
  random_bits=random_bits,
  name="threefry2x32, rounds in one piece",
  tag="fry1",
)
