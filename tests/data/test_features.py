"""Features of frozen encoders, and the modalities that are kept."""

import itertools
import pathlib
import sys

import numpy as np
import pytest

from promise_jax import data
from promise_jax.data import dataset
from promise_jax.data import features as data_features
from promise_jax.data import source as data_source
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import train_variant
from promise_jax.types import Modality, Task

N = 300
CUT = np.array(["train"] * 150 + ["valid"] * 100 + ["test"] * 50)
ORDER = np.random.default_rng(3).permutation(N)  # splits are mixed in the file
CLASSES = ("p", "q", "r")
unique = itertools.count()


def make(**changed):
  """300 rows in groups of two: a photo, a vector and a sequence, each absent somewhere;
  the ids are 7 apart."""
  rng = np.random.default_rng(0)
  arrays = {
    "x_photo": rng.integers(0, 256, (N, 4, 3), dtype=np.uint8),
    "x_v": rng.normal(3, 5, (N, 2)).astype(np.float32),
    "x_s": rng.normal(2, 1, (N, 5, 3)).astype(np.float32),
    "present_photo": np.arange(N) % 4 > 0,
    "length_s": np.arange(N) % 6,  # 0: absent
    "y": np.arange(N) // 2 % 3,
    "classes": np.array(CLASSES),
    "split": CUT,
    "id": 7 * np.arange(N) + 5,
    "group": np.arange(N) // 2,
  }
  return {k: v if k == "classes" else v[ORDER] for k, v in (arrays | changed).items()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  """The folder of the features, the only cache that these tests see."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
  return tmp_path / "cache" / "promise_jax" / "features"


@pytest.fixture
def own(tmp_path):
  np.savez(tmp_path / "own.npz", **make())
  return tmp_path / "own.npz"


class Counting:
  """Mean and largest value of a row; keeps what it was shown."""

  def __init__(self):
    self.shown = []

  def __call__(self, x):
    self.shown.append(x.copy())
    flat = x.reshape(len(x), -1).astype(np.float64)
    return np.stack([flat.mean(1), flat.max(1)], axis=1)


def rows_of(split):
  """The rows of `make()` that are in `split`, in the order of the file."""
  return ORDER[CUT[ORDER] == split]


def standard(values, train):
  """`values` by mean and standard deviation of `train`, over all axes but the last."""
  flat = train.reshape(-1, train.shape[-1]).astype(np.float64)
  return (values - flat.mean(0)) / flat.std(0)


# ---- what is computed, and when


def test_a_function_is_called_once_and_sees_recorded_raw_rows(own, cache):
  encode, photo = Counting(), make()["x_photo"][np.argsort(ORDER)]
  given = {"photo": data_features.FeatureEncoder(encode, version="1")}
  first, plain = data.load(own, frozen=given), data.load(own)
  # 150, 100 and 50 rows, a quarter of them absent, at most 128 at a time
  assert [len(x) for x in encode.shown] == [112, 75, 38]
  seen = [r for s in dataset_splits() for r in rows_of(s) if r % 4]
  np.testing.assert_array_equal(np.concatenate(encode.shown)[..., 0], photo[seen])
  second = data.load(own, frozen=given)
  assert len(encode.shown) == 3
  (path,) = cache.iterdir()
  told = f"own, photo: features 2 of Counting, version 1, computed and kept in {path}."
  assert told in first.notes
  assert told.replace("computed and kept in", "read from") in second.notes

  assert first.spec.names == plain.spec.names == ("photo", "v", "s")
  assert first.spec.modalities[0] == Modality("photo", "vector", (2,))
  assert first.spec.modalities[1:] == plain.spec.modalities[1:]
  assert first.spec.task == plain.spec.task == Task("classes", 3, CLASSES)
  features = np.stack([photo.mean((1, 2)), photo.max((1, 2))], 1)
  train = features[[r for r in rows_of("train") if r % 4]]
  for split in ("test", "train", "valid"):
    a, b, c = (x.split(split) for x in (first, second, plain))
    rows = rows_of(split)
    expected = np.where(rows[:, None] % 4 > 0, standard(features[rows], train), 0)
    np.testing.assert_allclose(a.inputs["photo"], expected, rtol=1e-4, atol=1e-5)
    for name in ("id", "label", "recorded"):
      np.testing.assert_array_equal(getattr(a, name), getattr(c, name))
    np.testing.assert_array_equal(first.group(split), plain.group(split))
    for m in ("v", "s"):
      np.testing.assert_array_equal(a.inputs[m], c.inputs[m])
    np.testing.assert_array_equal(a.length["s"], c.length["s"])
    np.testing.assert_array_equal(a.inputs["photo"], b.inputs["photo"])
  # The file is a data set of its own.
  alone = data.load(path)
  assert alone.spec.task == plain.spec.task
  for split in ("train", "test"):
    np.testing.assert_array_equal(alone.split(split).id, plain.split(split).id)
    np.testing.assert_array_equal(alone.split(split).label, plain.split(split).label)
    np.testing.assert_array_equal(alone.group(split), plain.group(split))


def dataset_splits():
  return ("train", "valid", "test")


def test_what_changes_the_features_computes_them_anew(own, tmp_path):
  encode = Counting()

  def calls(version="1", name="photo", path=own, **options):
    before = len(encode.shown)
    data.load(path, frozen={name: data_features.FeatureEncoder(encode, version)}, **options)
    return len(encode.shown) - before

  assert calls() == 3
  assert calls(version="2") == 3
  assert calls() == calls(modalities="s+photo") == calls(nonfinite="value") == 0
  assert calls(name="v") == 4  # 150 train rows are two calls
  changed = make()
  changed["x_v"][0, 0] += 1
  np.savez(own, **changed)
  assert calls() == 0  # the photos are as they were
  assert calls(name="v") == 4
  for array, value in (
    ("y", make()["y"][::-1]),
    ("id", make()["id"] + 1),
    ("present_photo", ~make()["present_photo"]),
    ("classes", np.array(["x", "q", "r"])),
  ):
    np.savez(own, **(make() | {array: value, "group": np.arange(N)}))
    assert calls() > 0, array
    assert calls() == 0
  own.rename(tmp_path / "other.npz")
  assert calls(path=tmp_path / "other.npz") == 3


def test_an_imported_function_is_hashed_by_its_source(own, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  package = tmp_path / f"pack{next(unique)}"
  package.mkdir()
  (package / "__init__.py").touch()
  source = package / "vit.py"
  log = tmp_path / "log"
  text = (
    f"import pathlib\ndef encode(x):\n"
    f"  with pathlib.Path({str(log)!r}).open('a') as f: f.write('.')\n"
    f"  return x.reshape(len(x), -1)[:, :2] * GAIN\n"
  )

  def calls():
    log.write_text("")
    found = data.load(own, frozen={"photo": f"{package.name}.vit:encode"})
    return len(log.read_text()), found.spec.standardise["photo"][0]

  source.write_text(text + "GAIN = 1.0\n")
  count, mean = calls()
  assert (count, calls()[0]) == (3, 0)
  source.write_text(text + "GAIN = 10.0\n")  # seen although it was imported
  again, larger = calls()
  assert again == 3
  np.testing.assert_allclose(larger, 10 * mean, rtol=1e-5)
  source.write_text(text + "GAIN = 1.0\n")  # as it was at first
  sys.modules.pop(f"{package.name}.vit")
  assert calls()[0] == 0
  assert f"{package.name}.vit" not in sys.modules  # read, not imported


# ---- vectors, sequences, folders


def test_sequences_keep_real_steps_and_lengths_can_be_said(own):
  seen = []

  def by_step(x, length):
    seen.append((x, length))
    return x[..., :2] * 2 + 1  # garbage in the padding

  def said(x):
    return np.ones((len(x), 7, 1)) * x[:, :1, :1], np.arange(len(x)) % 7 + 1

  def whole(x):
    return np.repeat(x[:, None], 4, axis=1)

  found = data.load(
    own,
    frozen={
      "s": data_features.FeatureEncoder(by_step, "1"),
      "v": data_features.FeatureEncoder(whole, "1"),
    },
  )
  x, steps = make()["x_s"][np.argsort(ORDER)], np.arange(N) % 6
  (a, length) = seen[0]
  rows = [r for r in rows_of("train") if steps[r]]
  assert length.tolist() == steps[rows].tolist()[:128]
  inside = np.arange(5) < length[:, None]
  np.testing.assert_array_equal(a, np.where(inside[..., None], x[rows][:128], 0))
  names = [(m.name, m.kind, m.shape) for m in found.spec.modalities]
  assert names[1:] == [("v", "sequence", (4, 2)), ("s", "sequence", (5, 2))]
  test, rows = found.split("test"), rows_of("test")
  assert test.length["s"].tolist() == steps[rows].tolist()
  assert test.recorded[:, 2].tolist() == (steps[rows] > 0).tolist()
  assert test.length["v"].tolist() == [4] * 50
  every = [x[r, : steps[r], :2] * 2 + 1 for r in rows_of("train")]
  expected = standard(x[rows][..., :2] * 2 + 1, np.concatenate(every))
  expected *= (np.arange(5) < steps[rows][:, None])[..., None]
  np.testing.assert_allclose(test.inputs["s"], expected, rtol=1e-3, atol=1e-4)
  test = data.load(own, frozen={"s": data_features.FeatureEncoder(said, "1")}).split("test")
  given = iter(range(50))
  expected = [next(given) % 7 + 1 if steps[r] else 0 for r in rows]
  assert test.length["s"].tolist() == expected


def test_tokens_are_shown_with_real_steps_and_texts_as_hashed(tmp_path):
  n, seen = 9, []

  def encode(x, length):
    seen.append((x, length))
    return np.stack([x[:, 0], length], 1)

  ids = np.array([[3, 0, 4, 0], [5, 0, 0, 0], [0, 0, 0, 0]] * 3)
  arrays = {"x_t": ids, "y": np.arange(n) % 3, "split": np.repeat(dataset_splits(), 3)}
  np.savez(tmp_path / "t.npz", **arrays)
  found = data.load(tmp_path / "t.npz", frozen={"t": data_features.FeatureEncoder(encode, "1")})
  assert np.concatenate([x[:, :3] for x, _ in seen]).tolist() == [
    *[[3, 0, 4], [5, 0, 0]] * 3,
  ]
  assert np.concatenate([length for _, length in seen]).tolist() == [3, 1] * 3
  assert found.spec.modalities == (Modality("t", "vector", (2,)),)
  recorded = np.concatenate([found.split(s).recorded for s in dataset_splits()])
  assert recorded[:, 0].tolist() == [True, True, False] * 3


def test_a_folder_of_features(own, tmp_path, cache):
  folder, rng = tmp_path / "features", np.random.default_rng(1)
  folder.mkdir()
  has = [r for r in range(N) if r % 4]
  rows = {r: rng.normal(size=(r % 3 + 1, 2)) for r in has}
  for r, value in rows.items():
    np.save(folder / f"{7 * r + 5}.npy", value)
  (folder / "5.npy").write_text("row 0 is absent, so this is not read")
  found = data.load(own, frozen={"photo": folder})
  assert f"of the folder {folder}, computed" in found.notes[0]
  assert found.spec.modalities[0] == Modality("photo", "sequence", (3, 2))
  train = np.concatenate([rows[r] for r in rows_of("train") if r % 4])
  for split in dataset_splits():
    part = found.split(split)
    for i, r in enumerate(rows_of(split)):
      steps = r % 3 + 1 if r % 4 else 0
      assert part.length["photo"][i] == steps
      assert part.recorded[i, 0] == (r % 4 > 0)
      assert not part.inputs["photo"][i, steps:].any()
      if steps:
        expected = standard(rows[r], train)
        np.testing.assert_allclose(part.inputs["photo"][i, :steps], expected, rtol=1e-4, atol=1e-5)
  assert "read from" in data.load(own, frozen={"photo": str(folder)}).notes[0]
  np.save(folder / "12.npy", rows[1] + 1)
  assert "computed" in data.load(own, frozen={"photo": folder}).notes[0]
  assert len(list(cache.iterdir())) == 2
  for r in has:
    np.save(folder / f"{7 * r + 5}.npy", rows[r][0])
  flat = data.load(own, frozen={"photo": folder})
  assert flat.spec.modalities[0] == Modality("photo", "vector", (2,))


def test_other_labels_and_open_steps_stay(tmp_path):
  """A source with a number as label, rows of their own length and no class names."""
  rng = np.random.default_rng(2)

  def rows(split):
    start = {"train": 0, "valid": 8, "test": 12}[split]
    at = np.arange(start, start + (8 if split == "train" else 4))
    inputs = {"s": [rng.normal(size=(i % 5 + 1, 2)) for i in at], "v": at[:, None]}
    recorded = np.ones((len(at), 2), bool)
    return data_source.Rows(inputs, {}, recorded, (at / 2).astype(np.float32), at)

  open_steps = (Modality("s", "sequence", (None, 2)), Modality("v", "vector", (1,)))
  source = data_source.Source(
    "own", "card", open_steps, Task("regression", 1, scale=3.0), dataset_splits(), rows
  )
  last = data_features.FeatureEncoder(lambda x: x[:, 0], "first step")
  found = dataset.assemble(data_features.extract_features(source, {"s": last}, folder=tmp_path))
  assert found.spec.task == source.task
  assert found.spec.modalities == (Modality("s", "vector", (2,)), open_steps[1])
  assert found.group("train") is None
  assert found.split("test").label.tolist() == [6, 6.5, 7, 7.5]
  assert found.split("test").id.tolist() == [12, 13, 14, 15]
  (path,) = tmp_path.iterdir()
  assert data.load(path).spec.task == source.task
  more = source._replace(splits=(*dataset_splits(), "dev"))
  with pytest.raises(ValueError, match="train, valid, test, dev; .* and no other"):
    data_features.extract_features(more, {"s": last}, folder=tmp_path)
  twice = source._replace(rows=lambda split: rows("train"))
  with pytest.raises(ValueError, match="cannot be kept in an npz file: id, row 8"):
    data_features.extract_features(twice, {"s": last}, folder=tmp_path)


def test_bad_raw_values_are_told(own):
  arrays = make()
  arrays["x_v"][3, 0] = np.nan
  np.savez(own, **arrays)
  encode = Counting()
  found = data.load(own, frozen={"v": data_features.FeatureEncoder(encode, "1")})
  assert np.isfinite(np.concatenate(encode.shown)).all()
  assert sum(len(x) for x in encode.shown) == N - 1
  assert any("1 non-finite values, 1 frames lost to them" in x for x in found.notes)
  with pytest.raises(ValueError, match="own.npz, split '.*'v': 1 values are NaN"):
    encoder = {"v": data_features.FeatureEncoder(encode, "1")}
    data.load(own, frozen=encoder, nonfinite="error")


# ---- what is wrong, in a sentence


def as_function(function):
  return {"photo": data_features.FeatureEncoder(function, "1")}


@pytest.mark.parametrize(
  ("given", "sentence"),
  [
    ({"sound": "a:b"}, "frozen names 'sound', the modalities are photo, v, s."),
    ("photo=a:b", "frozen is 'photo=a:b', expected is {modality: encoder}."),
    ({"photo": len}, "has weights and settings that cannot be hashed, so its version"),
    ({"photo": 3}, "frozen.photo is '3': an encoder is text, a folder or Enc"),
    (
      {"photo": data_features.FeatureEncoder(len, "")},
      r"expected is Encoder\(function, version=",
    ),
    (
      {"photo": data_features.FeatureEncoder("a", "b")},
      r"expected is Encoder\(function, version=",
    ),
    ({"photo": "nowhere/at/all"}, "is neither a folder nor of the form package.mod"),
    ({"photo": "nowhere_at_all:f"}, "there is no module nowhere_at_all on Python's"),
    ({"photo": "nowhere_at.all:f"}, "nowhere_at.all cannot be imported, No module"),
    ({"photo": "sys:exit"}, "the module sys has no file that can be hashed"),
    ({"photo": "this_module_is_bad:f"}, "is_bad cannot be imported, division by zero"),
    ({"photo": "colorsys:nothing"}, "the module colorsys has no function nothing"),
    (
      as_function(lambda x: x[:, 0, 0, 0]),
      r"is '<lambda>': it gave uint8 of shape \(112,\), expected: f\[112, D\] or f\[11",
    ),
    (as_function(lambda x: x[:5, 0, 0]), r"shape \(5, 1\), expected: f\[112, D\]"),
    (as_function(lambda x: np.array(["a"])), r"it gave <U1 of shape \(1,\), expected"),
    (as_function(lambda x: np.ones((len(x), 2)) * np.inf), "it gave NaN or inf"),
    (
      as_function(lambda x: np.ones((len(x), len(x)))),
      r"it gave rows of shape \(112,\), then of \(75,\)",
    ),
    (
      as_function(lambda x: (x[..., 0], np.full(len(x), 5))),
      "the lengths it gave are 5 to 5, allowed are 1 to 4",
    ),
    (
      as_function(lambda x: (x[..., 0], np.ones(3))),
      r"the lengths it gave are float64 of shape \(3,\), expected: i\[112\]",
    ),
  ],
)
def test_errors_are_sentences(own, cache, tmp_path, monkeypatch, given, sentence):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / "this_module_is_bad.py").write_text("1 / 0\n")
  with pytest.raises(ValueError, match=sentence) as found:
    data.load(own, frozen=given)
  assert str(found.value).endswith(".") and "\n" not in str(found.value)
  assert not cache.exists()  # nothing half made


def test_bad_folders_are_sentences(own, tmp_path):
  folder = tmp_path / "features"
  folder.mkdir()
  for r in range(N):
    np.save(folder / f"{7 * r + 5}.npy", np.ones((2, 3)))

  def refused(sentence, path, value):
    kept = path.read_bytes()
    path.unlink()
    if isinstance(value, bytes):
      path.write_bytes(value)
    elif value is not None:
      np.save(path, value)
    with pytest.raises(ValueError, match=sentence):
      data.load(own, frozen={"photo": folder})
    path.write_bytes(kept)

  some = folder / f"{7 * 149 + 5}.npy"  # a train row
  missing = f"is '{folder}': there is no 1048.npy, and the row of id 1048 has photo"
  refused(missing, some, None)
  refused("1048.npy cannot be read, ", some, b"nothing")
  refused(r"1048.npy .*\(3,\).* the same D, and all T or none", some, np.ones(3))
  refused(r"1048.npy .*\(2, 4\).* the same D", some, np.ones((2, 4)))
  refused(r"1048.npy holds float64 of shape \(0, 3\)", some, np.ones((0, 3)))
  refused("1048.npy holds NaN or inf", some, np.full((2, 3), np.nan))


# ---- the modalities that are kept


def test_modalities_are_kept_in_the_order_of_the_data(own, tmp_path):
  whole = data.load(own)
  for names in ("s+photo", ("s", "photo"), ["photo", "s"], " photo + s"):
    found = data.load(own, modalities=names)
    assert found.spec.modalities == (whole.spec.modalities[0], whole.spec.modalities[2])
    a, b = found.split("test"), whole.split("test")
    assert a.inputs.keys() == {"photo", "s"}
    np.testing.assert_array_equal(a.recorded, b.recorded[:, [0, 2]])
    np.testing.assert_array_equal(a.inputs["s"], b.inputs["s"])
    assert a.id.tolist() == b.id.tolist()
    assert not a.recorded.any(axis=1).all()  # rows with nothing left stay
  for names in ((), ""):
    assert data.load(own, modalities=names).spec.names == ("photo", "v", "s")
  empty = tmp_path / "empty.npz"
  np.savez(empty, **make(present_photo=np.zeros(N, bool)))
  assert data.load(empty, modalities="v").spec.names == ("v",)  # not looked at
  emoji = data.load("emoji", modalities="props+image", data_dir=tmp_path / "tfds")
  assert emoji.spec.names == ("image", "props")
  for names, sentence in (
    ("v+sound", "names 'sound', those of data set 'own' are photo, v, s."),
    ("v+s+v", "modalities names 'v' twice"),
    ("v+", "modalities names '', those"),
    (2, "modalities is 2, expected are names, as 'image.text'"),
  ):
    with pytest.raises(ValueError, match=sentence):
      data.load(own, modalities=names)
  with pytest.raises(ValueError, match="names 'v', the modalities are s."):
    data.load(own, modalities="s", frozen={"v": "a:b"})


def test_the_modalities_of_synthetic_are_a_number():
  rows = {"rows": (20, 10, 10)}
  assert data.load("synthetic", modalities=2, **rows).spec.names == ("m0", "m1")
  with pytest.raises(ValueError, match="modalities is 'm0', .* it is how many are made"):
    data.load("synthetic", modalities="m0", **rows)
  with pytest.raises(ValueError, match="'synthetic' has no option 'frozen'"):
    data.load("synthetic", frozen={"m0": "a:b"}, **rows)


def test_both_are_fields_of_the_config(own, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  module = f"mine{next(unique)}"
  source = "def encode(x):\n  return x.reshape(len(x), -1)[:, :3]\n"
  (tmp_path / f"{module}.py").write_text(source)
  config = experiment_config.default_config("fusion", str(own), 1.0)
  assert (config.data.modalities, config.data.frozen) == ("", "")
  config.data.modalities = "photo+v"
  config.data.frozen = f"photo={module}:encode"
  found = train_variant.load_data(config.to_dict())
  assert [m.shape for m in found.spec.modalities] == [(3,), (2,)]
  config.data.frozen = f"{module}:encode"
  with pytest.raises(ValueError, match="is not of the form key=value"):
    train_variant.load_data(config.to_dict())
  config = experiment_config.default_config("fusion", "synthetic", 1.0)
  assert len(train_variant.load_data(config.to_dict()).spec.names) == 3
  config.data.modalities = "2"
  assert train_variant.load_data(config.to_dict()).spec.names == ("m0", "m1")
  before = experiment_config.default_config("fusion", str(own), 1.0).to_dict()
  del before["data"]["modalities"], before["data"]["frozen"]  # of an earlier version
  assert train_variant.load_data(before).spec.names == ("photo", "v", "s")
  assert isinstance(data_features.features_dir(), str)
  assert pathlib.Path(data_features.features_dir()).is_dir()
