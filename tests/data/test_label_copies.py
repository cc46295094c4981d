"""Columns that say the label, and words in cells that may be none, are said."""

import numpy as np
import pandas as pd
import pytest

from promise_jax import data

N = 60


def notes_of(folder, **columns):
  rng = np.random.default_rng(0)
  table = {"size": rng.normal(size=N), "colour": rng.permutation(["red", "blue"] * (N // 2))}
  table |= {"y": np.array(["a", "b", "c"])[np.arange(N) % 3]} | columns
  pd.DataFrame(table).to_csv(folder / "own.csv", index=False)
  return data.load(folder / "own.csv", label="y").notes


@pytest.mark.parametrize(
  ("columns", "is_copy"),
  [
    ({"code": np.arange(N) % 3 + 7}, True),
    ({"code": np.arange(N) % 6}, True),  # two codes of each class
    ({"code": np.where(np.arange(N) % 7, np.arange(N) % 3, 0)}, False),
    ({"code": np.where(np.arange(N) % 2, np.nan, np.arange(N) % 3)}, True),  # where it is there
    ({"code": np.arange(N) * 3 + 5.5}, False),  # a value a row
    ({"y": np.linspace(0, 1, N) ** 2, "code": 7 - 100 * np.linspace(0, 1, N) ** 2}, True),
    ({"y": np.linspace(0, 1, N) ** 2, "code": np.linspace(0, 1, N)}, False),
  ],
)
def test_a_column_that_says_the_label_is_said(tmp_path, columns, is_copy):
  lines = [note for note in notes_of(tmp_path, **columns) if "says the label" in note]
  assert [line.split()[2] for line in lines] == ["code"] * is_copy
  assert all("columns=code=ignore" in line for line in lines)


def test_words_that_count_as_missing_are_named(tmp_path, save_npz):
  y = np.array(["None", "mild", "severe"])[np.arange(N) % 3]
  notes = notes_of(tmp_path, y=y, country=np.array(["NA", "DE", "FR", "DE"])[np.arange(N) % 4])
  assert notes[0] == "own.csv: label y: 2 classes, mild, severe, 20 of 60 cells missing, as 'None'."
  assert any("category of modality attributes, 15 of 60 cells missing, as 'NA'" in n for n in notes)
  arrays = {"x_v": np.arange(2.0 * N).reshape(N, 2), "y": np.array(["a", "b", "nan"] * (N // 3))}
  (note, *_) = data.load(save_npz(arrays)).notes
  assert note == "own.npz: 'nan' is read as a class; a row without a label has an empty one."


def test_texts_that_are_words_for_missing_are_absent(save_npz):
  texts = np.array(["NA", "a word", "nan", ""] * (N // 4))
  found = data.load(save_npz({"x_t": texts, "y": np.arange(N) % 3}))
  for name in found.splits:
    split = found.split(name)
    assert split.recorded[:, 0].tolist() == (split.id % 4 == 1).tolist()
