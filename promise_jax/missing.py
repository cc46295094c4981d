"""Which modalities are there: patterns, masks, and the named protocols that draw them.

A pattern is a static tuple of M booleans, a mask is an array bool[N, M]; True means
kept. A mask is what a protocol keeps; what a method may read is `recorded & mask`,
which can be nothing where the data have holes of their own.

Everything random is counter-based (`counter`). Protocols share these numbers: at a
higher rate `exact`, and `bernoulli` with one rate, hide what they hid at a lower one
and more, and the rows that `map` and `mplmm` make incomplete stay incomplete.
"""

import functools
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from promise_jax import counter_rng
from promise_jax.types import Array, Pattern

FORMS = {  # kind -> the rates and the keywords it takes
  "none": ("no rate", ("redraw",)),
  "patterns": ("no rate", ("redraw",)),
  "bernoulli": ("one rate or one a modality", ("keep_one", "redraw")),
  "exact": ("one rate or one a modality", ("redraw",)),
  "map": ("one rate", ("both", "redraw")),
  "mplmm": ("one rate", ("redraw",)),
}


def all_patterns(modalities: int) -> tuple[Pattern, ...]:
  """The 2^M - 1 non-empty patterns: fewest modalities first, the full one last."""
  if modalities < 1:
    raise ValueError(f"at least 1 modality is expected, found {modalities}")
  everyone = range(modalities)
  return tuple(
    tuple(m in kept for m in everyone)
    for size in range(1, modalities + 1)
    for kept in itertools.combinations(everyone, size)
  )


def pattern_name(pattern: Sequence[bool], names: Sequence[str]) -> str:
  """The names of the modalities that are there, as in "fou+zer"; else "nothing"."""
  if len(pattern) != len(names):
    raise ValueError(
      f"a pattern of {len(names)} modalities ({', '.join(names)}) is expected, "
      f"found {tuple(pattern)}"
    )
  kept = itertools.compress(names, pattern)
  return "+".join(kept) or "nothing"


def pattern_index(mask: np.ndarray) -> np.ndarray:
  """Index int[...] into `all_patterns` for `mask` bool[..., M]; -1: nothing is left.

  For arrays on the host.
  """
  mask = np.asarray(mask, bool)
  return _index_by_bits(mask.shape[-1])[mask @ (1 << np.arange(mask.shape[-1]))]


@functools.cache
def _index_by_bits(num_modalities: int) -> np.ndarray:
  patterns = np.array(all_patterns(num_modalities))
  table = np.full(len(patterns) + 1, -1)
  table[patterns @ (1 << np.arange(num_modalities))] = np.arange(len(patterns))
  return table


def restrict_to_pattern(present: Array, pattern: Pattern | None) -> Array:
  """`present` bool[B, M] without the modalities that a static `pattern` leaves out."""
  return present if pattern is None else present & jnp.asarray(pattern)[None]


def zero_absent(x: Array, present: Array) -> Array:
  """`x` [B, ...] with zeros in the rows whose `present` bool[B] is False.

  Selects, never multiplies: 0 * nan is nan, and so is its gradient.
  """
  return jnp.where(_align(present, x), x, jnp.zeros_like(x))


def masked_mean(x: Array, where: Array, axis: int | tuple[int, ...] | None) -> Array:
  """Mean over `axis` of those `x` where `where` is True; 0 where there are none.

  `where` has the shape of `x` or of its leading axes (bool[B, M] for f[B, M, D]). The
  gradient is finite, and 0 for what is not selected, whatever stands there.
  """
  where = jnp.broadcast_to(_align(where, x), x.shape)
  total = jnp.sum(jnp.where(where, x, jnp.zeros_like(x)), axis)
  return total / jnp.maximum(jnp.sum(where, axis), 1)


class Protocol(NamedTuple):
  """A way to hide modalities, as plain numbers; `str` gives the canonical text.

  none       keep everything.
  patterns   one of the 2^M - 1 patterns, each as likely (MMIN trains on the incomplete
             ones alone: that is mplmm(1.0)).
  bernoulli  hide modality m with probability rates[m], each on its own. With `keep_one`
             a row that lost everything keeps one modality: the one with the largest
             u / rate, which is each of the M with the same probability, so the realised
             rate is rates[m] - prod(rates) / M, at most (M - 1) / M when all are equal
             (the meaning of GCNet; how the one is chosen is ours).
  exact      hide modality m in exactly floor(N rates[m]) rows of the split, those with
             the smallest u, each modality on its own: rows without any modality occur
             (RedCore's released code).
  map        exactly n = floor(N rate) rows are incomplete, the others complete. M = 2:
             floor(n both) of them miss the SECOND modality and have only the first, the
             rest miss the first; so `both` = 0 leaves each of them only the second, 1
             only the first. M > 2: the 2^M - 2 incomplete patterns get n / (2^M - 2)
             rows each, rounded so that they add up to n; `both` must stay 0.5 (MAP and
             its family).
  mplmm      with probability rate one of the 2^M - 2 incomplete patterns, each as
             likely, else complete (MPLMM's released code).

  Floors are of the decimal product: 100 rows at 0.29 are 29. With `redraw` a new mask
  is drawn each epoch (augmentation), else it belongs to the example.
  """

  kind: str = "none"
  rates: tuple[float, ...] = ()
  keep_one: bool = True
  both: float = 0.5
  redraw: bool = False

  def __str__(self) -> str:
    words = [str(float(rate)) for rate in self.rates]
    for name in ("keep_one", "both", "redraw"):
      value = getattr(self, name)
      if value != self._field_defaults[name]:
        words.append(f"{name}={str(value).lower()}")
    return f"{self.kind}({','.join(words)})" if words else self.kind


