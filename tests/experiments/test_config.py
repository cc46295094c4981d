"""Config files: presets, short arguments, and the `Experiment` that they become."""

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

import tiny_runs
from promise_jax import methods, missing
from promise_jax.data import batches
from promise_jax.evaluation import conditions
from promise_jax.experiments import config as experiment_config
from promise_jax.experiments import setup
from promise_jax.experiments.experiment import parse_experiment, parse_variant
from promise_jax.methods import presets

CONFIGS = Path(__file__).parents[2] / "configs"


def load(name: str = "redcore"):
  """The config file as a module."""
  spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def config_of(arguments: str = "", name: str = "redcore") -> dict:
  """The plain dict of configs/redcore.py:arguments, or of another file."""
  return load(name).get_config(arguments).to_dict()


def test_an_experiment_holds_what_the_config_says():
  experiment = parse_experiment(config_of("seeds=3,label_rate=0.5,metrics=uar,fold=1"))
  assert experiment.seeds == (0, 1, 2) and experiment.metrics == ("uar",)
  assert (experiment.data.name, experiment.data.options["fold"]) == ("mfeat", 1)
  assert experiment.train.optim.lr == config_of()["train"]["optim"]["lr"]
  with pytest.raises(dataclasses.FrozenInstanceError):
    experiment.seeds = ()


@pytest.mark.parametrize(
  ("changed", "sentence"),
  [
    ({"controls": ()}, "the config has an unknown field 'controls'"),
    ({"label_rat": 1.0}, "unknown field 'label_rat'"),
    ({"precision": "float16"}, "precision is 'float16', known are float32, bfloat16"),
    ({"init_filter": ("a", "(")}, r"init_filter has '\(', no regex: "),
    ({"init_from": "x", "method": "majority", "baselines": ()}, "majority has no parameters"),
    ({"label_rate": 0.0}, "label_rate is 0.0, it must lie in"),
  ],
)
def test_a_field_that_is_unknown_or_wrong_is_refused(changed, sentence):
  with pytest.raises(ValueError, match=sentence):
    parse_experiment(tiny_runs.get_config().to_dict() | changed)


def test_a_missing_field_is_named():
  config = config_of()
  del config["metrics"]
  with pytest.raises(ValueError, match="the config has no field 'metrics'"):
    parse_experiment(config)


def test_the_missing_rates_of_redcores_authors_can_be_chosen():
  """Those of their scripts, (acoustic, visual, lexical): ten shared ones, six of MOSEI,
  two of IEMOCAP, one of which is in both."""
  module, rates = load(), []
  for text in (*module.SHARED, *module.IMBALANCED):
    protocol = parse_experiment(config_of(f"train_protocol={text}")).train_protocol
    assert str(protocol) == text and protocol.kind == "exact"
    rates.append(protocol.rates)
  assert rates[:10] == [(rate / 10,) for rate in range(10)]
  mosei = {(0.8, 0.5, 0.5), (0.5, 0.8, 0.5), (0.5, 0.5, 0.8)}
  mosei |= {(0.2, 0.5, 0.8), (0.5, 0.2, 0.8), (0.8, 0.5, 0.2)}
  iemocap = {(0.2, 0.5, 0.8), (0.5, 0.8, 0.2)}
  assert len(rates) == 17 and set(rates[10:]) == mosei | iemocap


@pytest.mark.parametrize(("modalities", "rates"), [(2, [0.2, 0.8]), (4, [0.2, 0.4, 0.6, 0.8])])
def test_redcore_is_set_up_on_any_number_of_modalities(modalities, rates, tmp_path):
  given = config_of(f"dataset=synthetic,modalities={modalities},preset=tiny")
  made = setup.set_up(parse_experiment(given), tmp_path)
  mask = batches.train_mask(made.train_data, 0)
  assert (1 - mask.mean(axis=0)).tolist() == pytest.approx(rates)


