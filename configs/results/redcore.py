"""RedCore, its ablations and its baselines, where modalities go missing at different rates.

  python launch/compare.py --config results/redcore
  python launch/compare.py --config results/redcore:dataset=emoji
  python launch/compare.py --config "results/redcore:train_protocol=exact(0.5)"

Default: mfeat with all labels, the views missing in 20, 50 and 80 % of the train rows; on
watch, the accelerometer in 20 and the gyroscope in 80 %. The main variants have 20 seeds, the
others 5. About 20 minutes on one CPU core.
"""

from promise_jax.experiments import compare_config
from promise_jax.experiments import config as experiment_config

OTHERS = (
  "redcore(preset=authors,encoder=pooled)",
  "redcore(upper=hypergradient)",
  "redcore(vib=false)",
  "redcore(num_subsets=0)",
  "redcore(detach_latents=false)",
)


def get_config(arguments: str = ""):
  dataset = experiment_config.parse_pairs(arguments).get("dataset", "mfeat")
  base = experiment_config.default_config(method="redcore", dataset=dataset, label_rate=1.0)
  base.train_protocol = "exact(0.2..0.8)"
  base = experiment_config.apply_arguments(base, arguments)
  return compare_config.make_two_runs(
    arguments,
    base,
    title=f"RedCore on {dataset}, training with {base.train_protocol}",
    headline=("majority", "fusion", "distil", "redcore(upper=none)"),
    others=OTHERS,
  )
