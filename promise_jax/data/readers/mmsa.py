"""Reads the pickles of MOSI, MOSEI and CH-SIMS, in the two layouts that are in use.

  MMSA            {train, valid, test} -> text [N, T, D], text_bert [N, 3, T] (ids,
                  mask, segment), audio, vision, id, regression_labels [N]; unaligned
                  files: audio_lengths, vision_lengths [N]; classification_labels [N]
  MulT / CMU-SDK  {train, valid, test} -> text, audio, vision, labels [N, 1, 1], id [N]
                  or [N, 3], where there is one; IEMOCAP: labels [N, C, 2], pairs (no, yes)

A file may lack modalities; without `text`, raw_text [N] takes its place. Other fields
(annotations, the unimodal labels of CH-SIMS) and other splits are ignored. Dimensions come from
the file; a modality [N, D] is a vector. NaN and -inf are left to `cleaning`: MMSA itself puts 0 for
the -inf of audio, which is nonfinite="value".

Valid steps are as many as `<modality>_lengths` says; for the text otherwise the ones of the mask
in text_bert (as MMSA's `data_missing` counts); where they are, at the start or at the end, is seen
by the zeros (`cleaning.find_start`). Without either, steps of zeros at both ends
are padding (the loader of MultiBench cuts those in front off). In an aligned file, one T
for all and no lengths, a step is the same word in every modality, so padding is what is
zero, or masked, in all three (ours). Valid steps are moved to the start; a row without any, or of
zeros alone, is absent.

Where the label is NaN there is none: in train the row is unlabelled, elsewhere it is left out.

The id of a row is the rank of its clip's name in the file (ours), so the aligned and the
unaligned file of the same clips get the same masks. Clips named video$_$clip form a group
by video, unless a video is in two splits.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from promise_jax.data import cleaning
from promise_jax.data import source as data_source
from promise_jax.data.readers import integers, mmsa_labels, row_names
from promise_jax.data.readers.mmsa_fields import MODALITIES, Part, read_parts
from promise_jax.data.readers.text import hash_ngrams
from promise_jax.types import Modality


@dataclasses.dataclass(frozen=True)
class MmsaOptions(data_source.ReadOptions):
  """How a sentiment pickle is read.

  Without a `scale` it is 1 (CH-SIMS) if all labels lie in -1 to 1, 3 (MOSI, MOSEI) if in -3 to 3;
  each is then reported in its own metrics. `kinds` is of modalities of integers [N, D].
  """

  classes: bool = False  # the same as task="classes"


def read_mmsa(path: pathlib.Path, options: MmsaOptions | None = None) -> data_source.Source:
  """The source in a pickle, which is read whole; a split is freed as it is handed out. ValueError
  names the file and the first field that breaks the layout."""
  options = options or MmsaOptions()
  given = kind = options.task or ("classes" if options.classes else "")
  guesses = {}
  with data_source.name_file_in_errors(path, "a pickle file"):
    parts, target = read_parts(path, given)
    modalities = tuple(describe_modality(m, parts, options, guesses) for m in parts["train"].values)
    label = {split: part.label[part.labelled] for split, part in parts.items()}
    known = np.concatenate([label["train"], label["valid"]])  # nothing may depend on test labels
    if not kind:
      kind, guess = mmsa_labels.guess_task(known, parts["train"].is_pairs, options.scale)
      guesses |= {data_source.TASK: guess} if guess else {}
    for split, values in label.items():
      mmsa_labels.check_label(f"{split}, {target}", values, kind)
    every = known if kind == "regression" else np.concatenate(list(label.values()))
    is_polarity = target == "classification_labels"
    task, note = mmsa_labels.make_task(every, kind, options.scale, is_polarity)
    ids, groups = number_clips(parts)
    # A video in two splits, say, makes no groups.
    names = {split: part.names or () for split, part in parts.items()}
    about_ids = row_names.describe_names("ids", names) if groups["train"] is None else []
  sizes = ", ".join(f"{len(part.label)} {s}" for s, part in parts.items())
  shapes = ", ".join(f"{m.name} {' x '.join(map(str, m.shape))}" for m in modalities)
  notes = [note] if note else []
  notes += [f"there is no {m}" for m in MODALITIES if m not in parts["train"].values]
  notes += ["text is the raw_text"] if modalities[0].kind == "tokens" else []
  notes += [line.rstrip(".") for line in about_ids]
  if unlabelled := int(np.sum(~parts["train"].labelled)):
    notes.append(f"{unlabelled} rows without a label train as unlabelled rows")

  def rows(split: str) -> data_source.Rows:
    if split not in parts:
      parts.update(read_parts(path, given)[0])
    part = parts.pop(split)
    recorded = np.ones((len(part.label), len(modalities)), bool)
    inputs, length = cut_padding(part, modalities)
    label = part.label
    if task.kind == "classes":
      label = (label.argmax(axis=1) if label.ndim == 2 else label).astype(np.int32)
    texts = {m: x.tolist() for m, x in part.values.items() if x.dtype.kind == "U"}
    known = recorded, label, ids[split], groups[split]
    labelled = None if part.labelled.all() else part.labelled
    about = {"labelled": labelled, "key": part.names, "texts": texts}
    return data_source.Rows(inputs, length, *known, **about)

  return data_source.Source(
    name=path.stem,
    card=f"Sentiment pickle {path.name}: {sizes} rows; {shapes}.",
    modalities=modalities,
    task=task,
    splits=data_source.SPLITS,
    rows=rows,
    place=str(path),
    notes=tuple(f"{path.name}: {note}." for note in notes),
    guesses=guesses,
  )


def number_clips(parts: dict[str, Part]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """{split: id i64[N]} and {split: group i64[N] or None}, as described above.

  Without names the ids are the numbers of the rows. Raises ValueError for a name that
  occurs twice.
  """
  sizes = [len(part.label) for part in parts.values()]
  by_split = lambda values: dict(zip(parts, np.split(values, np.cumsum(sizes)[:-1]), strict=True))
  if any(part.names is None for part in parts.values()):
    return by_split(np.arange(sum(sizes))), dict.fromkeys(parts)
  names = [name for part in parts.values() for name in part.names]
  unique, rank, count = np.unique(names, return_inverse=True, return_counts=True)
  if count.max() > 1:
    raise ValueError(f"id {str(unique[count > 1][0])!r} is there twice, every clip has its own.")
  videos = [name.partition("$_$")[0] for name in names]
  groups = by_split(np.unique(videos, return_inverse=True)[1])
  disjoint = len(set(videos)) == sum(len(set(g.tolist())) for g in groups.values())
  named = all("$_$" in name for name in names)
  return by_split(rank), groups if disjoint and named else dict.fromkeys(parts)


def describe_modality(
  name: str, parts: dict[str, Part], options: MmsaOptions, guesses: dict[str, str]
) -> Modality:
  """The modality; T is the largest of all splits, D must be the same in all. What is guessed is
  added to `guesses`."""
  shapes = {split: part.values[name].shape[1:] for split, part in parts.items()}
  train = shapes["train"]
  for split, shape in shapes.items():
    if len(shape) != len(train) or shape[-1:] != train[-1:]:
      raise ValueError(f"{split}, {name} has rows of shape {shape}, those of train have {train}.")
  if not train:
    return Modality(name, "tokens", (None,), options.vocabulary)
  kind = "sequence" if len(train) == 2 else options.kinds.get(name, "vector")
  values = parts["train"].values[name]
  if len(train) == 1 and values.dtype.kind in "iu" and name not in options.kinds:
    kind, guesses[name] = integers.guess_kind_of(name, values)
  if kind == "tokens":
    return Modality(name, kind, train, options.vocabulary)
  return Modality(name, kind, max(shapes.values()))


def cut_padding(
  part: Part, modalities: tuple[Modality, ...]
) -> tuple[dict[str, Any], dict[str, Int[np.ndarray, " N"]]]:
  """The inputs, {modality: N arrays [valid steps, D]; an array [N, D], or with a length [N, T, D]},
  f32; or of tokens ids [N, T]; and the lengths."""
  spans, length = find_valid_steps(part), dict(part.length)
  inputs: dict[str, Any] = {}
  for modality in modalities:
    name, values = modality.name, part.values[modality.name]
    if values.dtype.kind == "U":
      inputs[name] = hash_ngrams(values.tolist(), modality.vocabulary)
      length[name] = np.count_nonzero(inputs[name], axis=1)
      continue
    if modality.kind == "tokens":
      inputs[name] = values
      continue
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is reported
      inputs[name] = values.astype(np.float32, copy=False)
    if name in spans and name not in part.length:
      start, stop = (s.tolist() for s in spans[name])
      inputs[name] = [row[a:b] for row, a, b in zip(inputs[name], start, stop, strict=True)]
  return inputs, length


def find_valid_steps(part: Part) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{sequence: (first valid step i64[N], the one after the last i64[N])}."""
  sequences = {m: v for m, v in part.values.items() if v.ndim == 3}
  inside = {
    m: mask_steps(v, part.length[m]) if m in part.length else v.any(axis=-1)
    for m, v in sequences.items()
  }
  lengths = {v.shape[1] for v in sequences.values()}
  num_arrays = sum(v.dtype.kind != "U" for v in part.values.values())
  is_aligned = len(lengths) == 1 and 1 < len(sequences) == num_arrays
  if is_aligned and part.length.keys() <= {"text"}:
    in_any = np.logical_or.reduce(list(inside.values()))
    inside |= {m: in_any for m in sequences if m not in part.length}
  spans = {}
  for m, steps in inside.items():
    start, stop = steps.argmax(1), steps.shape[1] - steps[:, ::-1].argmax(1)
    spans[m] = start, np.where(steps.any(1), stop, 0)
  return spans


def mask_steps(values: Float[np.ndarray, "N T D"], length: Int[np.ndarray, " N"]) -> np.ndarray:
  """bool[N, T]: as many valid steps as `length` says, wherever they are."""
  start = np.array([cleaning.find_start(*row) or 0 for row in zip(values, length, strict=True)])
  steps = np.arange(values.shape[1]) - start[:, None]
  return (steps >= 0) & (steps < length[:, None])
