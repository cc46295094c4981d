"""Features of frozen encoders: computed once, cached, used in place of a modality.

`feature_encoders` says what an encoder is. The rows of a table are encoded in blocks, those of
other data split by split; the features alone stay in memory. A cache file has those of one block.
It is named by a hash of the data set's name, of the values that the encoder sees and of the
encoder: for an imported function the source file of its module (not what that imports, nor
weights: name those in the source), for `FeatureEncoder` its version, for a pretrained network the
contents of its files. A cached encoder is neither called nor imported. Ours.
"""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from promise_jax import files
from promise_jax.checks import check_choice
from promise_jax.data import cleaning, dataset, feature_encoders, preprocessing, scaling, streaming
from promise_jax.data import source as data_source
from promise_jax.data.cleaning import CleaningReport
from promise_jax.data.feature_encoders import EncoderInputs, EncoderSpec, FeatureEncoder, Features
from promise_jax.types import Modality

__all__ = ["FeatureEncoder", "extract_features"]


def extract_features(
  source: data_source.Source,
  encoders: Mapping[str, EncoderSpec],
  rules: cleaning.Rules = cleaning.DEFAULTS,
  folder: str | os.PathLike | None = None,
) -> data_source.Source:
  """Replaces modalities by the features of `encoders` {modality: encoder}.

  All splits are read; the labels are not used. `folder` is that of the cache, by default
  promise_jax/features in the user's cache folder. Raises ValueError for an unknown modality,
  no encoder, or features of a wrong shape.
  """
  names = [m.name for m in source.modalities]
  for name in encoders:
    check_choice("a modality in encoders", name, names)
  folder = pathlib.Path(folder or files.cache_folder("features")).expanduser()
  if source.columns is None:  # all but the files that a table names is in memory anyway
    whole = source
    source = source._replace(blocks=lambda split: iter([whole.rows(split)]))
  sequences = [m.name for m in source.modalities if m.kind == "sequence" and m.name in encoders]
  source = source._replace(modalities=streaming.resolve_lengths(source, sequences))
  chosen = [
    BlockEncoder(source, i, encoders[name], rules, folder)
    for i, name in enumerate(names)
    if name in encoders
  ]
  rows = {}
  for split in source.splits:
    blocks = []
    for block in source.blocks(split):
      for one in chosen:
        one.encode_block(split, block)
      rest = {name: x for name, x in block.inputs.items() if name not in encoders}
      blocks.append(block._replace(inputs=rest))
    rows[split] = streaming.join_blocks(blocks)
  modalities, encoded = list(source.modalities), dict(source.encoded)
  for one in chosen:
    modalities[one.number] = one.insert_features(rows)
    about = one.raw, str(one.spec), one.is_text, one.encoder.sha256
    encoded[one.raw.name] = preprocessing.EncodedModality(*about)
  return source._replace(
    modalities=tuple(modalities),
    rows=rows.__getitem__,
    notes=(*source.notes, *(one.note for one in chosen)),
    blocks=None,
    train_bytes=0,  # what they take is taken
    encoded=encoded,
  )


