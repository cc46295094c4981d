"""Train rows that stay on disk: for data larger than memory.

`assemble_stream` reads the train split of a source in blocks, cleans it as `dataset.assemble`
does in memory, and writes it once into a folder in the user's cache: a file of rows of equal
size for each modality, and `small.npz` with labels, ids, lengths and masks. Those stay in
memory, as do the valid and test splits. A streamed row is bit for bit the resident one. The
folder may be deleted at any time except while a run reads it. Ours.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np

from promise_jax import files
from promise_jax.data import cleaning, dataset
from promise_jax.data import source as data_source
from promise_jax.types import Modality, Split

FORMAT = 2  # of the folder; one of another format is written anew
SMALL = "small.npz"
DTYPES = {"image": np.uint8, "tokens": np.int32}  # else float32


@dataclasses.dataclass(frozen=True, eq=False)
class StoredRows:
  """Rows [N, ...] in a file: `rows[index]` reads some of them, from any thread or process."""

  path: pathlib.Path
  shape: tuple[int, ...]
  dtype: np.dtype

  def __len__(self) -> int:
    return self.shape[0]

  def open(self, mode: str) -> np.memmap:
    """The file as an array. Each use opens it anew: pages of a map that stays open would count
    as memory of this process."""
    try:
      return np.memmap(self.path, self.dtype, mode, shape=self.shape)
    except ValueError as error:
      raise ValueError(f"{self.path} is cut short, delete its folder.") from error

  def __getitem__(self, index) -> np.ndarray:
    rows = self.open("r")[index]
    return np.array(rows) if isinstance(rows, np.memmap) else rows

  def __array__(self, dtype=None, copy=None):
    raise ValueError(
      f"the {len(self)} rows in {self.path} are streamed, load the data without stream to "
      "take them all at once."
    )


def assemble_stream(
  source: data_source.Source,
  *,
  nonfinite: str = "frame",
  folder: str | os.PathLike | None = None,
) -> dataset.Dataset:
  """`dataset.assemble` with the train rows on disk, in `folder` (default: the cache).

  Raises:
    ValueError: the source is read as a whole, or the disk is full.
  """
  if source.blocks is None or not source.identity:
    raise ValueError(
      f"data set {source.name!r} cannot be streamed, it is read as a whole; npz files, data "
      "prepared by tensorflow-datasets, and `records.source` with an identity can be."
    )
  # The other splits are read in blocks too: an npz file has all of them in one array.
  source = source._replace(rows=functools.partial(gather_blocks, source))
  folder = pathlib.Path(folder or files.cache_folder("streamed"))
  fit = functools.partial(fit_on_disk, folder=folder)
  return dataset.assemble(source, nonfinite=nonfinite, fit=fit)


def gather_blocks(source: data_source.Source, split: str) -> data_source.Rows:
  """`source.rows(split)`, read in blocks."""
  first, *rest = blocks = list(source.blocks(split))
  if not rest:
    return first
  join = lambda name: np.concatenate([getattr(block, name) for block in blocks])
  return data_source.Rows(
    inputs={m: [row for block in blocks for row in block.inputs[m]] for m in first.inputs},
    length={m: np.concatenate([block.length[m] for block in blocks]) for m in first.length},
    **{name: join(name) for name in ("recorded", "label", "id")},
    group=None if first.group is None else join("group"),
  )


def fit_on_disk(
  source: data_source.Source, nonfinite: str, *, folder: pathlib.Path
) -> dataset.FittedTrain:
  """The train rows in a folder inside `folder`, written there unless they exist."""
  about = (FORMAT, source.identity, source.modalities, source.task, nonfinite)
  digest = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
  path = folder / f"{source.name}-{digest}"
  try:
    if not path.exists():
      folder.mkdir(parents=True, exist_ok=True)
      # The system drops the lock of a process that was killed.
      with open(folder / f".{path.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():  # another process may have written it meanwhile
          write_store(source, nonfinite, path)
  except OSError as error:
    raise ValueError(
      f"the train rows of data set {source.name!r} could not be kept in {folder} "
      f"({error.strerror}); the variable XDG_CACHE_HOME names another place."
    ) from error
  return open_store(source, path)


def write_store(source: data_source.Source, nonfinite: str, path: pathlib.Path) -> None:
  """Writes the folder `path`, whole or not at all."""
  half = path.with_name(f".{path.name}.half")
  shutil.rmtree(half, ignore_errors=True)  # left by a process that was killed
  half.mkdir()
  try:
    modalities = resolve_lengths(source)
    small = write_rows(source, modalities, nonfinite, half)
    scales = standardise_store(source, modalities, small["recorded"], half)
    np.savez(half / SMALL, **small, **scales)
    for file in half.iterdir():  # on disk, before the name says that all is there
      handle = os.open(file, os.O_RDONLY)
      os.fsync(handle)
      os.close(handle)
    half.rename(path)
  finally:
    shutil.rmtree(half, ignore_errors=True)


def resolve_lengths(source: data_source.Source) -> tuple[Modality, ...]:
  """The modalities; an open T becomes the steps of the longest train row."""
  modalities = source.modalities
  if any(m.shape[0] is None for m in modalities):
    longest = dict.fromkeys(modalities, 1)
    for rows in source.blocks("train"):
      for m in modalities:
        length = cleaning.resolve_length(m, rows.inputs[m.name]).shape[0]
        longest[m] = max(longest[m], length)
    modalities = tuple(m._replace(shape=(longest[m], *m.shape[1:])) for m in modalities)
  return modalities


def write_rows(
  source: data_source.Source,
  modalities: tuple[Modality, ...],
  nonfinite: str,
  folder: pathlib.Path,
) -> dict[str, np.ndarray]:
  """Writes the cleaned rows, with NaN where a float does not count; returns the small arrays."""
  parts = []
  with contextlib.ExitStack() as stack:
    out = {m.name: stack.enter_context(open(rows_path(folder, m), "wb")) for m in modalities}
    for rows in source.blocks("train"):
      cleaned = dataset.clean_rows(source, "train", modalities, rows, nonfinite)
      small = {"label": rows.label, "id": rows.id}
      small["recorded"] = np.stack([part.recorded for part in cleaned.values()], axis=1)
      small |= {} if rows.group is None else {"group": rows.group}
      for name, part in cleaned.items():
        lost = np.nan if part.values.dtype == np.float32 else 0
        np.where(part.kept_mask, part.values, lost).astype(part.values.dtype).tofile(out[name])
        small |= {f"length_{name}": part.length, f"found_{name}": np.array([part.report])}
      parts.append(small)
  small = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  whole = data_source.Rows({}, {}, small["recorded"], small["label"], small["id"])
  data_source.check_rows(source, "train", whole)  # the ids of all pieces together
  for m in modalities:
    small[f"found_{m.name}"] = small[f"found_{m.name}"].sum(axis=0)
    small[f"shape_{m.name}"] = np.array(m.shape)
  return small


def standardise_store(
  source: data_source.Source,
  modalities: tuple[Modality, ...],
  recorded: np.ndarray,
  folder: pathlib.Path,
) -> dict[str, np.ndarray]:
  """Standardises the rows in `folder`; {scale_<modality>: mean and std [2, D]}."""
  data_source.check_train(source, {m.name: recorded[:, i] for i, m in enumerate(modalities)})
  scales = {}
  for m in modalities:
    if m.kind not in cleaning.FLOAT_KINDS:
      continue
    rows = stored_rows(folder, m, len(recorded))
    scale = cleaning.fit_scale_in_blocks(functools.partial(iterate_values, rows))
    rest, start = (np.zeros(0, np.int32), np.zeros(0, bool), cleaning.CleaningReport()), 0
    for values, kept in iterate_values(rows):
      cleaned = cleaning.CleanModality(values, kept, *rest)
      rows.open("r+")[start : start + len(values)] = cleaning.standardise(cleaned, scale)
      start += len(values)
    scales[f"scale_{m.name}"] = np.stack(scale)
  return scales


def iterate_values(rows: StoredRows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (values, which of them count), in the blocks in which `cleaning.fit_scale` sums."""
  for part in cleaning.row_slices(len(rows), int(np.prod(rows.shape[1:]))):
    values = rows[part]
    yield values, ~np.isnan(values)


