"""A run with a saved model of untrained methods, made in a second."""

import jax
import numpy as np

import example_batches
from promise_jax import data, methods, missing
from promise_jax.evaluation import calibration, gain, predict
from promise_jax.inference import saved_model

SMALL = {"hidden": 4, "head_hidden": 4}
ROWS = 60
TEXTS = ["a red dress", "blue shoes, two pairs", "hat", "green"]
SEEDS = (0, 1, 2)


def make_arrays(task="classes"):
  """A photo, a text and a vector; a fifth of each is absent."""
  rng = np.random.default_rng(2)
  arrays = {
    "x_photo": rng.integers(0, 256, (ROWS, 8, 8, 3), dtype=np.uint8),
    "x_text": np.array([TEXTS[i] for i in rng.integers(0, 4, ROWS)]),
    "x_v": rng.normal(3, 2, (ROWS, 3)).astype(np.float32),
    "id": 100 + np.arange(ROWS),
    "split": np.array(["train"] * 30 + ["valid"] * 20 + ["test"] * 10),
  }
  absent = rng.random((ROWS, 3)) < 0.2
  arrays |= {f"present_{m}": ~absent[:, i] for i, m in enumerate(("photo", "text", "v"))}
  arrays |= {
    "classes": {"y": np.arange(ROWS) % 3, "classes": np.array(["hat", "shoe", "dress"])},
    "regression": {"y": rng.normal(size=ROWS).astype(np.float32), "scale": np.float32(2.0)},
    "multilabel": {"y": rng.integers(0, 2, (ROWS, 4))},
  }[task]
  return arrays


def of_split(arrays, split):
  """The rows of one split, as new rows."""
  where = arrays["split"] == split
  skipped = ("classes", "scale", "split")
  return {name: x[where] for name, x in arrays.items() if name not in skipped}


def save_run(folder, task="classes", settings=None):
  """Writes a run of `fusion` and the constant; returns arrays, data set, method, params, state."""
  folder.mkdir(parents=True, exist_ok=True)
  arrays = make_arrays(task)
  np.savez(folder / "own.npz", **arrays)
  dataset = data.load(folder / "own.npz")
  return arrays, dataset, *save_model(folder, dataset, settings)


def save_model(folder, dataset, settings=None):
  """Writes the model of a run on `dataset`; returns method, params and state of `fusion`."""
  settings = vars(methods.make_config("fusion", settings or SMALL))
  method = methods.build_method("fusion", settings, dataset.spec)
  # Large weights, so that predictions are far from uniform and differ between patterns.
  drawn = [example_batches.random_params(method, seed) for seed in SEEDS]
  params = jax.tree.map(lambda *x: 3 * np.stack(x), *drawn)
  state = jax.eval_shape(method.init, jax.random.key(0))[1]
  state = jax.tree.map(lambda x: np.zeros((len(SEEDS), *x.shape), x.dtype), state)
  valid, patterns = dataset.split("valid"), missing.all_patterns(len(dataset.spec.modalities))
  logits = predict.predict_split(method, params, state, valid, patterns)
  fitted = calibration.fit_calibration(
    dataset.spec.task, logits, valid.label, valid.recorded, patterns
  )
  chances = np.stack(
    [
      calibration.calibrate(fitted, logits[:, p], (valid.recorded & patterns[p]).sum(1))
      for p in range(len(patterns))
    ]
  )
  gains = gain.fit_expected_gain(dataset.spec.task, chances, valid.recorded, patterns)
  prior = np.linspace(-1, 1, dataset.spec.task.outputs).astype(np.float32)
  constant = {"logits": np.tile(prior, (len(SEEDS), 1))}
  model = saved_model.SavedModel(
    name="own",
    spec=dataset.spec,
    preprocessing=dataset.preprocessing,
    variants=(
      saved_model.SavedVariant("fusion", "fusion", settings, "fusion", 0.5),
      saved_model.SavedVariant("majority", "majority", {}, "majority", 0.3),
    ),
    best="fusion",
    seeds=SEEDS,
    precision="float32",
    prior=prior,
    calibration={"fusion": fitted.to_json(), "majority": fitted.to_json()},
    gains={"fusion": gains.to_json()},
    card={"dataset": "own", "rows": {"rows": {"train": 60}, "labelled": [45, 44, 45]}},
  )
  leaves = {"fusion": (params, state), "majority": (constant, {})}
  saved_model.write_model(folder / "model", model, jax.device_get(leaves))
  return method, params, state
