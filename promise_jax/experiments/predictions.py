"""The logits of trained variants under all that is tested, with a bar of progress."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np
import tqdm

from promise_jax import frames
from promise_jax.devices import distributed
from promise_jax.evaluation import conditions, predict
from promise_jax.experiments.setup import Setup
from promise_jax.experiments.train_variant import TrainedVariant
from promise_jax.types import Pattern, Split

Logits = dict[str, np.ndarray]  # of every variant [S, P, N, C]


def predict_variants(
  setup: Setup, variants: list[TrainedVariant], test_split: Split
) -> dict[str, Logits]:
  """{"valid": logits, "test": logits}. All processes must call it.

  Those of test are followed by those under the protocols that are predicted by themselves.
  """
  valid, num_patterns = setup.valid_data, len(setup.patterns)
  protocols = conditions.tested_protocols(setup.experiment.test_protocols)
  alone = conditions.kept_alone(test_split, protocols, setup.spec.names, "test")
  # Together, because each variant would compile a program for each split.
  rows, count = jax.tree.map(lambda *x: np.concatenate(x), valid, test_split), len(valid.id)
  pad = lambda x: np.pad(x, [(count, 0), (0, 0)], constant_values=True)
  alone = [frames.Kept(pad(mask), {m: pad(x) for m, x in steps.items()}) for mask, steps in alone]
  models = {v.name: (v.method, v.params, v.model_state) for v in variants}
  logits = predict_models(models, rows, setup.patterns, alone)
  return {
    "valid": {name: x[:, :num_patterns, :count] for name, x in logits.items()},
    "test": {name: x[:, :, count:] for name, x in logits.items()},
  }


def predict_models(
  models: Mapping[str, tuple],
  rows: Split,
  tested: Sequence[Pattern],
  alone: Sequence[frames.Kept],
) -> Logits:
  """The logits of `models` {name: (method, params, model_state)} under the `tested` patterns, then
  on what is left of the rows by `alone`; a bar on a terminal shows the time left."""
  bar = {"desc": "testing", "unit": "pattern", "delay": 1, "leave": False}
  bar |= {"total": len(models) * (len(tested) + len(alone))}
  with tqdm.tqdm(**bar, disable=None if distributed.is_primary() else True) as shown:
    return {
      name: predict.predict_split(*model, rows, tested, alone=alone, move=shown.update)
      for name, model in models.items()
    }
