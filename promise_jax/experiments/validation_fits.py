"""What is fitted to the validation rows once all variants are trained, for those who use them."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from promise_jax.evaluation import calibration, gain
from promise_jax.experiments.setup import Setup
from promise_jax.patterns import MAX_ALL_TESTED

Logits = Mapping[str, Float[np.ndarray, "S P N C"]]  # of every variant


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
