"""Steps of sequences that are lost at random: the rate of frames of a protocol.

A lost step is zero in its place and the length of the sequence stays, as in LNLN and in
data_missing of MMSA; zero here is the mean of the train rows, as sequences are standardised. Each
modality draws steps of its own (with MMSA, sequences of one length share them). A sequence that has
lost all its steps is absent (ours).
"""

import types
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from promise_jax import counter_rng
from promise_jax.missing import Protocol


class Kept(NamedTuple):
  """What a protocol leaves of N rows."""

  mask: Bool[np.ndarray, "N M"]
  steps: Mapping[str, Bool[np.ndarray, "N T"]] = types.MappingProxyType({})  # none: all are kept


def lose_steps(
  protocol: Protocol,
  mask: Bool[np.ndarray, "N M"],
  *,
  seed: int,
  split: str,
  ids: Int[np.ndarray, " N"],
  names: Sequence[str],
  num_steps: Mapping[str, int],
  length: Mapping[str, Int[np.ndarray, " N"]],
  epoch: int = 0,
) -> Kept:
  """Loses each step with the rate of frames of `protocol`, independently; a row's steps depend on
  its id alone, and a higher rate loses the same and more.

  `protocol` drew `mask`, see `missing.draw_mask` for the seed, the split and the epoch. `num_steps`
  are {sequence: T}, ValueError if frames are to be lost and there is none; `length` {sequence:
  valid steps of the rows}.
  """
  if not protocol.frame_rate:
    return Kept(mask)
  if not num_steps:
    raise ValueError(
      f"protocol {protocol} loses steps of sequences, but no modality is one: {', '.join(names)}; "
      "bernoulli loses whole modalities"
    )
  mask, steps = mask.copy(), {}
  for name, count in num_steps.items():
    stream = ("frames", split, name, *([epoch] if protocol.redraw else []))
    steps[name] = counter_rng.uniform(seed, stream, ids, count) >= protocol.frame_rate
    is_valid = np.arange(count) < length[name][:, None]
    mask[:, names.index(name)] &= (steps[name] & is_valid).any(axis=1)
  return Kept(mask, steps)


def hide_steps(
  inputs: Mapping[str, Array], steps: Mapping[str, Bool[Array, "B T"]]
) -> dict[str, Array]:
  """`inputs` {modality: [B, ...]} with zeros where the `steps` of a sequence are lost."""
  zeroed = {m: jnp.where(kept[..., None], inputs[m], 0) for m, kept in steps.items()}
  return {**inputs, **zeroed}
