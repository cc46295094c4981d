"""RedCore's imputer against a slow loop, and how it starts."""

import jax
import numpy as np

import redcore_oracle
from promise_jax.nn import imputers


def test_the_imputer_equals_a_slow_loop(rng):
  net = imputers.Imputer(3, (5, 4, 2), num_autoencoders=2)
  x = rng.normal(size=(3, 6)).astype(np.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32) / 2, shapes)
  expected = [redcore_oracle.imputer(params["params"], row, 2) for row in x]
  np.testing.assert_allclose(net.apply(params, x), expected, 1e-4, 1e-5)


def test_every_residual_part_starts_at_zero(rng):
  net = imputers.Imputer(3, (8, 4, 2), num_autoencoders=3)
  x = rng.normal(size=(3, 6)).astype(np.float32)
  params = jax.jit(net.init)(jax.random.key(0), x)["params"]
  first, second = (jax.tree.map(np.asarray, params[f"Dense_{i}"]) for i in (0, 1))
  dense = redcore_oracle.dense
  expected = dense(second, np.maximum(dense(first, x), 0))
  np.testing.assert_allclose(net.apply({"params": params}, x), expected, 1e-5, 1e-6)
  cascade = params["ScanAutoEncoder_0"]
  assert all((cascade[f"Dense_{i}"]["kernel"] != 0).any() for i in range(5))
