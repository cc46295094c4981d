"""init_from: what a run takes over from another, what stays fresh, what is refused."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_runs
from promise_jax import methods
from promise_jax.devices import mesh
from promise_jax.experiments import compare, run_dir, train_variant
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import init_from as experiments_init_from
from promise_jax.experiments import run as experiment_run
from promise_jax.optim import optimizer, param_paths
from promise_jax.training import checkpoint, loop
from promise_jax.training import step as training_step

ENCODERS = ("params/encode_.*", "params/token")


@pytest.fixture(scope="module", autouse=True)
def fast(tmp_path_factory, one_device):
  """Programs are compiled once, and for one device."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(mesh, "make_mesh", lambda **_: one_device)
    with tiny_runs.compile_once(tmp_path_factory.mktemp("compiled")):
      yield


def config(init_from="", dim=4, **changed) -> dict:
  given = tiny_runs.get_config("method=fusion,baselines=none").to_dict()
  given["data"]["dim"] = dim
  given["train"] |= {"steps": 15}
  return given | {"init_from": str(init_from)} | changed


def begun(folder) -> dict:
  """A run on rows of 5 numbers in place of 4, from the encoders of `folder`."""
  baselines = ("majority", "distil")
  return config(folder, dim=5, init_filter=ENCODERS, baselines=baselines)


def by_path(params) -> dict[str, np.ndarray]:
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {param_paths.path_to_string(path): np.asarray(x) for path, x in leaves}


def trained(given, folder) -> SimpleNamespace:
  """The run's own variant, trained in `folder`, with what it said and what went into and
  came out of `fit`."""
  seen, said, fit = SimpleNamespace(folder=folder, said=[]), [], loop.fit

  def fit_and_watch(*args, start, **options):
    seen.start, seen.fit = start, fit(*args, start=start, **options)
    return seen.fit

  setup = train_variant.setup_run(given)
  with pytest.MonkeyPatch.context() as patch, run_dir.open_run(folder, given):
    patch.setattr(loop, "fit", fit_and_watch)
    train_variant.train_variant(setup, setup.experiment.variants[0], folder, show=said.append)
  seen.said = [text for text in said if "start from" in text]
  return seen


