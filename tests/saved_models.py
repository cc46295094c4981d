"""Models to save, without training them."""

import jax
import numpy as np

from promise_jax.data.preprocessing import Preprocessing
from promise_jax.data.scaling import LARGEST, Scale
from promise_jax.inference.saved_model import SavedModel, SavedVariant
from promise_jax.method import Method
from promise_jax.types import Spec

SEEDS = (0, 1)


def make_model(spec: Spec, *variants: tuple[str, dict], **changed) -> SavedModel:
  """A model with variants (method, settings), each called as its method."""
  saved = tuple(SavedVariant(name, name, values, name, 0.5) for name, values in variants)
  bounds = lambda mean: (np.full_like(mean, -LARGEST), np.full_like(mean, LARGEST))
  scale = {m: Scale(mean, std, *bounds(mean)) for m, (mean, std) in spec.standardise.items()}
  fields = {
    "preprocessing": Preprocessing(spec.modalities, scale),
    "best": saved[0].name if saved else "",
    "seeds": SEEDS,
    "precision": "float32",
    "prior": np.linspace(0, -1 / 3, spec.task.outputs, dtype=np.float32),
  }
  return SavedModel("run", spec, variants=saved, **(fields | changed))


def make_arrays(method: Method, num_seeds: int = len(SEEDS)):
  """Random (params, model_state) after the last stage of `method`, stacked over seeds."""

  def start_last_stage(key):
    state = method.init(key)
    for stage in method.stages:
      state = stage.on_start(key, *state)
    return state

  shapes, rng = jax.eval_shape(start_last_stage, jax.random.key(0)), np.random.default_rng(0)
  # A model_state may hold flags and counters.
  return jax.tree.map(lambda x: rng.normal(size=(num_seeds, *x.shape)).astype(x.dtype), shapes)
