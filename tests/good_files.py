"""Good files of every kind, small: data to train on, trained models, a finished run."""

import pickle

import numpy as np
import pandas as pd

import made_up_results
import mutations
import tiny_runs
from data import sentiment_files, shop
from inference import saved_runs
from promise_jax import data, files
from promise_jax.experiments import result_files
from promise_jax.inference import export


def make_arrays():
  """A modality of every kind, as arrays of an npz file."""
  rng = np.random.default_rng(0)
  return {
    "x_photo": rng.integers(0, 256, (60, 6, 5, 3), dtype=np.uint8),
    "x_text": np.array([f"a {shop.WORDS[i % 9]} {shop.WORDS[i % 7]}" for i in range(60)]),
    "x_v": rng.normal(3, 2, (60, 3)).astype(np.float32),
    "x_s": rng.normal(size=(60, 4, 2)).astype(np.float32),
    "x_ids": rng.integers(1, 30, (60, 4)),
    "length_s": rng.integers(1, 5, 60),
    "present_photo": rng.random(60) < 0.7,
    "id": 100 + np.arange(60),
    "y": np.arange(60) % 3,
    "classes": np.array(["hat", "shoe", "dress"]),
    "split": np.repeat(["train", "valid", "test"], (30, 18, 12)),
    "group": np.repeat([f"g{i}" for i in range(10)], 6),
  }


def write(folder):
  """Writes own.npz, products.csv with photos/, products.parquet, own.pkl, the models arrays/,
  table/ and exported/, and the run results/; returns {model: columns of rows to predict}."""
  np.savez(folder / "own.npz", **make_arrays())
  mutations.write_hdf5(folder / "own.h5", make_arrays())
  shop.write_shop(folder)
  table = pd.read_csv(folder / "products.csv")
  table.to_parquet(folder / "products.parquet")
  table.to_feather(folder / "products.feather")
  (folder / "own.pkl").write_bytes(pickle.dumps(sentiment_files.make()[0]))
  saved_runs.save_model(folder / "arrays", data.load(folder / "own.npz"))
  saved_runs.save_model(folder / "table", data.load(folder / "products.csv", label="category"))
  export.export_run(folder / "arrays", folder / "exported")
  write_results(folder / "results")
  rows = {n: x[-12:] for n, x in make_arrays().items() if n not in ("split", "classes", "group")}
  cells = {n: x.to_numpy() for n, x in table[-12:].items()}
  return {"arrays": rows, "exported": rows, "table": cells}


def write_results(folder):
  """A finished run without a model."""
  folder.mkdir()
  files.write_json(folder / "config.json", {"config": tiny_runs.get_config().to_dict()})
  lines = made_up_results.frame(made_up_results.PATTERNS, made_up_results.SCORES)
  result_files.write_results(folder / "results.jsonl", lines)
