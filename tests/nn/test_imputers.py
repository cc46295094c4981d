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


def test_the_output_and_every_residual_part_start_at_zero(rng):
  net = imputers.Imputer(3, (8, 4, 2), num_autoencoders=3)
  x = rng.normal(size=(3, 6)).astype(np.float32)
  params = jax.jit(net.init)(jax.random.key(0), x)["params"]
  np.testing.assert_array_equal(net.apply({"params": params}, x), np.zeros((3, 3)))
  cascade = params["ScanAutoEncoder_0"]
  assert (cascade["Dense_5"]["kernel"] == 0).all() and (params["Dense_0"]["kernel"] != 0).any()
  assert all((cascade[f"Dense_{i}"]["kernel"] != 0).any() for i in range(5))
