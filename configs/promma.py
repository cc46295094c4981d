"""ProMMA (reconstructed from its abstract): evaluate an absent modality, then generate.

  python launch/train.py --config configs/promma.py
  python launch/train.py --config configs/promma.py:dataset=aligned_50.pkl,preset=clean

Default: accelerometer and gyroscope (watch), two layers, at most 20 steps a modality.
Of the steps, half train the backbone on complete rows, a tenth its projections and
output, the others the prompts, with 70 % of the rows incomplete, drawn again in each
epoch. Beside it: MPLMM, the same without the evaluator, fusion, distil, the majority
class. preset=clean has the five layers of MPLMM and all steps.
"""

from promise_jax.experiments import config as experiment_config

BASELINES = ("majority", "fusion", "distil", "mplmm", "promma(gate=on)")


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="promma", dataset="watch", label_rate=1.0)
  config.train_protocol = "mplmm(0.7,redraw=true)"
  config.baselines = BASELINES
  config.train.update({"steps": 400, "batch_size": 64})
  if "preset" not in experiment_config.parse_pairs(arguments):
    config.promma.max_steps = config.mplmm.max_steps = 20
    config.promma.gate_every = 4
  return experiment_config.apply_arguments(config, arguments)
