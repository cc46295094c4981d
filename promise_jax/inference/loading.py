"""`load`: a trained model from the folder of its run.

predictor = promise_jax.load("runs/products")
predictor.predict_proba(table)  # a DataFrame, a dict of arrays, or a file
"""

import pathlib
from typing import Literal

import jax
import numpy as np

from promise_jax.checks import check_choice
from promise_jax.evaluation import calibration
from promise_jax.evaluation.gain import Gain
from promise_jax.inference import saved_model
from promise_jax.inference.predictor import Forward, Predictor
from promise_jax.method import Method
from promise_jax.types import Inputs, PyTree


def load(
  folder: str | pathlib.Path, variant: str | None = None, seeds: Literal["all"] | int = "all"
) -> Predictor:
  """A trained model.

  Args:
    folder: of a finished run, or one that `promise-jax export` wrote.
    variant: which method of the run; default: the best on validation.
    seeds: "all" averages the probabilities of all seeds; a number serves that seed alone.

  Raises:
    ValueError: no finished run, no such variant or seed, or files that cannot be read.
  """
  folder = pathlib.Path(folder).expanduser()
  inside = folder / "model"
  model = saved_model.read_model(inside)
  name = variant or model.best
  method, params, model_state = saved_model.load_variant(inside, model, name)
  fitted = calibration.Calibration.from_json(model.calibration[name])
  expected, chosen = model.gains.get(name), slice(None)
  if seeds != "all":
    check_choice("seeds", str(seeds), ("all", *map(str, model.seeds)))
    number = model.seeds.index(int(seeds))
    fitted, chosen = fitted.seeds[number], slice(number, number + 1)
  params, model_state = jax.tree.map(lambda x: x[chosen], (params, model_state))
  return Predictor(
    variant=name,
    seeds=model.seeds[chosen],
    spec=model.spec,
    preprocessing=model.preprocessing,
    calibration=fitted,
    gain=None if expected is None else Gain.from_json(expected),
    prior=model.prior,
    card=model.card,
    forward=make_forward(method, params, model_state),
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
