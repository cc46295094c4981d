"""Logits of variants under all that is tested, and what is fitted to those of validation rows."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
import tqdm

from promise_jax import frames
from promise_jax.devices import distributed
from promise_jax.evaluation import calibration, conditions, gain, predict
from promise_jax.experiments.setup import Setup
from promise_jax.experiments.train_variant import TrainedVariant
from promise_jax.patterns import MAX_ALL_TESTED
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
  logits = predict_models(list(models), models.__getitem__, rows, setup.patterns, alone)
  return {
    "valid": {name: x[:, :num_patterns, :count] for name, x in logits.items()},
    "test": {name: x[:, :, count:] for name, x in logits.items()},
  }


def predict_models(
  names: Sequence[str],
  load: Callable[[str], tuple],
  rows: Split,
  tested: Sequence[Pattern],
  alone: Sequence[frames.Kept],
) -> Logits:
  """The logits of models under the `tested` patterns, then on what is left of the rows by `alone`.

  `load` returns (method, params, model_state) of a name: one model at a time, as they may be large.
  A bar on a terminal shows the time left.
  """
  bar = {"desc": "testing", "unit": "pattern", "delay": 1, "leave": False}
  bar |= {"total": len(names) * (len(tested) + len(alone))}
  with tqdm.tqdm(**bar, disable=None if distributed.is_primary() else True) as shown:
    return {
      name: predict.predict_split(*load(name), rows, tested, alone=alone, move=shown.update)
      for name in names
    }


def fit_calibrations(setup: Setup, logits: Logits) -> dict[str, calibration.Calibration]:
  """{variant: its calibration}, fitted to its logits on the validation rows."""
  rows, task = setup.valid_data, setup.spec.task
  known = rows.label, rows.recorded, setup.patterns, setup.dataset.groups.get("valid")
  return {name: calibration.fit_calibration(task, x, *known) for name, x in logits.items()}


def fit_gains(
  setup: Setup, logits: Logits, calibrations: Mapping[str, calibration.Calibration]
) -> dict[str, gain.Gain]:
  """{variant: its gain of asking}, fitted to its calibrated probabilities of the same rows.

  Empty where only a sample of patterns is predicted: a pattern and one more may not be in it.
  """
  if len(setup.spec.modalities) > MAX_ALL_TESTED:
    return {}
  rows, patterns = setup.valid_data, np.array(setup.patterns)
  num_present = (rows.recorded & patterns[:, None]).sum(axis=-1)
  gains = {}
  for name, x in logits.items():
    pairs = zip(x.swapaxes(0, 1), num_present, strict=True)
    probabilities = [calibration.calibrate(calibrations[name], *pair) for pair in pairs]
    gains[name] = gain.fit_expected_gain(
      setup.spec.task, np.stack(probabilities), rows.recorded, setup.patterns
    )
  return gains
