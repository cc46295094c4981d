"""A method beside itself without one of its parts: which part pays?

  promise-jax compare --config results/ablations:method=robult
  promise-jax compare --config results/ablations:method=redcore,dataset=emoji

Default: mfeat, 5 seeds; robult with 5 % of the labels and complete training rows, the others with
all labels, where the modalities lack in 20 to 80 % of the training rows.
"""

from pathlib import Path

from ml_collections import config_dict

from promise_jax.experiments import config as experiment_config

ABLATIONS = {
  "robult": (
    "robult(labelled_weight=0.0,unlabelled_weight=0.0)",
    "robult(reconstruction_weight=0.0)",
    "robult(detach_shared=false)",
    "robult(own_encoders=true)",
    "robult(teach_weight=0.0)",
  ),
  "redcore": (
    "redcore(detach_latents=false)",
    "redcore(upper=none)",
    "redcore(vib=false)",
    "redcore(unimodal_weight=0.0)",
    "fusion",
  ),
  "promise": ("promise(fncl_weight=0,cccl_weight=0)", "promise(generate=zeros)"),
  "promma": ("promma(gate=off)", "mplmm", "mplmm(tune=0)"),
}


def get_config(arguments: str = ""):
  given = experiment_config.parse_pairs(arguments)
  method, dataset = given.get("method", "robult"), given.get("dataset", "mfeat")
  few = method == "robult"
  base = experiment_config.default_config(method, dataset, label_rate=0.05 if few else 1.0)
  base.train_protocol = "none" if few else "exact(0.2..0.8)"
  base.baselines = ABLATIONS[method]
  base.train.valid_rows = 0  # all validation rows select the step
  base = experiment_config.apply_arguments(base, arguments)
  title = f"Parts of {method} on {Path(dataset).stem}, {100 * base.label_rate:g} % of the labels"
  config = {"title": title, "trials": {}, "trial_seeds": 5, "runs": {"all": base.to_dict()}}
  return config_dict.ConfigDict(config)
