"""In which type a network computes: that in which its parameters come.

Parameters, their gradients, the state of the optimiser, sums and losses are float32.
With precision "bfloat16" a loss gets a rounded copy of the parameters: the networks
round what they are given and multiply in bfloat16, and give back float32, so that a
similarity, a softmax over classes or a mean over rows never sees the short type. Ours.
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
  """`tree` with its floating arrays as `dtype`; all else stays."""

  def one(x):
    floating = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(x).astype(dtype) if floating else x

  return jax.tree.map(one, tree)


def has_bfloat16(tree: PyTree) -> bool:
  """Whether there is a bfloat16 array in `tree`."""
  return any(getattr(x, "dtype", None) == jnp.bfloat16 for x in jax.tree.leaves(tree))


def cast_like(tree: PyTree, params: PyTree) -> PyTree:
  """`tree`, parameters kept in float32 beside `params`, rounded as those are."""
  return cast(tree, jnp.bfloat16) if has_bfloat16(params) else tree


class Network(nn.Module):
  """A module whose `apply` rounds its arguments if its parameters come in bfloat16, and
  gives back float32 then; with others it is that of flax."""

  @nn.nowrap
  def apply(self, variables, *args, **more):
    if not has_bfloat16(variables):
      return super().apply(variables, *args, **more)
    variables, args, more = cast((variables, args, more), jnp.bfloat16)
    return cast(super().apply(variables, *args, **more), jnp.float32)


def param_dtype(module: nn.Module) -> Any:
  """The type in which the parameters of a bound module come; float32 while they are
  made."""
  return jnp.bfloat16 if has_bfloat16(module.variables.get("params", {})) else jnp.float32


def with_precision(method: Method, precision: str) -> Method:
  """`method` with losses and predictions computed in `precision`; ValueError, listing
  those that are known, for another.

  A loss that a stage's `update` takes beside its own, as the upper level of redcore,
  stays float32.
  """
  check_choice("precision", precision, PRECISIONS)
  if precision == "float32":
    return method

  def rounding(function):
    def call(params, *args, **more):
      return function(cast(params, jnp.bfloat16), *args, **more)

    return function and call  # a stage may have no `predict` of its own

  stages = tuple(
    stage._replace(loss=rounding(stage.loss), predict=rounding(stage.predict))
    for stage in method.stages
  )
  return method._replace(predict=rounding(method.predict), stages=stages)
