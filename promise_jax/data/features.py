"""Features of frozen encoders: computed once, cached, used in place of a modality.

`feature_encoders` says what an encoder is. A cache file is named by a hash of the data set's
name, of the values that the encoder sees and of the encoder: for an imported function the
source file of its module (not what that imports, nor weights: name those in the source), for
`FeatureEncoder` its version, for a folder the contents of its files. A cached encoder is
neither called nor imported. Ours.
"""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from promise_jax import files
from promise_jax.checks import check_choice
from promise_jax.data import cleaning, dataset, feature_encoders, preprocessing, scaling
from promise_jax.data import source as data_source
from promise_jax.data.feature_encoders import EncoderInputs, EncoderSpec, FeatureEncoder, Features
from promise_jax.types import Modality

__all__ = ["FeatureEncoder", "extract_features"]


def extract_features(
  source: data_source.Source,
  encoders: Mapping[str, EncoderSpec],
  *,
  nonfinite: str = "auto",
  zeros: str = "auto",
  folder: str | os.PathLike | None = None,
) -> data_source.Source:
  """Replaces modalities by the features of `encoders` {modality: encoder}.

  All splits are read; the labels are not used. `folder` is that of the cache, by default
  promise_jax/features in the user's cache folder. Raises ValueError for an unknown modality,
  no encoder, or features of a wrong shape.
  """
  names = [m.name for m in source.modalities]
  for name in encoders:
    check_choice("a modality in frozen", name, names)
  check_choice("nonfinite", nonfinite, cleaning.NONFINITE)
  check_choice("zeros", zeros, cleaning.ZEROS)
  rules = cleaning.Rules(nonfinite, zeros)
  folder = pathlib.Path(folder or files.cache_folder("features")).expanduser()
  rows = {split: source.rows(split) for split in source.splits}
  modalities, notes, new_rows = list(source.modalities), list(source.notes), dict(rows)
  encoded = dict(source.encoded)
  for i, name in enumerate(names):
    if name not in encoders:
      continue
    inputs, recorded, raw = collect_inputs(source, rows, i, rules)
    encoded[name] = preprocessing.EncodedModality(raw, str(encoders[name]))
    try:
      words, key, compute = feature_encoders.find_encoder(encoders[name], inputs.id)
      digest = feature_encoders.hash_parts(source.name, name, key, *inputs)
      path = folder / f"{source.name}-{name}-{digest[:16]}.npz"
      how = "read from" if path.exists() else "computed and kept in"
      if not path.exists():
        x, length = feature_encoders.join_blocks(list(compute(inputs)))
        folder.mkdir(parents=True, exist_ok=True)
        files.write_npz(path, {"x": x} | ({} if length is None else {"length": length}))
    except (ValueError, ImportError, AttributeError) as error:
      raise ValueError(
        f"frozen.{name} is {str(encoders[name])!r}: {str(error).rstrip('.')}."
      ) from error
    with np.load(path) as file:
      x, length = file["x"], file.get("length")
    shape = x.shape[1:]
    modalities[i] = Modality(name, "vector" if length is None else "sequence", shape)
    size = " x ".join(map(str, shape))
    notes.append(f"{source.name}, {name}: features {size} of {words}, {how} {path}.")
    start = 0
    for split, here in recorded.items():
      block = slice(start, start := start + int(here.sum()))
      features = x[block], None if length is None else length[block]
      new_rows[split] = insert_features(new_rows[split], i, name, here, features)
  return source._replace(
    modalities=tuple(modalities),
    rows=new_rows.__getitem__,
    notes=tuple(notes),
    blocks=None,
    encoded=encoded,
  )


def collect_inputs(
  source: data_source.Source, rows: dict[str, data_source.Rows], i: int, rules: cleaning.Rules
) -> tuple[EncoderInputs, dict[str, np.ndarray], Modality]:
  """What the encoder of modality number `i` sees, {split: bool[N]} which rows that are, and the
  modality without an open length."""
  name = source.modalities[i].name
  modality = cleaning.resolve_length(source.modalities[i], rows["train"].inputs[name])
  one = data_source.keep_modalities(source, [name])._replace(modalities=(modality,))
  parts, recorded = [], {}
  for split, every in rows.items():
    part = every._replace(recorded=every.recorded[:, i : i + 1])
    clean = dataset.clean_rows(one, split, (modality,), part, rules)[name]
    dataset.log_report(source.name, split, {name: clean.report})
    recorded[split] = clean.recorded
    parts.append(encoder_inputs(modality, clean, part.id))
  x, length, ids = (
    None if arrays[0] is None else np.concatenate(arrays) for arrays in zip(*parts, strict=True)
  )
  if not len(ids):
    raise ValueError(
      f"{source.name}: modality {name!r} is in no row, frozen has nothing to encode."
    )
  return EncoderInputs(x, length, ids), recorded, modality


def encoder_inputs(
  modality: Modality, clean: cleaning.CleanModality, ids: np.ndarray
) -> EncoderInputs:
  """What an encoder sees of cleaned rows: those that have the modality."""
  here, length = clean.recorded, None
  if modality.kind == "sequence":
    length = clean.length[here]
  elif modality.kind == "tokens":  # zeros inside a row count
    steps = np.arange(1, clean.kept_mask.shape[1] + 1, dtype=np.int32)
    length = (clean.kept_mask * steps).max(axis=1, initial=0)[here]
  values = scaling.standardise(clean.values, clean.kept_mask, None)
  return EncoderInputs(values[here], length, ids[here])


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
      rows = insert_features(rows, i, modality.name, here, empty_features(modality))
      continue
    inputs = encoder_inputs(entry.raw, cleaned[modality.name], rows.id)
    try:
      _, _, compute = feature_encoders.find_encoder(entry.encoder, inputs.id)
      x, length = feature_encoders.join_blocks(list(compute(inputs)))
    except (ValueError, ImportError, AttributeError) as error:
      reason = f"{modality.name} is read by the encoder {entry.encoder!r}, which fails"
      raise ValueError(f"{reason}: {str(error).rstrip('.')}.") from error
    rows = insert_features(rows, i, modality.name, here, (x, length))
  return rows


def empty_features(modality: Modality) -> Features:
  """The features of no row."""
  length = np.zeros(0, np.int64) if modality.kind == "sequence" else None
  return np.zeros((0, *modality.shape), np.float32), length


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
