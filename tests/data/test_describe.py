"""The lines on a data set say what a hand-made one has in it."""

import numpy as np
from npz_files import N, plain

from promise_jax import data
from promise_jax.data import describe


def lines_of(found):
  return describe.describe_data(found, {name: found.split(name) for name in found.splits})


def test_every_line_of_a_small_file(save_npz):
  x = np.linspace(-2, 9, 2 * N).reshape(N, 2)
  arrays = plain(
    x_v=x,
    x_photo=np.full((N, 1, 5, 4), 7, np.uint8),
    x_words=np.array(["a b"] * N),
    x_counts=np.arange(4 * N).reshape(N, 4) % 3,
    x_s=np.ones((N, 4, 3)) * 2000,
    present_v=np.arange(N) != 1,
    group=np.arange(N) // 3,
    y=np.array([0, 1] * 5 + [2, 1]),
    classes=np.array(["cat", "dog", "eel"]),
  )
  assert lines_of(data.load(save_npz(arrays), vocabulary=64)) == [
    "own: one of 3 classes: cat, dog, eel; guessed from integers; task=regression says otherwise.",
    "  split  rows  groups  rows of each class, in this order",
    "  train  6     2       3, 3, 0",
    "  valid  3     1       2, 1, 0",
    "  test   3     1       0, 2, 1",
    "  modality  kind      a row is                          values            "
    "rows with it in train  in valid  in test",
    "  v         vector    2 numbers                         -2 to 9           "
    "5                      3         3",
    "  s         sequence  up to 4 steps of 3 numbers        2,000 to 2,000    "
    "6                      3         3        guessed, float64 of 3 dimensions; "
    "kinds.s=image says otherwise",
    "  photo     image     5 x 4 pixels of 1 grey            7 to 7            "
    "6                      3         3        its channels come first and are moved behind",
    "  words     tokens    a text, up to 2 words and pieces  hashed to 64 ids  "
    "6                      3         3",
    "  counts    vector    4 numbers                         0 to 2            "
    "6                      3         3        guessed, zeros between other integers of a row; "
    "kinds.counts=tokens says otherwise",
  ]


def test_numbers_and_several_labels(save_npz):
  y = np.arange(N) / 4
  found = data.load(save_npz(plain(y=y, scale=np.array(0.5), split=None)))
  lines = lines_of(found)
  assert lines[0] == "own: a number, 0 to 2.75, in units of 0.5."
  assert lines[1].split()[-2:] == ["mean", "label"]
  mean = found.split("train").label.mean()
  assert lines[2].split() == ["train", str(len(found.split("train").id)), f"{mean:.3g}"]
  assert (
    lines[5]
    == "  The splits are drawn, 60/20/20 % of labelled rows; split in the data says otherwise."
  )
  y = np.stack([np.arange(N) < 8, np.arange(N) < 2], axis=1)
  lines = lines_of(data.load(save_npz(plain(y=y))))
  assert lines[0] == "own: 2 labels, each yes or no: 0, 1."
  assert lines[2:5] == ["  train  6     6, 2", "  valid  3     2, 0", "  test   3     0, 0"]


def test_many_classes_are_counted_from_to(save_npz):
  y = np.array([*range(20)] + [0] * 5 + [*range(20)] * 2)
  split = np.array(["train"] * 25 + ["valid"] * 20 + ["test"] * 20)
  found = data.load(
    save_npz({"x_v": np.random.default_rng(0).normal(size=(65, 2)), "y": y, "split": split})
  )
  lines = lines_of(found)
  assert lines[1].endswith("rows of each class")
  assert lines[2].split()[2:] == ["1", "to", "6"]
