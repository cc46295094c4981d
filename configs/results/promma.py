"""ProMMA (reconstructed) and MPLMM on one backbone, their ablations and the controls.

  python launch/compare.py --config configs/results/promma.py
  python launch/compare.py --config configs/results/promma.py:dataset=emoji
  python launch/compare.py --config configs/results/promma.py:dataset=standin.pkl

Two layers, at most 20 steps a modality. A MulT is trained on complete rows, once for
each of 20 seeds; all arms of MPLMM and ProMMA start from it (`init_from`) and train
their prompts, with 70 % of the rows incomplete, drawn again in each epoch. Headline
arms have 20 seeds, the others 5. Resumable.
"""

from promise_jax import comparison, settings

OTHERS = (
  "promma(gate=on)",
  "promma(gate=off)",
  "promma(gate=oracle)",
  "promma(private=none,connect=none)",
  "promma(weigh=none)",
  "promma(connect=none)",
)
SIZES = {"layers": 2, "memory_layers": 2, "steps": 20}
# Once a seed, in a run of its own.
BACKBONE = {"pretrain": 0.0, "fit": 0.0, "tune": 1.0}


def get_config(arguments: str = ""):
  given = settings.pairs(arguments)
  base = settings.defaults("promma", given.get("dataset", "watch"), label_rate=1.0)
  base.train_protocol = "mplmm(0.7,redraw=true)"
  base.init_from = "backbone"
  base.train.update({"steps": 200, "every": 25, "batch": 64})
  for name in ("mplmm", "promma"):
    base[name].update(SIZES | BACKBONE)
  base.promma.judge_every = 4
  base = settings.with_arguments(base, arguments)
  backbone = {
    "method": "mplmm(pretrain=1,tune=0)",
    "train_protocol": "none",
    "train": base.train.to_dict() | {"select": "full"},
  }
  return comparison.two_runs(
    arguments,
    base,
    title=f"ProMMA-R and MPLMM on {base.dataset}, training with {base.train_protocol}",
    headline=("majority", "mplmm", "fusion", "distil"),
    others=OTHERS,
    before={"backbone": backbone},
  )
