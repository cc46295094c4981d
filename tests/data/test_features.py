"""Features of frozen encoders: computed once, read afterwards, used in place of a modality."""

import itertools
import sys

import numpy as np
import pytest
from encoded_rows import CLASSES, ORDER, SPLITS, N, make, rows_of, standard

from promise_jax import data
from promise_jax.data import dataset
from promise_jax.data import source as data_source
from promise_jax.data.features import FeatureEncoder, extract_features
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import experiment, setup
from promise_jax.types import Modality, Task

module_numbers = itertools.count()


class MeanAndMax:
  """An encoder that keeps what it was shown."""

  def __init__(self):
    self.shown = []

  def __call__(self, x):
    self.shown.append(x.copy())
    flat = x.reshape(len(x), -1).astype(np.float64)
    return np.stack([flat.mean(1), flat.max(1)], axis=1)


def test_a_function_is_called_once_and_sees_recorded_raw_rows(encoded_npz, feature_cache):
  encode, photo = MeanAndMax(), make()["x_photo"][np.argsort(ORDER)]
  encoders = {"photo": FeatureEncoder(encode, version="1")}
  first, plain = data.load(encoded_npz, encoders=encoders), data.load(encoded_npz)
  # A quarter of the rows is absent.
  assert [len(x) for x in encode.shown] == [112, 75, 38]
  seen = [r for s in SPLITS for r in rows_of(s) if r % 4]
  np.testing.assert_array_equal(np.concatenate(encode.shown)[..., 0], photo[seen])
  second = data.load(encoded_npz, encoders=encoders)
  assert len(encode.shown) == len(list(feature_cache.iterdir())) == 3
  how = "225 rows computed and kept in"
  note = f"own, photo: features 2 of MeanAndMax, version 1, {how} {feature_cache}."
  assert note in first.notes
  assert note.replace(how, "read from") in second.notes

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


