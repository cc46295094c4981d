"""Late fusion, the control, alone or as the host of a comparison.

  python launch/train.py --config configs/fusion.py
  python launch/train.py --config "configs/fusion.py:baselines=fusion(fill=zeros)"

Default: emoji (image, text, properties) with all labels; modality dropout, the running
mean of its code for what is absent; majority class and distil beside it. About two
minutes on 2 CPU cores. Expect 77.4 +- 2.5 % with everything present (5 seeds), 63 % as
mean over the incomplete patterns. Arguments as in configs/robult.py.
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="fusion", dataset="emoji", label_rate=1.0)
  return experiment_config.apply_arguments(config, arguments)
