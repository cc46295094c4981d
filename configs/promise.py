"""PROMISE-style training where 70 % of the train rows lack a modality.

  python launch/train.py --config promise
  python launch/train.py --config promise:modalities=image+text+props
  python launch/train.py --config promise:dataset=mfeat
  python launch/train.py --config promise:dataset=features.npz,modalities=image+text,preset=clip

Default: pictures of emoji and their names, 8 classes, all rows labelled. 35 % of the train
rows have only the picture and 35 % only the name (the protocol of the MAP family: one fixed
table, never both missing). Tests: all patterns, and missing rates 0.1 to 0.9. With two
modalities the rates are also tested with only the image, or only the text, missing. About 2
minutes on 2 CPU cores.
"""

from promise_jax.experiments import config as experiment_config

BASELINES = ("majority", "fusion", "distil", "promise(fncl_weight=0,cccl_weight=0)")


def get_config(arguments: str = ""):
  config = experiment_config.default_map_config("promise", arguments)
  if "baselines" not in experiment_config.parse_pairs(arguments):
    config.baselines = BASELINES
  return config
