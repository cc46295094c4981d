"""Presets: what they set, for a whole run and for one variant."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from promise_jax import methods, missing
from promise_jax.evaluation import conditions
from promise_jax.experiments import config as experiment_config
from promise_jax.methods.presets import PRESETS
from promise_jax.optim import optimizer

REDCORE = Path(__file__).parents[2] / "configs" / "redcore.py"
PROMISE = REDCORE.with_name("promise.py")


def module(path: Path = REDCORE):
  """The config file as a module."""
  spec = importlib.util.spec_from_file_location("config", path)
  found = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(found)
  return found


def config_of(arguments: str = "", path: Path = REDCORE) -> dict:
  """The plain dict of configs/redcore.py:arguments, or of another file."""
  return module(path).get_config(arguments).to_dict()


def test_the_rates_of_the_authors_can_be_asked_for():
  """Those of their scripts, (acoustic, visual, lexical): ten shared ones, six of MOSEI,
  two of IEMOCAP, one of which is in both."""
  shared, imbalanced = module().SHARED, module().IMBALANCED
  found = []
  for text in (*shared, *imbalanced):
    protocol = experiment_config.parse_experiment(config_of(f"train_protocol={text}")).protocol
    assert str(protocol) == text and protocol.kind == "exact"
    found.append(protocol.rates)
  assert found[:10] == [
    *[(0.0,), (0.1,), (0.2,), (0.3,), (0.4,)],
    *[(0.5,), (0.6,), (0.7,), (0.8,), (0.9,)],
  ]
  mosei = {(0.8, 0.5, 0.5), (0.5, 0.8, 0.5), (0.5, 0.5, 0.8)}
  mosei |= {(0.2, 0.5, 0.8), (0.5, 0.2, 0.8), (0.8, 0.5, 0.2)}
  iemocap = {(0.2, 0.5, 0.8), (0.5, 0.8, 0.2)}
  assert len(found) == 17 and set(found[10:]) == mosei | iemocap


def test_the_authors_preset_of_a_run():
  given, plain = config_of("preset=authors"), config_of()
  assert given["redcore"] == plain["redcore"] | PRESETS["authors"]["redcore"] != plain["redcore"]
  assert given["train"]["optim"]["schedule"] == "linear"
  assert given["train"]["optim"]["weight_decay"] == 0
  assert {k: v for k, v in given.items() if k not in ("redcore", "mplmm", "train")} == {
    k: v for k, v in plain.items() if k not in ("redcore", "mplmm", "train")
  }
  variants = experiment_config.parse_experiment(given).variants
  assert [variant.text for variant in variants] == [given["method"], *given["baselines"]]


def test_the_authors_preset_of_one_variant():
  """What follows in the parentheses goes before it; other variants stay as they are."""
  config = config_of("baselines=majority+redcore(step=0.2,preset=authors,upper=none)")
  ours, _, theirs = experiment_config.parse_experiment(config).variants
  own = {"step": 0.2, "upper": "none"}
  assert theirs.values == config["redcore"] | PRESETS["authors"]["redcore"] | own
  assert ours.values == config["redcore"]
  assert theirs.folder == "redcore_step=0.2,preset=authors,upper=none"
  built = methods.make_config(theirs.method, theirs.values)
  assert built.eval_sample and built.clip == 1 and built.step == 0.2


def test_the_training_of_a_preset_is_that_of_the_method(monkeypatch):
  """The preset of another method has other training; one without keeps the run's."""
  monkeypatch.setitem(experiment_config.PRESETS["authors"], "fusion", {"hidden": 8})
  monkeypatch.setitem(experiment_config.PRESETS["authors"], "distil", {"hidden": 9})
  values = {"batch_size": 64, "optim": {"schedule": "constant"}}
  monkeypatch.setitem(experiment_config.PRESET_TRAINING, ("authors", "fusion"), values)
  plain = config_of()["train"]
  found = config_of("method=fusion(fill=zeros),preset=authors")
  assert found["train"] == plain | {
    "batch_size": 64,
    "optim": plain["optim"] | {"schedule": "constant"},
  }
  assert found["fusion"]["hidden"] == 8
  assert experiment_config.parse_experiment(found).variants[0].text == "fusion(fill=zeros)"
  assert config_of("method=distil,preset=authors")["train"] == plain


