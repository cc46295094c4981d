"""The conditions of a test: which modalities of each row are present, and its logits there."""

import types
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from promise_jax import frames, missing
from promise_jax.evaluation import mask_files
from promise_jax.patterns import MAX_ALL_TESTED, pattern_index, pattern_name
from promise_jax.types import Pattern, Split

COMPLETE_ROWS = "complete rows"  # protocol of patterns on the rows that have every modality
NO_STEPS = types.MappingProxyType({})
RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Condition(NamedTuple):
  """A row of the results: its columns, and which modalities of each row are present."""

  columns: dict  # pattern, protocol, mask_hash and, if there is one, rate
  mask: Bool[np.ndarray, "K N M"]  # K > 1: every row is used K times, under K masks
  # Where these masks stand among those that were predicted; None: the patterns are.
  slots: tuple[int, ...] | None = None
  steps: Mapping[str, Bool[np.ndarray, "N T"]] = NO_STEPS  # that are kept; no entry: all


def make_condition(
  split: Split,
  mask: Bool[np.ndarray, "K N M"],
  slots: Sequence[int],
  steps: Mapping[str, Bool[np.ndarray, "N T"]] = NO_STEPS,
  **columns,
) -> Condition:
  """A condition with the modalities that are in `mask` and in the data; where there are `steps`, K
  is 1."""
  mask = mask & split.recorded
  ids = np.tile(split.id, len(mask))
  table = np.concatenate([mask.reshape(len(ids), -1), *steps.values()], axis=1)
  columns["mask_hash"] = mask_files.mask_hash(table, ids)
  has_slots = mask.shape[-1] > MAX_ALL_TESTED or bool(steps)
  return Condition(columns, mask, tuple(slots) if has_slots else None, steps)


def pattern_conditions(
  split: Split, patterns: Sequence[Pattern], names: Sequence[str]
) -> list[Condition]:
  """Every row under one pattern, for each pattern."""
  masks = np.array(patterns)[:, None, None]
  return [
    make_condition(split, masks[i], [i], pattern=pattern_name(pattern, names), protocol="none")
    for i, pattern in enumerate(patterns)
  ]


def complete_row_conditions(
  split: Split, patterns: Sequence[Pattern], names: Sequence[str]
) -> list[Condition]:
  """Every pattern on the `complete_rows` alone, which makes patterns comparable.

  None where all rows are such rows. Where no row is, the conditions have no rows.
  """
  complete = complete_rows(split.recorded)
  if complete.all():
    return []
  only = split._replace(recorded=split.recorded & complete[:, None])
  conditions = pattern_conditions(only, patterns, names)
  return [c._replace(columns=c.columns | {"protocol": COMPLETE_ROWS}) for c in conditions]


def complete_rows(recorded: Bool[np.ndarray, "N M"]) -> Bool[np.ndarray, " N"]:
  """The rows that have every modality which any row has."""
  return recorded[:, recorded.any(axis=0)].all(axis=1)


def comparable_rows(recorded: Bool[np.ndarray, "N M"]) -> Bool[np.ndarray, " N"]:
  """The rows that a comparison is about: the complete ones, or all where no row is so."""
  complete = complete_rows(recorded)
  return complete if complete.any() else ~complete


def pooled_conditions(split: Split, patterns: Sequence[Pattern]) -> list[Condition]:
  """All patterns, and the incomplete ones, each pooled into one set of P N rows."""
  table = np.array(patterns)[:, None]
  sets = {"all": np.arange(len(table)), "incomplete": np.flatnonzero(~table.all(axis=(1, 2)))}
  return [
    make_condition(split, table[index], index.tolist(), pattern=None, protocol=f"pooled({name})")
    for name, index in sets.items()
    if len(index)
  ]


def protocol_conditions(
  split: Split,
  protocols: Sequence[missing.Protocol],
  names: Sequence[str],
  split_name: str,
  first_slot: int = 0,
) -> list[Condition]:
  """The split, whose modalities are `names`, under one fixed mask for each protocol.

  Slots, from `first_slot` on, have those that are predicted by themselves: all if not all patterns
  are predicted, else those that lose steps.
  """
  draws = {"seed": 0, "split": split_name, "ids": split.id}
  num_steps = {m: split.inputs[m].shape[1] for m in split.length}
  conditions = []
  for protocol in protocols:
    columns = {"pattern": None, "protocol": str(protocol)}
    if protocol.kind == "bernoulli" and len(set(protocol.rates)) == 1 and not protocol.frames:
      columns["rate"] = protocol.rates[0]
    mask = missing.draw_mask(protocol, **draws, modalities=len(names))
    of_rows = {"names": names, "num_steps": num_steps, "length": split.length}
    kept = frames.lose_steps(protocol, mask & split.recorded, **draws, **of_rows)
    conditions.append(make_condition(split, kept.mask[None], [first_slot], kept.steps, **columns))
    first_slot += conditions[-1].slots is not None
  return conditions


def kept_alone(
  split: Split, protocols: Sequence[missing.Protocol], names: Sequence[str], split_name: str
) -> list[frames.Kept]:
  """What is left under the protocols that are predicted by themselves; the predictions under the
  others are among those of all patterns."""
  every = protocol_conditions(split, protocols, names, split_name)
  return [frames.Kept(c.mask[0], c.steps) for c in every if c.slots is not None]


def tested_protocols(chosen: Sequence[missing.Protocol]) -> list[missing.Protocol]:
  """The rates that are always tested, 0 to .9, Bernoulli that keeps one modality a row; then the
  `chosen` protocols."""
  rates = [missing.parse_protocol(f"bernoulli({rate})") for rate in RATES]
  return rates + [p for p in chosen if p not in rates]


def map_protocols(num_modalities: int) -> tuple[str, ...]:
  """The tests of the MAP family of papers at the rates .1 to .9.

  Of two modalities also with only the first, and only the second, in incomplete rows.
  """
  kinds = ("", ",both=1", ",both=0") if num_modalities == 2 else ("",)
  return tuple(f"map({rate}{kind})" for kind in kinds for rate in RATES[1:][::2])


def select_logits(
  logits: Float[np.ndarray, "S P N C"], condition: Condition
) -> tuple[Float[np.ndarray, "S R C"], Int[np.ndarray, " R"]]:
  """The logits of the R rows with a modality left, and the indices of these rows in N.

  `logits` are under all patterns, in the order of `patterns.all_patterns`, or have the slots of the
  condition.
  """
  mask = condition.mask
  if condition.slots is None:
    index = pattern_index(mask)
  else:
    index = np.where(mask.any(axis=-1), np.array(condition.slots)[:, None], -1)
  is_used = index >= 0
  rows = np.nonzero(is_used)[1]
  return logits[:, index[is_used], rows], rows
