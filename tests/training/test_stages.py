"""Stages share the steps, freeze what they do not train, and hand on their best."""

import jax
import numpy as np
import pytest
from fits import MemoryCheckpoints, run_fit

import tiny_runs
from promise_jax.training import loop

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def source():
  return tiny_runs.dataset()


@pytest.fixture(scope="module")
def staged(source, one_device):
  """Two stages of 15 steps: the result, the log, the loop state after each block; how often
  XLA compiled each program; no leaf of a donated state lay twice in memory."""
  held, lines, built = MemoryCheckpoints(), [], []

  def listen(event, seconds, **about):
    if event.endswith("backend_compile_duration"):
      built.append(about.get("fun_name"))

  def check_and_save(step, tree):
    leaves = [x for x in jax.tree.leaves(tree) if x.size]
    assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
    MemoryCheckpoints.save(held, step, tree)

  held.save = check_and_save
  method = tiny_runs.two_stage_method(source.spec)
  more = {"checkpoints": held, "log": lines.extend, "protocol": "bernoulli(0.5)"}
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    fit = run_fit(source, method, one_device, steps=30, **more)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return fit, lines, held.trees, built


def test_a_stage_compiles_one_training_program(staged):
  assert staged[3].count("jit(train_block)") == 2


def test_stages_share_the_steps(staged):
  _, lines, _, _ = staged
  of_seed = [(x["step"], x["stage"]) for x in lines if x["seed"] == 1]
  first = [(step, "backbone") for step in (5, 10, 15)]
  assert of_seed == first + [(step, "prompt") for step in (20, 25, 30)]


def test_a_frozen_leaf_does_not_move(staged):
  fit, _, trees, _ = staged
  body = [trees[step].state.params["body"] for step in (20, 25, 30)]
  # The second stage starts from the best of the first; its constant guess never got better
  # after the first validation, so that is step 5.
  assert all(np.array_equal(x, trees[15].best[0]["body"]) for x in body)
  assert np.array_equal(trees[15].best[0]["body"], trees[5].state.params["body"])
  moving = [trees[step].state.params["body"] for step in (5, 10)]
  assert not np.array_equal(*moving)
  assert np.array_equal(fit.params["body"], body[0])
  heads = [trees[step].state.params["head"]["w"] for step in (15, 20, 25)]
  assert not np.array_equal(heads[0], heads[1]) and not np.array_equal(heads[1], heads[2])


def test_the_speed_of_every_stage_is_reported(staged):
  """By hand: body 8 * 3, head 3 * 2 and 2; the second stage trains the head alone."""
  speed = staged[0].speed
  found = [(x["stage"], x["trains"], x["parameters"]) for x in speed["stages"]]
  assert found == [("backbone", 32, 32), ("prompt", 8, 32)]
  for x in (speed, *speed["stages"]):
    assert x["compile_s"] > 0
    # 16 rows a step of each of two seeds.
    assert x["examples_per_s"] == pytest.approx(32 * x["steps"] / x["train_s"])
  assert [x["steps"] for x in speed["stages"]] == [15, 15] and speed["steps"] == 30
  for key in ("compile_s", "train_s"):
    assert speed[key] == pytest.approx(sum(x[key] for x in speed["stages"]))


def test_on_start_may_copy_parameters_to_the_model_state(staged):
  fit, _, trees, _ = staged
  assert "teacher" not in trees[15].state.model_state
  assert np.array_equal(trees[30].state.model_state["teacher"], trees[5].state.params["body"])
  assert np.array_equal(fit.model_state["teacher"], trees[30].best[1]["teacher"])


def test_a_stage_without_hiding_sees_complete_rows(staged):
  hidden = {(x["stage"], x["hidden"] > 0) for x in staged[1]}
  assert hidden == {("backbone", False), ("prompt", True)}


def test_a_stage_is_validated_by_its_own_predict(source, staged):
  of_class_0 = float(np.mean(source.split("valid").label == 0))
  scores = [x["valid"] for x in staged[1] if x["stage"] == "backbone"]
  np.testing.assert_allclose(scores, of_class_0, rtol=1e-6)


@pytest.mark.parametrize(
  ("fractions", "blocks"),
  [((1, 1), [3, 3]), ((1, 5), [1, 5]), ((0.01, 1), [1, 5]), ((1, 0.01), [5, 1])],
)
def test_every_stage_gets_a_block(source, one_device, fractions, blocks):
  method = tiny_runs.two_stage_method(source.spec)
  pairs = zip(method.stages, fractions, strict=True)
  method = method._replace(stages=tuple(s._replace(fraction=f) for s, f in pairs))
  config = tiny_runs.train_config(steps=30)
  assert loop.check_training(method, config, one_device, 2) == blocks


@pytest.mark.parametrize(
  ("changed", "sentence"),
  [
    ({"batch_size": 12, "labelled_per_batch": 4}, "batch_size is 12.*multiple of the 8 devices"),
    ({"steps": 23}, "steps is 23.*multiple of train.eval_every, 5"),
    ({"steps": 0}, "steps is 0"),
    ({"eval_every": 0}, "eval_every, 0"),
    ({"steps": 5}, "steps is 5.*2 stages of promma need.*10: train.eval_every, 5, each"),
    ({"seed_parallelism": "both"}, "'both', known are auto, map, vmap"),
    ({"select_on": "best"}, "'best', known are all, full"),
    ({"labelled_per_batch": 17}, "batch_size is 16 with 17 labelled"),
    ({"batch_size": 0, "labelled_per_batch": 0}, "batch_size is 0"),
    ({"seed_devices": 3}, "seed_devices is 3, the 8 devices in use must be a multiple"),
    ({"seed_devices": 0}, "seed_devices is 0"),
    ({"seed_devices": 4}, "seeds is 2, it must be a multiple of train.seed_devices, 4"),
    ({"seed_devices": 2, "batch_size": 18}, "batch_size is 18.*of the 4 devices"),
  ],
)
def test_settings_that_do_not_fit_are_refused(source, changed, sentence):
  """All eight devices."""
  with pytest.raises(ValueError, match=sentence):
    run_fit(source, tiny_runs.two_stage_method(source.spec), None, title="promma", **changed)
