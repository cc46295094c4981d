"""Keys for training draw what JAX's own keys draw, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_array_equal as same

from promise_jax.devices import mesh as devices_mesh
from promise_jax.training import random_keys

bits = jax.random.bits


def make_keys(*seeds):
  return random_keys.make_keys(seeds, devices_mesh.make_mesh(jax.devices()[:1]))


DRAWS = {
  "bits": lambda key: bits(key, (7, 3)),
  "one": lambda key: bits(key, ()),
  "none": lambda key: bits(key, (0, 4)),
  "8 bits": lambda key: bits(key, (5,), jnp.uint8),
  "16 bits": lambda key: bits(key, (5,), jnp.uint16),
  "normal": lambda key: jax.random.normal(key, (4, 5)),
  "bernoulli": lambda key: jax.random.bernoulli(key, 0.3, (33,)),
  "integers": lambda key: jax.random.randint(key, (9,), 0, 100),
  "permutation": lambda key: jax.random.permutation(key, 10),
  "split": lambda key: bits(jax.random.split(key, 3)[1], (4,)),
  "fold": lambda key: bits(jax.random.fold_in(key, 2**32 - 5), (4,)),
  "rows": lambda key: jax.vmap(
    lambda row: jax.random.uniform(jax.random.fold_in(key, row), (3, 5))
  )(jnp.arange(6)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_draws_are_those_of_jax(name):
  ours, theirs = make_keys(3, 2**31)[1], jax.random.key(2**31)
  assert ours.dtype != theirs.dtype  # else nothing is compared
  expected = DRAWS[name](theirs)
  same(DRAWS[name](ours), expected)
  same(jax.jit(DRAWS[name])(ours), expected)


def test_draws_of_64_bits_are_those_of_jax():
  ours, theirs = make_keys(3)[0], jax.random.key(3)
  with jax.enable_x64(True):
    same(bits(ours, (4,), jnp.uint64), bits(theirs, (4,), jnp.uint64))
    same(
      jax.random.normal(ours, (4,), jnp.float64),
      jax.random.normal(theirs, (4,), jnp.float64),
    )


def test_the_hash_by_its_known_answer():
  """Of Random123, kat_vectors: threefry2x32 of 20 rounds, counters and key 0."""
  found = random_keys.threefry(jnp.zeros(2, jnp.uint32), jnp.zeros(1, jnp.uint32))
  same(np.concatenate(found), np.array([0x6B200159, 0x99BA4EFE], np.uint32))


def test_several_devices_draw_with_keys_of_jax():
  keys = random_keys.make_keys((3,), devices_mesh.make_mesh(jax.devices()[:2]))
  assert keys.dtype == jax.random.key(3).dtype


@pytest.mark.parametrize(
  "setting", [jax.default_prng_impl("rbg"), jax.threefry_partitionable(False)], ids=["rbg", "order"]
)
def test_a_jax_that_is_set_to_other_bits_draws_them(setting):
  with setting:
    ours, theirs = make_keys(3)[0], jax.random.key(3)
    assert ours.dtype == theirs.dtype
    same(bits(ours, (7, 3)), bits(theirs, (7, 3)))


def test_what_is_drawn_is_made_once():
  """Used twice, the 20 rounds are in the program once: a loop of two turns keeps XLA
  from joining them with each use."""
  key = make_keys(0)[0]

  def both(key, x, y):
    kept = jax.random.bernoulli(key, 0.5, x.shape)
    return jnp.where(kept, x, 0) @ y, jnp.where(kept, 0, x).T @ y

  text = jax.jit(both).lower(key, *jnp.ones((2, 300, 300))).compile().as_text()
  rounds = text.count(" xor(")
  assert 20 <= rounds < 40, rounds