def parse_protocol(text: str) -> Protocol:
  """The protocol of a text such as "bernoulli(0.2,0.5,keep_one=false,redraw=true)".

  Rates and `both` lie in [0, 1], both ends allowed; `parse(str(protocol)) == protocol`.
  Raises ValueError that lists what is known.
  """
  match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
  if not match or match[1] not in FORMS:
    raise ValueError(f"unknown protocol {text!r}; known: {', '.join(FORMS)}")
  kind, words = match[1], [word.strip() for word in (match[2] or "").split(",")]
  takes, keywords = FORMS[kind]
  try:
    rates = tuple(_read_share(word) for word in words if word and "=" not in word)
    if not {"no rate": not rates, "one rate": len(rates) == 1}.get(takes, rates):
      raise ValueError(f"found {len(rates)} rates")
    options = {}
    for name, value in (re.split(r"\s*=\s*", w, maxsplit=1) for w in words if "=" in w):
      if name not in keywords or name in options:
        raise ValueError(f"{'repeated' if name in options else 'unknown'} {name!r}")
      options[name] = _read_share(value) if name == "both" else _read_truth(value)
  except ValueError as e:
    known = f"{kind} takes {takes} and the keywords {', '.join(keywords)}"
    raise ValueError(f"protocol {text!r}: {e}; {known}") from None
  return Protocol(kind, rates, **options)


def draw_mask(
  protocol: Protocol | str,
  *,
  seed: int,
  split: str,
  ids: np.ndarray,
  modalities: int,
  epoch: int = 0,
) -> np.ndarray:
  """The mask bool[N, M] of `ids` int[N]; True: kept. `epoch` counts only with `redraw`.

  A row depends on its id alone; with the exact counts of `exact` and `map` on the set
  of all ids, which must then be those of the whole split, each once. Test masks are one
  fixed table: pass seed=0. Raises ValueError for a protocol that does not fit M.
  """
  protocol = parse_protocol(str(protocol))
  known = (1, modalities) if protocol.kind in ("bernoulli", "exact") else (0, 1)
  if len(protocol.rates) not in known:
    raise ValueError(
      f"protocol {protocol} has {len(protocol.rates)} rates, "
      f"expected 1 or one for each of the {modalities} modalities"
    )
  if protocol.kind in ("map", "mplmm") and modalities < 2:
    raise ValueError(f"protocol {protocol} needs 2 modalities or more, found {modalities}")
  if protocol.both != 0.5 and modalities != 2:
    raise ValueError(f"protocol {protocol}: both is for exactly 2 modalities, found {modalities}")
  stream = ("mask", split, epoch) if protocol.redraw else ("mask", split)
  u = counter_rng.uniform(seed, stream, ids, modalities)
  by_modality = protocol.kind in ("none", "bernoulli", "exact")
  return (_draw_modalities if by_modality else _draw_pattern)(protocol, u, ids)


def _draw_modalities(protocol: Protocol, u: np.ndarray, ids: np.ndarray) -> np.ndarray:
  if protocol.kind == "none":
    return np.ones(u.shape, bool)
  rates = np.broadcast_to(protocol.rates, u.shape)
  if protocol.kind == "exact":
    ranks = np.stack([_rank(column, ids) for column in u.T], axis=1)
    return ranks >= _floor(len(u) * rates)
  mask = u >= rates
  if protocol.keep_one:
    (lost,) = np.nonzero(~mask.any(axis=1))
    mask[lost, np.argmax(u[lost] / rates[lost], axis=1)] = True
  return mask


def _draw_pattern(protocol: Protocol, u: np.ndarray, ids: np.ndarray) -> np.ndarray:
  patterns = np.array(all_patterns(u.shape[1]))  # the last is the full one
  incomplete = len(patterns) - 1
  if protocol.kind == "patterns":
    index = (u[:, 0] * len(patterns)).astype(int)
  elif protocol.kind == "mplmm":
    chosen = (u[:, 1] * incomplete).astype(int)
    index = np.where(u[:, 0] < protocol.rates[0], chosen, incomplete)
  else:
    ends = np.arange(1, incomplete + 1) / incomplete
    if incomplete == 2:
      ends = np.array([protocol.both, 1.0])
    edges = _floor(_floor(len(u) * protocol.rates[0]) * ends)
    index = np.searchsorted(edges, _rank(u[:, 0], ids), side="right")
  return patterns[index]


def _align(where: Array, x: Array) -> Array:
  where = jnp.asarray(where)
  return where.reshape(where.shape + (1,) * (x.ndim - where.ndim))


def _rank(u: np.ndarray, ids: np.ndarray) -> np.ndarray:
  ids = counter_rng.as_int64_ids(ids)
  if len(np.unique(ids)) < len(ids):
    raise ValueError("exact counts need each id of a split once, found some repeated")
  ranks = np.empty(len(u), int)
  ranks[np.lexsort((ids, u))] = np.arange(len(u))
  return ranks


def _floor(x: np.ndarray) -> np.ndarray:
  return np.floor(x + 1e-9).astype(int)


def _read_share(word: str) -> float:
  try:
    value = float(word)
  except ValueError:
    value = np.nan
  if not 0 <= value <= 1:
    raise ValueError(f"a number in [0, 1] is expected, found {word!r}")
  return value + 0.0  # -0.0 would not round-trip


def _read_truth(word: str) -> bool:
  if word not in ("true", "false"):
    raise ValueError(f"true or false is expected, found {word!r}")
  return word == "true"
