"""One process, eight virtual devices, strict ranks; warnings are errors (pyproject)."""

import os

# Before JAX starts: the number of devices cannot change later.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def rng() -> np.random.Generator:
  return np.random.default_rng(0)


@pytest.fixture(scope="session")
def one_device():
  """A mesh of the first device alone."""
  from promise_jax import sharding

  return sharding.make_mesh(jax.devices()[:1])


@pytest.fixture(scope="session")
def eight_devices():
  """A mesh of all eight."""
  from promise_jax import sharding

  assert jax.device_count() == 8
  return sharding.make_mesh()
