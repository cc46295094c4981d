"""Which modalities are present: masks, and the protocols that hide modalities.

A pattern is a static tuple of M booleans (`patterns`); a mask is an array bool[N, M]. True means
kept. A protocol draws a mask; a method may read `recorded & mask`, which can be all False in a row
whose data lack modalities.

All draws are counter-based (`counter_rng`). A higher rate reuses the
random numbers of a lower one: `exact`, and `bernoulli` with one rate, hide the same and more;
rows that `map` and `mplmm` make incomplete stay incomplete.
"""

import re
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from promise_jax import counter_rng
from promise_jax.patterns import all_patterns
from promise_jax.patterns import pattern_index as pattern_index
from promise_jax.patterns import pattern_name as pattern_name

BY_MODALITY = "one rate or one a modality (or FIRST..LAST)"
# {kind of protocol: (how many rates it takes, its keywords)}; see `Protocol` for the kinds
PROTOCOLS = {
  "none": ("no rate", ("redraw",)),
  "patterns": ("no rate", ("frames", "redraw")),
  "bernoulli": (BY_MODALITY, ("keep_one", "frames", "redraw")),
  "exact": (BY_MODALITY, ("frames", "redraw")),
  "map": ("one rate", ("both", "frames", "redraw")),
  "mplmm": ("one rate", ("frames", "redraw")),
  "frames": ("one rate", ("redraw",)),
}


def join_filled(
  codes: Float[Array, "B M H"], visible: Bool[Array, "*P B M"], fill: Float[Array, "M H"]
) -> Float[Array, "*P B MH"]:
  """The codes of each row side by side, with `fill` in place of what is not `visible`."""
  if visible.ndim > 2:  # the gradient of a broadcast sums over P, 30 times as slow on a CPU
    return jnp.stack([join_filled(codes, mask, fill) for mask in visible])
  return jnp.where(visible[..., None], codes, fill[None]).reshape(visible.shape[0], -1)


def zero_absent(x: Array, present: Bool[Array, " B"]) -> Array:
  """`x` [B, ...] with zeros in the rows that are not present."""
  # It selects and never multiplies: 0 * nan is nan, and so is its gradient.
  return jnp.where(_add_axes(present, x), x, jnp.zeros_like(x))


def masked_mean(x: Array, where: Array, axis: int | tuple[int, ...] | None) -> Array:
  """Mean of `x` over `axis` where `where` is True, 0 where it is nowhere True.

  `where` has the shape of `x` or of its leading axes, as bool[B, M] for f[B, M, D]. Entries that
  are not selected may be NaN and get no gradient.
  """
  where = jnp.broadcast_to(_add_axes(where, x), x.shape)
  total = jnp.sum(jnp.where(where, x, jnp.zeros_like(x)), axis)
  return total / jnp.maximum(jnp.sum(where, axis), 1)


