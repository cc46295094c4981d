"""MPLMM: prompts teach a trained network to work without some modalities.

  python launch/train.py --config mplmm
  python launch/train.py --config mplmm:dataset=aligned_50.pkl,preset=clean
  python launch/train.py --config mplmm:dataset=aligned_50.pkl,preset=authors

Default: accelerometer and gyroscope (watch). Four fifths of the training steps train the host, late
fusion of the codes of any encoder, the others the prompts, with 70 % of the rows
incomplete, drawn again in each epoch. The presets have the paper's host in its place, a MulT
of five layers that reads all time steps; preset=authors also has the faults of the released
code. To use the host of another run:

  --config.init_from=FOLDER_OF_THAT_RUN --config.mplmm.pretrain=0
"""

from promise_jax.experiments import config as experiment_config


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="mplmm", dataset="watch", label_rate=1.0)
  config.train_protocol = "mplmm(0.7,redraw=true)"
  config.train.update({"steps": 400, "batch_size": 64})
  return experiment_config.apply_arguments(config, arguments)
