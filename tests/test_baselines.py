"""The encoders are no straw man: with all labels fusion reaches logistic regression."""

import dataclasses

import numpy as np
import pytest

from promise_jax import data, evaluate, train
from promise_jax.data import feed
from promise_jax.methods import fusion
from promise_jax.optim import OptimConfig


@pytest.mark.slow
def test_fusion_with_all_labels_reaches_logistic_regression_on_mfeat(one_device):
  from sklearn.linear_model import LogisticRegression

  dataset = data.load("mfeat")
  rows, test = dataset.split("train"), dataset.split("test")

  def flat(split):
    return np.concatenate([split.inputs[n] for n in dataset.spec.names], axis=1)

  judge = LogisticRegression(C=0.1, max_iter=1000).fit(flat(rows), rows.label)
  anchor = judge.score(flat(test), test.label)
  # One point around the published .89 for these three views.
  assert abs(anchor - 0.89) < 0.01

  seeds = (0, 1, 2)
  labelled = np.ones((len(seeds), len(rows.id)), bool)
  method = fusion.fusion(fusion.FusionConfig(dropout=False), dataset.spec)
  config = dataclasses.replace(train.TrainConfig(), optim=OptimConfig())
  # Chosen on the full pattern alone: the baseline has everything.
  fit = train.fit(
    method,
    dataset.spec,
    feed.Rows(rows, labelled, seeds),
    dataset.split("valid"),
    config,
    mesh=one_device,
  )
  full = ((True,) * len(dataset.spec.modalities),)
  logits = evaluate.predict_split(method, fit.params, fit.aux, test, full, one_device)
  accuracy = (logits[:, 0].argmax(-1) == test.label).mean()
  assert accuracy > anchor - 0.02
