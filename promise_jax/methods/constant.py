"""The constant predictor: majority class, label priors, or the median label.

It shows what a model scores that reads nothing. Every table has it, because some metrics
flatter it.
"""

import numpy as np
from jaxtyping import Bool, Float

from promise_jax.types import Task

CONSTANT_VARIANT = "majority"  # its name in configs and tables


def constant_logits(
  label: np.ndarray, labelled: Bool[np.ndarray, " N"], task: Task
) -> Float[np.ndarray, " C"]:
  """Logits of every row, fitted on the labelled ones.

  Log frequencies of classes (the argmax is the majority class), log odds of each label of
  a multilabel task, or for regression the median label in units of `task.scale`, which is
  best under mean absolute error.
  """
  known = label[labelled]
  if task.kind == "classes":
    count = np.bincount(known, minlength=task.outputs) + 1e-3
    return np.log(count / count.sum()).astype(np.float32)
  if task.kind == "multilabel":
    rate = np.clip(known.mean(axis=0), 1e-3, 1 - 1e-3)
    return np.log(rate / (1 - rate)).astype(np.float32)
  return np.array([np.median(known) / task.scale], np.float32)
