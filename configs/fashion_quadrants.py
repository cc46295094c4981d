"""Clothes in four quarters: 70,000 rows that are read from disk while training.

  apt-get install dataset-fashion-mnist
  python launch/train.py --config fashion_quadrants

Fashion-MNIST with the quarters of a picture as modalities (see
promise_jax/data/builtin/fashion.py), all 50,000 train rows labelled; fusion beside the
majority class. 95 s of processor time on 2 CPU cores, and 40 s more the first time, when the
data are prepared; peak memory 1.2 GB. Expect (version 0.1.0) 84.7 +- 0.2 % with everything
present (2 seeds, test) and 79.2 +- 0.1 % as mean over the incomplete patterns. With stream=false
the numbers are the same, in 1.5 GB.
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(
    method="fusion", dataset="fashion_quadrants", label_rate=1.0
  )
  config.data.stream = True
  config.seeds = 2
  config.baselines = ("majority",)
  config.train.update({"steps": 400, "eval_every": 50})
  return experiment_config.apply_arguments(config, arguments)