def open_store(source: data_source.Source, path: pathlib.Path) -> dataset.FittedTrain:
  """The train rows of `source` in the folder `path`."""
  with np.load(path / SMALL) as file:
    small = dict(file)
  modalities = tuple(
    m._replace(shape=tuple(small[f"shape_{m.name}"].tolist())) for m in source.modalities
  )
  count = len(small["id"])
  size = sum(rows_path(path, m).stat().st_size for m in modalities) / 1e9
  split = Split(
    inputs={m.name: stored_rows(path, m, count) for m in modalities},
    length={m.name: small[f"length_{m.name}"] for m in modalities if m.kind == "sequence"},
    recorded=small["recorded"],
    label=small["label"],
    id=small["id"].astype(np.int32),
  )
  floats = [m.name for m in modalities if m.kind in cleaning.FLOAT_KINDS]
  found = {m.name: small[f"found_{m.name}"].tolist() for m in modalities}
  return dataset.FittedTrain(
    modalities,
    {name: tuple(small[f"scale_{name}"]) for name in floats},
    small["label"],
    small.get("group"),
    {name: cleaning.CleaningReport(*counts) for name, counts in found.items()},
    lambda: split,
    (f"{source.name}: {count} train rows are streamed from {path}, {size:.2f} GB.",),
  )


def stored_rows(folder: pathlib.Path, modality: Modality, count: int) -> StoredRows:
  """The rows of one modality in `folder`."""
  dtype = np.dtype(DTYPES.get(modality.kind, np.float32))
  return StoredRows(rows_path(folder, modality), (count, *modality.shape), dtype)


def rows_path(folder: pathlib.Path, modality: Modality) -> pathlib.Path:
  """The file of the rows of one modality."""
  return folder / f"{modality.name}.rows"