def test_synthetic_data_take_strengths(tmp_path):
  given = config_of("dataset=synthetic,strengths=3+1+0,preset=tiny")
  made = setup.set_up(parse_experiment(given), tmp_path)
  assert "strengths 3+1+0" in made.dataset.card


def test_balanced_class_weights_are_of_the_labels_that_training_reads(tmp_path):
  given = config_of("dataset=synthetic,preset=tiny,label_rate=.1,class_weight=balanced")
  made = setup.set_up(parse_experiment(given), tmp_path)
  label = made.train_data.split.label
  every = np.concatenate([label[mask] for mask in made.train_data.labelled])
  expected = compute_class_weight("balanced", classes=np.arange(4), y=every)
  np.testing.assert_allclose(made.spec.task.class_weight, expected)
  with pytest.raises(ValueError, match="class_weight is .equal., known are none, balanced"):
    parse_experiment(given | {"class_weight": "equal"})


@pytest.mark.parametrize(
  "given", ["train_protocol=exact(0.2,0.5,0.8)", "test_protocols=bernoulli(0.2,0.5,0.8)"]
)
def test_a_protocol_that_does_not_fit_is_refused_by_its_field(given, tmp_path):
  config = config_of(f"dataset=synthetic,modalities=2,preset=tiny,{given}")
  with pytest.raises(ValueError, match=f"^{given.partition('=')[0]}: protocol .* 3 rates"):
    setup.set_up(parse_experiment(config), tmp_path)


def test_a_preset_of_the_run_changes_its_method_and_its_training():
  given, plain = config_of("preset=authors"), config_of()
  assert given["redcore"] == plain["redcore"] | presets.PRESETS["authors"]["redcore"]
  assert given["redcore"] != plain["redcore"]
  assert given["train"]["optim"]["schedule"] == "linear"
  assert given["train"]["optim"]["weight_decay"] == 0
  changed = ("redcore", "mplmm", "train")
  rest = lambda config: {k: v for k, v in config.items() if k not in changed}
  assert rest(given) == rest(plain)
  names = [v.name for v in parse_experiment(given).variants]
  assert names == [given["method"], *given["baselines"]]


def test_a_preset_of_one_variant_yields_to_its_other_settings():
  config = config_of("baselines=majority+redcore(kl_weight=0.2,preset=authors,upper=none)")
  ours, _, theirs = parse_experiment(config).variants
  own = {"kl_weight": 0.2, "upper": "none"}
  assert theirs.settings == config["redcore"] | presets.PRESETS["authors"]["redcore"] | own
  assert ours.settings == config["redcore"]
  assert theirs.folder == "redcore_kl_weight=0.2,preset=authors,upper=none"


def test_the_training_of_a_preset_belongs_to_its_method(monkeypatch):
  """The preset of another method has other training; one without keeps the run's."""
  monkeypatch.setitem(presets.PRESETS["authors"], "fusion", {"hidden": 8})
  monkeypatch.setitem(presets.PRESETS["authors"], "distil", {"hidden": 9})
  values = {"batch_size": 64, "optim": {"schedule": "constant"}}
  monkeypatch.setitem(presets.PRESET_TRAINING, ("authors", "fusion"), values)
  plain = config_of()["train"]
  found = config_of("method=fusion(dropout=false),preset=authors")
  optim = plain["optim"] | {"schedule": "constant"}
  assert found["train"] == plain | {"batch_size": 64, "optim": optim}
  assert found["fusion"]["hidden"] == 8
  assert config_of("method=distil,preset=authors")["train"] == plain


@pytest.mark.parametrize(("preset", "method"), presets.PRESET_TRAINING)
def test_the_training_of_every_preset_is_valid(preset, method):
  parse_experiment(config_of(f"method={method},preset={preset}"))
  assert preset in presets.METHOD_PRESETS


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_preset_is_a_valid_run_and_a_valid_variant(preset):
  known = [name for name in methods.METHODS if name in presets.PRESETS[preset]]
  method = known[0] if preset in presets.METHOD_PRESETS else "redcore"
  variants = parse_experiment(config_of(f"method={method},preset={preset}")).variants
  assert variants[0].method == method
  for name in known if preset in presets.METHOD_PRESETS else methods.METHODS:
    parse_variant(f"{name}(preset={preset})", config_of())


