"""Writes a made-up sentiment file in the layout of MMSA's pickles: no real data.

  python configs/results/standin.py standin.pkl

It has the rows and features of MOSI and at most 20 time steps. A label in [-3, 3] is the sum
of a part that all modalities show and a part for each modality that only it shows; text shows
its part most clearly, audio least.
"""

import pathlib
import pickle
import sys

import numpy as np

ROWS = {"train": 1284, "valid": 229, "test": 686}
STEPS = 20
# Features, and the noise of a frame beside what it shows.
STREAMS = {"text": (768, 4.0), "audio": (5, 6.0), "vision": (20, 8.0)}


def split(name: str, rows: int, shown: dict, rng: np.random.Generator) -> dict:
  """The fields of one split. `shown` {stream: f[2, D]} has the directions in which the frames
  show the common part and their own."""
  common = np.clip(rng.normal(0, 1.6, rows), -3, 3)
  own = {stream: rng.normal(size=rows) for stream in STREAMS}
  label = common + 0.5 * sum(own.values())
  label = np.clip(np.round(5 * label) / 5, -3, 3).astype(np.float32)
  length = rng.integers(8, STEPS + 1, rows)
  real = np.arange(STEPS)[None] < length[:, None]
  token = np.zeros((rows, 3, STEPS), np.float32)
  token[:, 0], token[:, 1] = np.where(real, 1000, 0), real
  out = {
    "id": [f"standin_{name}_{i // 20:03d}$_${i % 20}" for i in range(rows)],
    "raw_text": np.array(["made up"] * rows),
    "text_bert": token,
    "regression_labels": label,
    "classification_labels": np.sign(label) + 1,
    "annotations": np.array(["Negative", "Neutral", "Positive"])[
      np.sign(label).astype(int) + 1
    ].tolist(),
  }
  for stream, (width, noise) in STREAMS.items():
    says = np.stack([common / 1.6, own[stream]], axis=1) @ shown[stream]
    phase = rng.uniform(0, 6, (rows, 1))
    loud = 1 + 0.3 * np.sin(np.arange(STEPS)[None] / 7 + phase)
    frames = says[:, None] * loud[..., None]
    frames = frames + noise * rng.normal(size=(rows, STEPS, width))
    out[stream] = np.where(real[..., None], frames, 0).astype(np.float32)
  return out


def main(path: str) -> None:
  rng = np.random.default_rng(0)
  shown = {s: rng.normal(size=(2, width)) for s, (width, _) in STREAMS.items()}
  data = {name: split(name, rows, shown, rng) for name, rows in ROWS.items()}
  pathlib.Path(path).write_bytes(pickle.dumps(data, protocol=4))


if __name__ == "__main__":
  main(*sys.argv[1:])
