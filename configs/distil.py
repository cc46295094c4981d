"""Fusion with self-distillation over all subsets: the control for unlabelled data.

  python launch/train.py --config configs/distil.py
  python launch/train.py --config configs/distil.py:dataset=mfeat,label_rate=0.05

Default: emoji (image, text, properties) with all labels. Arguments as in
configs/robult.py.
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="distil", dataset="emoji", label_rate=1.0)
  return experiment_config.apply_arguments(config, arguments)
