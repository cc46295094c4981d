"""Sums over the rows that count: what the metrics are made of.

`weight` f[N] >= 0 says how much a row counts, as in `metrics`.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def guard(logits: Array, weight: Array) -> tuple[Array, Array]:
  """Makes NaN logits harmless in rows of weight 0; in another they poison all weights.

  The logits that come back do not depend on the weight: under a bootstrap, which maps
  over weights, sorting them is done once.
  """
  weight = jnp.asarray(weight, jnp.float32)
  broken = jnp.isnan(logits).any(-1)
  logits = jnp.where(broken[:, None], 0, logits)
  return logits, jnp.where((broken & (weight != 0)).any(), jnp.nan, weight)


def mean(value: Array, weight: Array) -> Array:
  """Mean f[] of `value` [N]; NaN if no row counts."""
  return jnp.where(weight == 0, 0, value * weight).sum() / weight.sum()


def columns(chosen: Array, weight: Array) -> Array:
  """Weight in each column of `chosen` bool[N, C]."""
  return jnp.where(chosen, weight[:, None], 0).sum(0)


def f1(predicted: Array, actual: Array, weight: Array) -> tuple[Array, Array, Array]:
  """(F1, weight predicted or actual, weight actual), f[C] each; F1 of 0 / 0 is 0."""
  both = columns(predicted & actual, weight)
  support = columns(actual, weight)
  total = columns(predicted, weight) + support
  return jnp.where(total == 0, 0, 2 * both / total), total, support
