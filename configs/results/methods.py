"""Methods and controls side by side on one data set: the tables of RESULTS.md.

  promise-jax compare --config results/methods
  promise-jax compare --config results/methods:dataset=emoji,label_rate=0.5
  promise-jax compare --config "results/methods:label_rate=1,train_protocol=exact(0.2..0.8)"

Default: mfeat at the lowest label rate of RESULTS.md, training rows complete. There what trains on
unlabelled rows has 20 seeds, everything else 5. All variants have 300 steps, their defaults, and
the same rows, labels and masks. All validation rows select the step, not 1,024 of them.
"""

from pathlib import Path

from ml_collections import config_dict

from promise_jax.experiments import config as experiment_config

LOWEST = {"watch": 0.1, "mosi": 0.2}  # one recording an exercise; 0.05 elsewhere
MAIN = ("majority", "fusion", "share", "robult")
# The last one is the host of the two before it, without prompts.
OTHERS = ("prototypes", "redcore", "promise", "mplmm", "promma", "mplmm(pretrain=1,tune=0)")


def get_config(arguments: str = ""):
  given = experiment_config.parse_pairs(arguments)
  name = Path(given.get("dataset", "mfeat")).stem
  lowest = LOWEST.get(name, 0.05)
  base = experiment_config.default_config("distil", given.get("dataset", "mfeat"), lowest)
  base.train.valid_rows = 0  # all validation rows select the step
  base = experiment_config.apply_arguments(base, arguments)
  one = base.to_dict() | {"seeds": 5, "baselines": MAIN}
  if base.train_protocol != "none" or base.label_rate == 1:
    runs = {"all": one | {"baselines": MAIN + OTHERS}}
  elif base.label_rate == lowest:
    others = {"method": OTHERS[0], "baselines": OTHERS[1:]}
    runs = {"main": one | {"seeds": 20}, "others": one | others}
  else:
    runs = {"main": one}
  title = f"{name}, {100 * base.label_rate:g} % of the labels"
  if base.data.encoders:
    title += ", frozen encoders"
  if base.train_protocol != "none":
    title += f", training with {base.train_protocol}"
  config = {"title": title, "trials": {}, "trial_seeds": 5, "runs": runs}
  return config_dict.ConfigDict(config | {"against": ("distil", "fusion")})
