"""Loss of each row for the three kinds of task, predictions from logits, distillation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from promise_jax.types import Task

CLASS_WEIGHTS = ("none", "balanced")


def task_loss(logits: Float[Array, "B C"], label: Array, task: Task) -> Float[Array, " B"]:
  """Cross entropy for classes, mean binary cross entropy for multilabel, absolute error
  in units of `task.scale` for regression; with `task.class_weight`, if it has some.

  Labels are i32[B] for classes, f32[B, C] for multilabel, f32[B] for regression.

  Raises:
    AssertionError: another shape of `label`, which would broadcast to B x B errors.
  """
  chex.assert_shape(label, logits.shape[: 2 if task.kind == "multilabel" else 1])
  weight = jnp.asarray(task.class_weight, logits.dtype)
  if task.kind == "classes":
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    return loss * weight[label] if task.class_weight else loss
  if task.kind == "multilabel":
    loss = optax.sigmoid_binary_cross_entropy(logits, label)
    if task.class_weight:
      loss = jnp.where(label > 0.5, loss * weight[None], loss)
    return jnp.mean(loss, axis=-1)
  return jnp.abs(logits[:, 0] - label / task.scale)


def balance_classes(task: Task, label: np.ndarray) -> Task:
  """`task` with the `class_weight` that makes up for rare classes.

  The weight of a class of n_c rows is n / (C n_c), where C classes have rows: "balanced" of
  scikit-learn. Their mean over the rows is 1. Of several labels it is the weight of positives,
  n_0 / n_1, as pos_weight of PyTorch's BCEWithLogitsLoss; negatives have 1. A class without rows,
  and a label that is the same in all, has the weight 1. `label` are those of labelled train rows,
  as in `types.Split`; ValueError for a regression.
  """
  if task.kind == "regression":
    raise ValueError("class_weight is balanced, a regression has no classes; leave it none.")
  if task.kind == "classes":
    count = np.bincount(label, minlength=task.outputs)
    weight = len(label) / (np.sum(count > 0) * np.where(count > 0, count, 1))
    weight[count == 0] = 1
  else:
    count = (label > 0.5).sum(axis=0)
    has_both = (count > 0) & (count < len(label))
    weight = np.where(has_both, (len(label) - count) / np.where(has_both, count, 1), 1)
  return task._replace(class_weight=tuple(weight.tolist()))


def predict_probability(logits: Float[Array, "B C"], task: Task) -> Float[Array, "B C"]:
  """Probabilities of classes or of each label; the logits themselves for regression."""
  if task.kind == "classes":
    return jax.nn.softmax(logits)
  return jax.nn.sigmoid(logits) if task.kind == "multilabel" else logits


def label_probability(label: Array, task: Task) -> Float[Array, "B C"]:
  """Labels in the form of `predict_probability`; those of unlabelled rows are garbage."""
  if task.kind == "classes":
    return jax.nn.one_hot(label, task.outputs)
  return label if task.kind == "multilabel" else (label / task.scale)[:, None]


def predict_value(logits: Float[Array, "B 1"], task: Task) -> Float[Array, " B"]:
  """The predicted number, in units of the label."""
  return logits[:, 0] * task.scale


def distillation_loss(
  student: Float[Array, "B C"], teacher: Float[Array, "B C"], task: Task
) -> Float[Array, " B"]:
  """How far the student's prediction is from the teacher's; 0 where they agree.

  Kullback-Leibler divergence for classes, its mean over labels for multilabel, absolute
  difference for regression. The teacher gets no gradient.
  """
  teacher = jax.lax.stop_gradient(teacher)
  if task.kind == "classes":
    gap = jax.nn.log_softmax(teacher) - jax.nn.log_softmax(student)
    return jnp.sum(jax.nn.softmax(teacher) * gap, axis=-1)
  if task.kind == "multilabel":
    target = jax.nn.sigmoid(teacher)
    loss = optax.sigmoid_binary_cross_entropy
    return jnp.mean(loss(student, target) - loss(teacher, target), axis=-1)
  return jnp.abs(student - teacher)[:, 0]
