"""Keys for training: the numbers of `jax.random`, drawn faster on a CPU.

JAX draws with the hash Threefry-2x32 (Salmon, Moraes, Dror, Shaw, "Parallel random
numbers: as easy as 1, 2, 3", SC 2011). On a CPU it compiles the 20 rounds as a loop of
5 turns, each of which reads and writes all that is drawn. Here they are one piece:
the same bits in a third of the time.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl, threefry_prng_impl

from promise_jax.types import Array

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
PARITY = np.uint32(0x1BD11BDA)  # in the key schedule


def training_keys(seeds: tuple[int, ...]) -> Array:
  """A typed key for every one of the S `seeds`, key[S].

  `jax.random` gives the same bits for it as for `jax.random.key(seed)`, and it is that
  where the backend is no CPU.
  """
  kind = UNROLLED if jax.default_backend() == "cpu" else "threefry2x32"
  one = lambda seed: jax.random.key(seed, impl=kind)
  return jax.vmap(one)(jnp.asarray(seeds, jnp.uint32))


def threefry(words: Array, low: Array) -> tuple[Array, Array]:
  """The hash, twice u32[N], of the counters (0, `low` u32[N]) under the key `words`
  u32[2]."""
  schedule = words[0], words[1], words[0] ^ words[1] ^ PARITY
  high, low = jnp.full_like(low, schedule[0]), low + schedule[1]
  for part in range(5):
    for turn in ROTATIONS[part % 2]:
      high = high + low
      low = high ^ ((low << np.uint32(turn)) | (low >> np.uint32(32 - turn)))
    high = high + schedule[(part + 1) % 3]
    low = low + schedule[(part + 2) % 3] + np.uint32(part + 1)
  return high, low


def random_bits(words: Array, width: int, shape: tuple[int, ...]) -> Array:
  """Random integers of `width` bits of `shape`, those of JAX under the key `words`."""
  size = math.prod(shape)
  if width == 64 or size > 2**31:
    return threefry_prng_impl.random_bits(words, width, shape)
  half = -(-size // 2)

  # In two turns of a loop: XLA would make what is in none anew for each of its uses.
  def draw(i, bits):
    start = i * half
    counters = start.astype(jnp.uint32) + jax.lax.iota(jnp.uint32, half)
    high, low = threefry(words, counters)
    return jax.lax.dynamic_update_slice(bits, high ^ low, (start,))

  bits = jax.lax.fori_loop(0, 2, draw, jnp.zeros(2 * half, jnp.uint32))
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
