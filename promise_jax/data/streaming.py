"""Train rows that are kept on disk: for data larger than memory.

`assemble` reads the train split of a source in pieces, checks and cleans it as
`dataset` does in memory, and writes what came of it, once, into promise_jax/streamed in
the user's cache folder: a file of rows of one size for each modality, `small.npz` for
the rest. Labels, ids, lengths and what is recorded stay in memory, as do the valid and
test splits. Standardisation is fitted on the same values in the same order as in
memory, so that a streamed row is bit for bit the resident one. The folder is named by a
hash of the source's identity and of how it is read; it takes the room of the train rows
(floats as float32) and can be deleted at any time but while a run reads it. Ours.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np

from promise_jax import files
from promise_jax.data import cleaning, dataset, rowfile
from promise_jax.data import source as data_source
from promise_jax.types import Modality, Split

FORM = 1  # of the files; another one is written anew
SMALL = "small.npz"
DTYPES = {"image": np.uint8, "tokens": np.int32}  # float32 else


def assemble_stream(
  source: data_source.Source,
  *,
  nonfinite: str = "frame",
  folder: str | os.PathLike | None = None,
) -> dataset.Dataset:
  """`dataset.assemble` with the train rows on disk, in `folder` (default: the cache).
  ValueError for a source that is read as a whole, and for a disk that is full."""
  if source.blocks is None or not source.identity:
    raise ValueError(
      f"data set {source.name!r} cannot be streamed, it is read as a whole; what can "
      "be: npz files, data prepared by tensorflow-datasets, and `records.source` with "
      "an identity."
    )
  # The other splits are read in pieces too: an npz file has all of them in one array.
  source = source._replace(rows=functools.partial(gather, source))
  where = pathlib.Path(folder or files.cache_folder("streamed"))
  fit_there = functools.partial(fit, folder=where)
  return dataset.assemble(source, nonfinite=nonfinite, fit=fit_there)


def fit(source: data_source.Source, nonfinite: str, *, folder: pathlib.Path) -> dataset.FittedTrain:
  """The train rows, written into a folder of `folder` unless they are there."""
  about = (FORM, source.identity, source.modalities, source.task, nonfinite)
  digest = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
  path = folder / f"{source.name}-{digest}"
  try:
    if not path.exists():
      with lock_cache(path):
        if not path.exists():  # another process was quicker
          write_store(source, nonfinite, path)
  except OSError as error:
    raise ValueError(
      f"the train rows of data set {source.name!r} could not be kept in {folder} "
      f"({error.strerror}); the variable XDG_CACHE_HOME names another place."
    ) from error
  return open_stored(source, path)


@contextlib.contextmanager
def lock_cache(path: pathlib.Path) -> Iterator[None]:
  """One process writes while others wait; the system drops the lock of one that was
  killed."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path.parent / f".{path.name}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def write_store(source: data_source.Source, nonfinite: str, path: pathlib.Path) -> None:
  """The folder `path`, whole or not at all."""
  half = path.with_name(f".{path.name}.half")
  shutil.rmtree(half, ignore_errors=True)  # what a killed process left
  half.mkdir()
  try:
    modalities = resolve_lengths(source)
    small = write_rows(source, modalities, nonfinite, half)
    small |= write_scale(source, modalities, small["recorded"], half)
    with open(half / SMALL, "wb") as file:
      np.savez(file, **small)
      rowfile.sync(file)
    half.rename(path)
  finally:
    shutil.rmtree(half, ignore_errors=True)


def resolve_lengths(source: data_source.Source) -> tuple[Modality, ...]:
  """The modalities; an open T is the steps of the longest train row."""
  modalities = source.modalities
  if all(m.shape[0] is not None for m in modalities):
    return modalities
  longest = dict.fromkeys(modalities, 1)
  for rows in source.blocks("train"):
    for m in modalities:
      here = cleaning.resolve_length(m, rows.inputs[m.name]).shape[0]
      longest[m] = max(longest[m], here)
  return tuple(m._replace(shape=(longest[m], *m.shape[1:])) for m in modalities)


