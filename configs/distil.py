"""Self-distillation over all subsets of the modalities, beside fusion.

  python launch/train.py --config distil
  python launch/train.py --config distil:dataset=mfeat,label_rate=0.05

Default: emoji (image, text, properties) with all labels.
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="distil", dataset="emoji", label_rate=1.0)
  return experiment_config.apply_arguments(config, arguments)
