"""Robult-style training and its baselines, with few labels.

  python launch/train.py --config robult
  python launch/train.py --config robult:dataset=emoji,label_rate=0.2

Default: three views of handwritten digits (mfeat), 60 of 1,200 train rows labelled, 5 seeds.
Beside robult stand the majority class, fusion (modality dropout), and distil (self-distillation)
and share, which use the unlabelled rows too. About 40 s on 2 CPU cores. The sentence under
the table says which is best on validation; RESULTS.md has more data sets and seeds.
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="robult", dataset="mfeat", label_rate=0.05)
  config.baselines = ("majority", "fusion", "distil", "share")

  # Training: every variant gets the same rows, steps and masks.
  config.train.steps = 300
  config.train.eval_every = 25
  config.train.batch_size = 128
  config.train.labelled_per_batch = 32
  config.train.optim.lr = 3e-3

  return experiment_config.apply_arguments(config, arguments)
