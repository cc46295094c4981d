"""Loss of each row for the three kinds of task, predictions from logits, distillation."""

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from promise_jax import missing
from promise_jax.types import Task


def known_label(label: Array, labelled: Bool[Array, " B"]) -> Array:
  """Zeroes the labels of unlabelled rows, so that garbage there can never matter."""
  return missing.zero_absent(label, labelled)


def task_loss(logits: Float[Array, "B C"], label: Array, task: Task) -> Float[Array, " B"]:
  """Cross entropy for classes, mean binary cross entropy for multilabel, absolute error
  in units of `task.scale` for regression.

  Args:
    logits: predictions; of regression one column.
    label: i32[B] for classes, f32[B, C] for multilabel, f32[B] for regression.
    task: says which.

  Raises:
    AssertionError: another shape of `label`, which would broadcast to B x B errors.
  """
  chex.assert_shape(label, logits.shape[: 2 if task.kind == "multilabel" else 1])
  if task.kind == "classes":
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)
  if task.kind == "multilabel":
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, label), axis=-1)
  return jnp.abs(logits[:, 0] - label / task.scale)


def predict_probability(logits: Float[Array, "B C"], task: Task) -> Float[Array, "B C"]:
  """Probabilities of classes or of each label; the logits themselves for regression."""
  if task.kind == "classes":
    return jax.nn.softmax(logits)
  return jax.nn.sigmoid(logits) if task.kind == "multilabel" else logits


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
