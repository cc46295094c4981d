"""fit() computes what it should: seeds, stages, selection, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fits import MemoryCheckpoints, run_fit

import tiny_runs
from promise_jax import methods
from promise_jax.devices import mesh as devices_mesh
from promise_jax.method import Method, Stage

SEEDS = (0, 1, 2, 3, 4)
pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def source():
  return tiny_runs.dataset()


@pytest.fixture(scope="module")
def five_seeds(source, one_device):
  """Five seeds one after another, and their log."""
  lines = []
  method = tiny_runs.linear_method(source.spec)
  return run_fit(source, method, one_device, seeds=SEEDS, log=lines.extend), lines


def test_seeds_differ_in_every_parameter(five_seeds):
  for leaf in tiny_runs.to_numpy(five_seeds[0].params):
    assert leaf.shape[0] == len(SEEDS) and tiny_runs.all_seeds_differ(leaf)


def test_a_seed_does_not_depend_on_the_other_seeds(source, one_device, five_seeds):
  fit = five_seeds[0]
  alone = run_fit(source, tiny_runs.linear_method(source.spec), one_device, seeds=(3,))
  among = jax.tree.map(lambda x: x[3:4], fit.params)
  tiny_runs.assert_close(alone.params, among, rtol=1e-5, atol=1e-6)
  assert (alone.best_score[0], alone.best_step[0]) == (fit.best_score[3], fit.best_step[3])


@pytest.mark.parametrize("parallelism", ["map", "vmap"])
@pytest.mark.parametrize("seed_devices", [1, 2, 4])
def test_eight_devices_train_four_seeds_as_one_device_does(
  source, five_seeds, parallelism, seed_devices
):
  fit, lines = five_seeds
  mesh, logged, held = devices_mesh.make_mesh(seed_devices=seed_devices), [], MemoryCheckpoints()
  method = tiny_runs.linear_method(source.spec)
  more = {"seeds": SEEDS[:4], "seed_parallelism": parallelism}
  found = run_fit(source, method, mesh, log=logged.extend, checkpoints=held, **more)
  first = jax.tree.map(lambda x: x[:4], fit.params)
  tiny_runs.assert_close(found.params, first, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found.best_step, fit.best_step[:4])
  np.testing.assert_allclose(found.best_score, fit.best_score[:4], rtol=1e-6)
  expected = [(x["seed"], x["step"]) for x in lines if x["seed"] < 4]
  assert [(x["seed"], x["step"]) for x in logged] == expected
  assert held.seeds_per_device == {4 // seed_devices}


def test_vmap_agrees_with_map(source, one_device, five_seeds):
  method = tiny_runs.linear_method(source.spec)
  found = run_fit(source, method, one_device, seeds=SEEDS, seed_parallelism="vmap")
  tiny_runs.assert_close(found.params, five_seeds[0].params, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(found.best_step, five_seeds[0].best_step)


def test_the_length_of_a_block_does_not_change_what_is_computed(source, one_device):
  states = []
  for eval_every in (5, 10):
    held = MemoryCheckpoints()
    method = tiny_runs.linear_method(source.spec)
    run_fit(source, method, one_device, eval_every=eval_every, checkpoints=held)
    states.append(held.trees[20].state)
  tiny_runs.assert_close(*states, rtol=1e-6, atol=1e-6)


def test_fusion_with_its_dropout_is_the_same_on_eight_devices(source, one_device, eight_devices):
  """The other methods, one step: in tests/methods."""
  found = []
  for mesh in (one_device, eight_devices):
    held, lines = MemoryCheckpoints(), []
    method = methods.build_method("fusion", tiny_runs.VALUES["fusion"], source.spec)
    more = {"checkpoints": held, "log": lines.extend, "protocol": "bernoulli(0.3)"}
    run_fit(source, method, mesh, steps=10, eval_every=10, **more)
    found.append((held.trees[10].state.params, [line["loss"] for line in lines]))
  (one, loss_of_one), (eight, loss_of_eight) = found
  np.testing.assert_allclose(loss_of_eight, loss_of_one, rtol=1e-4)
  tiny_runs.assert_close(eight, one, rtol=1e-4, atol=1e-5)


def make_counting(is_best) -> Method:
  """Its parameter is the number of steps done; validation is perfect where
  `is_best(steps, favourite)`, for a favourite step that is drawn with the weights."""

  def init(key):
    favourite = 5 * jax.random.randint(key, (), 1, 5)
    return {"steps": jnp.zeros(())}, {"favourite": favourite}

  def update(stage, tx):
    def step(state, batch, key, info):
      done = (info.step + 1).astype(jnp.float32)
      terms = {"loss": jnp.zeros(()), "progress": info.progress}
      return state._replace(params={"steps": done}), terms | {"draw": jax.random.uniform(key)}

    return step

  def predict(params, model_state, inputs, pattern=None):
    side = jnp.where(is_best(params["steps"], model_state["favourite"]), 1.0, -1.0)
    logits = side * jnp.array([1.0, -1.0])
    return {"logits": jnp.broadcast_to(logits, (inputs.id.shape[0], 2))}

  return Method(init, predict, (Stage("count", None, update=update),))


@pytest.mark.parametrize("parallelism", ["map", "vmap"])
def test_selection_keeps_the_best_step_of_each_seed(one_device, parallelism):
  source, lines = tiny_runs.dataset(rows=(48, 21, 20)), []
  most = np.mean(source.split("valid").label == 0)
  best = (lambda steps, at: steps == at) if most > 0.5 else (lambda steps, at: steps != at)
  more = {"seeds": SEEDS, "seed_parallelism": parallelism, "log": lines.extend}
  fit = run_fit(source, make_counting(best), one_device, **more)
  favourite = np.asarray(fit.model_state["favourite"])
  assert len(set(favourite.tolist())) > 1
  np.testing.assert_array_equal(fit.best_step, favourite)
  np.testing.assert_array_equal(fit.params["steps"], favourite.astype(np.float32))
  np.testing.assert_allclose(fit.best_score, max(most, 1 - most), rtol=1e-6)
  assert len({line["draw"] for line in lines}) == len(lines)  # every seed and step has a key
  # Progress runs over the stage: the means over 0..4, 5..9, ... of step / 20.
  progress = [line["progress"] for line in lines if line["seed"] == 0]
  np.testing.assert_allclose(progress, [0.1, 0.35, 0.6, 0.85], rtol=1e-6)


def test_of_equal_scores_the_first_step_is_kept(source, one_device):
  fit = run_fit(source, make_counting(lambda steps, favourite: steps < 0), one_device)
  np.testing.assert_array_equal(fit.best_step, [5, 5])
  np.testing.assert_array_equal(fit.params["steps"], [5, 5])


def test_the_best_parameters_have_the_best_score(source, five_seeds):
  """Predicted and scored anew, without fit() and without our metrics."""
  fit, lines = five_seeds
  method, valid = tiny_runs.linear_method(source.spec), source.split("valid")
  for s, seed in enumerate(SEEDS):
    params = jax.tree.map(lambda x, s=s: x[s], fit.params)
    right = []
    for pattern in tiny_runs.PATTERNS:
      inputs = tiny_runs.as_inputs(valid, pattern)
      guess = np.argmax(method.predict(params, {}, inputs)["logits"], axis=1)
      right.append(np.mean(guess == valid.label))
    assert fit.best_score[s] == pytest.approx(np.mean(right), abs=1e-6)
    best = max((x for x in lines if x["seed"] == seed), key=lambda x: x["valid"])
    assert (best["step"], best["valid"]) == (fit.best_step[s], pytest.approx(fit.best_score[s]))
    assert fit.model_state["count"][s] == fit.best_step[s]


@pytest.mark.parametrize("task", ["classes", "regression"])
def test_labels_of_unlabelled_rows_do_not_matter(one_device, task):
  """Garbage there leaves every bit of the parameters as it is."""
  source = tiny_runs.dataset(task)
  rows = tiny_runs.train_data(source)
  garbage = {"classes": 10**6, "regression": np.nan}[task]
  some = rows.labelled.any(axis=0)
  assert 0 < some.sum() < 48
  label = np.where(some, rows.split.label, garbage).astype(rows.split.label.dtype)
  method = methods.build_method("robult", tiny_runs.VALUES["robult"], source.spec)
  found = []
  for split in (rows.split, rows.split._replace(label=label)):
    more = {"train_data": rows._replace(split=split), "steps": 10, "eval_every": 10}
    fit = run_fit(source, method, one_device, **more)
    found.append((fit.params, fit.model_state))
  assert tiny_runs.is_same(*found)
