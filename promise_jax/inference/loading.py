"""`load`: a trained model from the folder of its run.

predictor = promise_jax.load("runs/products")
predictor.predict_proba(table)  # a DataFrame, a dict of arrays, or a file
"""

import pathlib
from typing import Literal

import jax
import numpy as np

from promise_jax.checks import check_choice
from promise_jax.data.readers.lost_files import FileOptions
from promise_jax.evaluation import calibration
from promise_jax.evaluation.gain import Gain
from promise_jax.inference import exported, saved_model
from promise_jax.inference.predictor import Forward, Predictor
from promise_jax.method import Method
from promise_jax.types import Inputs, PyTree


def load(
  folder: str | pathlib.Path,
  variant: str | None = None,
  seeds: Literal["all"] | int = "all",
  *,
  root: str | pathlib.Path = "",
  allow_missing_files: bool = False,
) -> Predictor:
  """A trained model.

  Args:
    folder: of a finished run, or one that `promise-jax export` wrote.
    variant: which method of the run; default: the best on validation.
    seeds: "all" averages the probabilities of all seeds; a number serves that seed alone.
    root: the folder that paths in new rows start from; default: that of their file, else the
      working directory.
    allow_missing_files: more than a fifth of the files that new rows name may be missing.

  Raises:
    ValueError: no finished run, no such variant or seed, or files that cannot be read.
  """
  folder = pathlib.Path(folder).expanduser()
  if exported.is_export(folder):
    model, run_all = exported.read_export(folder)
    name, chosen = variant or model.best, saved_model.choose_seeds(model, seeds)
    check_choice("variant", name, (model.best,))
    forward = lambda inputs: {key: x[chosen] for key, x in run_all(inputs).items()}
  else:
    inside = folder / "model"
    model = saved_model.read_model(inside)
    name, chosen = variant or model.best, saved_model.choose_seeds(model, seeds)
    method, *arrays = saved_model.load_variant(inside, model, name)
    forward = make_forward(method, *jax.tree.map(lambda x: x[chosen], arrays))
  fitted = calibration.Calibration.from_json(model.calibration[name])
  expected = model.gains.get(name)
  return Predictor(
    variant=name,
    seeds=model.seeds[chosen],
    spec=model.spec,
    preprocessing=model.preprocessing,
    calibration=fitted if chosen == slice(None) else fitted.seeds[chosen.start],
    gain=None if expected is None else Gain.from_json(expected),
    prior=model.prior,
    card=model.card,
    forward=forward,
    file_options=FileOptions(str(root), allow_missing_files),
  )


def make_forward(method: Method | None, params: PyTree, model_state: PyTree) -> Forward:
  """The compiled function of a method, or of the constant predictor."""
  if method is None:
    return lambda inputs: {
      "logits": np.repeat(params["logits"][:, None], len(inputs.present), axis=1)
    }

  @jax.jit
  def predict_seeds(stacked, inputs: Inputs):
    inputs = inputs.replace(inputs=method.preprocess(inputs.inputs))
    return jax.lax.map(lambda seed: method.predict(*seed, inputs), stacked)

  stacked = jax.device_put((params, model_state))
  return lambda inputs: predict_seeds(stacked, inputs)
