"""Sentiment pickles against the rows they were made of, and a sentence for bad ones."""

import hashlib
import pickle

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data import cleaning, loading
from promise_jax.data.readers import mmsa
from promise_jax.evaluation import measure, sentiment_metrics
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import train_variant
from promise_jax.types import Modality, Task

NAN, INF = np.nan, np.inf
DIMS = {"text": 4, "audio": 3, "vision": 2}
STEPS = {"text": 5, "audio": 7, "vision": 6}
SIZES = {"train": 6, "valid": 3, "test": 4}


def clips(rng, lengths):
  """The true rows of one modality: arrays [length, D] without a zero."""
  return {m: [rng.uniform(1, 2, (n, DIMS[m])) for n in lengths[m]] for m in DIMS}


def padded(rows, steps, front=False):
  out = np.zeros((len(rows), steps, rows[0].shape[1]), np.float32)
  for i, row in enumerate(rows):
    at = steps - len(row) if front else 0
    out[i, at : at + len(row)] = row
  return out


def mask(lengths, steps):
  """text_bert: ids, mask and segment of each row."""
  out = np.zeros((len(lengths), 3, steps), np.float32)
  for i, n in enumerate(lengths):
    out[i, :2, :n] = [[101], [1]]
  return out


def make(layout="unaligned", seed=0):
  """{split: fields of the file} and {split: {modality: true rows}}, tiny."""
  rng = np.random.default_rng(seed)
  front = layout == "mult"
  steps = STEPS if layout in ("unaligned", "sims") else dict.fromkeys(DIMS, 5)
  files, truth = {}, {}
  for split, count in SIZES.items():
    lengths = {m: rng.integers(1, steps[m] + 1, count) for m in DIMS}
    if steps["audio"] == steps["text"]:
      lengths = dict.fromkeys(DIMS, lengths["text"])
    rows = clips(rng, lengths)
    label = rng.uniform(-3, 3, count).astype(np.float32)
    fields = {m: padded(rows[m], steps[m], front) for m in DIMS}
    if layout == "mult":
      fields["labels"] = label[:, None, None]
      fields["id"] = np.array([[f"{split}{i}", "1.0", "2.5"] for i in range(count)], "S")
    else:
      fields["regression_labels"] = label
      fields["classification_labels"] = np.sign(np.round(label)) + 1
      fields["annotations"] = ["Positive"] * count
      fields["raw_text"] = np.array(["a word"] * count)
      fields["text_bert"] = mask(lengths["text"], steps["text"])
      fields["id"] = [f"{split}{i // 2}$_${i % 2}" for i in range(count)]
    if layout in ("unaligned", "sims"):
      fields["audio_lengths"] = lengths["audio"].tolist()
      fields["vision_lengths"] = lengths["vision"].tolist()
    if layout == "sims":
      fields["regression_labels"] = label / 3
      fields["regression_labels_T"] = label / 3
    files[split], truth[split] = fields, rows
  return files, truth


@pytest.fixture
def save(tmp_path):
  def write(tree, name="own.pkl", protocol=4):
    (tmp_path / name).write_bytes(pickle.dumps(tree, protocol))
    return tmp_path / name

  return write


def check_rows(found, truth):
  """The splits of `found` are the true rows, standardised by slow loops, then zeros."""
  for split, modalities in truth.items():
    rows = found.split(split)
    for m, true in modalities.items():
      frames = np.concatenate([row for row in truth["train"][m]]).astype(np.float32)
      mean = frames.astype(np.float64).mean(0)
      std = frames.astype(np.float64).std(0)
      assert rows.length[m].tolist() == [len(row) for row in true]
      for i, row in enumerate(true):
        expected = np.zeros(rows.inputs[m].shape[1:])
        expected[: len(row)] = (row.astype(np.float32) - mean) / std
        np.testing.assert_allclose(rows.inputs[m][i], expected, atol=2e-5)


