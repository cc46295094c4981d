"""ProMMA (reconstructed) and MPLMM on one backbone, their ablations and their baselines.

  python launch/compare.py --config results/promma
  python launch/compare.py --config results/promma:dataset=emoji,modalities=image+text
  python launch/compare.py --config results/promma:dataset=standin.pkl

the last one after `python configs/results/standin.py standin.pkl`.

Two layers, at most 20 time steps a modality. A MulT is trained on complete rows, once for each
of 20 seeds, in 150 steps. All variants of MPLMM and ProMMA start from it (`init_from`) and
train their prompts, in 150 steps on watch and 100 elsewhere, with 70 % of the rows incomplete,
drawn again in each epoch. The baselines have all these steps for themselves. The main variants
have 20 seeds, the others 5.
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
BACKBONE, STEPS, STEPS_ON_WATCH = 150, 100, 150
# The backbone is trained in a run of its own.
PROMPTS = {"max_steps": 20, "pretrain": 0.0, "fit": 0.0, "tune": 1.0}


def get_config(arguments: str = ""):
  given = experiment_config.parse_pairs(arguments)
  base = experiment_config.default_config("promma", given.get("dataset", "watch"), label_rate=1.0)
  base.train_protocol = "mplmm(0.7,redraw=true)"
  base.init_from = "backbone"
  watch = base.dataset == "watch"
  steps = STEPS_ON_WATCH if watch else STEPS
  base.train.update({"steps": steps, "eval_every": 25, "batch_size": 64})
  for name in ("mplmm", "promma"):
    base[name].update(PROMPTS)
  base.promma.gate_every = 4
  base = experiment_config.apply_arguments(base, arguments)
  backbone = {
    "method": "mplmm(pretrain=1,tune=0)",
    "train": base.train.to_dict() | {"steps": BACKBONE, "select_on": "full"},
  }
  config = compare_config.make_two_runs(
    arguments,
    base,
    title=f"ProMMA-R and MPLMM on {base.dataset}, training with {base.train_protocol}",
    headline=("mplmm",),
    others=OTHERS,
    before={"backbone": backbone},
  )
  config.runs.references = config.runs.headline.to_dict() | {
    "method": "fusion",
    "baselines": ("distil", "majority"),
    "train": base.train.to_dict() | {"steps": BACKBONE + steps},
    "init_from": "",
  }
  return config
