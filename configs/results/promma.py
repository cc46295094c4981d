"""ProMMA (reconstructed) and MPLMM on one host, their ablations, the host alone, the baselines.

  python launch/compare.py --config results/promma
  python launch/compare.py --config results/promma:dataset=emoji,modalities=image+text
  python launch/compare.py --config results/promma:dataset=standin.pkl

the last one after `python configs/results/standin.py standin.pkl`.

The host is trained with modality dropout, once for each of 20 seeds, in 200 steps. All variants of
MPLMM and ProMMA start from it (`init_from`) and train their prompts, in 200 steps, with 70 % of the
rows incomplete, drawn again in each epoch. The baselines, and the host alone, which is
mplmm(pretrain=1,tune=0), have all these steps for themselves. The main variants have 20 seeds, the
others 5.
"""

from promise_jax.experiments import compare_config
from promise_jax.experiments import config as experiment_config

OTHERS = (
  "promma(gate=on)",
  "promma(gate=off)",
  "promma(private_prompts=false)",
  "promma(private_prompts=false,connections=false)",
  "promma(source_weights=false)",
  "promma(connections=false)",
  "promma(margin=1,generation_target=streams)",
  # Everything is trained with the prompts, from the same backbone.
  "promma(frozen=false)",
  "mplmm(frozen=false)",
)
STEPS = 200
# The host is trained in a run of its own.
PROMPTS = {"pretrain": 0.0, "tune": 1.0}
HOST = "mplmm(pretrain=1,tune=0)"


def get_config(arguments: str = ""):
  given = experiment_config.parse_pairs(arguments)
  base = experiment_config.default_config("promma", given.get("dataset", "watch"), label_rate=1.0)
  base.train_protocol = "mplmm(0.7,redraw=true)"
  base.init_from = "backbone"
  base.train.update({"steps": STEPS, "eval_every": 25, "batch_size": 64})
  for name in ("mplmm", "promma"):
    base[name].update(PROMPTS)
  base = experiment_config.apply_arguments(base, arguments)
  config = compare_config.make_two_runs(
    arguments,
    base,
    title=f"ProMMA-R and MPLMM on {base.dataset}, training with {base.train_protocol}",
    headline=("mplmm",),
    others=OTHERS,
    before={"backbone": {"method": HOST}},
  )
  config.runs.references = config.runs.headline.to_dict() | {
    "method": "fusion",
    "baselines": ("distil", HOST, "majority"),
    "train": base.train.to_dict() | {"steps": 2 * STEPS},
    "init_from": "",
  }
  return config