# ---- what good files become


@pytest.mark.parametrize("layout", ["unaligned", "aligned", "sims", "mult"])
@pytest.mark.parametrize("protocol", [2, 5])
def test_rows_lengths_labels_and_kinds(save, layout, protocol):
  files, truth = make(layout)
  found = data.load(save(files, protocol=protocol))
  steps = STEPS if layout in ("unaligned", "sims") else dict.fromkeys(DIMS, 5)
  assert found.spec.modalities == tuple(Modality(m, "sequence", (steps[m], DIMS[m])) for m in DIMS)
  sims = Task("regression", 1, sentiment_metrics.SIMS_LABEL)
  mosi = Task("regression", 1, scale=3.0)
  assert found.spec.task == (sims if layout == "sims" else mosi)
  check_rows(found, truth)
  for split, fields in files.items():
    rows = found.split(split)
    label = fields["labels" if layout == "mult" else "regression_labels"]
    np.testing.assert_array_equal(rows.label, label.reshape(-1))
    assert rows.label.dtype == np.float32
    assert rows.recorded.all()


def test_ids_are_ranks_of_names_and_videos_are_groups(save):
  files, _ = make()
  found = data.load(save(files))
  names = sorted(name for fields in files.values() for name in fields["id"])
  for split, fields in files.items():
    assert [names[i] for i in found.split(split).id] == fields["id"]
    videos = [name.split("$")[0] for name in fields["id"]]
    group = found.group(split).tolist()
    assert len(set(group)) == len(set(videos)) == len(set(zip(videos, group, strict=True)))
  aligned = data.load(save(make("aligned", seed=1)[0], "aligned.pkl"))
  for split in SIZES:
    np.testing.assert_array_equal(aligned.split(split).id, found.split(split).id)


def test_no_groups_where_a_video_is_in_two_splits_or_names_have_none(save):
  files, _ = make()
  files["test"]["id"][0] = "train0$_$9"
  assert data.load(save(files)).group("train") is None
  found = data.load(save(make("mult")[0]))
  assert found.group("train") is None
  assert sorted(np.concatenate([found.split(s).id for s in SIZES])) == list(range(13))


def test_without_ids_rows_are_numbered(save):
  files, _ = make("mult")
  for fields in files.values():
    del fields["id"]
  found = data.load(save(files))
  assert np.concatenate([found.split(s).id for s in SIZES]).tolist() == list(range(13))


def test_zeros_within_a_clip_are_steps_and_at_its_ends_where_another_has_words(save):
  files, _ = make("mult")
  train = files["train"]
  for m in DIMS:
    train[m][0] = 0  # padded in front, 4 steps: a word without vector, two, silence
  train["text"][0, 2:4], train["audio"][0, 1:4], train["vision"][0, 4] = 1, 2, 3
  train["audio"][0, 2] = 0
  found = data.load(save(files))
  assert [found.split("train").length[m][0] for m in DIMS] == [4, 4, 4]
  mean, std = found.spec.standardise["audio"]
  audio = found.split("train").inputs["audio"][0] * std[None] + mean[None]
  np.testing.assert_allclose(audio[:4], [[2] * 3, [0] * 3, [2] * 3, [0] * 3], atol=1e-5)


def test_unaligned_without_lengths_each_has_its_own_zeros(save):
  files, truth = make()
  for fields in files.values():
    for name in ("audio_lengths", "vision_lengths", "text_bert"):
      del fields[name]
  check_rows(data.load(save(files)), truth)


def test_the_mask_of_an_aligned_file_bounds_the_text_and_cuts_nothing_else(save):
  files, _ = make("aligned")
  train = files["train"]
  train["text_bert"][:, 1] = [1, 1, 0, 0, 0]
  for m in DIMS:
    train[m][:] = 1
    train[m][:, 4:] = 0
  rows = data.load(save(files)).split("train")
  assert rows.length["text"].tolist() == [2] * 6
  assert rows.length["audio"].tolist() == rows.length["vision"].tolist() == [4] * 6


