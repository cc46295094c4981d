"""The comparisons of the results: two runs of one base."""

import runpy
from pathlib import Path

import pytest

import tiny_runs
from promise_jax.experiments import compare_config
from promise_jax.experiments import config as experiment_config


def test_the_main_variants_have_20_seeds_and_the_others_5():
  base = tiny_runs.get_config("label_rate=0.25")
  before = base.to_dict()
  fixed = {"title": "T", "headline": ("majority", "{a}"), "others": ("distil", "b")}
  found = compare_config.make_two_runs("label_rate=0.25", base, **fixed).to_dict()
  assert found == {
    "title": "T",
    "trials": {},
    "trial_seeds": 5,
    "runs": {
      "headline": before | {"seeds": 20, "baselines": ("majority", "{a}")},
      "others": before | {"seeds": 5, "method": "distil", "baselines": ("b",)},
    },
  }
  more = {"trials": {"a": ("fusion", "distil")}, "variants": ("distil",)}
  assert compare_config.make_two_runs("", base, **fixed, **more).to_dict() == found | more
  assert base.to_dict() == before
  for field in ("seeds", "baselines"):
    with pytest.raises(ValueError, match=f"{field} is fixed"):
      compare_config.make_two_runs(f"fold=1,{field}=3", base, **fixed)


@pytest.mark.parametrize("name", ["redcore", "robult"])
@pytest.mark.parametrize("arguments", ["", "dataset=watch", "dataset=emoji,label_rate=0.5"])
def test_the_comparisons_of_the_results_fit(name, arguments):
  path = Path(__file__).parents[2] / "configs" / "results" / f"{name}.py"
  given = runpy.run_path(str(path))["get_config"](arguments).to_dict()
  compare_config.check_comparison(given)
  headline, others = given["runs"].values()
  for one in (headline, others):
    plain = experiment_config.default_config(name, one["dataset"], one["label_rate"]).to_dict()
    fields = ("seeds", "method", "baselines", "train_protocol")
    assert one == plain | {field: one[field] for field in fields}
  assert (headline["seeds"], others["seeds"]) == (20, 5) and headline["method"] == name
  names = [{one["method"], *one["baselines"]} for one in (headline, others)]
  assert not names[0] & names[1]