@pytest.mark.parametrize(("preset", "method"), experiment_config.PRESET_TRAINING)
def test_the_training_of_every_preset_has_a_meaning(preset, method):
  config = module().get_config("")
  config.train.update(experiment_config.PRESET_TRAINING[preset, method])
  experiment = experiment_config.parse_experiment(config.to_dict())
  optimizer.check_optimizer(experiment.train.optim)
  assert preset in experiment_config.METHOD_PRESETS


def test_a_preset_that_says_nothing_of_a_method():
  """A general one changes nothing, one of released code is refused."""
  config = config_of()
  variant = experiment_config.parse_variant("fusion(preset=default)", config)
  assert variant.values == config["fusion"]
  for arguments in ("baselines=fusion(preset=authors)", "method=robult,preset=clean"):
    with pytest.raises(ValueError, match="is one of redcore, .*the method is"):
      experiment_config.parse_experiment(config_of(arguments))


def test_clean_is_the_default_whatever_the_run_has():
  plain = config_of()["redcore"]
  config = config_of("preset=authors,baselines=redcore(preset=clean)")
  theirs, clean = experiment_config.parse_experiment(config).variants
  assert clean.values == plain != theirs.values


@pytest.mark.parametrize(
  "text", ["preset=author", "baselines=redcore(preset=author)", "method=x(preset=y)"]
)
def test_an_unknown_preset_is_refused(text):
  sentence = "not a method" if "method" in text else "preset is 'author', known are"
  with pytest.raises(ValueError, match=f"{sentence}.*"):
    experiment_config.parse_experiment(config_of(text))


def test_fields_of_the_data_come_after_the_colon_too():
  config = config_of("modalities=fou+zer,seeds=3")
  assert (config["data"]["modalities"], config["seeds"]) == ("fou+zer", 3)
  with pytest.raises(ValueError, match="'steps' is unknown, known are .*modalities, .*"):
    config_of("steps=3")


def test_the_grid_of_the_map_family():
  pair, more = conditions.map_protocols(2), conditions.map_protocols(3)
  assert more == tuple(f"map({rate})" for rate in (0.1, 0.3, 0.5, 0.7, 0.9))
  assert pair[:5] == more and len(pair) == 15
  # Of two modalities, both=1 leaves incomplete rows the first alone.
  draw = {"seed": 0, "split": "test", "ids": np.arange(100), "modalities": 2}
  kept = missing.draw_mask(pair[5 + 3], **draw).sum(axis=0)
  assert pair[5 + 3] == "map(0.7,both=1)" and kept.tolist() == [100, 30]
  config = config_of("", path=PROMISE)
  assert config["data"]["modalities"] == "image+text"
  assert config["test_protocols"] == pair
  assert config_of("modalities=image+text+props", path=PROMISE)["test_protocols"] == more


def test_test_protocols_are_read():
  found = experiment_config.parse_experiment(
    config_of("test_protocols=map(.5,both=1)+bernoulli(0.1,0.9)")
  )
  assert [str(p) for p in found.tests] == ["map(0.5,both=1.0)", "bernoulli(0.1,0.9)"]
  assert experiment_config.parse_experiment(config_of("test_protocols=none")).tests == ()


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("map(0.5)+often(0.5)", r"unknown protocol 'often\(0.5\)'; known: none, patterns"),
    ("map(0.5,redraw=true)", "test masks are never redrawn"),
    ("map(.5)+exact(0.5)+map(0.50)", r"test_protocols repeats map\(0.5\)"),
  ],
)
def test_test_protocols_that_do_not_fit(text, sentence):
  with pytest.raises(ValueError, match=sentence):
    experiment_config.parse_experiment(config_of(f"test_protocols={text}"))


@pytest.mark.parametrize("preset", experiment_config.PRESETS)
def test_every_preset_is_a_valid_run(preset):
  of = [name for name in methods.METHODS if name in experiment_config.PRESETS[preset]]
  method = of[0] if preset in experiment_config.METHOD_PRESETS else "redcore"
  variants = experiment_config.parse_experiment(
    config_of(f"method={method},preset={preset}")
  ).variants
  assert variants[0].method == method
  for name in methods.METHODS:
    if preset not in experiment_config.METHOD_PRESETS or name in experiment_config.PRESETS[preset]:
      experiment_config.parse_variant(f"{name}(preset={preset})", config_of())
