"""Pickles of MOSI, MOSEI and CH-SIMS -> Source, in the two layouts that are about.

  MMSA            {train, valid, test} -> text [N, T, D], text_bert [N, 3, T] (ids,
                  mask, segment), audio, vision, id, regression_labels [N]; unaligned
                  files: audio_lengths, vision_lengths [N]; classification_labels [N]
  MulT / CMU-SDK  {train, valid, test} -> text, audio, vision, labels [N, 1, 1], id [N]
                  or [N, 3], where there is one

Other fields (raw_text, annotations, the unimodal labels of CH-SIMS) and other splits
are not read. Dimensions come from the file; a modality [N, D] is a vector. -inf and NaN
are for `cleaning` to treat: MMSA itself puts 0 for the -inf of audio, which is
nonfinite="value".

Which steps are real: those that `<modality>_lengths` says; of the text, else, as many
as the mask in text_bert has ones (MMSA's `data_missing` counts so). Where the file does
not say, steps of zeros alone at both ends are padding (the loader of MultiBench cuts
those in front off). In an aligned file, one T for all and no lengths, a step is the
same word in all modalities, so padding is what is zero, or masked, in all three (ours).
Real steps are moved to the start; a row without any is absent.

`id` is the rank of the clip's name among those of the file (ours): the aligned and the
unaligned file of the same clips get the same masks. Clips named video$_$clip form a
group by video, provided that no video is in two splits.
"""

import hashlib
import pathlib
from typing import Any

import numpy as np

from promise_jax.data import source
from promise_jax.data.readers import npz_file, npz_labels
from promise_jax.data.readers.mmsa_fields import MODALITIES, Part, read_parts
from promise_jax.evaluation import sentiment_metrics
from promise_jax.types import Modality, Task

SENTIMENT, SIMS = 3.0, 1.0  # units of the labels: -3 to 3, -1 to 1
POLARITIES = ("negative", "neutral", "positive")

# First and last digits of the SHA-256 of the files that MMSA offers, from its README.
KNOWN = {
  ("d3994fd2", "9e5f9"): "MOSI aligned_50",
  ("78e0f8b5", "2e02524"): "MOSI unaligned_50",
  ("45eccfb7", "bf791"): "MOSEI aligned_50",
  ("ad8b23d5", "dd6fec1f"): "MOSEI unaligned_50",
  ("c9e20c13", "d442f"): "CH-SIMS unaligned_39",
}


def read_mmsa(
  path: pathlib.Path, *, scale: float | None = None, classes: bool = False
) -> source.Source:
  """The data set in the pickle `path`, which is read here, once and whole; a split is
  given up as it is handed out.

  `scale` replaces the unit of the labels, which follows from their range: within -1 to
  1 that of CH-SIMS (1), within -3 to 3 that of MOSI and MOSEI (3); each is reported in
  its own metrics. With `classes` the classification_labels of MMSA are the task.
  ValueError names the file and the first field that is off the layout.
  """
  with npz_file.naming(path):
    kept = read_parts(path, classes)
    modalities = tuple(describe(m, kept) for m in MODALITIES)
    # The unit may not depend on test labels; the classes are those of all splits.
    read_of = kept if classes else [split for split in kept if split != "test"]
    every = np.concatenate([kept[split].label for split in read_of])
    task, note = make_task(every, scale, classes)
    ids, groups = number_clips(kept)
    notes = (hash_note(path), *note)
  sizes = ", ".join(f"{len(part.label)} {s}" for s, part in kept.items())
  shapes = ", ".join(f"{m.name} {' x '.join(map(str, m.shape))}" for m in modalities)

  def rows(split: str) -> source.Rows:
    if split not in kept:
      kept.update(read_parts(path, classes))
    part = kept.pop(split)
    recorded = np.ones((len(part.label), len(modalities)), bool)
    return source.Rows(cut(part), {}, recorded, part.label, ids[split], groups[split])

  return source.Source(
    name=path.stem,
    card=f"Sentiment pickle {path.name}: {sizes} rows; {shapes}; {'; '.join(notes)}.",
    modalities=modalities,
    task=task,
    splits=npz_labels.SPLITS,
    rows=rows,
    place=str(path),
    notes=tuple(f"{path.name}: {note}." for note in notes),
  )


