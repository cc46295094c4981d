"""One's own data without code: an npz file of arrays -> Source.

  x_<modality>        numbers [N, ...] or unicode strings [N]; one or more
  y                   integers [N] or names [N] (classes), floats [N] (regression),
                      0/1 [N, C] (multilabel)
  present_<modality>  optional bool [N]: False where the data do not have it; so is a
                      row of NaN or inf alone
  length_<modality>   optional integers [N]: the real steps of a padded sequence
  split               optional strings [N], train, valid and test; else 60/20/20 of the
                      rows are drawn, see `labels.draw_split`
  id                  optional integers [N], unique; else the row numbers
  group               optional integers from 0, or strings [N]: the recording (speaker,
                      ...) that a row is a part of; rows of one lie in one split, keep
                      or lose their labels together and count as one in an interval
  scale               optional number: the unit of a regression label
  classes             optional names [C] of the classes or of the columns of y

Modalities have the order of the file. The kind of one follows from its array:

  strings [N], or integers [N, T]                      tokens (0 is padding)
  uint8 [N, height, width], any [N, height, width, C]  image (floats lie in 0 to 1)
  other numbers [N, T, D]                              sequence
  floats or bool [N] or [N, D]                         vector

What could be either, uint8 [N, D] and integers [N], must be said: `kinds`.
"""

import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from promise_jax.data import source
from promise_jax.data.readers import npz_file, npz_labels, text
from promise_jax.types import KINDS, Modality

FORMS = {  # array: kinds of dtype, numbers of dimensions, the same in words
  "x": ("biufU", (1, 2, 3, 4), "numbers [N, ...], up to 4-D, or unicode strings [N]"),
  "y": ("biufU", (1, 2), "integers, names or floats [N], or 0/1 [N, C]"),
  "present": ("biu", (1,), "bool [N]"),
  "length": ("iu", (1,), "integers [N]"),
  "split": ("U", (1,), "strings [N]"),
  "id": ("iu", (1,), "integers [N]"),
  "group": ("iuU", (1,), "integers or strings [N]"),
  "scale": ("iuf", (0,), "one number without dimensions"),
  "classes": ("U", (1,), "strings [C]"),
}
ALONE = ("y", "split", "id", "group", "scale", "classes")
BLOCK_BYTES = 2**24  # bytes of the arrays that are streamed at a time
RANKS = {"image": 4, "tokens": 2, "sequence": 3, "vector": 2}  # N counted; one less: 1


