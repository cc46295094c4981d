"""RedCore and its baselines, where modalities go missing at different rates.

  python launch/train.py --config redcore
  python launch/train.py --config "redcore:train_protocol=exact(0.5)"
  python launch/train.py --config redcore:preset=authors

Default: three views of handwritten digits (mfeat), all rows labelled. The first view is
missing in 20 %, the second in 50 %, the third in 80 % of the train rows, in all epochs the
same ones; only the mean and deviation that standardise a view see them. Of any other number of
modalities the rates are spread evenly from 20 to 80 %, too. Baselines: RedCore without an upper
level, fusion (mean and modality dropout), distil, the majority class. preset=authors has the
settings of the released code. Their widths, learning rate and 60 epochs (of ten batches of 128 for
1,200 rows: the last batch is not full) are

  --config.redcore.hidden=128 --config.redcore.imputer_hidden=256
  --config.redcore.head_hidden=128 --config.train.optim.lr=2e-4
  --config.train.steps=600
"""

from promise_jax.experiments import config as experiment_config

# Rates of the modalities in turn (acoustic, visual, lexical), from the scripts of the
# authors. `exact` hides them in that many rows, each modality on its own, as their code
# does: rows without any occur.
SHARED = tuple(f"exact({rate / 10})" for rate in range(10))
IMBALANCED = (
  "exact(0.8,0.5,0.5)",
  "exact(0.5,0.8,0.5)",
  "exact(0.5,0.5,0.8)",
  "exact(0.2,0.5,0.8)",
  "exact(0.5,0.2,0.8)",
  "exact(0.8,0.5,0.2)",
  "exact(0.5,0.8,0.2)",
)


def get_config(arguments: str = ""):
  config = experiment_config.default_config(method="redcore", dataset="mfeat", label_rate=1.0)
  config.train_protocol = "exact(0.2..0.8)"
  config.baselines = ("majority", "fusion", "distil", "redcore(upper=none)")
  return experiment_config.apply_arguments(config, arguments)