def hash_note(path: pathlib.Path) -> str:
  """Whose file this is, by its SHA-256."""
  with path.open("rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
  for (start, end), name in KNOWN.items():
    if digest.startswith(start) and digest.endswith(end):
      return f"the SHA-256 begins and ends as that of MMSA's {name}, {start}...{end}"
  return f"the SHA-256 is that of none of MMSA's files, {digest}"


def make_task(
  label: np.ndarray, scale: float | None, classes: bool
) -> tuple[Task, tuple[str, ...]]:
  """The task of the labels [N] of all splits, and what was made of their range."""
  low, high = float(label.min()), float(label.max())
  if classes:
    names = POLARITIES if high == 2 else tuple(map(str, range(int(high) + 1)))
    return Task("classes", len(names), names), ()
  largest, told = max(-low, high), f"labels lie in {low:g} to {high:g}"
  if scale is None and largest > SENTIMENT:
    raise ValueError(
      f"{told}, expected are -3 to 3 (MOSI, MOSEI) or -1 to 1 (CH-SIMS); for others "
      "give the option scale."
    )
  if scale is None:
    scale = SENTIMENT if largest > SIMS else SIMS
    told += f", taken for {'MOSI or MOSEI' if scale == SENTIMENT else 'CH-SIMS'}"
  if not 0 < scale < np.inf:
    raise ValueError(f"scale is {scale}, expected is a positive number.")
  # The unit 1 alone does not tell CH-SIMS from any other regression.
  sims = scale == SIMS and largest <= SIMS
  names = sentiment_metrics.SIMS_LABEL if sims else ()
  return Task("regression", 1, names, float(scale)), (f"{told}, unit {scale:g}",)


def number_clips(
  parts: dict[str, Part],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray | None]]:
  """{split: id i64[N]} and {split: group i64[N] or None}, see above; without names the
  ids are the numbers of the rows. ValueError for a name that occurs twice."""
  sizes = [len(part.label) for part in parts.values()]
  ends = np.cumsum(sizes)[:-1]
  if any(part.names is None for part in parts.values()):
    return dict(zip(parts, np.split(np.arange(sum(sizes)), ends), strict=True)), {
      split: None for split in parts
    }
  names = [name for part in parts.values() for name in part.names]
  known, first, rank = np.unique(names, return_index=True, return_inverse=True)
  if len(known) < len(names):
    again = int(np.setdiff1d(np.arange(len(names)), first)[0])
    raise ValueError(f"id {names[again]!r} is there twice, every clip has its own.")
  ids = dict(zip(parts, np.split(rank, ends), strict=True))
  videos = [name.partition("$_$")[0] for name in names]
  group = np.split(np.unique(videos, return_inverse=True)[1], ends)
  apart = len(set(videos)) == sum(len(set(g.tolist())) for g in group)
  if not apart or not all("$_$" in name for name in names):
    group = [None] * len(parts)
  return ids, dict(zip(parts, group, strict=True))


def describe(name: str, parts: dict[str, Part]) -> Modality:
  """The modality: T is the largest, D the one of all splits."""
  shapes = {split: part.values[name].shape[1:] for split, part in parts.items()}
  train = shapes["train"]
  for split, shape in shapes.items():
    if len(shape) != len(train) or shape[-1] != train[-1]:
      raise ValueError(f"{split}, {name} has rows of shape {shape}, those of train have {train}.")
  kind = "sequence" if len(train) == 2 else "vector"
  return Modality(name, kind, max(shapes.values()))


def cut(part: Part) -> dict[str, Any]:
  """{modality: N arrays [real steps, D], or one array [N, D]}, f32."""
  real = real_steps(part)
  inputs: dict[str, Any] = {}
  for name, values in part.values.items():
    with np.errstate(over="ignore"):  # what no float32 can hold is inf, and reported
      inputs[name] = values.astype(np.float32, copy=False)
    if name in real:
      start, stop = real[name]
      spans = zip(inputs[name], start.tolist(), stop.tolist(), strict=True)
      inputs[name] = [row[a:b] for row, a, b in spans]
  return inputs


def real_steps(part: Part) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """{sequence: (first, end) i64[N] each} of what is no padding, see above."""
  sequences = {m: v for m, v in part.values.items() if v.ndim == 3}
  inside = {
    m: np.arange(v.shape[1]) < part.steps[m][:, None] if m in part.steps else v.any(axis=-1)
    for m, v in sequences.items()
  }
  lengths = {v.shape[1] for v in sequences.values()}
  if len(sequences) == 3 and len(lengths) == 1 and part.steps.keys() <= {"text"}:
    anywhere = np.logical_or.reduce(list(inside.values()))
    inside |= {m: anywhere for m in sequences if m not in part.steps}
  found = {}
  for m, steps in inside.items():
    start, stop = steps.argmax(1), steps.shape[1] - steps[:, ::-1].argmax(1)
    found[m] = start, np.where(steps.any(1), stop, 0)
  return found
