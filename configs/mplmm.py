"""MPLMM: prompts teach a frozen MulT to work without some modalities.

  python launch/train.py --config mplmm
  python launch/train.py --config mplmm:dataset=aligned_50.pkl,preset=clean
  python launch/train.py --config mplmm:dataset=aligned_50.pkl,preset=authors

Default: accelerometer and gyroscope (watch), two layers, at most 20 time steps a modality.
Half of the training steps train the backbone on complete rows, the others the prompts, with
70 % of the rows incomplete, drawn again in each epoch. The presets have the five layers of
the paper and all time steps; preset=authors also has the faults of the released code. To use
the backbone of another run:

  --config.init_from=FOLDER_OF_THAT_RUN --config.mplmm.pretrain=0
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="mplmm", dataset="watch", label_rate=1.0)
  config.train_protocol = "mplmm(0.7,redraw=true)"
  config.train.update({"steps": 400, "batch_size": 64})
  if "preset" not in experiment_config.parse_pairs(arguments):
    config.mplmm.max_steps = 20
  return experiment_config.apply_arguments(config, arguments)
