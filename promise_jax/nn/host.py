"""What the hosts of prompts share: `mult.MulT` and `token_host.TokenHost`.

A host is a network that prompts can enter half-way. Its parts are called one by one:

  encode        reads the modalities that are present, as steps of width H
  mark_absent   puts what the host itself has in the place of an absent modality
  cross_attend  steps look at those of the other modalities
  self_attend   steps of one modality, and prompts behind them, look at each other
  head          logits, from what `self_attend` reads out

`readout` is what the head reads without prompts.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


class Encoded(NamedTuple):
  """What a host reads. With a static pattern, `raw` and `projected` lack other modalities."""

  raw: dict[str, Float[Array, "B T D"]]
  real: dict[str, Bool[Array, "B T"]]  # which steps exist
  projected: dict[str, Float[Array, "B T H"]]


def ordered_pairs(num_modalities: int) -> tuple[np.ndarray, np.ndarray]:
  """(targets, sources) of the M (M - 1) pairs of modalities, by target."""
  pairs = list(itertools.permutations(range(num_modalities), 2))
  targets, sources = np.array(pairs, int).reshape(-1, 2).T
  return targets, sources


def pad_steps(x: Array, length: int) -> Array:
  """`x` [B, T, ...] with zeros behind it, up to `length` steps."""
  return jnp.pad(x, [(0, 0), (0, length - x.shape[1])] + [(0, 0)] * (x.ndim - 2))


def pad_and_stack(arrays: Sequence[Array]) -> Array:
  """Arrays [B, T_m, ...] of M modalities as [B, M, T, ...], with zeros at the end."""
  longest = max(x.shape[1] for x in arrays)
  return jnp.stack([pad_steps(x, longest) for x in arrays], axis=1)


def append_steps(
  steps: Float[Array, "B M T W"], real: Bool[Array, "B M T"], more: Float[Array, "B M E W"]
) -> tuple[Float[Array, "B M T+E W"], Bool[Array, "B M T+E"]]:
  """The steps of each modality with `more` behind them, and which of them exist."""
  steps = jnp.concatenate([steps, more.astype(steps.dtype)], axis=2)
  return steps, jnp.concatenate([real, jnp.ones(more.shape[:3], bool)], axis=2)
