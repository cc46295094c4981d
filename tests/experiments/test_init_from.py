"""init_from: what a run takes over from another, what stays random, what is refused."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest

import saved_models
import tiny_runs
from promise_jax import methods
from promise_jax.experiments import init_from, run_dir
from promise_jax.experiments import run as experiment_run
from promise_jax.experiments.experiment import parse_experiment, parse_variant
from promise_jax.experiments.setup import set_up
from promise_jax.experiments.train_variant import load_initial_params, train_variant
from promise_jax.inference import saved_model
from promise_jax.optim import param_paths
from promise_jax.training import checkpoint, loop

ENCODERS = ("params/encoders/.*", "params/token")
pytestmark = pytest.mark.usefixtures("compile_once")


def config(init_from="", dim=4, **changed) -> dict:
  given = tiny_runs.get_config("method=fusion,baselines=none").to_dict()
  given["data"]["dim"] = dim
  given["train"] |= {"steps": 15}
  return given | {"init_from": str(init_from)} | changed


def wider_config(folder) -> dict:
  """A run on rows of 5 numbers in place of 4, from the encoders of `folder`."""
  baselines = ("majority", "distil")
  return config(folder, dim=5, init_filter=ENCODERS, baselines=baselines)


def start_of(given, folder, number=0):
  """The parameters by path that a variant of the run starts from, and what was said."""
  setup, lines = set_up(parse_experiment(given), folder), []
  return load_initial_params(setup, setup.variants[number], folder, lines.append), lines


def finished_run(given, folder) -> SimpleNamespace:
  """What a finished run leaves, without training: its parameters are noise."""
  experiment, spec = parse_experiment(given), tiny_runs.dataset().spec
  (variant,) = experiment.variants
  method = methods.build_method(variant.method, variant.settings, spec)
  best = saved_models.make_arrays(method, len(experiment.seeds))
  own = variant.name, variant.settings
  model = saved_models.make_model(spec, own, seeds=experiment.seeds)
  with run_dir.open_run(folder, experiment):
    saved_model.write_model(folder / "model", model, {variant.name: best})
    (folder / "results.jsonl").write_text("")
  return SimpleNamespace(folder=folder, best=param_paths.leaves_by_path(best[0]))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A run of fusion with three seeds."""
  return finished_run(config(seeds=3), tmp_path_factory.mktemp("source") / "run")


@pytest.fixture(scope="module")
def other(source, tmp_path_factory):
  """A run that started from it: its start, its parameters and what it said."""
  folder = tmp_path_factory.mktemp("other") / "run"
  found, lines, fit = SimpleNamespace(folder=folder), [], loop.fit
  experiment = parse_experiment(wider_config(source.folder))

  def fit_and_note(*args, **options):
    found.start = options.get("start", options.get("init_params"))
    found.fit = fit(*args, **options)
    return found.fit

  setup = set_up(experiment, folder)
  with pytest.MonkeyPatch.context() as patch, run_dir.open_run(folder, experiment):
    patch.setattr(loop, "fit", fit_and_note)
    train_variant(setup, setup.variants[0], folder, show=lines.append)
  found.lines = [line for line in lines if "start from" in line]
  return found


def test_the_best_parameters_of_the_same_seed_are_taken_over(source, other):
  first = {f"params/encoders/encoder_{i}/body/Dense_0/bias" for i in range(2)}
  second = {p for p in source.best if "Dense_1" in p and "encoder_" in p}
  assert set(other.start) == first | second | {"params/token"} and len(second) == 4
  for name, x in other.start.items():
    assert x.tobytes() == source.best[name][:2].tobytes()


def test_other_baselines_start_from_random_weights(source, tmp_path):
  for number in (1, 2):
    setup = set_up(parse_experiment(wider_config(source.folder)), tmp_path / "run")
    assert setup.variants[number].init is None
  assert not (tmp_path / "run").exists()


def test_what_stays_random_is_named_with_its_reason(source, other):
  ((name, entry),) = json.loads((other.folder / "init.json").read_text()).items()
  assert name == "fusion" and set(entry["loaded"]) == set(other.start)
  wide = "is float32[5, 8], there float32[4, 8]"
  expected = {f"params/encoders/encoder_{i}/body/Dense_0/kernel": wide for i in range(2)}
  for i in range(2):
    for x in ("bias", "kernel"):
      expected[f"params/head/Dense_{i}/{x}"] = "matches nothing of init_filter"
  assert entry["random"] == expected
  (line,) = other.lines
  assert line.startswith("fusion: 7 of 13 parameters start from the best of fusion in")
  assert str(source.folder) in line and all(name in line for name in expected)
  assert f"encoder_1/body/Dense_0/kernel ({wide}); params/head" in line


def test_long_lists_are_cut():
  reasons = {f"p{i}": "is not there" for i in range(10)} | {"q": "is x, there y"}
  listed = ", ".join(f"p{i}" for i in range(8))
  text = f"{listed} and 2 more (is not there); q (is x, there y)"
  assert init_from.list_paths(reasons) == text


