"""Robult-style against its controls at few labels: the tables of RESULTS.md.

  python launch/compare.py --config configs/results/robult.py
  python launch/compare.py --config configs/results/robult.py:label_rate=0.5

Default: mfeat, 5 % labels; five minutes on 2 CPU cores. Headline arms have 20 seeds,
ablations 5. Resumable.
"""

from ml_collections import config_dict

from promise_jax import settings

ABLATIONS = (
  "robult(rec=0.0)",
  "robult(lb=0.0)",
  "robult(ulb=0.0)",
  "robult(contrast=pucl)",
  "robult(stop_s=false)",
  "robult(own_encoders=false)",
)
FUSION = (
  "fusion(absent=zeros)",
  "fusion(absent=token)",
  "fusion(absent=mean,dropout=false)",
  "fusion(absent=zeros,dropout=false)",
)


def get_config(arguments: str = ""):
  base = settings.defaults(method="robult", dataset="mfeat", label_rate=0.05)
  for field in ("seeds", "controls"):
    if field in settings.pairs(arguments):
      raise ValueError(f"{field} is fixed in this comparison, it cannot be given")
  base = settings.with_arguments(base, arguments)

  headline = config_dict.ConfigDict(base)
  headline.seeds = 20
  headline.controls = ("majority", "fusion", "distil", "robult(contrast=infonce)")

  others = config_dict.ConfigDict(base)
  others.seeds = 5
  others.controls = (*ABLATIONS, *FUSION)

  config = config_dict.ConfigDict()
  config.title = f"Robult-style on {base.dataset}, {100 * base.label_rate:g} % labels"
  config.trials = config_dict.ConfigDict()
  config.trial_seeds = 5
  config.runs = config_dict.ConfigDict({"headline": headline, "others": others})
  return config
