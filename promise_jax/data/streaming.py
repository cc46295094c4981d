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
from collections.abc import Sequence

import numpy as np

from promise_jax import files
from promise_jax.data import cleaning, dataset, scaling
from promise_jax.data import source as data_source
from promise_jax.types import Modality, Split

FORMAT = 4  # of the folder; one of another format is written anew
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
  rules: cleaning.Rules = cleaning.DEFAULTS,
  folder: str | os.PathLike | None = None,
) -> dataset.Dataset:
  """`dataset.assemble` with the train rows on disk, in `folder` (default: the cache).

  Raises ValueError for a source that is read as a whole, and for a full disk.
  """
  if source.blocks is None or not source.identity:
    raise ValueError(
      f"data set {source.name!r} cannot be streamed, it is read as a whole; npz files, data "
      "prepared by tensorflow-datasets, and `records.source` with an identity can be."
    )
  # The other splits are read in blocks too: an npz file has all of them in one array.
  blocks = source.blocks
  source = source._replace(rows=lambda split: join_blocks(list(blocks(split))))
  folder = pathlib.Path(folder or files.cache_folder("streamed"))
  fit = functools.partial(fit_on_disk, folder=folder)
  return dataset.assemble(source, rules, fit)


def join_blocks(blocks: Sequence[data_source.Rows]) -> data_source.Rows:
  """Some blocks of rows as one; at least one block."""
  first, *rest = blocks
  if not rest:
    return first
  known = [name for name in data_source.ROW_FIELDS if getattr(first, name) is not None]
  return data_source.Rows(
    inputs={m: [row for block in blocks for row in block.inputs[m]] for m in first.inputs},
    length={m: np.concatenate([block.length[m] for block in blocks]) for m in first.length},
    **{name: np.concatenate([getattr(block, name) for block in blocks]) for name in known},
  )


