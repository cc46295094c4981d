"""The memory of FNCL and CCCL with many elements."""

import jax
import jax.numpy as jnp
import pytest

from promise_jax.losses import hierarchical_contrast


@pytest.fixture
def full_optimization():
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.parametrize("kind", ["instance", "classes", "multilabel"])
def test_32768_elements_fit_in_two_gigabytes(kind, full_optimization):
  """Compiled as for a user, not run. A dense array of all pairs has 4.3 GB."""
  rows, shape = 8192, jax.ShapeDtypeStruct
  label = shape((rows, 23), jnp.float32) if kind == "multilabel" else shape((rows,), jnp.int32)
  args = shape((rows, 2, 2, 128), jnp.float32), shape((rows, 2, 2), bool)
  args += shape((rows,), jnp.int32), label, shape((rows,), bool)

  def loss(code, where, ids, label, labelled):
    if kind == "instance":
      return hierarchical_contrast.instance_contrast(code, where, ids).value
    return hierarchical_contrast.class_contrast(code, where, ids, label, labelled, kind).value

  program = jax.jit(jax.value_and_grad(loss)).lower(*args).compile()
  memory = program.memory_analysis()
  total = memory.temp_size_in_bytes + memory.argument_size_in_bytes
  assert total + memory.output_size_in_bytes < 2e9
  elements = rows * 4 if kind == "instance" else rows * 2
  assert f"{elements},{elements}" not in program.as_text()