def test_a_stopped_run_continues_without_the_other_folder(source, other, tmp_path, monkeypatch):
  """SIGTERM at the first save; then the source is gone. The bits are the same."""
  copy, folder = tmp_path / "copy", tmp_path / "run"
  shutil.copytree(source.folder, copy)
  save = checkpoint.Checkpoints.save

  def save_and_stop(self, step, tree):
    save(self, step, tree)
    if step == 5:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint.Checkpoints, "save", save_and_stop)
    with pytest.raises(loop.TrainingInterrupted):
      experiment_run.run_experiment(wider_config(copy), folder, show=lambda text: None)
  shutil.rmtree(copy)
  setup = set_up(parse_experiment(wider_config(copy)), folder)
  assert setup.variants[0].init is None
  found = train_variant(setup, setup.variants[0], folder, show=None)
  best = found.params, found.model_state
  assert tiny_runs.is_same(best, (other.fit.params, other.fit.model_state))


@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_takes_over_all_of_its_parameters(name, tmp_path):
  found = finished_run(config(method=name), tmp_path)
  start, _ = start_of(config(tmp_path, method=name), tmp_path / "new")
  assert start.keys() == found.best.keys()
  assert all(x.tobytes() == found.best[path].tobytes() for path, x in start.items())


def test_a_variant_starts_from_its_name_then_its_method_then_its_family(source, monkeypatch):
  """As if distil were built on fusion: either serves the other, no third method."""
  monkeypatch.setitem(methods.BUILT_ON, "distil", "fusion")
  assert [methods.family(x) for x in ("distil", "fusion", "robult")] == ["fusion"] * 2 + ["robult"]
  baselines = ("fusion", "fusion(dropout=false)", "distil(weight=2.0)", "share")
  experiment = parse_experiment(config(source.folder, method="distil", baselines=baselines))
  setup = set_up(experiment, source.folder / "none")
  plans = [variant.init for variant in setup.variants]
  assert [plan and plan.source for plan in plans] == [*["fusion"] * 4, None]
  assert {"params/token", "params/head/Dense_0/kernel"} <= set(plans[0].loaded)
  assert not plans[1].random
  given = config(baselines=("distil(weight=2.0)", "distil"))
  texts = ("fusion(fill=zeros)", "distil", "distil(weight=3.0)", "share")
  theirs = parse_experiment(given)
  found = [init_from.find_variant(theirs, parse_variant(text, given)) for text in texts]
  assert [v and v.name for v in found] == ["fusion", "distil", "distil(weight=2.0)", None]


def test_only_the_best_parameters_of_the_other_run_are_read(tmp_path, monkeypatch):
  """Not its stages, nor the model_state they left; a parameter that nothing trains and
  nobody gives is named."""

  def fusion_is(toy):
    settings = methods.METHODS["fusion"][0]
    monkeypatch.setitem(methods.METHODS, "fusion", (settings, lambda _, spec: toy(spec)))

  def head_only(spec):
    one = tiny_runs.linear_method(spec)
    return one._replace(stages=(one.stages[0]._replace(trainable=("head/.*",)),))

  fusion_is(tiny_runs.two_stage_method)
  first = finished_run(config(), tmp_path / "first")
  (variant,) = saved_model.read_model(first.folder / "model").variants
  assert "state/teacher" in saved_model.read_arrays(first.folder / "model", variant)
  fusion_is(head_only)
  start, lines = start_of(config(first.folder), tmp_path / "second")
  assert start.keys() == {"body", "head/w", "head/b"} and len(lines) == 1
  assert all(x.tobytes() == first.best[path].tobytes() for path, x in start.items())
  _, (line,) = start_of(config(), tmp_path / "alone")
  reason = "body (no stage trains them, no init_from has them)"
  assert line == f"note: fusion leaves parameters at random values: {reason}"


@pytest.mark.parametrize(
  ("missing", "changed", "sentence"),
  [
    ("config.json", {}, "is not a run: it has no config.json"),
    ("results.jsonl", {}, "init_from: .* is not finished"),
    ("model/model.json", {}, "has no model.json"),
    ("model/fusion.safetensors", {}, "init_from: .*fusion.safetensors cannot be read"),
    ("", {"method": "distil"}, "has no variant of distil, it has fusion"),
    ("", {"seeds": 4}, "has 3 seeds, 4 are needed"),
    ("", {"init_filter": ("head",)}, "no parameter for fusion: params/enc.* 5 more"),
  ],
)
def test_a_run_that_does_not_serve_is_refused_before_a_folder_is_made(
  source, tmp_path, missing, changed, sentence
):
  folder = tmp_path / "copy"
  shutil.copytree(source.folder, folder)
  if missing:
    (folder / missing).unlink()
  with pytest.raises(ValueError, match=sentence):
    experiment_run.run_experiment(config(folder, **changed), tmp_path / "run")
  assert not (tmp_path / "run").exists()