def test_a_mask_over_other_tokens_says_nothing(save):
  files, truth = make("aligned")
  for fields in files.values():
    fields["text_bert"] = mask([9] * len(fields["id"]), 9)
  check_rows(data.load(save(files)), truth)


def test_splits_may_be_padded_to_different_lengths(save):
  files, truth = make()
  for m, steps in STEPS.items():
    files["test"][m] = np.pad(files["test"][m], ((0, 0), (0, 3), (0, 0)))
    files["test"]["text_bert"] = np.pad(files["test"]["text_bert"], ((0, 0),) * 3)
    assert files["test"][m].shape[1] == steps + 3
  del files["test"]["text_bert"]
  found = data.load(save(files))
  assert [m.shape[0] for m in found.spec.modalities] == [8, 10, 9]
  check_rows(found, truth)


def test_modalities_without_steps_are_vectors(save):
  files, _ = make()
  for fields in files.values():
    fields["text"] = fields["text"][:, 0]
  found = data.load(save(files))
  assert found.spec.modalities[0] == Modality("text", "vector", (4,))
  assert list(found.split("train").length) == ["audio", "vision"]


@pytest.mark.parametrize(
  "convert",
  [
    lambda x: x,
    lambda x: x.astype(">f4"),
    lambda x: x.astype(np.float64),
    lambda x: np.asfortranarray(x),
    lambda x: x.tolist(),
    lambda x: x[:, ::-1][:, ::-1],
  ],
)
def test_other_types_of_the_same_numbers(save, convert):
  files, truth = make()
  for split, fields in files.items():
    for m in DIMS:
      fields[m] = fields[m].astype(np.float16)
      truth[split][m] = [row.astype(np.float16) for row in truth[split][m]]
      fields[m] = convert(fields[m])
  check_rows(data.load(save(files)), truth)


def test_nonfinite_values_are_found_and_counted(save):
  files, truth = make()
  train = files["train"]
  long = int(np.argmax(train["audio_lengths"]))
  train["audio"][long, 0, 1], train["audio"][long, 0, 2] = -INF, NAN
  train["vision"][1] = INF
  files["valid"]["audio"][2, :] = -INF
  found = data.load(save(files))
  rows, real = found.split("train"), len(truth["train"]["vision"][1])
  assert all(np.isfinite(x).all() for x in rows.inputs.values())
  assert found.report["train"]["audio"][:2] == (2, 1)
  assert found.report["train"]["vision"] == (2 * real, real, 1, 0)
  assert rows.recorded.tolist() == [[True, True, i != 1] for i in range(6)]
  assert rows.length["vision"][1] == 0
  assert not found.split("valid").recorded[2, 1]
  assert "own, train, audio: 2 non-finite values, 1 frames lost to them." in found.notes
  value = data.load(save(files), nonfinite="value")
  assert value.report["train"]["audio"][:2] == (2, 0)
  with pytest.raises(ValueError, match="'audio': 2 values are NaN or inf"):
    data.load(save(files), nonfinite="error")


def test_a_clip_without_audio_is_absent_there(save):
  files, _ = make()
  files["train"]["audio_lengths"][2] = 0
  rows = data.load(save(files)).split("train")
  assert rows.recorded.tolist() == [[True, i != 2, True] for i in range(6)]
  assert not rows.inputs["audio"][2].any()


def test_what_no_float32_holds_is_reported(save):
  files, _ = make()
  files["train"]["audio"] = files["train"]["audio"].astype(np.float64)
  files["train"]["audio"][0, 0, 0] = 1e300
  assert data.load(save(files)).report["train"]["audio"].values == 1


