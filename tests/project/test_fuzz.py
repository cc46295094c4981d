"""Spoilt input at every door: a right answer, or one sentence, and no half of a file.

The cases are drawn from seeds. FUZZ=1000,7 tries 1000 of each door, from seed 7 on.
"""

import json
import os
import pickle
import shutil
import types

import numpy as np
import pandas as pd
import pytest

import good_files
import promise_jax
import tiny_runs
from data import sentiment_files
from mutations import JSON, pick, spoil_bytes, spoil_columns, spoil_json, write_columns
from promise_jax import data
from promise_jax.cli import errors
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import run_dir, run_tables
from promise_jax.experiments.experiment import parse_experiment
from promise_jax.inference import predictions

ROUNDS, FIRST_SEED = map(int, os.environ.get("FUZZ", "40,0").split(","))
LONGEST = 1000  # characters of a sentence
CONFIG = "label_rate=0.5,baselines=majority+fusion(fill=zeros),seeds=2,metrics=uar+macro_f1,"
CONFIG += "test_protocols=map(.5,both=1)+bernoulli(0.30),train_protocol=exact(0.5),modalities=2"
VALUES = (*JSON, "(", "[", "a(b=", "+", "fusion(", "map(2)", "exact(nan)", "1e999", "(1,2)", "{}")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
  """Good files in a folder, which is the working folder, and what models say of good rows."""
  folder = tmp_path_factory.mktemp("fuzz")
  with tiny_runs.compile_once(folder / "programs"), pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    patch.chdir(folder)
    rows = good_files.write(folder)
    models = {name: promise_jax.load(folder / name) for name in ("arrays", "table")}
    clean = {name: models[name].predict_proba(rows[name]) for name in models}
    clean["exported"] = clean["arrays"]
    yield types.SimpleNamespace(folder=folder, models=models, rows=rows, clean=clean)


def refuse_or(command):
  """What `command` returns, or None if it raises one sentence for the user."""
  try:
    return command()
  except (ValueError, OSError) as error:
    if not errors.is_user_error(error):
      raise
    assert 0 < len(str(error)) <= LONGEST, f"a sentence of {len(str(error))} characters"
    return None


def check_answers(found, clean, changed):
  """Probabilities that are some, and for rows that have not changed those of clean input."""
  assert len(found) and np.isfinite(found.to_numpy()).all()
  np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
  if not changed.all():
    assert len(found) == len(clean)
    np.testing.assert_allclose(found[~changed], clean[~changed], atol=1e-5)


def check_dataset(dataset):
  """Everything is finite, in range, and as much as there are rows."""
  for name in dataset.splits:
    split, count = dataset.split(name), len(dataset.split(name).id)
    assert count and len(set(split.id.tolist())) == count and split.id.min() >= 0
    for m in dataset.spec.modalities:
      values = split.inputs[m.name][:]
      assert values.shape == (count, *m.shape) and np.isfinite(values).all()
    assert all((0 <= n).all() for n in split.length.values())
    assert split.recorded.shape == (count, len(dataset.spec.modalities))
    assert len(split.label) == count and np.isfinite(split.label).all()


def fuzz_predict(rng, good, folder, name):
  """Columns in memory."""
  rows, changed = spoil_columns(rng, good.rows[name])
  if rng.random() < 0.4:
    try:
      is_nested = lambda x: isinstance(x, np.ndarray) and x.ndim > 1
      rows = pd.DataFrame({n: list(x) if is_nested(x) else x for n, x in rows.items()})
    except Exception:  # pandas has no such table
      return
    if rng.random() < 0.1:
      rows, changed = pd.concat([rows, rows.iloc[:, :1]], axis=1), changed | True
  ask = pick(rng, ("evaluate", "contribution", *["predict_proba"] * 4))
  found = refuse_or(lambda: getattr(good.models[name], ask)(rows))
  if found is not None and ask == "predict_proba":
    check_answers(found, good.clean[name], changed)


def fuzz_predict_file(rng, good, folder, name):
  """A file to predict, and the file that is written."""
  (rows, changed), clean = spoil_columns(rng, good.rows[name]), good.clean[name]
  path = folder / f"new{pick(rng, ('.csv', '.tsv', '.parquet', '.npz'))}"
  out = folder / f"out{pick(rng, ('.csv', '.parquet'))}"
  (folder / "photos").symlink_to(good.folder / "photos")
  if not write_columns(path, rows):
    return
  if path.suffix in (".csv", ".tsv"):
    changed[:] = True  # the text of a cell may mean another thing
  if rng.random() < 0.5:
    path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    changed[:] = True
  count = refuse_or(lambda: predictions.write_predictions(good.models[name], path, out, 0.9))
  written = {p.name for p in folder.iterdir()} - {path.name, "photos"}
  assert written == ({out.name} if count is not None else set())
  if count is not None:
    table = pd.read_csv(out) if out.suffix == ".csv" else pd.read_parquet(out)
    assert len(table) == count
    found = table[[f"p_{c}" for c in clean]].set_axis(clean.columns, axis=1)
    check_answers(found, clean, changed)


