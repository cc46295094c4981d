"""Predictions under patterns, what a mask picks of them, and the lines of results."""

import re

import jax
import numpy as np
import pytest

import tiny_runs
from promise_jax import files, methods, missing
from promise_jax.data import device_data
from promise_jax.evaluation import predict, sentiment_metrics
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import run as experiment_run
from promise_jax.types import Split

SEEDS = 2
PATTERNS = missing.all_patterns(2)


@pytest.fixture(scope="module")
def source():
  return tiny_runs.dataset(rows=(48, 20, 23))


@pytest.fixture(scope="module")
def split(source) -> Split:
  """23 rows with holes; rows 2 and 7 have nothing at all."""
  split = source.split("test")
  recorded = np.random.default_rng(3).random((23, 2)) < 0.7
  recorded[:3] = [[True, True], [False, True], [False, False]]
  recorded[7] = False
  return split._replace(recorded=recorded)


@pytest.fixture(scope="module")
def method(source):
  return methods.build_method("fusion", tiny_runs.SMALL, source.spec)


@pytest.fixture(scope="module")
def params(method):
  """Two seeds of parameters and running means, stacked; drawn on the host."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(method.init, jax.random.key(0))
  draw = lambda x: rng.normal(size=(SEEDS, *x.shape)).astype(x.dtype)
  params, model_state = jax.tree.map(draw, shapes)
  return params, model_state | {"count": np.abs(model_state["count"]) + 1}


def directly(method, params, split: Split, pattern, rows=slice(None)) -> np.ndarray:
  """f[S, n, C]: predict called with a static pattern, a seed at a time."""
  batch = {
    "inputs": {k: x[rows] for k, x in split.inputs.items()},
    "length": {},
    "present": split.recorded[rows],
  }
  one = jax.jit(lambda p, a, b: method.predict(p, a, b, pattern)["logits"])
  seeds = [jax.tree.map(lambda x, s=s: x[s], params) for s in range(SEEDS)]
  return np.stack([one(*seed, batch) for seed in seeds])


@pytest.fixture(scope="module")
def logits(method, params, split, one_device) -> np.ndarray:
  return predict.predict_split(method, *params, split, PATTERNS, one_device)


def test_predictions_equal_those_of_static_patterns(method, params, split, logits):
  assert logits.shape == (SEEDS, 3, 23, 2)
  for p, pattern in enumerate(PATTERNS):
    expected = directly(method, params, split, pattern)
    np.testing.assert_allclose(logits[:, p], expected, rtol=1e-5, atol=1e-6)
  assert np.ptp(logits, axis=1).max() > 0.1  # patterns do differ


def test_a_block_and_its_padding_do_not_matter(
  method, params, split, logits, one_device, eight_devices
):
  """23 rows at once, as 4 blocks of 6 and 5 of 5, the last with padding, and 3 of 8,
  which spread over 8 devices."""
  for block, mesh in ((7, one_device), (5, one_device), (8, eight_devices)):
    padded = device_data.pad_to_blocks(split, mesh, block)
    assert len(padded["id"]) == {7: 24, 5: 25, 8: 24}[block]
    assert padded["valid"].sum() == 23
    seed = jax.tree.map(lambda x: x[1], params)
    found = jax.jit(
      lambda rows, seed=seed, mesh=mesh, block=block: predict.predict_patterns(
        method.predict, *seed, rows, np.array(PATTERNS), mesh, block
      )
    )(padded)
    np.testing.assert_allclose(found[:, :23], logits[1], rtol=1e-5, atol=1e-6)


def test_garbage_in_the_padding_does_not_change_the_score(source, split, logits):
  label = np.concatenate([split.label, [0, 10**6, -5]])
  recorded = np.concatenate([split.recorded, np.ones((3, 2), bool)])
  more = np.concatenate([logits[0], np.full((3, 3, 2), 1e30, np.float32)], axis=1)
  valid = np.arange(26) < 23
  weight = predict.row_weights(recorded, valid, np.array(PATTERNS))
  right = []
  for p, pattern in enumerate(PATTERNS):
    some = (split.recorded & np.array(pattern)).any(axis=1)
    guess = logits[0, p].argmax(axis=1)
    right.append(np.mean(guess[some] == split.label[some]))
  found = predict.selection_score(more, label, weight, source.spec.task)
  assert float(found) == pytest.approx(np.mean(right), abs=1e-6)


def test_a_pattern_that_no_row_has_is_left_out_of_the_score(source, split, logits):
  only_first = split.recorded & [[True, False]]
  weight = predict.row_weights(only_first, np.ones(23, bool), np.array(PATTERNS))
  np.testing.assert_array_equal(weight[1], np.zeros(23))
  some = only_first[:, 0]
  hits = [np.mean((x.argmax(1) == split.label)[some]) for x in logits[0][[0, 2]]]
  found = predict.selection_score(logits[0], split.label, weight, source.spec.task)
  assert float(found) == pytest.approx(np.mean(hits), abs=1e-6)


def test_a_score_is_larger_when_better_for_errors_too():
  task = tiny_runs.dataset("regression").spec.task
  label, weight = np.array([1.0, 2.0], np.float32), np.ones((1, 2), np.float32)
  near, far = (np.array([[[x], [x]]], np.float32) for x in (1.5, 4.0))
  assert float(predict.selection_score(near, label, weight, task)) == pytest.approx(-0.5)
  assert float(predict.selection_score(far, label, weight, task)) == pytest.approx(-2.5)


@pytest.mark.parametrize("protocol", ["bernoulli(0.5)", "exact(0.4)", "map(0.6)"])
def test_pick_is_predicting_with_that_mask(method, params, split, logits, protocol):
  (condition,) = predict.protocol_conditions(split, [missing.parse_protocol(protocol)], "test")
  found = predict.logits_under_mask(logits, condition.mask)
  for n, shown in enumerate(condition.mask):
    if shown.any():
      static = tuple(shown.tolist())
      expected = directly(method, params, split, static, slice(n, n + 1))[:, 0]
      np.testing.assert_allclose(found[:, n], expected, rtol=1e-5, atol=1e-6)
    else:
      np.testing.assert_array_equal(found[:, n], 0)
  assert not condition.mask[[2, 7]].any() and condition.mask.any()


def test_lines_have_their_fields_and_count_what_is_left(source, split, logits):
  names, task = source.spec.names, source.spec.task
  conditions = predict.pattern_conditions(split, PATTERNS, names)
  conditions += predict.protocol_conditions(
    split, [missing.parse_protocol("bernoulli(0.5,keep_one=false)")], "test"
  )
  lines = predict.result_lines(task, logits, split, conditions, (4, 9))
  accuracy = [line for line in lines if line["metric"] == "accuracy"]
  assert len(accuracy) == 4 * SEEDS
  for line in accuracy:
    q = (
      [("m0",), ("m1",), ("m0", "m1")].index(tuple(line["pattern"] or ()))
      if (line["pattern"])
      else 3
    )
    mask = conditions[q].mask
    some, s = mask.any(axis=1), (4, 9).index(line["seed"])
    guess = predict.logits_under_mask(logits, mask)[s].argmax(axis=1)
    assert line["n"] == some.sum() < 22
    assert line["value"] == pytest.approx(np.mean((guess == split.label)[some]))
    assert line["protocol"] == ("none" if q < 3 else "bernoulli(0.5,keep_one=false)")
  assert {line.get("rate") for line in accuracy} == {None, 0.5}
  assert len({line["mask_hash"] for line in accuracy}) == 4


def test_masks_of_a_protocol_do_not_depend_on_the_order_of_rows(split):
  protocols = predict.rate_protocols()
  assert [p.rates[0] for p in protocols] == [r / 10 for r in range(10)]
  turned = Split(
    *(x[::-1] if isinstance(x, np.ndarray) else {k: v[::-1] for k, v in x.items()} for x in split)
  )
  there = predict.protocol_conditions(split, protocols, "test")
  back = predict.protocol_conditions(turned, protocols, "test")
  for a, b in zip(there, back, strict=True):
    np.testing.assert_array_equal(a.mask, b.mask[::-1])


def shares(label):
  """What one value scores at best, by hand."""
  low, high = np.sum(label < 0), np.sum(label > 0)
  p = max(low, high) / (low + high)
  _, levels = np.unique(np.round(label), return_counts=True)
  return {
    "mae": np.mean(abs(label - np.median(label))),
    "acc2_has0": max(low, len(label) - low) / len(label),
    "acc2_non0": p,
    "f1_non0": 2 * p * p / (1 + p),
    "f1_mplmm": 2 * p / (1 + p),
    "acc7": levels.max() / len(label),
  }


def test_the_best_constant_stands_beside_the_arms_of_a_sentiment_run(rng, tmp_path):
  split = np.repeat(["train", "valid", "test"], (30, 11, 19))
  y = rng.uniform(-1.4, 2.9, 60).round(1)
  test = y[split == "test"] = np.where(rng.random(19) < 0.3, 0, rng.uniform(-3, 1, 19))
  x = {f"x_m{i}": rng.normal(size=(60, 2)) for i in range(2)}
  np.savez(tmp_path / "mine.npz", y=y, split=split, scale=3.0, **x)
  given = tiny_runs.get_config("method=majority,baselines=none").to_dict()
  given |= {"dataset": str(tmp_path / "mine.npz"), "test_protocols": ()}
  given["data"] = {"data_dir": "", **experiment_config.DATA_OPTIONS}
  text = experiment_run.run_experiment(given, tmp_path / "run")
  lines = files.read_jsonl(tmp_path / "run" / "results.jsonl")
  best = [x for x in lines if x["method"] == "best constant"]
  assert {x["split"] for x in best} == {"test"} and {x["seed"] for x in best} == {0, 1}
  for line in best:
    if line["metric"] in (want := shares(test.astype(np.float32))):
      assert line["value"] == pytest.approx(want[line["metric"]], abs=1e-5), line
  key = ("seed", "metric", "protocol", "mask_hash", "split", "pattern", "n")
  where = lambda found: sorted(str([x[k] for k in key]) for x in found)
  variant = [x for x in lines if x["method"] == "majority" and x["split"] == "test"]
  assert where(variant) == where(best)
  for head in ("mean, incomplete", "mean, all"):
    block = re.search(rf"\n{head} +majority +best constant\n(.+?)(?:\n\n|\n?$)", text, re.S)[1]
    found = [x.split(" ")[0] for x in block.split("\n")]
    assert found == ["mae", "corr", *(m.__name__ for m in sentiment_metrics.SENTIMENT)]
  assert "best constant" in (tmp_path / "run" / "report.html").read_text()


def test_pooled_metrics_count_every_pattern_of_every_row(rng):
  from sklearn import metrics as reference

  split = tiny_runs.dataset().split("test")
  split = split._replace(recorded=split.recorded & (rng.random((20, 2)) < 0.8))
  logits = rng.normal(size=(2, 3, 20, 2)).astype(np.float32)
  lines = predict.pooled(tiny_runs.dataset().spec.task, logits, split, tiny_runs.PATTERNS, (7, 8))
  for s, seed in enumerate((7, 8)):
    truth, guess = [], []
    for p, pattern in enumerate(tiny_runs.PATTERNS):
      for n in range(20):
        if (split.recorded[n] & pattern).any():
          truth.append(split.label[n])
          guess.append(int(logits[s, p, n].argmax()))
    own = {x["metric"]: x for x in lines if x["seed"] == seed}
    want = reference.f1_score(truth, guess, average="macro")
    np.testing.assert_allclose(own["macro_f1"]["value"], want, rtol=1e-5)
    want = reference.accuracy_score(truth, guess)
    np.testing.assert_allclose(own["accuracy"]["value"], want, rtol=1e-5)
    assert own["accuracy"]["n"] == len(truth)