def test_classes(save):
  files, _ = make()
  files["train"]["classification_labels"][:3] = [0, 1, 2]
  found = data.load(save(files), classes=True)
  names = ("negative", "neutral", "positive")
  assert found.spec.task == Task("classes", 3, names)
  expected = files["train"]["classification_labels"]
  np.testing.assert_array_equal(found.split("train").label, expected)
  assert found.split("train").label.dtype == np.int32


# ---- what is told


def test_the_hash_is_compared_and_told(save, monkeypatch):
  path = save(make()[0])
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  own = f"own.pkl: the SHA-256 is that of none of MMSA's files, {digest}."
  assert own in data.load(path).notes
  monkeypatch.setitem(mmsa.KNOWN_FILES, (digest[:8], "zzzzz"), "another")
  assert own in data.load(path).notes
  monkeypatch.setitem(mmsa.KNOWN_FILES, (digest[:8], digest[-5:]), "MOSI made up")
  told = f"that of MMSA's MOSI made up, {digest[:8]}...{digest[-5:]}."
  assert any(told in line for line in data.load(path).notes)


def test_the_range_decides_the_unit_and_metrics(save):
  found = data.load(save(make("sims")[0]))
  (line,) = (line for line in found.notes if "labels lie" in line)
  assert "taken for CH-SIMS, unit 1." in line
  of_sims = {m.__name__ for m in sentiment_metrics.SIMS}
  assert measure.metrics_for(found.spec.task).keys() == {"mae", "corr"} | of_sims
  found = data.load(save(make()[0]))
  assert any("taken for MOSI or MOSEI, unit 3." in line for line in found.notes)
  of_mosi = {m.__name__ for m in sentiment_metrics.SENTIMENT}
  assert measure.metrics_for(found.spec.task).keys() == {"mae", "corr"} | of_mosi
  # A unit that is given decides, but CH-SIMS has no label beyond 1.
  asked = data.load(save(make("sims")[0]), scale=3.0).spec.task
  assert asked.scale == 3.0 and "acc7" in measure.metrics_for(asked)
  asked = data.load(save(make()[0]), scale=1.0).spec.task
  assert measure.metrics_for(asked).keys() == {"mae", "corr"}


def test_a_split_read_twice_is_the_same(save):
  source = mmsa.read_mmsa(save(make()[0]))
  first, again = source.rows("valid"), source.rows("valid")
  for m in DIMS:
    for one, other in zip(first.inputs[m], again.inputs[m], strict=True):
      np.testing.assert_array_equal(one, other)


def test_a_config_reads_it(save):
  config = experiment_config.default_config("fusion", str(save(make()[0])), 1.0).to_dict()
  assert train_variant.load_data(config).spec.task.scale == 3.0
  config["data"]["classes"] = True
  assert train_variant.load_data(config).spec.task.kind == "classes"


def test_classes_are_for_pickles_alone(tmp_path):
  with pytest.raises(ValueError, match=r"no classes, the option is for pickles \*.pkl"):
    data.load("mfeat", classes=True, data_dir=tmp_path)


# ---- the builders


def test_builders_hold_what_the_pickle_holds(save, tmp_path):
  for name, layout in (("mosi/aligned_50", "mult"), ("sims/unaligned_39", "sims")):
    files, _ = make(layout)
    files["train"]["audio"][0, :] = -INF
    folder = tmp_path / "downloads/manual" / name.split("/")[0].upper() / "Processed"
    folder.mkdir(parents=True)
    path = save(files, folder / f"{name.split('/')[1]}.pkl")
    expected, found = data.load(path), data.load(name, data_dir=tmp_path)
    assert found.spec.modalities == expected.spec.modalities
    assert found.spec.task == expected.spec.task
    assert any("none of MMSA's files" in line for line in found.notes)
    for split in SIZES:
      one, other = expected.split(split), found.split(split)
      order = np.argsort(one.id)
      np.testing.assert_array_equal(one.id[order], other.id)
      np.testing.assert_array_equal(one.label[order], other.label)
      np.testing.assert_array_equal(one.recorded[order], other.recorded)
      for m in DIMS:
        np.testing.assert_array_equal(one.inputs[m][order], other.inputs[m])
        np.testing.assert_array_equal(one.length[m][order], other.length[m])
    path.unlink()  # prepared, the file is not needed
    assert len(data.load(name, data_dir=tmp_path).split("test").id) == 4


