"""A run that is stopped and resumed ends like one that is not; what is bad is not saved."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fits import MemoryCheckpoints, run_fit

import tiny_runs
from promise_jax.devices import mesh as devices_mesh
from promise_jax.method import Method
from promise_jax.training import checkpoint, loop
from promise_jax.types import Average

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def source():
  return tiny_runs.dataset()


def run_interrupted(source, folder, meshes, stops):
  """Runs two stages of 15 steps; stops after so many blocks, at that step, each time on the
  next of `meshes` and with new `Checkpoints`; then runs to the end."""
  method, lines = tiny_runs.two_stage_method(source.spec), []
  more = {"log": lines.extend, "steps": 30, "protocol": "bernoulli(0.5,redraw=true)"}
  for (after, step), mesh in zip(stops, meshes, strict=False):
    with (
      checkpoint.Checkpoints(folder) as checkpoints,
      pytest.raises(loop.TrainingInterrupted) as stopped,
    ):
      stop = tiny_runs.stop_after(after)
      run_fit(source, method, mesh, checkpoints=checkpoints, stop=stop, **more)
    assert (stopped.value.signal, stopped.value.step) == (signal.SIGTERM, step)
    assert {line["step"] for line in lines[-2:]} == {step}
  if not folder:
    return run_fit(source, method, meshes[-1], **more), lines
  with checkpoint.Checkpoints(folder) as checkpoints:
    return run_fit(source, method, meshes[-1], checkpoints=checkpoints, **more), lines


@pytest.fixture(scope="module")
def whole(source, one_device):
  """A run that nothing stops, and its log."""
  return run_interrupted(source, None, [one_device], [])


@pytest.mark.parametrize(
  ("stops", "left"),
  [
    ([(2, 10)], {"backbone": 5, "prompt": 15}),
    ([(3, 15)], {"prompt": 15}),
    ([(1, 5), (3, 20), (1, 25)], {"prompt": 5}),
    ([(6, 30)], {}),
  ],
  ids=["first stage", "between stages", "three times", "end"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
  source, one_device, tmp_path, whole, stops, left
):
  """Every bit is the same; it reports the speed of the stages and steps that were `left`."""
  meshes = [one_device] * (len(stops) + 1)
  fit, lines = run_interrupted(source, tmp_path, meshes, stops)
  assert tiny_runs.is_same(fit[:4], whole[0][:4]) and lines == whole[1]
  assert {x["stage"]: x["steps"] for x in fit.speed["stages"]} == left


@pytest.mark.parametrize("back", [False, True])
def test_devices_may_change_between_stop_and_resume(source, one_device, tmp_path, whole, back):
  """From seeds on two parts of eight devices to one device, and the other way."""
  meshes = [devices_mesh.make_mesh(seed_devices=2), one_device][:: -1 if back else 1]
  fit, lines = run_interrupted(source, tmp_path, meshes, [(2, 10)])
  tiny_runs.assert_close(fit[:2], whole[0][:2], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(fit.best_step, whole[0].best_step)
  losses = [[x["loss"] for x in each] for each in (lines, whole[1])]
  np.testing.assert_allclose(*losses, rtol=1e-4)


def test_checkpoints_are_saved_by_time_and_at_the_end_of_a_stage(source, one_device, tmp_path):
  steps = {}
  for save_every in (0.0, 3600.0):
    folder = tmp_path / str(save_every)
    with checkpoint.Checkpoints(folder, save_every=save_every, keep=9) as checkpoints:
      method = tiny_runs.two_stage_method(source.spec)
      run_fit(source, method, one_device, steps=30, checkpoints=checkpoints)
    steps[save_every] = checkpoint.saved_steps(folder)
  assert steps == {0.0: [5, 10, 15, 20, 25, 30], 3600.0: [15, 30]}


def test_progress_is_plain_lines_and_a_resume_is_announced(source, one_device, tmp_path, capsys):
  method = tiny_runs.linear_method(source.spec)
  for stop, error in ((tiny_runs.stop_after(2), loop.TrainingInterrupted), (None, None)):
    more = {"title": "robult"} | ({"stop": stop} if stop else {})
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
      more["checkpoints"] = checkpoints
      if error:
        with pytest.raises(error):
          run_fit(source, method, one_device, **more)
      else:
        run_fit(source, method, one_device, **more)
  *_, resume, first, last = capsys.readouterr().out.splitlines()
  assert resume == "robult: resuming from step 10 of 20"
  assert first.startswith("robult: step 15/20, loss ") and "valid accuracy 0." in first
  assert last.startswith("robult: step 20/20") and "examples/s, 0:00:00 left" in last


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, {"x": np.ones(2)})
    checkpoints.manager.wait_until_finished()

    def fail(*args, **options):
      raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.manager, "save", fail)
    with pytest.raises(checkpoint.NotSaved, match=r"\(No space left on device\); .*step 5"):
      checkpoints.save(10, {"x": np.ones(2)})


def test_a_checkpoint_of_other_arrays_is_one_sentence(tmp_path, one_device):
  shapes = devices_mesh.placed_shapes({"x": [np.ones(2)]}, devices_mesh.seed_sharding(one_device))
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(5, {"x": [np.ones(2), np.ones(3)]})
    checkpoints.manager.wait_until_finished()
    with pytest.raises(ValueError, match=r"the checkpoint .*5 cannot be read \(.*\): if another"):
      checkpoints.restore(5, shapes)


def break_loss(source, extra_loss) -> Method:
  """The linear method with `extra_loss(params, model_state, info)` added to its loss."""
  method = tiny_runs.linear_method(source.spec)
  (stage,) = method.stages

  def init(key):
    params, model_state = method.init(key)
    return params, model_state | {"mark": jax.random.bits(key)}

  def loss(params, model_state, batch, key, info):
    value, (model_state, terms) = stage.loss(params, model_state, batch, key, info)
    extra = extra_loss(params, model_state, info)
    terms |= {"fine": Average(value, jnp.ones(())), "broken": Average(extra, jnp.ones(()))}
    return value + extra, (model_state, terms)

  return tiny_runs.with_stage(stage._replace(loss=loss), method)._replace(init=init)


def test_a_loss_that_is_not_finite_stops_the_run(source, one_device):
  mark = jax.random.bits(jax.random.fold_in(jax.random.key(1), 0))

  def infinite(params, model_state, info):
    return jnp.where((info.step == 7) & (model_state["mark"] == mark), jnp.inf, 0.0)

  held, lines = MemoryCheckpoints(), []
  with pytest.raises(FloatingPointError, match="step 7 of seed 1") as error:
    method = break_loss(source, infinite)
    run_fit(source, method, one_device, checkpoints=held, log=lines.extend)
  assert "broken = inf" in str(error.value) and "fine" not in str(error.value)
  assert held.latest_step() == 5 and {line["step"] for line in lines} == {5}


def test_parameters_that_the_last_step_broke_are_not_saved(source, one_device):
  """A finite loss with a gradient that is not, sqrt at 0, in the last step of a block: no loss
  sees what that step did."""

  def root(params, model_state, info):
    b = params["head"]["b"][0]
    return jax.lax.cond(info.step == 9, lambda b: jnp.sqrt(0 * b), lambda b: 0 * b, b)

  held = MemoryCheckpoints()
  with pytest.raises(FloatingPointError, match="seed 0 .* after step 9"):
    run_fit(source, break_loss(source, root), one_device, checkpoints=held)
  assert held.latest_step() == 5
