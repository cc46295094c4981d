"""ProMMA, reconstructed from its abstract: evaluate an absent modality, then generate it.

  python launch/train.py --config promma
  python launch/train.py --config promma:dataset=aligned_50.pkl,preset=clean

Default: accelerometer and gyroscope (watch). Four fifths of the training steps train the host, late
fusion of the codes of any encoder, the others the prompts, with 70 % of the rows
incomplete, drawn again in each epoch. Baselines: MPLMM, the method without its evaluator,
fusion, distil, the majority class. preset=clean has the MulT of MPLMM as its host, with five
layers and all time steps: it is for sequences, and takes a minute to compile.
"""

from promise_jax.experiments import config as experiment_config

BASELINES = ("majority", "fusion", "distil", "mplmm", "promma(gate=on)")


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="promma", dataset="watch", label_rate=1.0)
  config.train_protocol = "mplmm(0.7,redraw=true)"
  config.baselines = BASELINES
  config.train.update({"steps": 400, "batch_size": 64})
  return experiment_config.apply_arguments(config, arguments)