def made_up(given, folder) -> SimpleNamespace:
  """What a finished run leaves, without training: the last parameters are zeros, the
  best are noise."""
  variant, rng = experiment_config.parse_experiment(given).variants[0], np.random.default_rng(0)
  method = methods.build_method(variant.method, variant.values, tiny_runs.dataset().spec)

  def noise(x):
    return rng.normal(size=(given["seeds"], *x.shape)).astype(x.dtype)

  def left(key):
    return method.stages[-1].on_start(key, *method.init(key))

  params, model_state = jax.tree.map(noise, jax.eval_shape(left, jax.random.key(0)))
  last = method.TrainState(jax.tree.map(np.zeros_like, params), model_state, ())
  carry = training_step.TrainLoopState(last, (params, model_state), np.zeros(3), np.full(3, 5))
  with run_dir.open_run(folder, given):
    with checkpoint.open_manager(checkpoint.variant_folder(folder, variant.folder)) as manager:
      checkpoint.save(manager, 15, carry)
    (folder / "results.jsonl").write_text("")
  return SimpleNamespace(folder=folder, best=by_path(params))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A run of fusion with three seeds."""
  return made_up(config(seeds=3), tmp_path_factory.mktemp("source") / "run")


@pytest.fixture(scope="module")
def other(source, tmp_path_factory):
  """A run that started from it."""
  return trained(begun(source.folder), tmp_path_factory.mktemp("other") / "run")


def test_the_best_of_the_same_seed_is_taken_over(source, other):
  start = other.start
  first = [f"params/encode_{i}/body/Dense_0/bias" for i in range(2)]
  second = [f"params/encode_{i}/body/Dense_1/{x}" for i in range(2) for x in ("bias", "kernel")]
  assert set(start) == {*first, *second, "params/token"}
  for name, x in start.items():
    assert x.tobytes() == source.best[name][:2].tobytes()


def test_the_last_checkpoint_has_the_best_parameters(other):
  params, model_state = checkpoint.load_parameters(
    other.folder / "checkpoints" / "fusion", 15, "best"
  )
  assert tiny_runs.same((params, model_state), (other.fit.params, other.fit.model_state))
  assert by_path(params).keys() == by_path(other.fit.params).keys()


def test_controls_start_fresh(source, tmp_path):
  setup, said = train_variant.setup_run(begun(source.folder)), []
  assert [variant.method for variant in setup.experiment.variants] == [
    "fusion",
    "majority",
    "distil",
  ]
  for variant in setup.experiment.variants[1:]:
    assert train_variant.load_init(setup, variant, tmp_path / "run", said.append) == {}
  assert not said and not (tmp_path / "run").exists()


def test_what_stays_fresh_is_named_with_its_reason(source, other):
  (entry,) = json.loads((other.folder / "init.json").read_text()).items()
  assert entry[0] == "fusion" and set(entry[1]["taken"]) == set(other.start)
  fresh = entry[1]["fresh"]
  wide = "is float32[5, 8], there float32[4, 8]"
  expected = {f"params/encode_{i}/body/Dense_0/kernel": wide for i in range(2)}
  for i in range(2):
    for x in ("bias", "kernel"):
      expected[f"params/head/Dense_{i}/{x}"] = "matches nothing of init_filter"
  assert fresh == expected
  (line,) = other.said
  assert line.startswith("fusion: 7 of 13 parameters start from the best of fusion in")
  assert str(source.folder) in line and "model_state and the optimiser fresh" in line
  assert all(name in line for name in expected)
  assert f"encode_1/body/Dense_0/kernel ({wide}); params/head" in line


def test_long_lists_are_cut():
  fresh = {f"p{i}": "is not there" for i in range(10)} | {"q": "is x, there y"}
  every = ", ".join(f"p{i}" for i in range(8))
  shown = f"{every} and 2 more (is not there); q (is x, there y)"
  assert experiments_init_from.list_paths(fresh) == shown


@pytest.mark.parametrize("seed_parallelism", ["map", "vmap"])
def test_the_first_carry(seed_parallelism, one_device):
  """Taken leaves are those given, bit by bit, all else is that of a fresh start; no
  buffer is there twice, as the carry is donated."""
  task, run = tiny_runs.dataset(), tiny_runs.settings(seed_parallelism=seed_parallelism)
  method = tiny_runs.linear(task.spec)
  start = training_step.make_stage_start(
    method, 0, optimizer.make_optimizer(run.optim, 5), run, one_device
  )
  keys = jax.vmap(jax.random.key)(jnp.arange(2))
  given = {"head/w": np.arange(12, dtype=np.float32).reshape(2, 3, 2)}
  fresh, warm = start(keys, None, {}), start(keys, None, given)
  for params in (warm.state.params, warm.best[0]):
    assert tiny_runs.same(params["head"]["w"], given["head/w"])
  put = fresh.state.params["head"] | {"w": given["head/w"]}
  params = fresh.state.params | {"head": put}
  state = fresh.state._replace(params=params)
  assert tiny_runs.same(warm, fresh._replace(state=state, best=(params, fresh.best[1])))
  leaves = [x for x in jax.tree.leaves(warm) if x.size]
  assert len({x.unsafe_buffer_pointer() for x in leaves}) == len(leaves)


@pytest.mark.parametrize("given", [{"body": np.ones((2, 1, 1))}, {"x": np.ones((2, 3))}])
def test_a_start_that_does_not_fit(given, one_device):
  task = tiny_runs.dataset()
  rows, valid = tiny_runs.rows(task), task.split("valid")
  with pytest.raises(ValueError, match="start has (body|x) .*no parameter is like it"):
    method, run = tiny_runs.linear(task.spec), tiny_runs.settings()
    loop.fit(method, task.spec, rows, valid, run, mesh=one_device, start=given)


def test_a_stopped_run_goes_on_without_the_other_folder(source, other, tmp_path, monkeypatch):
  """SIGTERM at the second save; then the source is gone. The bits are the same."""
  copy, folder = tmp_path / "copy", tmp_path / "run"
  shutil.copytree(source.folder, copy)
  save, saved = checkpoint.save, []

  def save_and_stop(manager, step, tree):
    save(manager, step, tree)
    saved.append(step)
    if len(saved) == 2:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "save", save_and_stop)
    with pytest.raises(loop.TrainingInterrupted):
      experiment_run.run_experiment(begun(copy), folder, show=lambda text: None)
  shutil.rmtree(copy)
  again = trained(begun(copy), folder)
  assert again.start == {} and not again.said
  assert tiny_runs.same(again.fit[:4], other.fit[:4])


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_takes_all_of_its_parameters(name, tmp_path):
  found = made_up(config(method=name), tmp_path)
  setup = train_variant.setup_run(config(tmp_path, method=name))
  start = train_variant.load_init(setup, setup.experiment.variants[0], tmp_path / "new", None)
  assert start.keys() == found.best.keys()
  assert all(x.tobytes() == found.best[path].tobytes() for path, x in start.items())


def test_variants_of_the_method_start_there_too(source):
  """From the variant of the same text; without it from the first of the method."""
  given = config(source.folder, method="fusion(dropout=false)")
  given["baselines"] = ("fusion(fill=zeros)", "distil")
  experiment, spec = experiment_config.parse_experiment(given), tiny_runs.dataset().spec
  starts = []
  for variant in experiment.variants:
    method = methods.build_method(variant.method, variant.values, spec)
    starts.append(experiments_init_from.plan_init(experiment, variant, method))
  assert [x and x.source.text for x in starts] == ["fusion", "fusion", None]
  assert not starts[0].fresh and "no parameter is fresh" in experiments_init_from.describe_init(
    starts[0], experiment.variants[0]
  )
  theirs = {**given, "method": "fusion", "baselines": ["fusion(fill=zeros)"]}
  found = [
    experiments_init_from.find_variant(source.folder, theirs, variant).text
    for variant in experiment.variants[:2]
  ]
  assert found == ["fusion", "fusion(fill=zeros)"]


def test_a_method_on_the_network_of_another_starts_there_too(source, monkeypatch):
  """As if distil were built on fusion: either serves the other, no third method."""
  monkeypatch.setitem(methods.BUILT_ON, "distil", "fusion")
  assert [methods.family(x) for x in ("distil", "fusion")] == ["fusion", "fusion"]
  assert methods.family("robult") == "robult"
  baselines = ("fusion", "distil(weight=2.0)", "share")
  experiment = experiment_config.parse_experiment(
    config(source.folder, method="distil", baselines=baselines)
  )
  built = [
    methods.build_method(a.method, a.values, tiny_runs.dataset().spec) for a in experiment.variants
  ]
  starts = [
    experiments_init_from.plan_init(experiment, *x)
    for x in zip(experiment.variants, built, strict=True)
  ]
  assert [x and x.source.text for x in starts] == ["fusion", "fusion", "fusion", None]
  assert {"params/token", "params/head/Dense_0/kernel"} <= set(starts[0].taken)
  # The same text goes before the same method, and that before the family.
  theirs = config(method="fusion", baselines=("distil(weight=2.0)", "distil"))
  texts = ("fusion(fill=zeros)", "distil", "distil(weight=3.0)")
  found = [
    experiments_init_from.find_variant(
      source.folder, theirs, experiment_config.parse_variant(text, theirs)
    ).text
    for text in texts
  ]
  assert found == ["fusion", "distil", "distil(weight=2.0)"]
  with pytest.raises(ValueError, match="no variant of fusion or distil, it has share"):
    experiments_init_from.find_variant(
      source.folder, config(method="share"), experiment.variants[0]
    )


def test_parameters_that_nothing_gives_a_value_are_told(tmp_path, monkeypatch):
  """Of a method whose only stage trains its head, those of the body."""
  head = lambda _, spec: tiny_runs.linear(spec)._replace(
    stages=tuple(s._replace(trainable=("head/.*",)) for s in tiny_runs.linear(spec).stages)
  )
  kind = methods.METHODS["fusion"][0]
  monkeypatch.setitem(methods.METHODS, "fusion", (kind, head))
  fit = SimpleNamespace(speed={"steps": 0}, score=None, at=None)
  monkeypatch.setattr(loop, "fit", lambda *args, **options: fit)
  first, said = made_up(config(), tmp_path / "first"), []
  setup = train_variant.setup_run(config())
  train_variant.train_variant(
    setup, setup.experiment.variants[0], tmp_path / "alone", show=said.append
  )
  assert said == [
    "note: fusion leaves parameters as they were drawn: body (no stage trains them, "
    "no init_from has them)"
  ]
  setup, said = train_variant.setup_run(config(first.folder)), []
  train_variant.train_variant(
    setup, setup.experiment.variants[0], tmp_path / "second", show=said.append
  )
  assert len(said) == 1 and said[0].startswith("fusion: 3 of 3 parameters start from")


def test_trials_of_the_family_start_there_too(monkeypatch, tmp_path):
  seen = []

  def prepare(given):
    seen.append(given["init_from"])
    raise InterruptedError

  monkeypatch.setattr(train_variant, "prepare", prepare)
  monkeypatch.setitem(methods.BUILT_ON, "distil", "fusion")
  for trials in (("fusion", "distil(weight=2.0)"), ("distil",), ("fusion", "share")):
    with pytest.raises(InterruptedError):
      compare.choose(config("there"), trials, 2, tmp_path, show=None)
  assert seen == ["there", "there", ""]


def test_a_run_of_other_stages_serves(tmp_path, monkeypatch):
  """Only its best parameters are read: not its stages, nor the model_state they left."""

  def fusion_is(toy):
    kind = methods.METHODS["fusion"][0]
    monkeypatch.setitem(methods.METHODS, "fusion", (kind, lambda _, spec: toy(spec)))

  fusion_is(tiny_runs.two_stages)
  first = made_up(config(), tmp_path / "first")
  _, model_state = checkpoint.load_parameters(first.folder / "checkpoints" / "fusion", 15, "best")
  assert "teacher" in model_state
  fusion_is(tiny_runs.linear)
  setup = train_variant.setup_run(config(first.folder))
  start = train_variant.load_init(setup, setup.experiment.variants[0], tmp_path / "second", None)
  assert start.keys() == {"body", "head/w", "head/b"}
  assert all(x.tobytes() == first.best[path].tobytes() for path, x in start.items())


def spoiled(folder, what):
  """The folder with something taken away."""
  if what == "results":
    (folder / "results.jsonl").unlink()
  if what == "checkpoints":
    shutil.rmtree(folder / "checkpoints")
  if what == "config":
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
  ("what", "changed", "sentence"),
  [
    ("config", {}, "is not a run: it has no config.json"),
    ("results", {}, "init_from .* is not finished"),
    ("checkpoints", {}, "has no checkpoint of step 15"),
    ("", {"method": "distil"}, "no variant of distil, it has fusion"),
    ("", {"seeds": 4}, "has 3 seeds and this run 4"),
    ("", {"init_filter": ("a", "(")}, r"init_filter has '\(', no regex: "),
    (
      "",
      {"init_filter": ("head",)},
      "starts no parameter of fusion: params/enc.* 5 more",
    ),
    ("", {"method": "majority"}, "majority has no parameters"),
  ],
)
def test_what_does_not_serve_is_refused_before_a_folder_is_made(
  source, tmp_path, what, changed, sentence
):
  folder = tmp_path / "copy"
  shutil.copytree(source.folder, folder)
  spoiled(folder, what)
  with pytest.raises(ValueError, match=sentence):
    experiment_run.run_experiment(
      config(folder, **changed), tmp_path / "run", show=lambda text: None
    )
  assert not (tmp_path / "run").exists()


def test_a_config_from_before_there_was_init_from():
  given = config()
  del given["init_from"], given["init_filter"]
  experiment = experiment_config.parse_experiment(given)
  assert (experiment.init_from, experiment.init_filter) == ("", (".*",))