def write_rows(
  source: data_source.Source,
  modalities: tuple[Modality, ...],
  nonfinite: str,
  folder: pathlib.Path,
) -> dict[str, np.ndarray]:
  """Writes the cleaned rows; the small arrays by name."""
  parts: dict[str, list[np.ndarray]] = {}
  with contextlib.ExitStack() as stack:
    out = {m.name: stack.enter_context(open(file_of(folder, m.name), "wb")) for m in modalities}
    for rows in source.blocks("train"):
      cleaned = dataset.clean_rows(source, "train", modalities, rows, nonfinite)
      for name, part in cleaned.items():
        lost = np.nan if part.values.dtype == np.float32 else 0
        values = np.where(part.kept_mask, part.values, lost).astype(part.values.dtype)
        out[name].write(values.data)
      small = {"label": rows.label, "id": rows.id}
      small["recorded"] = np.stack([c.recorded for c in cleaned.values()], axis=1)
      small |= {} if rows.group is None else {"group": rows.group}
      for name, part in cleaned.items():
        small[f"length_{name}"] = part.length
        small[f"found_{name}"] = np.array([part.report])
      for name, value in small.items():
        parts.setdefault(name, []).append(value)
    for file in out.values():
      rowfile.sync(file)
  small = {name: np.concatenate(values) for name, values in parts.items()}
  whole = data_source.Rows({}, {}, small["recorded"], small["label"], small["id"])
  data_source.check_rows(source, "train", whole)  # the ids of all pieces together
  for m in modalities:
    small[f"found_{m.name}"] = small[f"found_{m.name}"].sum(axis=0)
    small[f"shape_{m.name}"] = np.array(m.shape)
  return small


def write_scale(
  source: data_source.Source,
  modalities: tuple[Modality, ...],
  recorded: np.ndarray,
  folder: pathlib.Path,
) -> dict[str, np.ndarray]:
  """{scale_<modality>: mean and std [2, D]} of the rows in `folder`, which are then
  standardised."""
  data_source.check_train(source, {m.name: recorded[:, i] for i, m in enumerate(modalities)})
  scale = {}
  for m in modalities:
    if m.kind in cleaning.FLOAT_KINDS:
      rows = stored_rows(folder, m, len(recorded))
      own = cleaning.fit_scale_in_blocks(functools.partial(rowfile.pieces, rows))
      rowfile.standardise(rows, own)
      scale[f"scale_{m.name}"] = np.stack(own)
  return scale


def open_stored(source: data_source.Source, path: pathlib.Path) -> dataset.FittedTrain:
  """The train rows of `source` in folder `path`."""
  with np.load(path / SMALL) as file:
    small = dict(file)
  modalities = tuple(
    m._replace(shape=tuple(small[f"shape_{m.name}"].tolist())) for m in source.modalities
  )
  scale = {
    m.name: tuple(small[f"scale_{m.name}"]) for m in modalities if m.kind in cleaning.FLOAT_KINDS
  }
  count = len(small["id"])
  inputs = {m.name: stored_rows(path, m, count) for m in modalities}
  size = sum(file_of(path, m.name).stat().st_size for m in modalities) / 1e9
  split = Split(
    inputs=inputs,
    length={m.name: small[f"length_{m.name}"] for m in modalities if m.kind == "sequence"},
    recorded=small["recorded"],
    label=small["label"],
    id=small["id"].astype(np.int32),
  )
  return dataset.FittedTrain(
    modalities,
    scale,
    small["label"],
    small.get("group"),
    {m.name: cleaning.CleaningReport(*small[f"found_{m.name}"].tolist()) for m in modalities},
    lambda: split,
    (f"{source.name}: {count} train rows are streamed from {path}, {size:.2f} GB.",),
  )


def stored_rows(folder: pathlib.Path, modality: Modality, count: int) -> rowfile.RowFile:
  """The rows of one modality in `folder`."""
  dtype = np.dtype(DTYPES.get(modality.kind, np.float32))
  path = file_of(folder, modality.name)
  return rowfile.RowFile(path, (count, *modality.shape), dtype)


def file_of(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Where the rows of modality `name` are."""
  return folder / f"{name}.rows"


def gather(source: data_source.Source, split: str) -> data_source.Rows:
  """`source.rows(split)` from its pieces, so that what is read is never more than the
  split."""
  parts = list(source.blocks(split))
  if len(parts) == 1:
    return parts[0]
  steps = {m: np.concatenate([p.length[m] for p in parts]) for m in parts[0].length}
  groups = [p.group for p in parts]
  return data_source.Rows(
    {m: [row for p in parts for row in p.inputs[m]] for m in parts[0].inputs},
    steps,
    *(np.concatenate([p[i] for p in parts]) for i in (2, 3, 4)),
    None if groups[0] is None else np.concatenate(groups),
  )
