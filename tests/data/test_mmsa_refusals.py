"""A sentiment pickle that breaks the layout is refused in one sentence."""

import pickle

import numpy as np
import pytest
from sentiment_files import make

from promise_jax import data


@pytest.fixture
def save(tmp_path):
  def write(tree):
    (tmp_path / "own.pkl").write_bytes(pickle.dumps(tree, 4))
    return tmp_path / "own.pkl"

  return write


def change(split, field, value):
  """Changes one field of a good file to `value`, or to what it makes of the old one."""

  def apply(files):
    old = files[split].get(field)
    files[split][field] = value(old) if callable(value) else value

  return apply


def drop(split, field=None):
  def apply(files):
    del (files[split] if field else files)[field or split]

  return apply


def put(index, value):
  def apply(old):
    new = np.array(old)
    new[index] = value
    return new

  return apply


def empty_valid(files):
  files["valid"] = {k: v[:0] for k, v in files["valid"].items()}


def of_objects(old):
  return np.array([*[row[:2] for row in old[:-1]], old[-1]], object)


def deep_list(_):
  deep = []
  for _ in range(300):
    deep = [deep]
  return deep


AUDIO, LABEL, LENGTH = (
  ("train", "audio"),
  ("train", "regression_labels"),
  ("train", "audio_lengths"),
)
# fmt: off
BAD = [
  (drop("valid"), r"the pickle has no 'valid', found are 'train', 'test'"),
  (lambda f: f.update(train=[1]), "train is of type list, expected is a dict"),
  (drop("train", "vision"), "train has no 'vision', found are 'text', 'audio', "),
  (drop("test", "regression_labels"), "test has no 'regression_labels', found are"),
  (change(*AUDIO, 3), r"train, audio is int64 of shape \(\), expected: numbers"),
  (change(*AUDIO, lambda x: x[:-1]), "train, audio has 5 rows, but there are 6"),
  (change(*AUDIO, lambda x: x[:, 0, 0]), r"float32 of shape \(6,\), expected: num"),
  (change(*AUDIO, lambda x: x[:, :, :0]), r"shape \(6, 7, 0\), expected: numbers"),
  (change(*AUDIO, lambda x: x.astype(str)), r"is <U\d+ of shape"),
  (change(*AUDIO, lambda x: x.astype("c8")), "an array of dtype 'c8', admitted are numbers"),
  (change(*AUDIO, lambda x: x.astype(object)), "is object of shape"),
  (change(*AUDIO, of_objects), "array of objects .*, as rows of different shapes make it"),
  (change(*AUDIO, lambda x: [*x.tolist()[:-1], [[1.0] * 3]]), "different shapes"),
  (change(*AUDIO, deep_list), "train, audio is a list of rows|train, audio is"),
  (change("test", "audio", lambda x: x[:, :, :2]), r"test, audio has rows of shape \(7, 2\)"),
  (change("test", "audio", lambda x: x[:, 0]), r"test, audio has rows of shape \(3,\), thos"),
  (change(*LENGTH, put(1, 8)), "audio_lengths, row 1: found 8, .* 0 to 7"),
  (change(*LENGTH, [0.5] * 6), "audio_lengths, row 0: found 0.5, expected"),
  (change(*LENGTH, [[1, 2]] * 6), r"audio_lengths is int64 of shape \(6, 2"),
  (change("train", "text_bert", lambda b: b[1:]), "train, text_bert has 5 rows, but there"),
  (change("train", "text_bert", put((2, 1, 0), 7)), "text_bert, row 2: found .*, expected: "),
  (change(*LABEL, put(3, np.inf)), "regression_labels, row 3: found inf"),
  (change(*LABEL, put(3, 3.5)), "labels lie in .* to 3.5, expected a"),
  (change(*LABEL, np.ones((6, 7))), r"valid, .* has rows of shape \(\), those of train have \(7,"),
  (change(*LABEL, ["Good"] * 6), "regression_labels is <U4 of shape"),
  (empty_valid, r"valid, regression_labels has the shape \(0,\), .* N above 0"),
  (change("train", "id", lambda n: n[:1] + n[:5]), r"id 'train0\$_\$0' is there twice"),
  (change("train", "id", lambda n: n[1:]), "train, id has 5 rows, but there are 6 labels"),
  (change("train", "id", np.zeros((6, 2, 2))), r"train, id is float64 of shape \(6, 2, 2\), expec"),
  (change("train", "id", "names"), r"train, id is <U5 of shape \(\), expected: names"),
  (change("train", "raw_text", [print] * 6), "asks for 'builtins.print', which no array"),
]
# fmt: on


@pytest.mark.parametrize(("spoil", "match"), BAD)
def test_a_bad_file_is_one_sentence(save, spoil, match):
  files, _ = make()
  spoil(files)
  path = save(files)
  with pytest.raises(ValueError, match=match) as caught:
    data.load(path)
  sentence = str(caught.value)
  assert sentence.startswith(f"{path}: ") and sentence.endswith(".")
  assert "\n" not in sentence and sentence.count(str(path)) == 1


@pytest.mark.parametrize(
  ("tree", "options", "match"),
  [
    ([1, 2], {}, "the pickle is of type list, expected is a dict"),
    ({"x": np.ones(3)}, {}, "the pickle has no 'train', found are 'x'"),
    ({}, {}, "the pickle has no 'train', found are none"),
    (make()[0], {"scale": -1.0}, "scale is -1.0, expected is a positive number"),
    (
      make("mult")[0],
      {"classes": True},
      r"train, labels, row 0: found .* whole numbers from 0 to 999; task=regr",
    ),
  ],
)
def test_other_trees_and_options_are_refused(save, tree, options, match):
  with pytest.raises(ValueError, match=match):
    data.load(save(tree), **options)


def test_classes_are_whole_numbers_and_for_pickles_alone(save, tmp_path):
  files, _ = make()
  files["train"]["classification_labels"][1] = 0.5
  with pytest.raises(ValueError, match="labels, row 1: found 0.5, expected: whole numb"):
    data.load(save(files), classes=True)
  with pytest.raises(ValueError, match="'mfeat' has no option 'classes', its options are"):
    data.load("mfeat", classes=True, data_dir=tmp_path)


def test_a_cut_file_a_missing_one_and_a_folder_are_refused(save, tmp_path):
  path = save(make()[0])
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match=r"own.pkl: the file begins with .* a damaged one"):
    data.load(path)
  with pytest.raises(ValueError, match=r"none.pkl: No such file"):
    data.load(tmp_path / "none.pkl")
