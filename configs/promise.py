"""PROMISE-style training where 70 % of the train rows lack a modality.

  python launch/train.py --config promise
  python launch/train.py --config promise:modalities=image+text+props
  python launch/train.py --config promise:dataset=mfeat
  python launch/train.py --config promise:dataset=features.npz,modalities=image+text,preset=clip

Default: pictures of emoji and their names, 8 classes, all rows labelled. 35 % of the train
rows have only the picture and 35 % only the name (the protocol of the MAP family: one fixed
table, never both missing). Tests: all patterns, and missing rates 0.1 to 0.9. With two
modalities the rates are also tested with only the image, or only the text, missing. Expect, as
mean accuracy over the incomplete patterns (20 seeds, RESULTS.md of version 0.1.0), 61.2 +- 2.0 %
for promise, 62.2 +- 2.2 % for fusion, 62.9 +- 2.5 % for distil; on mfeat 83.3 +- 0.5, 82.7 +- 0.7
and 83.2 +- 0.7 %. About 2 minutes on 2 CPU cores.
"""

from promise_jax.experiments import config as experiment_config

BASELINES = ("majority", "fusion", "distil", "promise(fncl_weight=0,cccl_weight=0)")


def get_config(arguments: str = ""):
  config = experiment_config.default_map_config("promise", arguments)
  if "baselines" not in experiment_config.parse_pairs(arguments):
    config.baselines = BASELINES
  return config