def read_npz(
  path: pathlib.Path,
  *,
  vocabulary: int = 8192,
  scale: float | None = None,
  kinds: Mapping[str, str] | None = None,
  split_seed: int = 0,
) -> source.Source:
  """The data set in the npz file `path`; its inputs are read split by split.

  `vocabulary` bounds token ids and is the size of the hash of texts, `scale` replaces
  that of the file, `kinds` {modality: kind} the kinds that would follow from the
  arrays, `split_seed` draws the split of a file without one. ValueError names the file
  and the first array that is off the convention above.
  """
  with npz_file.naming(path):
    headers = npz_file.read_headers(path)
    names = check_headers(headers)
    chosen = check_kinds(kinds or {}, names)
    modalities = tuple(describe(m, headers[f"x_{m}"], chosen.get(m), vocabulary) for m in names)
    small = {a: npz_file.read_array(path, a) for a in headers if a[:2] != "x_"}
    label, task = npz_labels.read_labels(small, scale)
    ids = read_ids(small, len(label))
    group = read_group(small)
    split = npz_labels.read_split(small, label, task, ids, group, split_seed)
    present, length = read_present(small), read_length(small, modalities)
  stat = path.stat()

  def convert_rows(index: np.ndarray, take: Callable[[str], np.ndarray]):
    recorded = np.ones((len(index), len(modalities)), bool)
    inputs, steps = {}, {m: n[index] for m, n in length.items()}
    for i, m in enumerate(modalities):
      values = take(f"x_{m.name}")
      inputs[m.name], recorded[:, i] = convert(m, values, index)
      if values.dtype.kind == "U":
        steps[m.name] = np.count_nonzero(inputs[m.name], axis=1)
      if m.name in present:
        recorded[:, i] &= present[m.name][index]
    own = None if group is None else group[index]
    return source.Rows(inputs, steps, recorded, label[index], ids[index], own)

  def rows(name: str) -> source.Rows:
    index = np.flatnonzero(split == name)
    with npz_file.naming(path):
      return convert_rows(index, lambda array: npz_file.read_array(path, array)[index])

  def pieces(name: str) -> Iterator[source.Rows]:
    arrays = [f"x_{m.name}" for m in modalities]
    size = max(BLOCK_BYTES // sum(row_bytes(headers[a]) for a in arrays), 1)
    with npz_file.naming(path):
      for start, values in npz_file.read_pieces(path, arrays, size):
        (index,) = np.nonzero(split[start : start + size] == name)
        if len(index):
          yield convert_rows(index + start, lambda a, v=values, i=index: v[a][i])

  return source.Source(
    name=path.stem,
    card=f"Arrays of {path.name}, {len(label)} rows.",
    modalities=modalities,
    task=task,
    splits=npz_labels.SPLITS,
    rows=rows,
    place=str(path),
    blocks=pieces,
    train_bytes=train_bytes([headers[f"x_{m}"] for m in names], split),
    identity=f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {split_seed}",
  )


def train_bytes(headers: list[npz_file.Header], split: np.ndarray) -> int:
  """What reading the train rows takes: those of all modalities, and beside them, one
  after the other, a whole array."""
  sizes = [row_bytes(header) for header in headers]
  return sum(sizes) * int((split == "train").sum()) + max(sizes) * len(split)


def row_bytes(header: npz_file.Header) -> int:
  """Of one row."""
  return math.prod(header.shape[1:]) * header.dtype.itemsize


def check_headers(headers: dict[str, npz_file.Header]) -> tuple[str, ...]:
  """The modalities; ValueError for an array that is unknown or cannot be what its name
  says, and for one of another number of rows than y."""
  names = tuple(a[2:] for a in headers if re.fullmatch(r"x_\w+", a))
  for array, header in headers.items():
    form, _, modality = array.partition("_")
    known = array in ALONE or (form in FORMS and form not in ALONE and modality)
    if not known or (modality and not re.fullmatch(r"\w+", modality)):
      raise ValueError(
        f"the array {array!r} is unknown, known are x_<modality>, present_<modality>, "
        f"length_<modality> (letters, digits and _) and {', '.join(ALONE)}."
      )
    if form in ("present", "length") and modality not in names:
      raise ValueError(f"{array} is of no modality, these are {', '.join(names) or 'none'}.")
    _check_form(array, header, *FORMS[form])
  for array in ("x_<modality>",) * (not names) + ("y",) * ("y" not in headers):
    raise ValueError(f"there is no array {array}, found are {', '.join(headers)}.")
  count = headers["y"].shape[0]
  for array, header in headers.items():
    if array not in ("scale", "classes") and header.shape[0] != count:
      raise ValueError(f"{array} has {header.shape[0]} rows, y has {count}.")
  if not count:
    raise ValueError("y has no rows, expected is at least one in every split.")
  return names


def _check_form(array: str, header: npz_file.Header, kinds, ranks, words) -> None:
  shape, dtype = header
  if dtype.kind == "O":
    raise ValueError(
      f"{array} is an array of objects, which only a pickle can hold and none is "
      f"loaded; expected: {words}."
    )
  if dtype.kind not in kinds or len(shape) not in ranks or 0 in shape[1:]:
    raise ValueError(f"{array} is {dtype} of shape {shape}, expected: {words}.")


def check_kinds(kinds: Mapping[str, str], names: tuple[str, ...]) -> Mapping[str, str]:
  """`kinds`; ValueError for a modality that is not there and for an unknown kind."""
  for name, kind in kinds.items():
    if name not in names:
      raise ValueError(f"kinds names {name!r}, the modalities are {', '.join(names)}.")
    if kind not in KINDS:
      raise ValueError(f"kinds.{name} is {kind!r}, known are {', '.join(KINDS)}.")
  return kinds


def describe(name: str, header: npz_file.Header, kind: str | None, vocabulary: int) -> Modality:
  """The modality of array `x_<name>`: of `kind` where one is given, else of the kind
  that follows. ValueError where it cannot be of that kind or does not follow."""
  (shape, dtype), integer = header, header.dtype.kind in "iu"
  rank, array = len(shape), f"x_{name} is {header.dtype} of shape {header.shape}"
  if dtype.kind == "U":
    can = ("tokens",) if rank == 1 else ()
  else:
    can = tuple(k for k in KINDS if rank in (RANKS[k] - 1, RANKS[k]))
    can = tuple(k for k in can if k != "tokens" or integer)
  if not can:
    raise ValueError(f"{array}, expected: unicode strings [N].")
  if kind is None and integer and (rank == 1 or (rank == 2 and dtype == np.uint8)):
    raise ValueError(f"{array}, which could be {' or '.join(can)}: say so by kinds.{name}.")
  kind = kind or _infer_kind(dtype, rank)
  if kind not in can:
    raise ValueError(f"{array}, which can be {' or '.join(can)}, not {kind}.")
  if dtype.kind == "U":
    return Modality(name, "tokens", (None,), vocabulary)
  shape = (*shape[1:], *(1,) * (RANKS[kind] - rank))
  return Modality(name, kind, shape, vocabulary if kind == "tokens" else 0)


def _infer_kind(dtype: np.dtype, rank: int) -> str:
  if rank == 4 or (rank == 3 and dtype == np.uint8):
    return "image"
  if dtype.kind == "U" or (rank == 2 and dtype.kind in "iu"):
    return "tokens"
  return "sequence" if rank == 3 else "vector"


def convert(
  modality: Modality, values: np.ndarray, index: np.ndarray
) -> tuple[np.ndarray, np.ndarray | bool]:
  """Rows [N, *shape] in a type that `cleaning` takes, and which of them have a finite
  value, bool[N]. `index` are the row numbers in the file."""
  if values.dtype.kind == "U":
    return text.hash_ngrams(values.tolist(), modality.vocabulary), True
  values = values.reshape(len(values), *modality.shape)
  if values.dtype.kind == "f":
    with np.errstate(over="ignore"):  # what no float32 can hold is inf, and reported
      values = values.astype(np.float32)
    return values, np.isfinite(values).reshape(len(values), -1).any(axis=1)
  if modality.kind == "image" and values.dtype != np.uint8:
    bad = (values < 0) | (values > 255)
    if bad.any():
      row = int(bad.reshape(len(values), -1).any(axis=1).argmax())
      raise ValueError(
        f"x_{modality.name}, row {index[row]}: a pixel is {values[bad][0]}, integers "
        "of an image lie in 0 to 255."
      )
    values = values.astype(np.uint8) * (255 if values.dtype == bool else 1)
  return values, True


def read_ids(small: dict[str, np.ndarray], count: int) -> np.ndarray:
  """i64[N]: the array id, else the row numbers."""
  if "id" not in small:
    return np.arange(count)
  ids = small["id"]
  npz_labels.check_rows("id", ids, (ids >= 0) & (ids < 2**31), "0 to 2^31-1")
  _, first = np.unique(ids, return_index=True)
  new = np.isin(np.arange(count), first)
  npz_labels.check_rows("id", ids, new, "a number that no row above has")
  return ids.astype(np.int64)


def read_group(small: dict[str, np.ndarray]) -> np.ndarray | None:
  """i64[N]: the array group, strings numbered in alphabetical order; None without."""
  if (group := small.get("group")) is None:
    return None
  if group.dtype.kind == "U":
    return np.unique(group, return_inverse=True)[1]
  npz_labels.check_rows("group", group, (group >= 0) & (group < 2**31), "0 to 2^31-1")
  return group.astype(np.int64)


def read_present(small: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """{modality: bool[N]} where the file says so."""
  found = {}
  for array in (a for a in small if a.startswith("present_")):
    good = np.isin(small[array], (0, 1))
    npz_labels.check_rows(array, small[array], good, "bool or 0 and 1")
    found[array.removeprefix("present_")] = small[array].astype(bool)
  return found


def read_length(
  small: dict[str, np.ndarray], modalities: tuple[Modality, ...]
) -> dict[str, np.ndarray]:
  """{modality: i64[N]} of the sequences whose real steps the file gives."""
  found = {}
  for m in modalities:
    if (values := small.get(f"length_{m.name}")) is None:
      continue
    if m.kind != "sequence":
      raise ValueError(
        f"length_{m.name} is there, but x_{m.name} is of kind {m.kind}; only a "
        "sequence has a length."
      )
    good = (values >= 0) & (values <= m.shape[0])
    npz_labels.check_rows(f"length_{m.name}", values, good, f"0 to {m.shape[0]} steps")
    found[m.name] = values.astype(np.int64)
  return found
