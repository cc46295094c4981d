"""PROMISE-style training, its ablations and the controls, under the MAP protocol.

  python launch/compare.py --config configs/results/promise.py
  python launch/compare.py --config configs/results/promise.py:dataset=mfeat

and with another choice of modalities, "...promise.py:modalities=image+text+props".
Default: emoji as image and text. 70 % of the training rows are incomplete; tests are
all patterns and the grid of rates .1 to .9, unless test_protocols= says otherwise; of
two modalities it has three parts for watch and where modalities= names two. Headline
arms have 20 seeds, the others 5. Resumable.
"""

from promise_jax import comparison, evaluate, settings

OTHERS = (
  "promise(fncl=0)",
  "promise(cccl=0)",
  "promise(generate=constant)",
  "promise(generate=memory)",
  "promise(generate=mix)",
  "promise(generate=none)",
  "promise(hide=false)",
)
# What the default leaves out, on the default data.
LEFT_OUT = ("promise(cross_layers=1,self_layers=1)", "promise(strength=0.5)")


def get_config(arguments: str = ""):
  dataset = settings.pairs(arguments).get("dataset", "emoji")
  base = settings.defaults(method="promise", dataset=dataset, label_rate=1.0)
  if dataset == "emoji":
    base.data.modalities = "image+text"
  base.train_protocol = "map(0.7)"
  base = settings.with_arguments(base, arguments)
  two = dataset == "watch" or base.data.modalities.count("+") == 1
  if not base.test_protocols:
    base.test_protocols = evaluate.map_protocols(2 if two else 3)
  what = base.data.modalities.replace("+", ", ")
  return comparison.two_runs(
    arguments,
    base,
    title=f"PROMISE-style on {dataset}{' (' + what + ')' if what else ''}, training "
    f"with {base.train_protocol}",
    headline=("majority", "fusion", "distil", "promise(fncl=0,cccl=0)"),
    others=OTHERS + (LEFT_OUT if what == "image, text" else ()),
  )
