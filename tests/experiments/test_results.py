"""Which baseline a method is compared with."""

from types import SimpleNamespace

import numpy as np
import pytest

import tiny_runs
from promise_jax import missing
from promise_jax.experiments import results
from promise_jax.experiments.train_variant import TrainedVariant


def test_the_baseline_is_the_best_on_validation():
  """Not the one that is best on test; the difference is of plain means."""
  source = tiny_runs.dataset()
  test, rng = source.split("test"), np.random.default_rng(0)
  scores = {"ours": [0.5, 0.6], "good on test": [0.4, 0.4], "chosen": [0.3, 0.7]}
  trained = [TrainedVariant(n, np.array(s), np.zeros(2), None) for n, s in scores.items()]
  logits = {n: rng.normal(size=(2, 3, 20, 2)).astype(np.float32) for n in scores}
  sure = 10 * np.eye(2, dtype=np.float32)[test.label]
  logits["good on test"] = np.broadcast_to(sure, (2, 3, 20, 2))
  setup = SimpleNamespace(dataset=source, spec=source.spec, patterns=missing.all_patterns(2))
  compared = results.compare_with_baseline(setup, trained, logits, test)
  assert {(x["method"], x["control"]) for x in compared} == {("ours", "chosen")}
  accuracy = {n: (logits[n].argmax(-1) == test.label).mean() for n in ("ours", "chosen")}
  (overall,) = [x for x in compared if x["rows"] == "all"]
  assert overall["difference"] == pytest.approx(accuracy["ours"] - accuracy["chosen"], abs=1e-6)


@pytest.mark.parametrize(
  ("scores", "chosen"),
  [
    ({"a": 1, "a(x=1)": 0.9, "b": 0.5, "c": 0.6, "majority": 0.8}, "c"),
    ({"a": 1, "a(x=1)": 0.2, "a(x=2)": 0.3, "majority": 0.8}, "a(x=2)"),
    ({"a": 1, "majority": 0.8}, "majority"),
  ],
)
def test_a_variant_of_the_method_is_no_baseline_beside_another_method(scores, chosen):
  assert results.best_baseline("a", scores) == chosen
