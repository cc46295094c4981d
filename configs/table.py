"""A table of your own: robult, fusion, distil and share side by side, and the majority class.

  promise-jax train products.csv --label=category
  python launch/train.py --config table:dataset=products.csv,label=category

All labels are used, and rows without one train as unlabelled rows. The best on validation is
named at the end.
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="robult", dataset="table.csv", label_rate=1.0)
  config.baselines = ("majority", "fusion", "distil", "share")
  config.train.labelled_per_batch = 64
  return experiment_config.apply_arguments(config, arguments)