def fit_on_disk(
  source: data_source.Source, rules: cleaning.Rules, *, folder: pathlib.Path
) -> dataset.FittedTrain:
  """The train rows in a folder inside `folder`, written there unless they exist."""
  about = (FORMAT, source.identity, source.modalities, source.task, rules)
  digest = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
  path = folder / f"{source.name}-{digest}"
  try:
    if not path.exists():
      folder.mkdir(parents=True, exist_ok=True)
      # The system drops the lock of a process that was killed.
      with open(folder / f".{path.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():  # another process may have written it meanwhile
          write_store(source, rules, path)
  except OSError as error:
    raise ValueError(
      f"the train rows of data set {source.name!r} could not be kept in {folder} "
      f"({error.strerror or error}), where they take about {source.train_bytes / 1e9:.1f} GB; the "
      "variable XDG_CACHE_HOME names another place."
    ) from error
  return open_store(source, path)


def write_store(source: data_source.Source, rules: cleaning.Rules, path: pathlib.Path) -> None:
  """Writes the folder `path`, whole or not at all."""
  half = path.with_name(f".{path.name}.half")
  shutil.rmtree(half, ignore_errors=True)  # left by a process that was killed
  half.mkdir()
  try:
    modalities = resolve_lengths(source, [m.name for m in source.modalities])
    small = write_rows(source, modalities, rules, half)
    recorded = dict(zip((m.name for m in modalities), small["recorded"].T, strict=True))
    counts = {m.name: small[f"found_{m.name}"].sum(axis=0).tolist() for m in modalities}
    report = {name: cleaning.CleaningReport(*count) for name, count in counts.items()}
    data_source.check_train(source, recorded, report)
    for m in modalities:
      small[f"shape_{m.name}"] = np.array(m.shape)
      if m.kind in cleaning.FLOAT_KINDS:
        rows = stored_rows(half, m, len(small["id"]))
        small[f"scale_{m.name}"], clipped = standardise_file(rows, recorded[m.name])
        found = cleaning.CleaningReport(num_clipped=clipped)
        small[f"found_{m.name}"] = np.append(small[f"found_{m.name}"], [found], axis=0)
    np.savez(half / SMALL, **small)
    for file in half.iterdir():  # on disk, before the name says that all is there
      with open(file, "rb") as handle:
        os.fsync(handle)
    half.rename(path)
  finally:
    shutil.rmtree(half, ignore_errors=True)


def resolve_lengths(source: data_source.Source, names: Sequence[str]) -> tuple[Modality, ...]:
  """The modalities; an open T of those in `names` becomes the steps of the longest train row."""
  is_open = {m.name: m.name in names and m.shape[0] is None for m in source.modalities}
  if not any(is_open.values()):
    return source.modalities
  found = list(source.modalities)
  for rows in source.blocks("train"):
    for i, m in enumerate(source.modalities):
      if is_open[m.name]:
        made = cleaning.resolve_length(m, rows.inputs[m.name])
        found[i] = max(found[i], made, key=lambda m: m.shape[0] or 0)
  return tuple(found)


def write_rows(
  source: data_source.Source,
  modalities: tuple[Modality, ...],
  rules: cleaning.Rules,
  folder: pathlib.Path,
) -> dict[str, np.ndarray]:
  """Writes the cleaned rows, with NaN where a float does not count; returns the small arrays."""
  parts = []
  with contextlib.ExitStack() as stack:
    out = {m.name: stack.enter_context(open(folder / f"{m.name}.rows", "wb")) for m in modalities}
    for rows in source.blocks("train"):
      cleaned = dataset.clean_rows(source, "train", modalities, rows, rules)
      known = {name: getattr(rows, name) for name in ("label", "id", "group", "labelled")}
      small = {name: x for name, x in known.items() if x is not None}
      small["recorded"] = np.stack([part.recorded for part in cleaned.values()], axis=1)
      for name, part in cleaned.items():
        lost = np.nan if part.values.dtype == np.float32 else 0
        np.where(part.kept_mask, part.values, lost).astype(part.values.dtype).tofile(out[name])
        small |= {f"length_{name}": part.length, f"found_{name}": np.array([part.report])}
      parts.append(small)
  small = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
  place = data_source.describe_place(source, "train")
  data_source.check_ids(f"{place}, id", small["id"])  # of all pieces together
  return small


def standardise_file(rows: StoredRows, recorded: np.ndarray) -> tuple[np.ndarray, int]:
  """Standardises the rows of a file where they lie; returns the scale [4, D] and how many values
  were clipped."""
  scale, num_clipped = scaling.fit_scale(rows.__getitem__, recorded), 0
  for part in scaling.row_slices(len(rows), int(np.prod(rows.shape[1:]))):
    values = rows[part]
    kept = ~np.isnan(values)
    num_clipped += scaling.count_clipped(values, kept, scale)
    rows.open("r+")[part] = scaling.standardise(values, kept, scale)
  return np.stack(scale), num_clipped


def open_store(source: data_source.Source, path: pathlib.Path) -> dataset.FittedTrain:
  """The train rows of `source` in the folder `path`."""
  with np.load(path / SMALL) as file:
    small = dict(file)
  shape = lambda m: tuple(small[f"shape_{m.name}"].tolist())
  modalities = tuple(m._replace(shape=shape(m)) for m in source.modalities)
  count = len(small["id"])
  inputs = {m.name: stored_rows(path, m, count) for m in modalities}
  size = sum(rows.path.stat().st_size for rows in inputs.values()) / 1e9
  split = Split(
    inputs=inputs,
    length={m.name: small[f"length_{m.name}"] for m in modalities if m.kind == "sequence"},
    recorded=small["recorded"],
    label=small["label"],
    id=small["id"].astype(np.int32),
  )
  floats = [m.name for m in modalities if m.kind in cleaning.FLOAT_KINDS]
  counts = {m.name: small[f"found_{m.name}"].sum(axis=0).tolist() for m in modalities}
  return dataset.FittedTrain(
    modalities,
    scale={name: scaling.Scale(*small[f"scale_{name}"]) for name in floats},
    split=split,
    group=small.get("group"),
    labelled=small.get("labelled"),
    report={name: cleaning.CleaningReport(*found) for name, found in counts.items()},
    notes=(f"{source.name}: {count} train rows are streamed from {path}, {size:.2f} GB.",),
  )


def stored_rows(folder: pathlib.Path, modality: Modality, count: int) -> StoredRows:
  """The rows of one modality in `folder`."""
  dtype = np.dtype(DTYPES.get(modality.kind, np.float32))
  return StoredRows(folder / f"{modality.name}.rows", (count, *modality.shape), dtype)
