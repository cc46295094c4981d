"""Sound of any format that soundfile reads, as log-mel spectrograms (extra `sound`).

A sound is mixed to one channel, resampled to 16 kHz and cut after 30 s. Of x, in windows of 40 ms
that start every 20 ms,

  P[t, f] = |sum_n hann[n] x[t hop + n] exp(-2 pi i n f / N)|^2       N = 640 samples, hop = 320
  y[t, m] = log(max(sum_f W[m, f] P[t, f], 1e-10))                    m = 1 ... 64

where W are triangles of height 1 whose corners lie from 0 to 8 kHz at equal distances of
mel(f) = 2595 log10(1 + f / 700). That scale is O'Shaughnessy's (1987); the sizes are ours.
"""

import functools
import io
import math
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from promise_jax.data.readers import images

ENDINGS = (".wav", ".flac", ".ogg", ".mp3")
UNREAD = (".m4a", ".aac", ".wma")  # by soundfile
RATE = 16000
WINDOW, HOP = 640, 320  # samples
BANDS = 64
MAX_SECONDS = 30
MAX_STEPS = (MAX_SECONDS * RATE - WINDOW) // HOP + 1
LEAST = 1e-10  # of a power, below which its logarithm says nothing
FORMAT = 1  # of the spectrograms: another number makes cached ones unused


def read_sounds(
  contents: Sequence[pathlib.Path | bytes | None], cache: pathlib.Path | None = None
) -> tuple[list[Float[np.ndarray, "T 64"]], Bool[np.ndarray, " N"]]:
  """Spectrograms, made in threads, and which sounds could be read; the others have no steps.

  Arguments are as in `images.read_images`. ValueError where soundfile is not installed.
  """
  make = functools.partial(describe_sounds, contents)
  found = images.load_or_make(make, contents, f"sound-{FORMAT}", cache)
  return np.split(found["steps"], np.cumsum(found["length"])[:-1]), found["readable"]


def describe_sounds(contents: Sequence[pathlib.Path | bytes | None]) -> dict[str, np.ndarray]:
  """The "steps" of all spectrograms, one behind the other, the "length" of each, and which sounds
  are "readable"."""
  try:
    import soundfile
  except (ImportError, OSError) as error:  # OSError: its library does not load
    words = "sound is read by the package soundfile: pip install promise-jax[sound]"
    raise ValueError(words) from error

  def read(content: pathlib.Path | bytes | None) -> Float[np.ndarray, "T 64"] | None:
    try:
      return None if content is None else describe_sound(decode_sound(soundfile, content))
    except Exception:  # a damaged file can fail in any way; the caller counts them
      return None

  with ThreadPoolExecutor(os.cpu_count()) as pool:
    found = list(pool.map(read, contents))
  readable = np.array([steps is not None for steps in found], bool)
  empty = np.zeros((0, BANDS), np.float32)
  found = [empty if steps is None else steps for steps in found]
  length = np.array([len(steps) for steps in found])
  return {"steps": np.concatenate([empty, *found]), "length": length, "readable": readable}


def decode_sound(soundfile: Any, content: pathlib.Path | bytes) -> Float[np.ndarray, " n"]:
  """One sound as a mono signal of `RATE`; raises whatever soundfile raises."""
  import scipy.signal  # slow to import

  with soundfile.SoundFile(io.BytesIO(content) if isinstance(content, bytes) else content) as file:
    values = file.read(MAX_SECONDS * file.samplerate, dtype="float32", always_2d=True)
    rate = file.samplerate
  if not len(values) or not np.isfinite(values).all():
    raise ValueError("it is empty or has values that are no numbers")
  common = math.gcd(RATE, rate)
  return scipy.signal.resample_poly(values.mean(axis=1), RATE // common, rate // common)


def describe_sound(signal: Float[np.ndarray, " n"]) -> Float[np.ndarray, "T 64"]:
  """The log-mel spectrogram of a signal, at least one step."""
  import scipy.signal

  signal = np.pad(signal, (0, max(WINDOW - len(signal), 0)))
  windows = np.lib.stride_tricks.sliding_window_view(signal, WINDOW)[::HOP]
  power = np.abs(np.fft.rfft(windows * scipy.signal.get_window("hann", WINDOW))) ** 2
  return np.log(np.maximum(power @ mel_filters().T, LEAST)).astype(np.float32)


@functools.cache
def mel_filters() -> Float[np.ndarray, "64 F"]:
  """How much of every frequency is in each band."""
  highest = 2595 * np.log10(1 + RATE / 2 / 700)
  corners = 700 * (10 ** (np.linspace(0, highest, BANDS + 2) / 2595) - 1)
  frequency = np.fft.rfftfreq(WINDOW, 1 / RATE)
  low, middle, high = (corners[i : i + BANDS, None] for i in range(3))
  rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
  return np.maximum(np.minimum(rising, falling), 0)