class Protocol(NamedTuple):
  """A way to hide modalities. `str` gives the text that `parse_protocol` reads.

  none       keep everything.
  patterns   keep one of the 2^M - 1 patterns, all equally likely. (MMIN trains on the
             incomplete ones alone: that is mplmm(1.0).)
  bernoulli  hide modality m with probability rates[m], independently. With `keep_one` a
             row that lost everything keeps one, all equally likely: the realised rate
             is rates[m] - prod(rates) / M. As GCNet; how that one is drawn is ours.
  exact      hide modality m in exactly floor(N rates[m]) rows, independently: some rows
             have nothing left. As in RedCore's released code.
  map        exactly n = floor(N rate) rows are incomplete. For two modalities
             floor(n both) of them have only the first, the others only the second. For
             more the 2^M - 2 incomplete patterns get n / (2^M - 2) rows each, rounded so
             that they add up to n, and `both` must stay 0.5. MAP and its family.
  mplmm      with probability rate one of the 2^M - 2 incomplete patterns, all equally
             likely. As in MPLMM's released code.
  frames     lose each step of each sequence with this probability, independently, and
             keep every modality. The keyword frames adds it to another protocol, as
             "exact(0.5,frames=0.3)". How steps are lost says `promise_jax.frames`.

  The rates FIRST..LAST of bernoulli and exact are spread evenly over the modalities, whatever
  their number: of three, 0.2..0.8 are 0.2, 0.5, 0.8.
  """

  kind: str = "none"  # a key of PROTOCOLS
  rates: tuple[float, ...] = ()  # one for all modalities, or one for each, or see `spread`
  keep_one: bool = True
  both: float = 0.5  # of "map" with two modalities, see above
  frames: float = 0.0  # steps of sequences that another kind than "frames" loses, see `frame_rate`
  redraw: bool = False  # True: a new mask for every epoch; False: a row keeps its mask
  spread: bool = False  # True: `rates` are the first and the last, of as many as modalities

  @property
  def frame_rate(self) -> float:
    """The probability that a step of a sequence is lost."""
    return self.rates[0] if self.kind == "frames" else self.frames

  def __str__(self) -> str:
    words = [str(float(rate)) for rate in self.rates]
    words = ["..".join(words)] if self.spread else words
    for name in ("keep_one", "both", "frames", "redraw"):
      value = getattr(self, name)
      if value != self._field_defaults[name]:
        words.append(f"{name}={str(value).lower()}")
    return f"{self.kind}({','.join(words)})" if words else self.kind


def parse_protocol(text: str) -> Protocol:
  """Reads a protocol, as "bernoulli(0.2,0.5,keep_one=false,redraw=true)".

  Raises:
    ValueError: an unknown kind or keyword, a wrong number of rates, or a rate outside
      [0, 1]; the message lists what is allowed.
  """
  match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
  if not match or match[1] not in PROTOCOLS:
    raise ValueError(f"unknown protocol {text!r}; known: {', '.join(PROTOCOLS)}")
  kind, words = match[1], [word.strip() for word in (match[2] or "").split(",")]
  num_rates, keywords = PROTOCOLS[kind]
  try:
    given = [word for word in words if word and "=" not in word]
    spread = len(given) == 1 and ".." in given[0]
    rates = tuple(_parse_rate(word) for word in (given[0].split("..") if spread else given))
    fits = {"no rate": not rates, "one rate": len(rates) == 1}.get(num_rates, rates)
    if not fits or (spread and len(rates) != 2):
      raise ValueError(f"found {len(rates)} rates")
    options = {}
    for name, value in (re.split(r"\s*=\s*", w, maxsplit=1) for w in words if "=" in w):
      if name not in keywords or name in options:
        raise ValueError(f"{'repeated' if name in options else 'unknown'} {name!r}")
      options[name] = _parse_rate(value) if name in ("both", "frames") else _parse_bool(value)
  except ValueError as e:
    known = f"{kind} takes {num_rates} and the keywords {', '.join(keywords)}"
    raise ValueError(f"protocol {text!r}: {e}; {known}") from None
  return Protocol(kind, rates, spread=spread, **options)


