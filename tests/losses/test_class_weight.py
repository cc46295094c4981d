"""Class weights against scikit-learn and a loop, and that the loss of every method has them."""

import json
import math

import jax
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

import example_batches
import method_cases
import saved_models
from promise_jax import files, methods
from promise_jax.data.preprocessing import Preprocessing
from promise_jax.inference import saved_model
from promise_jax.losses import supervised
from promise_jax.types import Task

RARE = np.array([0] * 12 + [2] * 5 + [3] * 3, np.int32)  # of four classes, without class 1


def test_balanced_classes_are_those_of_scikit_learn():
  task = supervised.balance_classes(Task("classes", 4), RARE)
  expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=RARE)
  np.testing.assert_allclose(np.take(task.class_weight, [0, 2, 3]), expected)
  assert task.class_weight[1] == 1
  np.testing.assert_allclose(np.take(task.class_weight, RARE).mean(), 1)


def test_positives_of_a_label_weigh_as_much_as_its_negatives():
  label = np.float32([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]])
  assert supervised.balance_classes(Task("multilabel", 3), label).class_weight == (3, 1, 1 / 3)


@pytest.mark.parametrize("kind", ["classes", "multilabel"])
def test_weighted_loss_by_loop(kind, rng):
  weight = (0.5, 3.0, 1.5)
  task = Task(kind, 3, class_weight=weight)
  logits = rng.normal(size=(6, 3)).astype(np.float32)
  label = example_batches.random_labels(task._replace(class_weight=()), 6, rng)
  found = supervised.task_loss(logits, label, task)
  for n in range(6):
    if kind == "classes":
      p = math.exp(logits[n, label[n]]) / sum(math.exp(x) for x in logits[n])
      expected = -weight[label[n]] * math.log(p)
    else:
      p = 1 / (1 + np.exp(-logits[n].astype(float)))
      expected = 0.0
      for c in range(3):
        expected -= weight[c] * math.log(p[c]) / 3 if label[n, c] else math.log(1 - p[c]) / 3
    np.testing.assert_allclose(found[n], expected, 1e-5)


def test_a_regression_has_no_class_weights():
  with pytest.raises(ValueError, match="class_weight is balanced, a regression has no classes"):
    supervised.balance_classes(Task("regression", 1), np.zeros(3, np.float32))


def test_they_are_saved_with_the_task():
  spec = example_batches.spec()
  spec = spec._replace(task=supervised.balance_classes(Task("classes", 4), RARE))
  model = saved_models.make_model(spec, preprocessing=Preprocessing(spec.modalities, {}))
  value = json.loads(files.to_line(saved_model.model_to_json(model)))
  assert saved_model.model_from_json(value).spec == spec


@method_cases.every_method
def test_the_supervised_loss_of_every_method_has_them(name, monkeypatch):
  """Every stage that reads labels passes the weights to `task_loss`."""
  case, seen = method_cases.CASES[name], []
  spec = example_batches.spec(case.task, case.modalities)
  spec = spec._replace(task=spec.task._replace(class_weight=(1.0, 2.0, 3.0)))
  method = methods.build_method(case.method, case.values, spec)
  task_loss = supervised.task_loss

  def record(logits, label, task):
    seen.append(task.class_weight)
    return task_loss(logits, label, task)

  monkeypatch.setattr(supervised, "task_loss", record)
  arrays = jax.eval_shape(method.init, jax.random.key(0))
  for stage in method.stages:
    arrays = jax.eval_shape(stage.on_start, jax.random.key(0), *arrays)
    given = example_batches.complete_batch(spec), jax.random.key(0), example_batches.step_info(0.9)
    jax.eval_shape(stage.loss, *arrays, *given)
  assert {(1.0, 2.0, 3.0)} == {*seen}
