"""Sound: spectrograms by slow sums, files of several formats, holes, new rows."""

import cmath
import math

import numpy as np
import pandas as pd
import pytest

from promise_jax import data
from promise_jax.data.readers import sound
from promise_jax.data.readers.table_columns import read_table_inputs
from promise_jax.types import Modality

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_spectrogram_is_that_of_the_formula():
  signal = np.random.default_rng(0).normal(0, 0.1, 640 + 320 + 7).astype(np.float32)
  found = sound.describe_sound(signal)
  assert found.shape == (2, 64) and found.dtype == np.float32
  mel = lambda f: 2595 * math.log10(1 + f / 700)
  corners = [700 * (10 ** (mel(8000) * i / 65 / 2595) - 1) for i in range(66)]
  window = [0.5 - 0.5 * math.cos(2 * math.pi * n / 640) for n in range(640)]
  for t in range(2):
    power = []
    for f in range(321):
      turn = cmath.exp(-2j * math.pi * f / 640)
      total, factor = 0, 1
      for n in range(640):
        total += window[n] * float(signal[320 * t + n]) * factor
        factor *= turn
      power.append(abs(total) ** 2)
    for m in range(0, 64, 9):
      low, middle, high = corners[m : m + 3]
      energy = 0
      for f, p in enumerate(power):
        at = f * 25  # Hz
        if low < at < high:
          energy += p * (
            (at - low) / (middle - low) if at <= middle else (high - at) / (high - middle)
          )
      assert found[t, m] == pytest.approx(math.log(max(energy, 1e-10)), abs=1e-3)


def test_a_short_or_silent_sound_has_a_step():
  assert sound.describe_sound(np.zeros(5, np.float32)).tolist() == [
    [np.float32(math.log(1e-10))] * 64
  ]


def tone(frequency, rate, seconds):
  return 0.3 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


@pytest.mark.parametrize(("ending", "rate"), [("wav", 8000), ("flac", 44100), ("ogg", 22050)])
def test_formats_rates_and_channels_give_one_sound(tmp_path, ending, rate):
  both = np.stack([tone(1000, rate, 1.5), 0.5 * tone(1000, rate, 1.5)], axis=1)
  soundfile.write(tmp_path / f"a.{ending}", both, rate)
  (found,), readable = sound.read_sounds([tmp_path / f"a.{ending}"])
  expected = sound.describe_sound(0.75 * tone(1000, 16000, 1.5))
  assert readable.all() and found.shape == expected.shape == (74, 64)
  loudest = expected[10].argmax()
  assert (found[5:-5].argmax(axis=1) == loudest).all()
  np.testing.assert_allclose(found[5:-5, loudest], expected[5:-5, loudest], atol=0.1)


def test_what_cannot_be_read_is_absent_and_long_sounds_are_cut(tmp_path, monkeypatch):
  monkeypatch.setattr(sound, "MAX_SECONDS", 1)
  soundfile.write(tmp_path / "long.wav", tone(300, 8000, 3), 8000)
  soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
  (tmp_path / "bad.wav").write_bytes(b"RIFF and nothing else")
  paths = [tmp_path / f"{name}.wav" for name in ("long", "empty", "bad", "none")]
  contents = [*paths, None, paths[0].read_bytes()]
  found, readable = sound.read_sounds(contents)
  assert readable.tolist() == [True, False, False, False, False, True]
  assert [len(x) for x in found] == [49, 0, 0, 0, 0, 49]
  again, _ = sound.read_sounds(paths, tmp_path / "kept")
  kept, readable = sound.read_sounds(paths, tmp_path / "kept")
  assert readable.tolist() == [True, False, False, False] and len(
    list((tmp_path / "kept").iterdir())
  )
  for a, b, c in zip(found, again, kept, strict=False):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


def test_a_table_of_sounds_is_read_and_new_rows_are_too(tmp_path, caplog):
  for i in range(40):
    seconds = 0.1 + 0.02 * (i % 5)
    soundfile.write(tmp_path / f"{i}.wav", tone(200 + 400 * (i % 2), 8000, seconds), 8000)
  (tmp_path / "3.wav").write_bytes(b"damaged")
  soundfile.write(tmp_path / "5.wav", np.zeros(800), 8000)
  frame = pd.DataFrame({"call": [f"{i}.wav" if i % 8 else None for i in range(40)]})
  frame = frame.assign(kind=["low", "high"] * 20, split=["train"] * 20 + ["valid", "test"] * 10)
  frame.to_csv(tmp_path / "calls.csv", index=False)
  found = data.load(tmp_path / "calls.csv", label="kind")
  assert any("column call: sound of modality call, 5 of 40 cells missing" in n for n in found.notes)
  assert found.spec.modalities == (Modality("call", "sequence", (8, 64)),)
  train = found.split("train")
  steps = [0 if i in (0, 3, 8, 16) else 4 + i % 5 for i in range(20)]
  assert train.length["call"].tolist() == steps
  assert train.recorded[:, 0].tolist() == [n > 0 for n in steps]
  assert "call: 1 of 17 files are missing or cannot be read, as 3.wav" in caplog.text
  assert "call: 1 sounds are silence alone, they count as recorded." in caplog.text
  test = frame[frame.split == "test"]
  read = read_table_inputs(found.preprocessing.columns, test, tmp_path)
  expected = found.split("test")
  assert read.recorded.tolist() == expected.recorded.tolist()
  lengths = [len(x) for x in read.inputs["call"]]
  assert np.minimum(lengths, 8).tolist() == expected.length["call"].tolist()


def test_without_soundfile_sound_is_ignored_or_refused(tmp_path, monkeypatch):
  soundfile.write(tmp_path / "a.wav", tone(300, 8000, 0.1), 8000)
  frame = pd.DataFrame({"call": ["a.wav", None] * 20, "x": range(40), "y": [0, 1] * 20})
  frame.assign(x=frame.x * 0.5).to_csv(tmp_path / "calls.csv", index=False)
  monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
  monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
  found = data.load(tmp_path / "calls.csv", label="y")
  assert found.spec.names == ("attributes",)
  assert any("call: ignored" in n and "promise-jax[sound]" in n for n in found.notes)
  with pytest.raises(ValueError, match=r"sound is read by .*pip install promise-jax\[sound\]"):
    data.load(tmp_path / "calls.csv", label="y", columns="call=sound")
