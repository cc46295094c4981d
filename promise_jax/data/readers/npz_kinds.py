"""Which modalities the arrays of an npz file are, said by the user or guessed."""

import functools
from collections.abc import Callable, Mapping

import numpy as np

from promise_jax.checks import check_choice
from promise_jax.data import channels
from promise_jax.data.readers import cells, column_roles, integers, npz_arrays
from promise_jax.data.source import ReadOptions
from promise_jax.types import KINDS, Modality

RANKS = {"image": 4, "tokens": 2, "sequence": 3, "vector": 2}  # the last axis may be missing


def describe_modalities(
  read_first: Callable[[str, npz_arrays.Header], np.ndarray],
  headers: Mapping[str, npz_arrays.Header],
  small: Mapping[str, np.ndarray],
  options: ReadOptions,
) -> tuple[tuple[Modality, ...], dict[str, str]]:
  """The modalities x_*, of the kinds that are given or guessed, and {modality: words on what was
  guessed}. `read_first` reads the rows at the start of an array."""
  names, modalities, guesses = [a[2:] for a in headers if a.startswith("x_")], [], {}
  for name, kind in options.kinds.items():
    check_choice("a modality in kinds", name, names)
    check_choice(f"kinds.{name}", kind, KINDS)
  for name in names:
    header, present = headers[f"x_{name}"], small.get(f"present_{name}")
    kind, guess = options.kinds.get(name), ""
    if kind is None:
      read = functools.partial(read_first, f"x_{name}", header)
      kind, guess = guess_kind(read, name, header, present, f"length_{name}" in headers)
    modality = describe_modality(name, header, kind, options.vocabulary)
    modalities.append(channels.turn_modality(modality))
    guess = channels.TURNED if modalities[-1] != modality else guess
    guesses |= {name: guess} if guess else {}
  return tuple(modalities), guesses


def guess_kind(
  read: Callable[[], np.ndarray],
  name: str,
  header: npz_arrays.Header,
  present: np.ndarray | None,
  has_length: bool,
) -> tuple[str, str]:
  """The kind of the array x_<name>, and words where it is a guess."""
  shape, dtype, rank = header.shape, header.dtype, len(header.shape)
  integer = dtype.kind in "iu"
  if dtype.kind == "U":
    _, paths = column_roles.find_paths([text for text in read().ravel().tolist() if text])
    if paths:
      raise ValueError(
        f"x_{name} has paths of files, as {cells.quote(paths[0])}: files are read from a table, "
        f"as a CSV with the column {name}; kinds.{name}=tokens reads the paths as texts."
      )
    return "tokens", ""
  if integer and rank == 2 and has_length:
    return "tokens", f"guessed, integers with a length; kinds.{name}=sequence says otherwise"
  if integer and rank == 2:
    values = read()
    if present is not None:
      values = values[present[: len(values)] != 0]
    return integers.guess_kind_of(name, values)
  if integer and rank < 2:
    raise ValueError(
      f"x_{name} is {dtype} of shape {shape}, which could be tokens or vector: say so by "
      f"kinds.{name}."
    )
  if rank == 3:
    kind, other = ("image", "sequence") if dtype == np.uint8 else ("sequence", "image")
    return kind, f"guessed, {dtype} of 3 dimensions; kinds.{name}={other} says otherwise"
  return "image" if rank == 4 else "vector", ""


def describe_modality(name: str, header: npz_arrays.Header, kind: str, vocabulary: int) -> Modality:
  """The modality of the array x_<name>. ValueError if it cannot be of this `kind`."""
  shape, dtype, rank = header.shape, header.dtype, len(header.shape)
  array, integer = f"x_{name} is {dtype} of shape {shape}", dtype.kind in "iu"
  if dtype.kind == "U":
    possible = ["tokens"] if rank == 1 else []
  else:
    possible = [k for k in KINDS if rank in (RANKS[k] - 1, RANKS[k]) and (k != "tokens" or integer)]
  if not possible:
    raise ValueError(f"{array}, expected: unicode strings [N].")
  if kind not in possible:
    raise ValueError(
      f"{array}, which can be {' or '.join(possible)}, not {kind}: say so by kinds.{name}."
    )
  if dtype.kind == "U":
    return Modality(name, "tokens", (None,), vocabulary)
  shape = (*shape[1:], *(1,) * (RANKS[kind] - rank))
  return Modality(name, kind, shape, vocabulary if kind == "tokens" else 0)