def draw_mask(
  protocol: Protocol | str,
  *,
  seed: int,
  split: str,
  ids: Int[np.ndarray, " N"],
  modalities: int,
  epoch: int = 0,
) -> Bool[np.ndarray, "N M"]:
  """Draws a mask for the rows of a split; True is kept. Steps that are lost: `frames.lose_steps`.

  Args:
    protocol: how to hide modalities; ValueError if it does not fit their number.
    seed: of the run; 0 for test masks, which are one fixed table.
    split: name of the split, part of the random stream.
    ids: of the rows. `exact` and `map` count rows and need all ids of the split, each
      once; with the others a row's mask depends on its id alone.
    modalities: M.
    epoch: matters only with `redraw`.
  """
  protocol = parse_protocol(str(protocol))
  if protocol.spread:
    rates = np.linspace(*protocol.rates, modalities).round(6)
    protocol = protocol._replace(rates=tuple(rates.tolist()), spread=False)
  allowed = (1, modalities) if protocol.kind in ("bernoulli", "exact") else (0, 1)
  if len(protocol.rates) not in allowed:
    raise ValueError(
      f"protocol {protocol} has {len(protocol.rates)} rates, "
      f"expected 1 or one for each of the {modalities} modalities; {protocol.kind}(0.2..0.8) "
      "spreads rates evenly over any number"
    )
  if protocol.kind in ("map", "mplmm") and modalities < 2:
    raise ValueError(f"protocol {protocol} needs 2 modalities or more, found {modalities}")
  if protocol.both != 0.5 and modalities != 2:
    raise ValueError(f"protocol {protocol}: both is for exactly 2 modalities, found {modalities}")
  stream = ("mask", split, epoch) if protocol.redraw else ("mask", split)
  u = counter_rng.uniform(seed, stream, ids, modalities)
  by_modality = protocol.kind in ("none", "frames", "bernoulli", "exact")
  return (_draw_modalities if by_modality else _draw_pattern)(protocol, u, ids)


def _draw_modalities(protocol: Protocol, u: np.ndarray, ids: np.ndarray) -> np.ndarray:
  if protocol.kind in ("none", "frames"):
    return np.ones(u.shape, bool)
  rates = np.broadcast_to(protocol.rates, u.shape)
  if protocol.kind == "exact":
    ranks = np.stack([_rank(column, ids) for column in u.T], axis=1)
    return ranks >= _floor(len(u) * rates)
  mask = u >= rates
  if protocol.keep_one:
    # Given u < rate, u / rate is uniform in [0, 1): each modality is equally often the largest.
    (empty,) = np.nonzero(~mask.any(axis=1))
    mask[empty, np.argmax(u[empty] / rates[empty], axis=1)] = True
  return mask


def _draw_pattern(protocol: Protocol, u: np.ndarray, ids: np.ndarray) -> np.ndarray:
  patterns = np.array(all_patterns(u.shape[1]))  # the last is the full one
  num_incomplete = len(patterns) - 1
  if protocol.kind == "patterns":
    index = (u[:, 0] * len(patterns)).astype(int)
  elif protocol.kind == "mplmm":
    drawn = (u[:, 1] * num_incomplete).astype(int)
    index = np.where(u[:, 0] < protocol.rates[0], drawn, num_incomplete)
  else:
    ends = np.arange(1, num_incomplete + 1) / num_incomplete
    if num_incomplete == 2:
      ends = np.array([protocol.both, 1.0])
    edges = _floor(_floor(len(u) * protocol.rates[0]) * ends)
    index = np.searchsorted(edges, _rank(u[:, 0], ids), side="right")
  return patterns[index]


def _add_axes(where: Array, x: Array) -> Array:
  return jnp.asarray(where).reshape(where.shape + (1,) * (x.ndim - where.ndim))


def _rank(u: np.ndarray, ids: np.ndarray) -> np.ndarray:
  ids = counter_rng.as_int64_ids(ids)
  if len(np.unique(ids)) < len(ids):
    raise ValueError("exact counts need each id of a split once, found some repeated")
  return np.argsort(np.lexsort((ids, u)))  # the inverse of a permutation


def _floor(x: np.ndarray) -> np.ndarray:
  # Without the rounding error of floats: 100 rows at a rate of 0.29 are 29, not 28.
  return np.floor(x + 1e-9).astype(int)


def _parse_rate(word: str) -> float:
  try:
    value = float(word)
  except ValueError:
    value = np.nan
  if not 0 <= value <= 1:
    raise ValueError(f"a number in [0, 1] is expected, found {word!r}")
  return value + 0.0  # -0.0 would not round-trip


def _parse_bool(word: str) -> bool:
  if word not in ("true", "false"):
    raise ValueError(f"true or false is expected, found {word!r}")
  return word == "true"
