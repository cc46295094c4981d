"""PROMISE-style training, its ablations and its baselines, under the protocol of MAP.

  python launch/compare.py --config results/promise
  python launch/compare.py --config results/promise:dataset=mfeat
  python launch/compare.py --config results/promise:modalities=image+text+props

Default: emoji with image and text. 70 % of the train rows are incomplete. Tests: all patterns
and the rates 0.1 to 0.9, unless test_protocols= says otherwise. The main variants have 20
seeds, the others 5.
"""

from promise_jax.experiments import compare_config
from promise_jax.experiments import config as experiment_config

OTHERS = (
  "promise(fncl_weight=0)",
  "promise(cccl_weight=0)",
  "promise(generate=constant)",
  "promise(generate=memory)",
  "promise(generate=mix)",
  "promise(generate=zeros)",
  "promise(generate=none)",
  "promise(hide_views=false)",
  # The method figure, with the weights and the temperature of the preset "clip".
  "promise(num_cross_layers=1,num_self_layers=1,augment_strength=1.0,norm=true,num_views=2,"
  "hide_views=false,num_prompts=8,fncl_weight=0.1,cccl_weight=0.1,temperature=0.07)",
)
# What the default leaves out, on the default data.
LEFT_OUT = ("promise(num_cross_layers=1,num_self_layers=1)", "promise(augment_strength=0.5)")


def get_config(arguments: str = ""):
  base = experiment_config.default_map_config("promise", arguments)
  what = base.data.modalities.replace("+", ", ")
  where = f"{base.dataset} ({what})" if what else base.dataset
  return compare_config.make_two_runs(
    arguments,
    base,
    title=f"PROMISE-style on {where}, training with {base.train_protocol}",
    headline=("majority", "fusion", "distil", "promise(fncl_weight=0,cccl_weight=0)"),
    others=OTHERS + (LEFT_OUT if what == "image, text" else ()),
  )
