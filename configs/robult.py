"""Robult-style training and its baselines, with few labels.

  python launch/train.py --config robult
  python launch/train.py --config robult:dataset=emoji,label_rate=0.2

Default: three views of handwritten digits (mfeat), 60 of 1,200 train rows labelled, 5 seeds;
baselines are the majority class, fusion (mean and modality dropout) and distil. Under a
minute on 2 CPU cores. Expect, as mean accuracy over the incomplete patterns, 78.8 +- 0.8 %
for robult, 72.5 +- 2.2 % for fusion, 81.5 +- 0.5 % for distil.
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="robult", dataset="mfeat", label_rate=0.05)

  # Training: every variant gets the same rows, steps and masks.
  config.train.steps = 300
  config.train.eval_every = 25
  config.train.batch_size = 128
  config.train.labelled_per_batch = 32
  config.train.optim.lr = 3e-3

  return experiment_config.apply_arguments(config, arguments)