class BlockEncoder:
  """Encodes one modality of a source, a block of rows at a time."""

  def __init__(
    self,
    source: data_source.Source,
    number: int,
    spec: EncoderSpec,
    rules: cleaning.Rules,
    folder: pathlib.Path,
  ):
    self.source, self.number, self.spec = source, number, spec
    self.rules, self.folder = rules, folder
    self.raw = source.modalities[number]
    self.is_text = self.raw.kind == "tokens" and self.raw.shape[0] is None
    with feature_encoders.name_encoder_in_errors(self.raw.name, spec):
      self.encoder = feature_encoders.find_encoder(spec, "text" if self.is_text else self.raw.kind)
    self.found: dict[str, list] = {split: [] for split in source.splits}  # recorded, features
    self.report = dict.fromkeys(source.splits, CleaningReport())
    self.num_computed = 0

  def encode_block(self, split: str, block: data_source.Rows) -> None:
    """Computes the features of some rows, or reads them from the cache."""
    i, name = self.number, self.raw.name
    modality = cleaning.resolve_length(self.source.modalities[i], block.inputs[name])
    if self.is_text and split == "train":  # texts of new rows are cut at the longest
      self.raw = max(self.raw, modality, key=lambda m: m.shape[0] or 0)
    part = block._replace(recorded=block.recorded[:, i : i + 1])
    clean = dataset.clean_rows(self.source, split, (modality,), part, self.rules)[name]
    self.report[split] = CleaningReport(*np.add(self.report[split], clean.report))
    inputs, features = encoder_inputs(modality, clean, part), None
    if len(inputs.x):
      with feature_encoders.name_encoder_in_errors(name, self.spec):
        features = self.read_or_compute(inputs)
    self.found[split].append((clean.recorded, features))

  def read_or_compute(self, inputs: EncoderInputs) -> Features:
    """The features of rows that have the modality."""
    about = self.source.name, self.raw.name, self.encoder.key
    digest = feature_encoders.hash_parts(*about, *inputs)
    path = self.folder / f"{self.source.name}-{self.raw.name}-{digest[:16]}.npz"
    if not path.exists():
      x, length = feature_encoders.join_blocks(list(self.encoder.compute(inputs)))
      self.folder.mkdir(parents=True, exist_ok=True)
      files.write_npz(path, {"x": x} | ({} if length is None else {"length": length}))
      self.num_computed += len(inputs.x)
    with np.load(path) as file:
      return file["x"], file.get("length")

  def insert_features(self, rows: dict[str, data_source.Rows]) -> Modality:
    """Puts the features of all blocks into the `rows` of each split; returns their modality."""
    name = self.raw.name
    parts = [f for blocks in self.found.values() for _, f in blocks if f is not None]
    if not parts:
      raise ValueError(
        f"{self.source.name}: modality {name!r} is in no row, encoders has nothing to encode."
      )
    with feature_encoders.name_encoder_in_errors(name, self.spec):
      x, length = feature_encoders.join_blocks(parts)
    start = 0
    for split, blocks in self.found.items():
      dataset.log_report(self.source.name, split, {name: self.report[split]})
      recorded = np.concatenate([here for here, _ in blocks])
      place = slice(start, start := start + int(recorded.sum()))
      features = x[place], None if length is None else length[place]
      rows[split] = insert_features(rows[split], self.number, name, recorded, features)
    size = " x ".join(map(str, x.shape[1:]))
    how = f"{self.num_computed} rows computed and kept in" if self.num_computed else "read from"
    self.note = (
      f"{self.source.name}, {name}: features {size} of {self.encoder.words}, {how} {self.folder}."
    )
    return Modality(name, "vector" if length is None else "sequence", x.shape[1:])


def encoder_inputs(
  modality: Modality, clean: cleaning.CleanModality, rows: data_source.Rows
) -> EncoderInputs:
  """What an encoder sees of `rows`, which `clean` has cleaned: those that have the modality."""
  here, length = clean.recorded, None
  if texts := rows.texts.get(modality.name):
    return EncoderInputs([texts[i] for i in np.flatnonzero(here)], None)
  if modality.kind == "sequence":
    length = clean.length[here]
  elif modality.kind == "tokens":  # zeros inside a row count
    steps = np.arange(1, clean.kept_mask.shape[1] + 1, dtype=np.int32)
    length = (clean.kept_mask * steps).max(axis=1, initial=0)[here]
  values = scaling.standardise(clean.values, clean.kept_mask, None)
  return EncoderInputs(values[here], length)


def encode_rows(
  fitted: preprocessing.Preprocessing,
  rows: data_source.Rows,
  cleaned: Mapping[str, cleaning.CleanModality],
) -> data_source.Rows:
  """New rows with the features of the frozen encoders that `fitted` names; nothing is cached."""
  for i, modality in enumerate(fitted.modalities):
    if modality.name not in fitted.encoded:
      continue
    entry, here = fitted.encoded[modality.name], cleaned[modality.name].recorded
    if not here.any():
      length = np.zeros(0, np.int64) if modality.kind == "sequence" else None
      empty = np.zeros((0, *modality.shape), np.float32), length
      rows = insert_features(rows, i, modality.name, here, empty)
      continue
    if entry.is_text and not rows.texts.get(modality.name):
      raise ValueError(f"{modality.name} has token ids, expected: texts, which its encoder reads.")
    inputs = encoder_inputs(entry.raw, cleaned[modality.name], rows)
    try:
      kind = "text" if entry.is_text else entry.raw.kind
      found = feature_encoders.find_encoder(entry.encoder, kind)
      if found.sha256 != entry.sha256:
        raise ValueError("its weights are others than in training")
      x, length = feature_encoders.join_blocks(list(found.compute(inputs)))
    except (ValueError, ImportError, AttributeError) as error:
      reason = f"{modality.name} is read by the encoder {entry.encoder!r}, which fails"
      raise ValueError(f"{reason}: {str(error).rstrip('.')}.") from error
    rows = insert_features(rows, i, modality.name, here, (x, length))
  return rows


def insert_features(
  rows: data_source.Rows, i: int, name: str, recorded: np.ndarray, features: Features
) -> data_source.Rows:
  """`rows` with the features of the recorded ones as modality number `i`."""
  x, length = features
  values = np.zeros((len(recorded), *x.shape[1:]), np.float32)
  values[recorded] = x
  lengths = {m: n for m, n in rows.length.items() if m != name}
  if length is not None:
    lengths[name] = np.zeros(len(recorded), np.int64)
    lengths[name][recorded] = length
  every = rows.recorded.copy()
  every[:, i] = recorded
  return rows._replace(inputs=rows.inputs | {name: values}, length=lengths, recorded=every)
