"""The comparisons of the results: every method under the same conditions."""

import runpy
from pathlib import Path

import pytest

from promise_jax.experiments import compare
from promise_jax.experiments import config as experiment_config

CONFIGS = Path(__file__).parents[2] / "configs" / "results"


@pytest.mark.parametrize(
  ("arguments", "seeds"),
  [
    ("", [20, 5]),
    ("dataset=watch", [20, 5]),
    ("dataset=emoji,label_rate=0.5", [5]),
    ("dataset=some/mosi.npz,label_rate=1,train_protocol=exact(0.2..0.8)", [5]),
  ],
)
def test_the_comparisons_of_the_results_fit(arguments, seeds):
  given = runpy.run_path(str(CONFIGS / "methods.py"))["get_config"](arguments).to_dict()
  compare.check_comparison(given)
  runs = list(given["runs"].values())
  assert [one["seeds"] for one in runs] == seeds
  assert runs[0]["method"] == given["against"][0] == "distil"
  names = [name for one in runs for name in (one["method"], *one["baselines"])]
  assert len(set(names)) == len(names)
  # Equal conditions: nothing but the fields above differs from the defaults.
  for one in runs:
    plain = experiment_config.default_config("fusion", one["dataset"], one["label_rate"]).to_dict()
    plain["train"]["valid_rows"] = 0  # all validation rows select
    own = {"seeds", "method", "baselines", "train_protocol"}
    assert {field for field in plain if plain[field] != one[field]} <= own


@pytest.mark.parametrize("method", ["robult", "redcore", "promise", "promma"])
def test_the_ablations_fit(method):
  given = runpy.run_path(str(CONFIGS / "ablations.py"))["get_config"](f"method={method}").to_dict()
  compare.check_comparison(given)
  assert given["runs"]["all"]["method"] == method
