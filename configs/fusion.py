"""Late fusion with modality dropout: the first baseline to try on new data.

  python launch/train.py --config fusion
  python launch/train.py --config "fusion:baselines=fusion(fill=zeros)"

Default: emoji (image, text, properties) with all labels; an absent modality is replaced by
the running mean of its code. Beside it the majority class and distil. About two minutes on 2
CPU cores.
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="fusion", dataset="emoji", label_rate=1.0)
  return experiment_config.apply_arguments(config, arguments)