def test_a_preset_that_does_not_mention_a_method():
  """A general one changes nothing, one of released code is refused."""
  config = config_of()
  variant = parse_variant("fusion(preset=default)", config)
  assert variant.settings == config["fusion"]
  for arguments in ("baselines=fusion(preset=authors)", "method=robult,preset=clean"):
    with pytest.raises(ValueError, match="is for redcore, .*the method is"):
      parse_experiment(config_of(arguments))


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("preset=author", "preset is 'author', known are"),
    ("baselines=redcore(preset=author)", "preset is 'author', known are"),
    ("method=x(preset=y)", "not a method"),
    ("method=redcore(x=1)", "'x' is no setting of redcore, known are"),
    ("seeds=many", "seeds is 'many', expected a whole number"),
    ("seeds=3,seeds=4", "'seeds' is given twice"),
    ("steps=5", "'steps' is unknown, write --config.train.steps=5; known are .*modalities, "),
    ("modalities=fou,zer", r"'zer' .* joined by \+, as modalities=fou\+zer"),
  ],
)
def test_arguments_that_do_not_fit_are_refused(text, sentence):
  with pytest.raises(ValueError, match=sentence):
    parse_experiment(config_of(text))


def test_fields_of_the_data_are_arguments_too():
  config = config_of("modalities=fou+zer,seeds=3")
  assert (config["data"]["modalities"], config["seeds"]) == ("fou+zer", 3)


def test_the_grid_of_the_map_family():
  pair, more = conditions.map_protocols(2), conditions.map_protocols(3)
  assert more == tuple(f"map({rate})" for rate in (0.1, 0.3, 0.5, 0.7, 0.9))
  assert pair[:5] == more and len(pair) == 15
  # Of two modalities, both=1 leaves incomplete rows the first alone.
  draw = {"seed": 0, "split": "test", "ids": np.arange(100), "modalities": 2}
  kept = missing.draw_mask(pair[5 + 3], **draw).sum(axis=0)
  assert pair[5 + 3] == "map(0.7,both=1)" and kept.tolist() == [100, 30]
  config = config_of("", "promise")
  assert config["data"]["modalities"] == "image+text"
  assert config["test_protocols"] == pair
  assert config_of("modalities=image+text+props", "promise")["test_protocols"] == more


def test_test_protocols_are_parsed():
  config = config_of("test_protocols=map(.5,both=1)+bernoulli(0.1,0.9)")
  protocols = parse_experiment(config).test_protocols
  assert [str(p) for p in protocols] == ["map(0.5,both=1.0)", "bernoulli(0.1,0.9)"]
  assert parse_experiment(config_of("test_protocols=none")).test_protocols == ()


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    ("map(0.5)+often(0.5)", r"unknown protocol 'often\(0.5\)'; known: none, patterns"),
    ("map(0.5,redraw=true)", "test masks are never redrawn"),
    ("map(.5)+exact(0.5)+map(0.50)", r"test_protocols repeats map\(0.5\)"),
  ],
)
def test_test_protocols_that_do_not_fit_are_refused(text, sentence):
  with pytest.raises(ValueError, match=sentence):
    parse_experiment(config_of(f"test_protocols={text}"))


def test_a_value_takes_the_type_of_the_default():
  convert = experiment_config.convert_value
  assert convert("x", "a+b(c=1,d+e)", ()) == ("a", "b(c=1,d+e)")
  assert convert("x", "('params/.*', 'b')", ()) == ("params/.*", "b")
  assert convert("x", "none", ("a",)) == () and convert("x", "True", False) is True
  assert convert("x", "1e-3", 1.0) == 0.001