def fuzz_load(rng, good, folder, name):
  """A file to train on."""
  path, options = folder / name, {}
  shutil.copy(good.folder / name, path)
  if path.suffix in (".npz", ".h5"):
    is_streamed = bool(rng.random() < 0.1) and path.suffix == ".npz"
    columns, options = good_files.make_arrays(), {"stream": is_streamed}
  elif path.suffix == ".pkl":
    splits = sentiment_files.make()[0]
    split = pick(rng, list(splits))
    columns = {n: np.asarray(x) for n, x in splits[split].items()}
  else:
    table = pd.read_csv(good.folder / "products.csv")
    columns = {n: x.to_numpy() for n, x in table.items()}
    options = {"label": "category", "root": str(good.folder), "image_size": 4}
  if rng.random() < 0.6:
    columns, _ = spoil_columns(rng, columns)
    if path.suffix == ".pkl":
      try:
        path.write_bytes(pickle.dumps(splits | {split: columns}))
      except Exception:  # there is no such pickle
        return
    elif not write_columns(path, columns):
      return
  else:
    path.write_bytes(spoil_bytes(rng, path.read_bytes()))

  def load():
    dataset = data.load(path, **options)
    return dataset, [dataset.split(split) for split in dataset.splits]

  found = refuse_or(load)
  if found is not None:
    check_dataset(found[0])


def fuzz_config(rng, good, folder, name):
  """The text behind --config."""
  parts = CONFIG.split(",")
  place = rng.integers(len(parts))
  parts[place] = f"{parts[place].partition('=')[0]}={pick(rng, VALUES)}"
  text = ",".join(parts)
  if rng.random() < 0.5:
    text = spoil_bytes(rng, CONFIG.encode()).decode("utf-8", "replace")
  config, read = tiny_runs.get_config(), experiment_config.apply_arguments
  refuse_or(lambda: parse_experiment(read(config, text).to_dict()))


def spoil_file(rng, path):
  """Spoils a file of JSON, of lines of JSON, or of bytes."""
  if rng.random() < 0.3 or path.suffix not in (".json", ".jsonl"):
    path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    return
  lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
  place = rng.integers(len(lines))
  lines[place] = json.dumps(spoil_json(rng, json.loads(lines[place])))
  path.write_text("\n".join(lines))


def fuzz_results(rng, good, folder, name):
  """The files of a finished run."""
  run = shutil.copytree(good.folder / "results", folder / "run")
  spoil_file(rng, run / pick(rng, ("config.json", "results.jsonl")))
  refuse_or(lambda: run_tables.make_tables([run]))
  refuse_or(lambda: parse_experiment(run_dir.read_config(run)))


def fuzz_model(rng, good, folder, name):
  """The folder of a trained model."""
  run = shutil.copytree(good.folder / name, folder / "run")
  inside = run if name == "exported" else run / "model"
  every = sorted(p for p in inside.iterdir() if p.suffix != ".md")
  spoil_file(rng, pick(rng, [*every, inside / "model.json"]))
  found = refuse_or(lambda: promise_jax.load(run).predict_proba(good.rows[name]))
  if found is not None:  # what is spoilt is not used
    check_answers(found, good.clean[name], np.zeros(len(found), bool))


DOORS = {
  "predict-arrays": (fuzz_predict, "arrays"),
  "predict-table": (fuzz_predict, "table"),
  "file-arrays": (fuzz_predict_file, "arrays"),
  "file-table": (fuzz_predict_file, "table"),
  "npz": (fuzz_load, "own.npz"),
  "csv": (fuzz_load, "products.csv"),
  "parquet": (fuzz_load, "products.parquet"),
  "feather": (fuzz_load, "products.feather"),
  "h5": (fuzz_load, "own.h5"),
  "pkl": (fuzz_load, "own.pkl"),
  "config": (fuzz_config, ""),
  "results": (fuzz_results, ""),
  "model": (fuzz_model, "table"),
  "exported": (fuzz_model, "exported"),
}


@pytest.mark.parametrize("door", DOORS)
def test_spoilt_input_gives_right_answers_or_one_sentence(door, good, tmp_path):
  fuzz, name = DOORS[door]
  for seed in range(FIRST_SEED, FIRST_SEED + ROUNDS):
    folder = tmp_path / str(seed)
    folder.mkdir()
    try:
      fuzz(np.random.default_rng([*door.encode(), seed]), good, folder, name)
    except Exception as error:
      error.add_note(f"{door}, seed {seed}")
      raise
    shutil.rmtree(folder)
