"""The encoders are no straw man: with all labels fusion reaches logistic regression."""

import numpy as np
import pytest

from promise_jax import data, missing
from promise_jax.data import batches
from promise_jax.evaluation import predict
from promise_jax.methods import fusion
from promise_jax.training import loop
from promise_jax.training.config import TrainConfig

SEEDS = (0, 1, 2)
LONG = True


def full_accuracy(dataset: data.Dataset, mesh) -> float:
  """Of fusion as it is by default, on test with everything present, mean over seeds."""
  rows, test = dataset.split("train"), dataset.split("test")
  labelled = np.ones((len(SEEDS), len(rows.id)), bool)
  method = fusion.fusion(fusion.FusionConfig(), dataset.spec)
  fit = loop.fit(
    method,
    dataset.spec,
    batches.TrainData(rows, labelled, SEEDS),
    dataset.split("valid"),
    TrainConfig(),
    mesh=mesh,
  )
  full = missing.all_patterns(len(dataset.spec.modalities))[-1:]
  logits = predict.predict_split(method, fit.params, fit.model_state, test, full, mesh)
  return float((logits[:, 0].argmax(-1) == test.label).mean())


@pytest.mark.slow
def test_fusion_with_all_labels_reaches_logistic_regression_on_mfeat(one_device):
  from sklearn.linear_model import LogisticRegression

  dataset = data.load("mfeat")

  def flat(split):
    return np.concatenate([split.inputs[n] for n in dataset.spec.names], axis=1)

  rows, test = dataset.split("train"), dataset.split("test")
  oracle = LogisticRegression(C=0.1, max_iter=1000).fit(flat(rows), rows.label)
  anchor = oracle.score(flat(test), test.label)
  # One point around the published .89 for these three views.
  assert abs(anchor - 0.89) < 0.01
  assert full_accuracy(dataset, one_device) > anchor - 0.02


@pytest.mark.slow
def test_fusion_with_all_labels_reaches_logistic_regression_on_emoji(one_device):
  # .785 is that of the data card, fitted on train and valid with richer features.
  assert full_accuracy(data.load("emoji"), one_device) > 0.785 - 0.02
