"""PROMISE-style training where 70 % of the training rows lack something.

  python launch/train.py --config configs/promise.py
  python launch/train.py --config configs/promise.py:modalities=image+text+props
  python launch/train.py --config configs/promise.py:dataset=mfeat
  python launch/train.py --config \
    configs/promise.py:dataset=features.npz,modalities=image+text,preset=clip

Default: pictures of emoji and their names, 8 classes, all rows labelled; in training
35 % of the rows have only the picture, 35 % only the name (the protocol of the MAP
family: one fixed table, never both gone), tested under every pattern and at rates .1 to
.9 of rows that lack either, only have the picture, or only have the name (these last
two only for watch and where modalities= names two). Expect, as
mean accuracy over the incomplete patterns (20 seeds, RESULTS.md), 61.2 +- 2.0 % for
promise, 62.2 +- 2.2 % for fusion, 62.9 +- 2.5 % for distil; on mfeat 83.3 +- 0.5,
82.7 +- 0.7 and 83.2 +- 0.7 %. About 2 minutes on 2 CPU cores; the first
program compiles in 17 s there, with three modalities in 22 s.
"""

from promise_jax.experiments import config as experiment_config

BASELINES = ("majority", "fusion", "distil", "promise(fncl=0,cccl=0)")


def get_config(arguments: str = ""):
  config = experiment_config.default_map_config("promise", arguments)
  if "baselines" not in experiment_config.parse_pairs(arguments):
    config.baselines = BASELINES
  return config
