"""ProMMA through fit(): two stages in one run, stopped inside."""

import jax
import pytest

import tiny_runs
from promise_jax import methods
from promise_jax.optim import param_paths
from promise_jax.training import loop
from promise_jax.training.checkpoint import Checkpoints

# Two calls of 5 steps a stage.
SHARES = {"pretrain": 0.0, "fit": 1.0, "tune": 1.0, "warmup": 0.0}
# What has neither state nor a stage of its own takes long to trace.
SHARES |= {"private": "none", "connect": "none", "weigh": "none"}


pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def source():
  return tiny_runs.dataset()


def built(source):
  return methods.build_method("promma", tiny_runs.VALUES["promma"] | SHARES, source.spec)


def fitted(source, mesh, **more):
  """The fit, None if it was stopped, and its log."""
  rows, lines = tiny_runs.train_data(source, protocol="mplmm(0.7,redraw=true)"), []
  config, valid = tiny_runs.train_config(steps=20), source.split("valid")
  run = lambda: loop.fit(
    built(source),
    source.spec,
    rows,
    valid,
    config,
    mesh=mesh,
    log=lines.extend,
    **more,
  )
  if "stop" not in more:
    return run(), lines
  with pytest.raises(loop.TrainingInterrupted):
    run()
  return None, lines


@pytest.fixture(scope="module")
def whole(source, one_device):
  """A run that nothing stops, and its log."""
  return fitted(source, one_device)


def test_it_can_be_stopped_between_its_ends(source, one_device, whole, tmp_path):
  with Checkpoints(tmp_path) as checkpoints:  # inside the second stage
    told = fitted(source, one_device, checkpoints=checkpoints, stop=tiny_runs.stop_after(3))[1]
  with Checkpoints(tmp_path) as checkpoints:
    fit, lines = fitted(source, one_device, checkpoints=checkpoints)
  assert len(lines) == 2 and told + lines == whole[1]
  names = [x["stage"] for x in whole[1] if x["seed"] == 0]
  assert names == ["fit", "fit", "tune", "tune"]
  assert tiny_runs.is_same((fit.params, fit.model_state), (whole[0].params, whole[0].model_state))


def test_each_stage_trains_its_part_and_says_so(source, whole):
  fit, lines = whole
  params = jax.eval_shape(built(source).init, jax.random.key(0))[0]
  counts = [param_paths.count_parameters(params, s.trainable) for s in built(source).stages]
  told = [(x["trains"], x["parameters"]) for x in fit.speed["stages"]]
  assert told == counts and counts[0][0] < counts[1][0] < counts[1][1]
  terms = {stage: set() for stage in ("fit", "tune")}
  for line in lines:
    terms[line["stage"]] |= set(line)
  on = {"on/m0", "on/m1", "gate"}
  assert on <= terms["tune"] and not on & terms["fit"]
