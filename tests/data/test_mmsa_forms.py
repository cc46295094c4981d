"""Sentiment pickles that lack modalities, and labels of other forms."""

import pickle

import numpy as np
import pytest
from sentiment_files import SIZES, make

from promise_jax import data
from promise_jax.data import new_rows
from promise_jax.data.readers import mmsa, text
from promise_jax.types import Modality, Task

RNG = np.random.default_rng(0)


@pytest.fixture
def save(tmp_path):
  def write(tree, name="own.pkl"):
    (tmp_path / name).write_bytes(pickle.dumps(tree, 4))
    return tmp_path / name

  return write


def with_labels(draw, layout="mult"):
  """A file whose labels are `draw(rows)`, and all of them in order."""
  files, _ = make(layout)
  for split, count in SIZES.items():
    files[split]["labels"] = draw(count)
  return files, np.concatenate([files[split]["labels"] for split in SIZES])


def labels(found):
  return np.concatenate([found.split(split).label for split in SIZES])


def check_equal(found, clean, names):
  for split in SIZES:
    ours, theirs = found.split(split), clean.split(split)
    for name in names:
      np.testing.assert_array_equal(ours.inputs[name], theirs.inputs[name])
    np.testing.assert_array_equal(ours.label, theirs.label)
    np.testing.assert_array_equal(ours.id, theirs.id)


@pytest.mark.parametrize("layout", ["unaligned", "aligned", "mult"])
@pytest.mark.parametrize("lacks", ["vision", "audio"])
def test_what_a_file_has_is_read(save, layout, lacks):
  files, _ = make(layout)
  names = [m for m in ("text", "audio", "vision") if m != lacks]
  clean = data.load(save(files), modalities=names)
  for fields in files.values():
    fields[lacks] = None
  for fields in (files["train"], files["test"]):
    del fields[lacks]
  for options in ({}, {"modalities": "+".join(names)}):
    found = data.load(save(files, "less.pkl"), **options)
    assert found.spec.modalities == clean.spec.modalities
    assert f"less.pkl: there is no {lacks}." in found.notes
    check_equal(found, clean, names)


def test_raw_text_is_the_text_where_there_is_no_other(save):
  files, _ = make()
  words = {}
  for split, fields in files.items():
    del fields["text"], fields["text_bert"]
    words[split] = [f"word {'x' * i}" for i in range(len(fields["id"]))]
    fields["raw_text"] = np.array(words[split])
  files["train"]["raw_text"] = [*words["train"][:-1], None]
  clean = data.load(save(make()[0]), modalities="audio+vision")
  found = data.load(save(files), vocabulary=64)
  longest = np.count_nonzero(text.hash_ngrams(words["train"][:-1], 64), axis=1).max()
  assert found.spec.modalities[0] == Modality("text", "tokens", (longest,), 64)
  assert "own.pkl: text is the raw_text." in found.notes
  assert found.preprocessing.texts == ("text",)
  check_equal(found, clean, ("audio", "vision"))
  for split, texts in words.items():
    expected = text.hash_ngrams(texts, 64, longest)
    expected[-1] *= split != "train"
    np.testing.assert_array_equal(found.split(split).inputs["text"], expected)
  assert found.split("train").recorded[:, 0].tolist() == [True] * 5 + [False]
  ((rows, _, _),) = new_rows.read_new_rows({"text": words["test"]}, found.preprocessing)
  cleaned, _ = found.preprocessing.clean(rows)
  np.testing.assert_array_equal(cleaned.inputs["text"], found.split("test").inputs["text"])


def test_a_file_of_raw_text_alone(save):
  files, _ = make()
  keep = ("raw_text", "regression_labels", "id")
  files = {split: {name: fields[name] for name in keep} for split, fields in files.items()}
  assert data.load(save(files)).spec.names == ("text",)


def test_pairs_are_several_labels(save):
  files, pairs = with_labels(lambda n: np.eye(2)[RNG.integers(0, 2, (n, 4))])
  found = data.load(save(files))
  assert found.spec.task == Task("multilabel", 4, ("0", "1", "2", "3"))
  np.testing.assert_array_equal(labels(found), pairs.argmax(axis=2))
  assert labels(found).dtype == np.float32
  plain, _ = make("mult")
  for split in SIZES:
    plain[split]["labels"] = files[split]["labels"][:, :, 1]
  np.testing.assert_array_equal(labels(data.load(save(plain), task="multilabel")), labels(found))


@pytest.mark.parametrize("form", ["one-hot", "pairs", "numbers", "column"])
def test_classes_of_any_array(save, form):
  number = {split: np.arange(count) % 3 for split, count in SIZES.items()}
  files, _ = make("mult")
  for split, y in number.items():
    one_hot = np.eye(3)[y]
    made = {"one-hot": one_hot, "pairs": np.stack([1 - one_hot, one_hot], 2), "numbers": y}
    files[split]["labels"] = (made | {"column": y[:, None, None] * 1.0})[form]
  found = data.load(save(files), task="classes")
  assert found.spec.task == Task("classes", 3, ("0", "1", "2"))
  assert labels(found).tolist() == np.concatenate(list(number.values())).tolist()
  if form == "one-hot":
    assert data.load(save(files)).spec.task == found.spec.task
    assert data.load(save(files), task="multilabel").spec.task.kind == "multilabel"
  if form in ("numbers", "column"):
    with pytest.raises(ValueError, match="whole numbers, 0.0, 1.0, 2.0: say task=classes or task"):
      data.load(save(files))
    assert data.load(save(files), task="regression").spec.task == Task("regression", 1, scale=3.0)