def test_builders_without_their_file(tmp_path):
  assert loading.MANUAL_DOWNLOADS == tuple(sentiment_builders.OWN)
  for name in loading.MANUAL_DOWNLOADS:
    with pytest.raises(ValueError, match=r"\.pkl: there is no such file; it cannot be"):
      data.load(name, data_dir=tmp_path)
  with pytest.raises(ValueError, match="of files of your own: mosi/aligned_50"):
    data.load("mosi", data_dir=tmp_path)


# ---- bad files


def at(split, field, value):
  """A change of one field of a good file: put `value`, or what it makes of the old."""

  def change(files):
    old = files[split].get(field)
    files[split][field] = value(old) if callable(value) else value

  return change


def without(split, field=None):
  def change(files):
    del (files[split] if field else files)[field or split]

  return change


def put(index, value):
  def change(old):
    new = np.array(old)
    new[index] = value
    return new

  return change


def shortened(files):
  files["valid"] = {k: v[:0] for k, v in files["valid"].items()}


def objects(old):
  return np.array([*[row[:2] for row in old[:-1]], old[-1]], object)


BAD = [
  (without("valid"), r"the pickle has no 'valid', found are 'train', 'test'"),
  (
    lambda f: f.update(train=[1]),
    "train is of type list, expected is a dict of fields",
  ),
  (without("train", "vision"), "train has no 'vision', found are 'text', 'audio', "),
  (without("test", "regression_labels"), "test has no 'regression_labels', found are"),
  (at("train", "audio", 3), "train, audio is of type int, expected is an array"),
  (at("train", "audio", lambda x: x[:-1]), "train, audio has 5 rows, but there are 6"),
  (
    at("train", "audio", lambda x: x[:, 0, 0]),
    r"float32 of shape \(6,\), expected: num",
  ),
  (at("train", "audio", lambda x: x[:, None]), r"shape \(6, 1, 7, 3\), expected: numb"),
  (
    at("train", "audio", lambda x: x[:, :, :0]),
    r"shape \(6, 7, 0\), expected: numbers",
  ),
  (at("train", "audio", lambda x: x.astype(str)), r"is <U\d+ of shape"),
  (at("train", "audio", lambda x: x.astype("c8")), "train / audio: .*dtype is 'c8'"),
  (at("train", "audio", lambda x: x.astype(object)), "is object of shape"),
  (at("train", "audio", objects), "train / audio: .* array of arrays, as rows of diff"),
  (at("train", "audio", lambda x: [*x.tolist()[:-1], [[1.0] * 3]]), "different shapes"),
  (
    at("test", "audio", lambda x: x[:, :, :2]),
    r"test, audio has rows of shape \(7, 2\)",
  ),
  (
    at("test", "audio", lambda x: x[:, 0]),
    r"test, audio has rows of shape \(3,\), thos",
  ),
  (at("train", "audio_lengths", put(1, 8)), "audio_lengths, row 1: found 8, .* 0 to 7"),
  (
    at("train", "audio_lengths", put(1, -1)),
    "audio_lengths, row 1: found -1, expected",
  ),
  (
    at("train", "audio_lengths", lambda n: n[1:]),
    "audio_lengths has 5 rows, but there",
  ),
  (
    at("train", "audio_lengths", [0.5] * 6),
    "audio_lengths, row 0: found 0.5, expected",
  ),
  (
    at("train", "audio_lengths", [[1, 2]] * 6),
    r"audio_lengths is int64 of shape \(6, 2",
  ),
  (at("train", "text_bert", lambda b: b[1:]), "train, text_bert has 5 rows, but there"),
  (
    at("train", "text_bert", put((2, 1, 0), 7)),
    "text_bert, row 2: found .*, expected: ",
  ),
  (
    at("train", "regression_labels", put(3, NAN)),
    "regression_labels, row 3: found nan",
  ),
  (
    at("train", "regression_labels", put(3, INF)),
    "regression_labels, row 3: found inf",
  ),
  (
    at("train", "regression_labels", put(3, 3.5)),
    "labels lie in .* to 3.5, expected a",
  ),
  (
    at("train", "regression_labels", np.ones((6, 7))),
    r"the shape \(6, 7\), expected: o",
  ),
  (at("train", "regression_labels", ["Good"] * 6), "regression_labels is <U4 of shape"),
  (shortened, "valid, regression_labels has no rows, expected is at least one"),
  (at("train", "id", lambda n: n[:1] + n[:5]), r"id 'train0\$_\$0' is there twice"),
  (
    at("test", "id", lambda n: ["train0$_$0", *n[1:]]),
    r"id 'train0\$_\$0' is there tw",
  ),
  (at("train", "id", lambda n: n[1:]), "train, id has 5 rows, but there are 6 labels"),
  (
    at("train", "id", np.zeros((6, 2, 2))),
    r"train, id has the shape \(6, 2, 2\), expec",
  ),
  (at("train", "id", "names"), "train, id is of type str, expected is an array"),
  (
    at("train", "raw_text", [print] * 6),
    "it asks for 'builtins.print', which no array",
  ),
]


