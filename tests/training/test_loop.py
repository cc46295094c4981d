"""fit(): what it computes, that it can be stopped anywhere, and what it refuses."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_runs
from promise_jax import files, methods
from promise_jax.devices import mesh as devices_mesh
from promise_jax.experiments import train_variant
from promise_jax.method import Method, Stage
from promise_jax.training import checkpoint, loop
from promise_jax.types import Average

SEEDS = (0, 1, 2, 3, 4)


pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def source():
  return tiny_runs.dataset()


def fitted(source, method, mesh, *, seeds=(0, 1), protocol="none", rows=None, **changed):
  """fit() on the toy data; `changed` holds settings and arguments of fit."""
  names = ("manager", "log", "stop")
  more = {k: changed.pop(k) for k in names if k in changed}
  rows = rows or tiny_runs.rows(source, seeds, protocol=protocol)
  config = tiny_runs.settings(**changed)
  valid = source.split("valid")
  return loop.fit(method, source.spec, rows, valid, config, mesh=mesh, **more)


@pytest.fixture(scope="module")
def five(source, one_device):
  """Five seeds by map, and the lines of the log."""
  lines = []
  method = tiny_runs.linear(source.spec)
  fit = fitted(source, method, one_device, seeds=SEEDS, log=lines.extend)
  return fit, lines


def test_one_training_program_a_stage(source, one_device):
  """Four calls a stage, in parts, one compilation of `call`: counted where XLA is
  asked."""
  built = []

  def listen(event, seconds, **about):
    if event.endswith("backend_compile_duration"):
      built.append(about.get("fun_name"))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    method = tiny_runs.two_stages(source.spec)
    fitted(source, method, one_device, protocol="bernoulli(0.3)", steps=40)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  assert built.count("jit(call)") == 2


def test_seeds_differ_everywhere(five):
  fit, _ = five
  for leaf in tiny_runs.numbers(fit.params):
    assert leaf.shape[0] == len(SEEDS) and tiny_runs.moved(leaf)


def test_a_seed_does_not_depend_on_its_company(source, one_device, five):
  alone = fitted(source, tiny_runs.linear(source.spec), one_device, seeds=(3,))
  among = jax.tree.map(lambda x: x[3:4], five[0].params)
  tiny_runs.assert_close(alone.params, among, rtol=1e-5, atol=1e-6)
  assert (alone.score[0], alone.at[0]) == (five[0].score[3], five[0].at[3])


def test_vmap_agrees_with_map(source, one_device, five):
  method = tiny_runs.linear(source.spec)
  other = fitted(source, method, one_device, seeds=SEEDS, seed_parallelism="vmap")
  tiny_runs.assert_close(other.params, five[0].params, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(other.at, five[0].at)


@pytest.mark.parametrize("seed_parallelism", ["map", "vmap"])
@pytest.mark.parametrize("groups", [2, 4])
def test_groups_of_devices_train_their_seeds(source, five, seed_parallelism, groups):
  """Two groups of four devices, or four of two, and four seeds."""
  mesh, lines, held = devices_mesh.make_mesh(groups=groups), [], Held()
  more = {"seeds": SEEDS[:4], "seed_parallelism": seed_parallelism, "log": lines.extend}
  fit = fitted(source, tiny_runs.linear(source.spec), mesh, manager=held, **more)
  first = lambda tree: jax.tree.map(lambda x: x[:4], tree)
  tiny_runs.assert_close(fit.params, first(five[0].params), rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(fit.at, five[0].at[:4])
  np.testing.assert_allclose(fit.score, five[0].score[:4], rtol=1e-6)
  assert [(x["seed"], x["step"]) for x in lines] == [
    (x["seed"], x["step"]) for x in five[1] if x["seed"] < 4
  ]
  assert held.parts == {4 // groups}  # of the seeds a device has its own alone


@pytest.mark.parametrize("seed_parallelism", ["map", "vmap"])
def test_calls_of_another_length_walk_the_same_path(source, one_device, seed_parallelism):
  """`every` decides when to look, not what is computed: the state after 20 steps."""
  states = []
  for every in (5, 10):
    method, held = tiny_runs.linear(source.spec), Held()
    more = {"seed_parallelism": seed_parallelism, "manager": held}
    fitted(source, method, one_device, eval_every=every, **more)
    states.append(held.trees[20].state)
  tiny_runs.assert_close(*states, rtol=1e-6, atol=1e-6)


def test_calls_in_parts_of_single_steps(source, one_device, five, monkeypatch):
  """Where a step takes longer than one may wait. Every bit is the same."""
  monkeypatch.setattr(loop, "ANSWER", 0.0)
  fit, expected = five
  lines, asked = [], []
  more = {"seeds": SEEDS, "log": lines.extend, "stop": lambda: asked.append(0) or 0}
  other = fitted(source, tiny_runs.linear(source.spec), one_device, **more)
  assert len(asked) == other.speed["steps"] == 20
  assert lines == expected and tiny_runs.same(other[:4], fit[:4])


@pytest.mark.parametrize(
  ("seconds", "parts"),
  [
    (0.01, [(0, 1), (1, 25)]),
    (1.0, [(0, 1), (1, 6), (6, 11), (11, 16), (16, 21), (21, 25)]),
    (2.0, [(0, 1), *((k, k + 2) for k in range(1, 25, 2))]),
    (60.0, [(k, k + 1) for k in range(25)]),
  ],
)
def test_a_part_of_a_call_takes_five_seconds_or_one_step(seconds, parts, answer, monkeypatch):
  monkeypatch.setattr(loop, "ANSWER", answer)
  speed, found = {"steps": 0, "train_s": 0.0}, []
  for first, last in loop.spans(0, 25, speed):
    found.append((int(first), int(last)))
    speed["steps"] += last - first
    speed["train_s"] += seconds * (last - first)
  assert found == parts


class Held:
  """Stands in for a checkpoint manager: keeps what it is given, on the host; `parts`
  are how many seeds a device had."""

  def __init__(self):
    self.trees, self.parts = {}, set()

  def latest_step(self):
    return max(self.trees, default=None)

  def save(self, step, args):
    self.trees[step] = jax.tree.map(np.array, args.item)
    shards = [x.addressable_shards[0].data for x in jax.tree.leaves(args.item)]
    self.parts |= {len(x) for x in shards}


def test_eight_devices_compute_what_one_does(source, one_device, eight_devices):
  """Of all methods, one step: in test_methods."""
  found = []
  for mesh in (one_device, eight_devices):
    held, lines = Held(), []
    method = methods.build_method("fusion", tiny_runs.VALUES["fusion"], source.spec)
    more = {"manager": held, "log": lines.extend, "protocol": "bernoulli(0.3)"}
    fitted(source, method, mesh, steps=10, eval_every=10, **more)
    found.append((held.trees[10].state.params, [line["loss"] for line in lines]))
  (one, loss_of_one), (eight, loss_of_eight) = found
  np.testing.assert_allclose(loss_of_eight, loss_of_one, rtol=1e-4)
  tiny_runs.assert_close(eight, one, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def staged(source, one_device):
  """The two stages, 15 + 15 steps: the fit, log, and the carry after each call."""
  held, lines = Held(), []
  method = tiny_runs.two_stages(source.spec)
  more = {"manager": held, "log": lines.extend, "protocol": "bernoulli(0.5)"}
  fit = fitted(source, method, one_device, steps=30, **more)
  return fit, lines, held.trees


def test_stages_share_the_steps(staged):
  _, lines, _ = staged
  of_seed = [(x["step"], x["stage"]) for x in lines if x["seed"] == 1]
  first = [(step, "backbone") for step in (5, 10, 15)]
  assert of_seed == first + [(step, "prompt") for step in (20, 25, 30)]


def test_a_frozen_leaf_does_not_move(staged):
  fit, _, trees = staged
  body = [trees[step].state.params["body"] for step in (20, 25, 30)]
  # The stage starts from the best of the one before; its constant guess never got
  # better after the first look, so that is the one of step 5.
  assert all(np.array_equal(x, trees[15].best[0]["body"]) for x in body)
  assert np.array_equal(trees[15].best[0]["body"], trees[5].state.params["body"])
  moving = [trees[step].state.params["body"] for step in (5, 10)]
  assert not np.array_equal(*moving)
  assert np.array_equal(fit.params["body"], body[0])
  heads = [trees[step].state.params["head"]["w"] for step in (15, 20, 25)]
  assert not np.array_equal(heads[0], heads[1])
  assert not np.array_equal(heads[1], heads[2])


def test_every_stage_tells_what_it_trains_and_how_fast(staged):
  """By hand: body 8 * 3, head 3 * 2 and 2; the second stage trains the head alone."""
  speed = staged[0].speed
  told = [(x["stage"], x["trains"], x["parameters"]) for x in speed["stages"]]
  assert told == [("backbone", 32, 32), ("prompt", 8, 32)]
  for x in (speed, *speed["stages"]):
    assert x["compile_s"] > 0
    # 16 rows a step of each of two seeds.
    assert x["examples_per_s"] == pytest.approx(32 * x["steps"] / x["train_s"])
  assert [x["steps"] for x in speed["stages"]] == [15, 15] and speed["steps"] == 30
  for key in ("compile_s", "train_s"):
    assert speed[key] == pytest.approx(sum(x[key] for x in speed["stages"]))


@pytest.mark.parametrize("toy", [tiny_runs.linear, tiny_runs.two_stages])
def test_the_stages_are_shown_and_noted(source, one_device, tmp_path, toy, monkeypatch):
  """In speed.jsonl always, on the console where there are several."""
  kind = methods.METHODS["fusion"][0]
  monkeypatch.setitem(methods.METHODS, "fusion", (kind, lambda _, spec: toy(spec)))
  monkeypatch.setattr(devices_mesh, "make_mesh", lambda **_: one_device)
  setup, said = (
    train_variant.setup_run(tiny_runs.get_config("baselines=none").to_dict()),
    [],
  )
  train_variant.train_variant(setup, setup.experiment.variants[0], tmp_path, show=said.append)
  (line,) = files.read_jsonl(tmp_path / "speed.jsonl")
  names = [x.name for x in toy(source.spec).stages]
  assert [x["stage"] for x in line["stages"]] == names
  assert said[0].startswith("  compiled in")
  starts = ["  backbone: trains 32 of 32", "  prompt: trains 8 of 32"]
  starts = starts if len(names) > 1 else []
  assert all(a.startswith(b) for a, b in zip(said[1:], starts, strict=True))


def test_the_line_of_a_stage():
  stage = {"stage": "prompts", "trains": 88141, "parameters": 1149421, "steps": 1500}
  text = train_variant.stage_line(stage | {"compile_s": 1.23, "examples_per_s": 4567.8})
  assert text == (
    "prompts: trains 88,141 of 1,149,421 parameters (7.7 %), 1,500 steps, "
    "compiled in 1.2 s, 4,568 examples/s"
  )


def test_enter_copies(staged):
  fit, _, trees = staged
  assert "teacher" not in trees[15].state.model_state
  assert np.array_equal(trees[30].state.model_state["teacher"], trees[5].state.params["body"])
  assert np.array_equal(fit.model_state["teacher"], trees[30].best[1]["teacher"])


def test_complete_switches_the_simulated_masks_off(staged):
  _, lines, _ = staged
  hidden = {(x["stage"], x["hidden"] > 0) for x in lines}
  assert hidden == {("backbone", False), ("prompt", True)}


def test_a_stage_is_judged_by_its_own_predict(source, staged):
  _, lines, _ = staged
  of_class_0 = float(np.mean(source.split("valid").label == 0))
  scores = [x["valid"] for x in lines if x["stage"] == "backbone"]
  np.testing.assert_allclose(scores, of_class_0, rtol=1e-6)


@pytest.mark.parametrize("seed_parallelism", ["map", "vmap"])
def test_the_carry_has_no_leaf_twice(source, one_device, seed_parallelism):
  """A buffer that is donated twice is an error, or worse. Also in the second stage,
  which starts from what `enter` passes on."""
  method, seen = tiny_runs.two_stages(source.spec), []

  def compiled(program, args, speed, once=False):
    call = train_compiled(program, args, speed, once)

    def watched(*args):
      if not once:
        leaves = [x for x in jax.tree.leaves(args[0]) if x.size]
        seen.append(len(leaves))
        assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)
      return call(*args)

    return watched

  train_compiled = loop.compiled
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop, "compiled", compiled)
    fitted(source, method, one_device, seed_parallelism=seed_parallelism)
  assert len(seen) == 6  # a call in two parts, one whole, in each stage


def counting(best_of) -> Method:
  """Parameters that are the number of steps done; validation is perfect when that is
  `best_of(favourite)`, for a favourite step that is drawn with the weights."""

  def init(key):
    favourite = 5 * jax.random.randint(key, (), 1, 5)
    return {"steps": jnp.zeros(())}, {"favourite": favourite}

  def update(stage, tx):
    def step(state, batch, key, clock):
      done = (clock.step + 1).astype(jnp.float32)
      told = {"loss": jnp.zeros(()), "progress": clock.progress}
      told["draw"] = jax.random.uniform(key)
      return state._replace(params={"steps": done}), told

    return step

  def predict(params, model_state, batch, pattern=None):
    side = jnp.where(best_of(params["steps"], model_state["favourite"]), 1.0, -1.0)
    logits = side * jnp.array([1.0, -1.0])
    return {"logits": jnp.broadcast_to(logits, (batch.id.shape[0], 2))}

  return Method(init, predict, (Stage("count", None, update=update),))


@pytest.mark.parametrize("seed_parallelism", ["map", "vmap"])
def test_selection_keeps_the_best_step_of_each_seed(one_device, seed_parallelism):
  source = tiny_runs.dataset(rows=(48, 21, 20))
  method = counting(lambda steps, favourite: steps == favourite)
  most = np.mean(source.split("valid").label == 0)
  if most < 0.5:
    method = counting(lambda steps, favourite: steps != favourite)
  lines = []
  fit = fitted(
    source, method, one_device, seeds=SEEDS, seed_parallelism=seed_parallelism, log=lines.extend
  )
  favourite = np.asarray(fit.model_state["favourite"])
  assert len(set(favourite.tolist())) > 1
  np.testing.assert_array_equal(fit.at, favourite)
  np.testing.assert_array_equal(fit.params["steps"], favourite.astype(np.float32))
  np.testing.assert_allclose(fit.score, max(most, 1 - most), rtol=1e-6)
  assert len({line["draw"] for line in lines}) == len(lines)  # a key a seed and step
  # Progress runs over the stage: the means over 0..4, 5..9, ... of step / 20.
  told = [line["progress"] for line in lines if line["seed"] == 0]
  np.testing.assert_allclose(told, [0.1, 0.35, 0.6, 0.85], rtol=1e-6)


def test_of_equals_the_first_is_kept(source, one_device):
  fit = fitted(source, counting(lambda steps, favourite: steps < 0), one_device)
  np.testing.assert_array_equal(fit.at, [5, 5])
  np.testing.assert_array_equal(fit.params["steps"], [5, 5])


def test_the_best_parameters_have_the_score_that_is_told(source, five):
  """Predicted and scored anew, without fit and without `metrics`."""
  fit, lines = five
  method, valid = tiny_runs.linear(source.spec), source.split("valid")
  for s, seed in enumerate(SEEDS):
    params = jax.tree.map(lambda x, s=s: x[s], fit.params)
    right = []
    for pattern in tiny_runs.PATTERNS:
      batch = {"inputs": valid.inputs, "present": valid.recorded & pattern[None]}
      guess = np.argmax(method.predict(params, {}, batch)["logits"], axis=1)
      right.append(np.mean(guess == valid.label))
    assert fit.score[s] == pytest.approx(np.mean(right), abs=1e-6)
    best = max((x for x in lines if x["seed"] == seed), key=lambda x: x["valid"])
    assert (best["step"], best["valid"]) == (fit.at[s], pytest.approx(fit.score[s]))
    assert fit.model_state["count"][s] == fit.at[s]


def broken(source, how) -> Method:
  """The linear method with `how(params, model_state, clock)` added to its loss."""
  method = tiny_runs.linear(source.spec)
  (stage,) = method.stages

  def init(key):
    params, model_state = method.init(key)
    return params, model_state | {"mark": jax.random.bits(key)}

  def loss(params, model_state, batch, key, clock):
    value, (model_state, told) = stage.loss(params, model_state, batch, key, clock)
    extra = how(params, model_state, clock)
    told |= {
      "fine": Average(value, jnp.ones(())),
      "broken": Average(extra, jnp.ones(())),
    }
    return value + extra, (model_state, told)

  return tiny_runs.replaced(stage._replace(loss=loss), method)._replace(init=init)


def test_a_loss_that_is_not_finite_stops_the_run(source, one_device):
  mark = jax.random.bits(jax.random.fold_in(jax.random.key(1), 0))

  def how(params, model_state, clock):
    return jnp.where((clock.step == 7) & (model_state["mark"] == mark), jnp.inf, 0.0)

  held, lines = Held(), []
  with pytest.raises(FloatingPointError, match="step 7 of seed 1") as error:
    fitted(source, broken(source, how), one_device, manager=held, log=lines.extend)
  assert "broken = inf" in str(error.value) and "fine" not in str(error.value)
  assert held.latest_step() == 5
  assert {line["step"] for line in lines} == {5}


def test_a_last_step_that_breaks_the_parameters_is_not_saved(source, one_device):
  """A finite loss with a gradient that is not: sqrt at 0, in the last step of a call.
  No loss sees what that step did."""

  def how(params, model_state, clock):
    b = params["head"]["b"][0]
    return jax.lax.cond(clock.step == 9, lambda b: jnp.sqrt(0 * b), lambda b: 0 * b, b)

  held = Held()
  with pytest.raises(FloatingPointError, match="seed 0 .* after step 9"):
    fitted(source, broken(source, how), one_device, manager=held)
  assert held.latest_step() == 5


@pytest.mark.parametrize("task", ["classes", "regression"])
def test_labels_of_unlabelled_rows_do_not_matter(one_device, task):
  """Their garbage leaves every bit of the parameters as it is."""
  source = tiny_runs.dataset(task)
  rows = tiny_runs.rows(source)
  garbage = {"classes": 10**6, "regression": np.nan}[task]
  some = rows.labelled.any(axis=0)
  assert 0 < some.sum() < 48
  label = np.where(some, rows.split.label, garbage)
  label = label.astype(rows.split.label.dtype)
  method = methods.build_method("robult", tiny_runs.VALUES["robult"], source.spec)
  found = []
  for split in (rows.split, rows.split._replace(label=label)):
    poisoned = rows._replace(split=split)
    fit = fitted(source, method, one_device, rows=poisoned, steps=10, eval_every=10)
    found.append((fit.params, fit.model_state))
  assert tiny_runs.same(*found)


@pytest.mark.parametrize(
  ("changed", "sentence"),
  [
    ({"batch_size": 12, "labelled_per_batch": 4}, "batch is 12.*multiple of the 8 devices"),
    ({"steps": 23}, "steps is 23.*multiple of train.eval_every, 5"),
    ({"steps": 0}, "steps is 0"),
    ({"eval_every": 0}, "eval_every, 0"),
    ({"steps": 5}, "steps is 5.*2 stages.*at least 10"),
    ({"seed_parallelism": "both"}, "'both', known are auto, map, vmap"),
    ({"labelled_per_batch": 17}, "batch_size is 16 with 17 labelled"),
    ({"batch_size": 0, "labelled_per_batch": 0}, "batch_size is 0"),
    ({"optim": loop.optimizer.OptimConfig(lr=-1.0)}, "lr is -1.0"),
    ({"seed_devices": 3}, "seed_devices is 3, the 8 devices in use must be a multiple"),
    ({"seed_devices": 0}, "seed_devices is 0"),
    ({"seed_devices": 4}, "seeds is 2, it must be a multiple of train.seed_devices, 4"),
    ({"seed_devices": 2, "batch_size": 18}, "batch is 18.*of the 4 devices of each of 2 gr"),
  ],
)
def test_settings_that_do_not_fit_are_refused(source, changed, sentence):
  """All eight devices."""
  with pytest.raises(ValueError, match=sentence):
    fitted(source, tiny_runs.two_stages(source.spec), None, **changed)


@pytest.mark.parametrize(
  ("shares", "calls"),
  [((1, 1), [3, 3]), ((1, 5), [1, 5]), ((0.01, 1), [1, 5]), ((1, 0.01), [5, 1])],
)
def test_every_stage_gets_a_call(source, one_device, shares, calls):
  method = tiny_runs.two_stages(source.spec)
  stages = [x._replace(fraction=y) for x, y in zip(method.stages, shares, strict=True)]
  config = tiny_runs.settings(steps=30)
  method = method._replace(stages=tuple(stages))
  assert loop.check_training(method, config, one_device, 2) == calls


@pytest.fixture(scope="module")
def whole(source, one_device):
  """An uninterrupted run of both stages and its log."""
  return interrupted(source, one_device, None, [])


def interrupted(source, mesh, folder, stops, last=None):
  """Runs both stages of 15 steps in `folder`, stopped after so many parts of calls, at
  that step, each time with a fresh manager, and then to its end, on `last` if that is
  given. The parts of a stage, and of what is left of it, are one step, the rest of the
  call, and whole calls."""
  method, lines = tiny_runs.two_stages(source.spec), []
  more = {"log": lines.extend, "steps": 30, "protocol": "bernoulli(0.5,redraw=true)"}
  if folder is None:
    return fitted(source, method, mesh, **more), lines
  for after, step in stops:
    with (
      checkpoint.open_manager(folder) as manager,
      pytest.raises(loop.TrainingInterrupted) as stopped,
    ):
      fitted(source, method, mesh, manager=manager, stop=tiny_runs.stopping(after), **more)
    assert (stopped.value.signal, stopped.value.step) == (signal.SIGTERM, step)
    assert all(line["step"] == step // 5 * 5 for line in lines[-2:])
  with checkpoint.open_manager(folder) as manager:
    return fitted(source, method, last or mesh, manager=manager, **more), lines


@pytest.mark.parametrize(
  ("stops", "left"),
  [
    ([(2, 5)], {"backbone": 10, "prompt": 15}),
    ([(4, 15)], {"prompt": 15}),
    ([(6, 20)], {"prompt": 10}),
    ([(1, 1), (3, 10), (1, 11), (1, 12), (4, 20), (1, 21)], {"prompt": 9}),
    ([(8, 30)], {}),
  ],
  ids=["first", "between", "second", "again and again", "end"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not(source, one_device, tmp_path, whole, stops, left):
  """Stopped in the first stage, at its end, in the second, six times and within calls,
  at the end. It tells the speed of the stages, and the steps, that were `left`."""
  fit, lines = interrupted(source, one_device, tmp_path, stops)
  expected, expected_lines = whole
  assert tiny_runs.same((fit.params, fit.model_state), (expected.params, expected.model_state))
  assert tiny_runs.same((fit.score, fit.at), (expected.score, expected.at))
  assert lines == expected_lines
  assert {x["stage"]: x["steps"] for x in fit.speed["stages"]} == left


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("stops", [[(1, 1)], [(1, 1), (3, 10)]])
def test_groups_of_devices_may_change(source, one_device, tmp_path, whole, back, stops):
  """Stopped within a call, or at the end of one, from two groups to one device, and the
  other way."""
  meshes = [devices_mesh.make_mesh(groups=2), one_device][:: -1 if back else 1]
  fit, lines = interrupted(source, meshes[0], tmp_path, stops, meshes[1])
  expected, expected_lines = whole
  tiny_runs.assert_close((fit.params, fit.model_state), whole[0][:2], rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(fit.at, expected.at)
  loss = [[x["loss"] for x in each] for each in (lines, expected_lines)]
  np.testing.assert_allclose(*loss, rtol=1e-4)
