"""Supervised losses per row for the three kinds of task, and distillation."""

import chex
import jax
import jax.numpy as jnp
import optax

from promise_jax import missing
from promise_jax.types import Array, Task


def known_label(label: Array, labelled: Array) -> Array:
  """Zeroes the labels of unlabelled rows, so that what stands there cannot matter."""
  return missing.zero_absent(label, labelled)


def task_loss(logits: Array, label: Array, task: Task) -> Array:
  """Loss f[B] of `logits` f[B, C]: cross entropy (classes), binary cross entropy
  averaged over the labels (multilabel), absolute error of `label / scale` (regression).

  `label` i[B] or f[B], of multilabel f[B, C]; AssertionError for another shape, which
  would be broadcast to B x B errors.
  """
  chex.assert_shape(label, logits.shape[: 2 if task.kind == "multilabel" else 1])
  if task.kind == "classes":
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)
  if task.kind == "multilabel":
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, label), axis=-1)
  return jnp.abs(logits[:, 0] - label / task.scale)


def predict_probability(logits: Array, task: Task) -> Array:
  """Probabilities f[B, C] of classes or of each label; logits pass for regression."""
  if task.kind == "classes":
    return jax.nn.softmax(logits)
  return jax.nn.sigmoid(logits) if task.kind == "multilabel" else logits


def predict_value(logits: Array, task: Task) -> Array:
  """Regression output f[B] in the units of the label."""
  return logits[:, 0] * task.scale


def distillation_loss(student: Array, teacher: Array, task: Task) -> Array:
  """Loss f[B] that pulls `student` f[B, C] to the detached `teacher` f[B, C].

  Kullback-Leibler divergence for classes, binary cross entropy less the teacher's
  entropy for multilabel, absolute difference for regression; 0 where they agree.
  """
  teacher = jax.lax.stop_gradient(teacher)
  if task.kind == "classes":
    target = jax.nn.softmax(teacher)
    gap = jax.nn.log_softmax(teacher) - jax.nn.log_softmax(student)
    return jnp.sum(target * gap, axis=-1)
  if task.kind == "multilabel":
    target = jax.nn.sigmoid(teacher)
    loss = optax.sigmoid_binary_cross_entropy
    return jnp.mean(loss(student, target) - loss(teacher, target), axis=-1)
  return jnp.abs(student - teacher)[:, 0]
