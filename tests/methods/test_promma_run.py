"""ProMMA through `fit`: two stages in one run, stopped inside the second."""

import jax
import pytest

import shortcuts
import tiny_runs
from promise_jax import methods
from promise_jax.optim import param_paths
from promise_jax.training import loop
from promise_jax.training.checkpoint import Checkpoints

# Two blocks of 5 steps a stage. Parts without state take long to trace and are off.
VALUES = tiny_runs.VALUES["promma"] | {"pretrain": 0.0, "fit": 1.0, "tune": 1.0, "warmup": 0.0}
VALUES |= {"private_prompts": False, "connections": False, "source_weights": False}

PROGRAMS = {}  # of all runs


@pytest.fixture(scope="module")
def source():
  return tiny_runs.dataset()


def fit(source, mesh, **more):
  """(result, log lines) of a run; no result if it was stopped."""
  rows, lines = tiny_runs.train_data(source, protocol="mplmm(0.7,redraw=true)"), []
  method = methods.build_method("promma", VALUES, source.spec)
  args = method, source.spec, rows, source.split("valid"), tiny_runs.train_config(steps=20)
  with shortcuts.trace_once(PROGRAMS):
    if "stop" not in more:
      return loop.fit(*args, mesh=mesh, log=lines.extend, **more), lines
    with pytest.raises(loop.TrainingInterrupted):
      loop.fit(*args, mesh=mesh, log=lines.extend, **more)
  return None, lines


@pytest.fixture(scope="module")
def whole(source, one_device):
  """A run that nothing stops."""
  return fit(source, one_device)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(source, one_device, whole, tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    _, before = fit(source, one_device, checkpoints=checkpoints, stop=tiny_runs.stop_after(3))
  with Checkpoints(tmp_path) as checkpoints:
    result, after = fit(source, one_device, checkpoints=checkpoints)
  assert len(after) == 2 and before + after == whole[1]
  assert [x["stage"] for x in whole[1] if x["seed"] == 0] == ["fit", "fit", "tune", "tune"]
  expected = whole[0].params, whole[0].model_state
  assert tiny_runs.is_same((result.params, result.model_state), expected)


def test_each_stage_trains_and_logs_its_own_part(source, whole):
  result, lines = whole
  method = methods.build_method("promma", VALUES, source.spec)
  params = jax.eval_shape(method.init, jax.random.key(0))[0]
  counts = [param_paths.count_parameters(params, s.trainable) for s in method.stages]
  assert [(x["trains"], x["parameters"]) for x in result.speed["stages"]] == counts
  assert counts[0][0] < counts[1][0] < counts[1][1]
  terms = {"fit": set(), "tune": set()}
  for line in lines:
    terms[line["stage"]] |= set(line)
  of_gates = {"on/m0", "on/m1", "gate"}
  assert of_gates <= terms["tune"] and not of_gates & terms["fit"]
