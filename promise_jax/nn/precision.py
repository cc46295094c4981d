"""bfloat16 where networks multiply, float32 everywhere else. Ours.

Parameters, gradients, optimizer state, sums and losses stay float32. With precision
"bfloat16" a loss gets a rounded copy of the parameters. A `Network` that gets such
parameters rounds its inputs too, multiplies in bfloat16 and returns float32: a
similarity, a softmax over classes or a mean over rows never sees bfloat16.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from promise_jax.checks import check_choice
from promise_jax.method import Method
from promise_jax.types import PyTree

PRECISIONS = ("float32", "bfloat16")


def cast(tree: PyTree, dtype: Any) -> PyTree:
  """`tree` with its floating-point arrays as `dtype`; everything else stays."""

  def cast_leaf(x):
    is_floating = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(x).astype(dtype) if is_floating else x

  return jax.tree.map(cast_leaf, tree)


def has_bfloat16(tree: PyTree) -> bool:
  """Whether any array of `tree` is bfloat16."""
  return any(getattr(x, "dtype", None) == jnp.bfloat16 for x in jax.tree.leaves(tree))


def param_dtype(module: nn.Module) -> Any:
  """The type of a bound module's parameters, for the `dtype` of its layers."""
  return jnp.bfloat16 if has_bfloat16(module.variables.get("params", {})) else jnp.float32


class Network(nn.Module):
  """A module that rounds its inputs if its parameters are bfloat16, and returns float32."""

  @nn.nowrap
  def apply(self, variables, *args, **kwargs):
    if not has_bfloat16(variables):
      return super().apply(variables, *args, **kwargs)
    variables, args, kwargs = cast((variables, args, kwargs), jnp.bfloat16)
    return cast(super().apply(variables, *args, **kwargs), jnp.float32)


def with_precision(method: Method, precision: str) -> Method:
  """`method` with its losses and predictions computed in `precision`.

  A second loss inside a stage's `update`, as the upper level of redcore, stays float32.
  """
  check_choice("precision", precision, PRECISIONS)
  if precision == "float32":
    return method

  def round_params(function):
    def call(params, *args, **kwargs):
      return function(cast(params, jnp.bfloat16), *args, **kwargs)

    return function and call  # a stage may have no `predict`, both no `encode`

  def round_all(part, *names):
    return part._replace(**{name: round_params(getattr(part, name)) for name in names})

  stages = tuple(round_all(stage, "loss", "predict", "encode") for stage in method.stages)
  return round_all(method, "predict", "encode")._replace(stages=stages)