def test_whatever_changes_the_features_computes_them_anew(encoded_npz, tmp_path):
  encode = MeanAndMax()

  def calls(version="1", name="photo", path=encoded_npz, **options):
    before = len(encode.shown)
    data.load(path, encoders={name: FeatureEncoder(encode, version)}, **options)
    return len(encode.shown) - before

  assert calls() == 3
  assert calls(version="2") == 3
  assert calls() == calls(modalities="s+photo") == calls(nonfinite="value") == 0
  assert calls(name="v") == 4
  changed = make()
  changed["x_v"][0, 0] += 1
  np.savez(encoded_npz, **changed)
  assert calls() == 0  # the photos are as they were
  assert calls(name="v") == 2  # those of one split, 150 rows
  for array, value in (
    ("present_photo", ~make()["present_photo"]),
    ("x_photo", make()["x_photo"] // 2),
  ):
    np.savez(encoded_npz, **(make() | {array: value, "group": np.arange(N)}))
    assert calls() > 0, array
    assert calls() == 0
  np.savez(encoded_npz, **make(y=np.arange(N) % 3))
  assert calls() == 0  # labels are not encoded
  np.savez(encoded_npz, **make(id=np.arange(N)))
  assert calls() == 0  # nor are ids
  encoded_npz.rename(tmp_path / "other.npz")
  assert calls(path=tmp_path / "other.npz") == 3


def test_an_imported_function_is_cached_by_its_source(encoded_npz, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  package = tmp_path / f"pack{next(module_numbers)}"
  package.mkdir()
  (package / "__init__.py").touch()
  source, log = package / "vit.py", tmp_path / "log"
  text = (
    f"import pathlib\ndef encode(x):\n"
    f"  with pathlib.Path({str(log)!r}).open('a') as f: f.write('.')\n"
    f"  return x.reshape(len(x), -1)[:, :2] * GAIN\n"
  )

  def calls():
    log.write_text("")
    found = data.load(encoded_npz, encoders={"photo": f"{package.name}.vit:encode"})
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


def test_sequences_keep_their_valid_steps_and_a_function_may_return_others(encoded_npz):
  seen = []

  def by_step(x, length):
    seen.append((x, length))
    return x[..., :2] * 2 + 1  # garbage in the padding

  def with_length(x):
    return np.ones((len(x), 7, 1)) * x[:, :1, :1], np.arange(len(x)) % 7 + 1

  def repeat(x):
    return np.repeat(x[:, None], 4, axis=1)

  encoders = {"s": FeatureEncoder(by_step, "1"), "v": FeatureEncoder(repeat, "1")}
  found = data.load(encoded_npz, encoders=encoders)
  x, steps = make()["x_s"][np.argsort(ORDER)], np.arange(N) % 6
  shown, length = seen[0]
  rows = [r for r in rows_of("train") if steps[r]][:128]
  assert length[: len(rows)].tolist() == steps[rows].tolist()
  inside = np.arange(5) < length[: len(rows), None]
  np.testing.assert_array_equal(shown[: len(rows)], np.where(inside[..., None], x[rows], 0))
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
  train = data.load(encoded_npz, encoders={"s": FeatureEncoder(with_length, "1")}).split("train")
  numbers = iter(range(128))
  expected = [next(numbers) % 7 + 1 if steps[r] else 0 for r in rows_of("train")[:128]]
  assert train.length["s"][:128].tolist() == expected


def test_tokens_are_shown_with_the_steps_up_to_the_last_token(tmp_path, feature_cache):
  seen = []

  def encode(x, length):
    seen.append((x, length))
    return np.stack([x[:, 0], length], 1)

  ids = np.array([[3, 0, 4, 0], [5, 0, 0, 0], [0, 0, 0, 0]] * 3)
  np.savez(tmp_path / "t.npz", x_t=ids, y=np.arange(9) % 3, split=np.repeat(SPLITS, 3))
  kinds, encoders = {"t": "tokens"}, {"t": FeatureEncoder(encode, "1")}
  found = data.load(tmp_path / "t.npz", kinds=kinds, encoders=encoders)
  for x, length in seen:
    assert x[:, :3].tolist() == [[3, 0, 4], [5, 0, 0]]
    assert length.tolist() == [3, 1]
  assert found.spec.modalities == (Modality("t", "vector", (2,)),)
  recorded = np.concatenate([found.split(s).recorded for s in SPLITS])
  assert recorded[:, 0].tolist() == [True, True, False] * 3


def test_any_source_can_be_encoded(tmp_path):
  """A source with a number as label, rows of their own length and a split more."""
  rng = np.random.default_rng(2)
  sizes = {"train": (0, 8), "valid": (8, 12), "test": (12, 16), "dev": (16, 18)}

  def rows(split):
    at = np.arange(*sizes[split])
    inputs = {"s": [rng.normal(size=(i % 5 + 1, 2)) for i in at], "v": at[:, None]}
    recorded = np.ones((len(at), 2), bool)
    return data_source.Rows(inputs, {}, recorded, (at / 2).astype(np.float32), at)

  modalities = (Modality("s", "sequence", (None, 2)), Modality("v", "vector", (1,)))
  task = Task("regression", 1, scale=3.0)
  source = data_source.Source("own", "card", modalities, task, tuple(sizes), rows)
  first_step = FeatureEncoder(lambda x: x[:, 0], "first step")
  found = dataset.assemble(extract_features(source, {"s": first_step}, folder=tmp_path))
  assert found.spec.task == task
  assert found.spec.modalities == (Modality("s", "vector", (2,)), modalities[1])
  assert found.group("train") is None
  assert found.split("test").label.tolist() == [6, 6.5, 7, 7.5]
  assert found.split("dev").id.tolist() == [16, 17]
  assert len(list(tmp_path.iterdir())) == 4


def test_bad_raw_values_are_dropped_and_warned_of(encoded_npz, caplog):
  arrays = make()
  arrays["x_v"][3, 0] = np.nan
  np.savez(encoded_npz, **arrays)
  encode = MeanAndMax()
  data.load(encoded_npz, encoders={"v": FeatureEncoder(encode, "1")}, nonfinite="frame")
  assert np.isfinite(np.concatenate(encode.shown)).all()
  assert sum(len(x) for x in encode.shown) == N - 1
  assert caplog.text.count("1 NaN, inf or huge values dropped, 1 frames lost") == 1
  with pytest.raises(ValueError, match="own.npz, split '.*'v': 1 values are NaN"):
    encoders = {"v": FeatureEncoder(encode, "1")}
    data.load(encoded_npz, encoders=encoders, nonfinite="error")


def test_encoders_and_modalities_are_fields_of_the_config(encoded_npz, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(tmp_path)
  module = f"mine{next(module_numbers)}"
  source = "def encode(x):\n  return x.reshape(len(x), -1)[:, :3]\n"
  (tmp_path / f"{module}.py").write_text(source)

  def load(name, **fields):
    config = experiment_config.default_config("fusion", name, 1.0)
    config.data.update(fields)
    return setup.load_dataset(experiment.parse_data(name, config.data.to_dict()))

  found = load(str(encoded_npz), modalities="photo+v", encoders=f"photo={module}:encode")
  assert [m.shape for m in found.spec.modalities] == [(3,), (2,)]
  with pytest.raises(ValueError, match="is not of the form key=value"):
    load(str(encoded_npz), encoders=f"{module}:encode")
  assert len(load("synthetic").spec.names) == 3
  assert load("synthetic", modalities="2").spec.names == ("m0", "m1")
