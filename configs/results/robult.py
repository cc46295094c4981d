"""Robult-style training and `share`, their ablations and baselines, with few labels.

  python launch/compare.py --config results/robult
  python launch/compare.py --config results/robult:label_rate=0.5
  python launch/compare.py --config results/robult:dataset=emoji
  python launch/compare.py --config results/robult:dataset=watch,fold=1

Default: mfeat with 5 % of the labels, on watch 10 % (one recording an exercise). The main
variants have 20 seeds, the ablations 5; another weight of `distil` is for the default rate alone.
"""

from promise_jax.experiments import compare_config
from promise_jax.experiments import config as experiment_config

LABEL_RATE = {"watch": 0.1}
ABLATIONS = (
  "robult(reconstruction_weight=0.0)",
  "robult(labelled_weight=0.0)",
  "robult(unlabelled_weight=0.0)",
  "robult(contrast=pucl)",
  "robult(detach_shared=false)",
  "robult(own_encoders=false)",
)
FUSION = (
  "fusion(fill=zeros)",
  "fusion(fill=token)",
  "fusion(fill=mean,dropout=false)",
  "fusion(fill=zeros,dropout=false)",
)
DISTIL = ("distil(weight=3.0)",)


def get_config(arguments: str = ""):
  dataset = experiment_config.parse_pairs(arguments).get("dataset", "mfeat")
  rate = LABEL_RATE.get(dataset, 0.05)
  base = experiment_config.default_config(method="robult", dataset=dataset, label_rate=rate)
  base = experiment_config.apply_arguments(base, arguments)
  where = f"{dataset}, fold {base.data.fold}" if dataset == "watch" else dataset
  return compare_config.make_two_runs(
    arguments,
    base,
    title=f"Robult-style on {where}, {100 * base.label_rate:g} % labels",
    headline=("majority", "fusion", "distil", "share", "robult(contrast=infonce)"),
    others=(*ABLATIONS, *FUSION, *(DISTIL if base.label_rate == rate else ())),
    variants=("share",),
  )