@pytest.mark.parametrize(
  ("draw", "options", "match"),
  [
    (lambda n: np.ones((n, 4, 2)), {}, "train, labels, row 0: found .* pairs of a 0 and a 1"),
    (lambda n: np.full((n, 4), 0.5), {}, "train, labels, row 0: found .* 0 and 1 alone"),
    (lambda n: np.ones((n, 4)), {"task": "classes"}, "one 1 a row; task=multilabel takes several"),
    (
      lambda n: np.ones((n, 4)),
      {"task": "regression"},
      r"shape \(6, 4\), which cannot be task=reg",
    ),
    (lambda n: np.full(n, 0.5), {"task": "multilabel"}, r"shape \(6,\), which cannot be task=mult"),
    (lambda n: np.ones((n, 4, 3)), {}, r"labels has the shape \(6, 4, 3\), expected: one number"),
    (lambda n: np.full(n, 0.5), {"task": "class"}, "task is 'class', known are classes"),
  ],
)
def test_labels_of_no_form_are_refused(save, draw, options, match):
  with pytest.raises(ValueError, match=match):
    data.load(save(with_labels(draw)[0]), **options)


def test_a_file_without_any_modality_is_refused(save):
  files, _ = make("mult")
  files = {split: {"labels": fields["labels"]} for split, fields in files.items()}
  with pytest.raises(ValueError, match="train has none of text, audio, vision and raw_text, found"):
    data.load(save(files))


@pytest.mark.parametrize("kind", ["vector", "tokens"])
def test_integers_of_a_modality_are_numbers_or_ids(save, kind):
  files, _ = make()
  for fields in files.values():
    count = len(fields["id"])
    ids = np.where(np.arange(6) < 3, RNG.integers(1, 9, (count, 6)), 0)
    fields["text"] = ids if kind == "tokens" else RNG.integers(-3, 4, (count, 6))
  found = data.load(save(files))
  vocabulary = 8192 if kind == "tokens" else 0
  assert found.spec.modalities[0] == Modality("text", kind, (6,), vocabulary)
  assert found.guesses["text"].startswith("guessed, ")
  said = data.load(save(files), kinds={"text": kind})
  check_equal(found, said, found.spec.names)
  assert "text" not in said.guesses
  if kind == "tokens":
    np.testing.assert_array_equal(found.split("test").inputs["text"], files["test"]["text"])


def test_a_split_is_read_twice_with_the_same_labels(save):
  files, _ = with_labels(lambda n: np.eye(3)[np.arange(n) % 3])
  for fields in files.values():
    fields["classification_labels"] = np.ones(len(fields["labels"]))
  source = mmsa.read_mmsa(save(files))
  first, again = source.rows("train"), source.rows("train")
  assert first.label.tolist() == again.label.tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("layout", ["unaligned", "mult"])
def test_rows_without_a_label_train_and_never_validate(save, layout):
  files, _ = make(layout)
  target = "labels" if layout == "mult" else "regression_labels"
  expected = {split: dict(fields) for split, fields in files.items()}
  expected["valid"] = {name: np.delete(x, 1, axis=0) for name, x in files["valid"].items()}
  clean = data.load(save(expected, "clean.pkl"))
  for split, row in (("train", 2), ("valid", 1)):
    files[split][target] = files[split][target].copy()
    files[split][target][row] = np.nan
  found = data.load(save(files))
  assert found.labelled.tolist() == [i != 2 for i in range(SIZES["train"])]
  clean.split("train").label[2] = 0
  check_equal(found, clean, ("text", "audio", "vision"))
  assert "own.pkl: 1 rows without a label train as unlabelled rows." in found.notes


def test_a_video_in_two_splits_and_names_that_are_alike_are_said(save):
  files, _ = make()
  for split, count in SIZES.items():
    files[split]["id"] = [f"video{i % 2}$_${split}{i}" for i in range(count)]
  files["test"]["id"][0] = files["train"]["id"][0].upper()
  notes = data.load(save(files)).notes
  assert any("'video0$_$train0' and 'VIDEO0$_$TRAIN0'." in note for note in notes)
  files["test"]["id"][0] = "video0$_$test0"
  (note,) = [n for n in data.load(save(files)).notes if "belong together" in n]
  assert "'video0' begins ids in train and valid and test, and 2 of 2 such" in note


def test_labels_that_are_all_the_same_are_refused(save):
  files, _ = make()
  for split, count in SIZES.items():
    files[split]["regression_labels"] = np.full(count, 0.5)
  with pytest.raises(ValueError, match="the 6 train rows all have the label 0.5, expected: two"):
    data.load(save(files))
