"""bfloat16 where networks multiply, float32 everywhere else."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import example_batches
from method_cases import CASES, FIRST
from promise_jax import methods
from promise_jax.nn import precision


class Linear(precision.Network):
  """x W."""

  @nn.compact
  def __call__(self, x):
    return nn.Dense(2, use_bias=False)(x)


def to_bfloat16(x):
  return np.asarray(x, np.float32).astype(jnp.bfloat16).astype(np.float64)


def test_a_network_multiplies_rounded_numbers_and_returns_float32(rng):
  x = rng.normal(size=(5, 3)).astype(np.float32)
  w = rng.normal(size=(3, 2)).astype(np.float32)
  params = {"params": {"Dense_0": {"kernel": w}}}
  full = Linear().apply(params, x)
  np.testing.assert_allclose(full, x @ w, rtol=1e-6)
  half = Linear().apply(precision.cast(params, jnp.bfloat16), x)
  assert half.dtype == np.float32
  # Of the sum itself the last bit of bfloat16, 2^-8, is not prescribed.
  np.testing.assert_allclose(half, to_bfloat16(x) @ to_bfloat16(w), rtol=2**-8, atol=2**-8)
  assert np.any(half != full)


def test_cast_changes_floating_point_arrays_alone():
  tree = {"a": np.ones(2, np.float32), "b": np.arange(2), "c": True, "d": None}
  half = precision.cast(tree, jnp.bfloat16)
  assert half["a"].dtype == jnp.bfloat16
  assert half["b"].dtype == tree["b"].dtype and half["c"] is True and half["d"] is None


def products(jaxpr, count, times=1):
  """Multiplications of every dot product in `jaxpr`, by the types of its operands."""
  for equation in jaxpr.eqns:
    inner = times
    if equation.primitive.name == "dot_general":
      a, b = (x.aval for x in equation.invars)
      ((summed, _), _) = equation.params["dimension_numbers"]
      size = np.prod(equation.outvars[0].aval.shape, dtype=float)
      size *= np.prod([a.shape[i] for i in summed])
      count[a.dtype.name, b.dtype.name] += times * size
    if equation.primitive.name == "scan":
      inner = times * equation.params["length"]
    is_program = lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
    for part in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
      if is_program(part):
        products(getattr(part, "jaxpr", part), count, inner)
  return count


@pytest.mark.parametrize("name", FIRST)
def test_networks_multiply_in_bfloat16_and_losses_do_not(name):
  case = CASES[name]
  spec = example_batches.spec(case.task, case.modalities)
  method = methods.build_method(case.method, case.values, spec)
  loss = precision.with_precision(method, "bfloat16").stages[-1].loss
  params, model_state = jax.eval_shape(method.init, jax.random.key(0))
  batch, step_info = example_batches.mixed_batch(spec), example_batches.step_info(0.5)
  args = params, model_state, batch, jax.random.key(0), step_info
  closed, (value, (kept, terms)) = jax.make_jaxpr(loss, return_shape=True)(*args)
  count = products(closed.jaxpr, collections.Counter())
  # The rest are similarities and other products of losses.
  assert count["bfloat16", "bfloat16"] > 0.7 * sum(count.values())
  types = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  assert types(kept) == types(model_state)
  metrics = [value, *jax.tree.leaves(terms)]
  assert all(x.dtype in (np.float32, np.int32) for x in metrics)


def test_gradients_are_float32_and_close(rng):
  spec = example_batches.spec()
  method = methods.build_method("fusion", CASES["fusion"].values, spec)
  params = example_batches.random_params(method)
  model_state = jax.tree.map(
    lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(method.init, jax.random.key(0))
  )[1]
  batch, step_info = example_batches.mixed_batch(spec), example_batches.step_info(0.5)
  args = model_state, batch, jax.random.key(0), step_info

  @jax.jit
  def both(params):
    lowered = precision.with_precision(method, "bfloat16")
    losses = [m.stages[-1].loss for m in (method, lowered)]
    return [jax.value_and_grad(f, has_aux=True)(params, *args) for f in losses]

  ((full, _), exact), ((half, _), short) = both(params)
  assert half != full and abs(half - full) < 0.02 * abs(full)
  pairs = zip(jax.tree.leaves(exact), jax.tree.leaves(short), strict=True)
  flat = [(a.ravel(), b.ravel()) for a, b in pairs if a.dtype == b.dtype == np.float32]
  assert len(flat) == len(jax.tree.leaves(params))
  a, b = (np.concatenate(x) for x in zip(*flat, strict=True))
  assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


def test_an_unknown_precision_is_an_error():
  method = methods.build_method("fusion", {}, example_batches.spec())
  assert precision.with_precision(method, "float32") is method
  with pytest.raises(ValueError, match="float16', known are float32, bfloat16"):
    precision.with_precision(method, "float16")
