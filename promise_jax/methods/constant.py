"""The constant predictor: majority class, label priors, or the median label.

What a model that reads nothing scores; every table shows it, because some metrics
flatter it.
"""

import numpy as np

from promise_jax.types import Task


def constant_logits(label: np.ndarray, labelled: np.ndarray, task: Task) -> np.ndarray:
  """Logits f[C] fitted on the rows `labelled` bool[N] of `label`.

  Log class frequency (its argmax is the majority class), log odds of each label, or
  the median label, the best under mean absolute error, in units of `task.scale`.
  """
  known = label[labelled]
  if task.kind == "classes":
    count = np.bincount(known, minlength=task.outputs) + 1e-3
    return np.log(count / count.sum()).astype(np.float32)
  if task.kind == "multilabel":
    rate = np.clip(known.mean(axis=0), 1e-3, 1 - 1e-3)
    return np.log(rate / (1 - rate)).astype(np.float32)
  return np.array([np.median(known) / task.scale], np.float32)