@pytest.mark.parametrize(("change", "match"), BAD)
def test_a_bad_file_is_one_sentence(save, change, match):
  files, _ = make()
  change(files)
  path = save(files)
  with pytest.raises(ValueError, match=match) as caught:
    data.load(path)
  sentence = str(caught.value)
  assert sentence.startswith(f"{path}: ") and sentence.endswith(".")
  assert "\n" not in sentence and sentence.count(str(path)) == 1


@pytest.mark.parametrize(
  ("tree", "options", "match"),
  [
    ([1, 2], {}, "the pickle holds a list, expected is a dict of splits"),
    (
      {"x": np.ones(3)},
      {},
      "the pickle has no 'train', found are 'x'; expected are tr",
    ),
    ({}, {}, "the pickle has no 'train', found are none; expected are train"),
    (make()[0], {"scale": -1.0}, "scale is -1.0, expected is a positive number"),
    (make("mult")[0], {"classes": True}, "train has no 'classification_labels', found"),
  ],
)
def test_other_bad_files_and_options(save, tree, options, match):
  with pytest.raises(ValueError, match=match):
    data.load(save(tree), **options)


def test_classes_that_are_none(save):
  files, _ = make()
  files["train"]["classification_labels"][1] = 0.5
  with pytest.raises(ValueError, match="labels, row 1: found 0.5, expected: whole numb"):
    data.load(save(files), classes=True)


def test_a_cut_file_and_none(save, tmp_path):
  path = save(make()[0])
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(ValueError, match=r"own.pkl: the pickle is cut short: it ends"):
    data.load(path)
  with pytest.raises(ValueError, match=r"none.pkl: there is no such file\."):
    data.load(tmp_path / "none.pkl")


def test_a_scale_fitted_in_pieces_is_the_same(save, monkeypatch):
  files, truth = make()
  whole = data.load(save(files)).spec.standardise
  monkeypatch.setattr(cleaning, "PIECE", 40)
  found = data.load(save(files))
  check_rows(found, truth)
  for m, (mean, std) in found.spec.standardise.items():
    np.testing.assert_allclose(mean, whole[m][0], rtol=1e-6)
    np.testing.assert_allclose(std, whole[m][1], rtol=1e-6)
