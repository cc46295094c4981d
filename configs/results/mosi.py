"""Writes mosi.npz, utterance features of CMU-MOSI, from the csv files of bc-LSTM.

  git clone --depth=1 https://github.com/declare-lab/multimodal-deep-learning
  python configs/results/mosi.py multimodal-deep-learning/bc-LSTM/data mosi.npz

A line of a file holds the features of a clip and its label, 0 or 1. The files have train and test
rows; a fifth of the train rows of each class, drawn at random, becomes validation rows. Features
are standardised on train and validation. Whoever made the features of text trained a network on
the train rows: on them, and on validation rows, text says more than on test rows.
"""

import sys
from pathlib import Path

import numpy as np

MODALITIES = ("text", "audio", "video")


def read_csv(folder: Path, name: str, split: str) -> np.ndarray:
  return np.loadtxt(folder / name / f"{name}_{split}0.csv", delimiter=",", quotechar='"')


def draw_valid(label: np.ndarray, seed: int = 0) -> np.ndarray:
  """ "train" or "valid" of each row, a fifth of each class "valid"."""
  rng, split = np.random.default_rng(seed), np.full(len(label), "train")
  for value in np.unique(label):
    rows = np.flatnonzero(label == value)
    split[rng.choice(rows, len(rows) // 5, replace=False)] = "valid"
  return split


def main(folder: str, out: str) -> None:
  arrays = {}
  for name in MODALITIES:
    train, test = (read_csv(Path(folder), name, split) for split in ("train", "test"))
    scale = train[:, :-1].std(0)
    scale[scale == 0] = 1
    rows = np.concatenate([train, test])
    arrays[f"x_{name}"] = ((rows[:, :-1] - train[:, :-1].mean(0)) / scale).astype(np.float32)
    label = rows[:, -1].astype(np.int64)
    if (arrays.setdefault("y", label) != label).any():
      raise ValueError(f"the labels of {name} are others than those of {MODALITIES[0]}")
  split = np.append(draw_valid(arrays["y"][: len(train)]), np.full(len(test), "test"))
  np.savez(out, **arrays, split=split)


if __name__ == "__main__":
  main(*sys.argv[1:])
