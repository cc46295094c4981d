"""Which baseline a method is compared with."""

from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from promise_jax import missing
from promise_jax.evaluation import verdicts
from promise_jax.experiments import results


def test_the_baseline_is_the_best_on_validation():
  """Not the one that is best on test; the difference is of plain means."""
  source = tiny_runs.dataset()
  test, rng = source.split("test"), np.random.default_rng(0)
  valid_scores = {"ours": 0.55, "good on test": 0.4, "chosen": 0.5}
  logits = {n: rng.normal(size=(2, 3, 20, 2)).astype(np.float32) for n in valid_scores}
  sure = 10 * np.eye(2, dtype=np.float32)[test.label]
  logits["good on test"] = np.broadcast_to(sure, (2, 3, 20, 2))
  setup = SimpleNamespace(dataset=source, spec=source.spec, patterns=missing.all_patterns(2))
  table = results.compare_with_baseline(setup, valid_scores, logits, test, None)
  assert set(table["method"]) == {"ours"} and set(table["baseline"]) == {"chosen"}
  right = {n: (x.argmax(-1) == test.label).mean(axis=(0, 2)) for n, x in logits.items()}
  gap = right["ours"] - right["chosen"]
  assert list(table["rows"]) == ["incomplete", "all", "m0", "m1", "m0+m1"]
  expected = [gap[:2].mean(), gap.mean(), *gap]
  np.testing.assert_allclose(table["difference"], expected, atol=1e-6)
  inside = (table["low"] <= table["difference"]) & (table["difference"] <= table["high"])
  assert inside.all()


@pytest.mark.parametrize(
  ("scores", "chosen"),
  [
    ({"a": 1, "a(x=1)": 0.9, "b": 0.5, "c": 0.6, "majority": 0.8}, "c"),
    ({"a": 1, "a(x=1)": 0.2, "a(x=2)": 0.3, "majority": 0.8}, "a(x=2)"),
    ({"a": 1, "majority": 0.8}, "majority"),
  ],
)
def test_a_variant_of_the_method_is_no_baseline_beside_another_method(scores, chosen):
  assert verdicts.best_baseline("a", scores, "majority") == chosen
